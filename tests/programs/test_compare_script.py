# SPDX-License-Identifier: Apache-2.0
"""examples/lib/compare.sh with runs that only leave a summary: their order, and going on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import ROOT
from tests.unit.monitor.made_summaries import t3s_summary

#: Instead of a run: a line that says what was started, and a summary. `KILL`: the run that stops.
SCRIPT = """
set -euo pipefail
source {root}/examples/lib/checks.sh
source {root}/examples/lib/compare.sh
source {root}/examples/lib/guarded.sh
t3s_check_methods
t3s_one() {{
    echo "run $*" >>started
    if [ "$1" = "${{KILL:-}}" ]; then
        if [ -n "${{SIGNAL:-}}" ]; then
            trap 'told=1' TERM
            kill -"$SIGNAL" $$
            until [ -n "${{told:-}}" ]; do sleep 0.1; done
        fi
        [ "${{STATUS:-0}}" = finished ] || exit "${{STATUS:-0}}"
    fi
    mkdir -p "out/$1/t3s"
    cp summary.json "out/$1/t3s/summary.json"
}}
t3s_own_data() {{ echo own.jsonl; }}
t3s_compare out
"""


@pytest.fixture
def compare(tmp_path):
    """compare(METHODS, ...): (the finished process, what was started by it)."""
    summary = t3s_summary()
    summary["arguments"] |= {"anchor_threshold": 0.0}
    (tmp_path / "summary.json").write_text(json.dumps(summary))

    def run(methods: str, **environment: str):
        started = tmp_path / "started"
        started.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "-c", SCRIPT.format(root=ROOT), "compare"],
            env=os.environ | {"METHODS": methods, "PYTHON": sys.executable, "PYTHONPATH": ROOT}
            | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )  # fmt: skip
        return done, started.read_text().splitlines() if started.exists() else []

    run.out = Path(tmp_path / "out")
    return run


@pytest.mark.parametrize(
    ("methods", "order"),
    [
        ("sft t3s own", ["run t3s t3s ", "run sft sft ", "run own sft own.jsonl"]),
        ("random sft t3s", ["run t3s t3s ", "run random random ", "run sft sft "]),
        ("random inverse", ["run random random ", "run inverse inverse "]),
        ("sft rrt", ["run sft sft ", "run rrt rrt "]),
    ],
)  # fmt: skip
def test_who_makes_the_profile_comes_first(compare, methods, order):
    done, started = compare(methods, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert started == order


def test_a_comparison_goes_on_where_it_was_and_ends_with_a_report(compare):
    first, started = compare("sft t3s", KILL="sft")  # stopped, as by Slurm's end of time
    assert first.returncode == 0 and "sft has stopped" in first.stdout
    assert started == ["run t3s t3s ", "run sft sft "]
    done, started = compare("sft t3s", KILL="sft", STATUS="7")
    assert done.returncode == 7 and started == ["run sft sft "]
    # The end of time is handed to the run, is waited for, and ends the comparison.
    for name in ("TERM", "URG"):
        done, started = compare("sft t3s random", KILL="sft", SIGNAL=name)
        assert (done.returncode, started) == (0, ["run sft sft "]), done.stderr
        assert "sft has stopped" in done.stdout
    # These runs have no log-probs and no checkpoints: nothing can be shared, and it is said.
    assert "no state of a profile" in first.stdout
    done, started = compare("sft t3s")
    assert done.returncode == 0, done.stderr
    assert started == ["run sft sft "] and "t3s: out/t3s is finished" in done.stdout
    assert "3. report: out/report.html" in done.stdout
    assert (compare.out / "report.html").exists() and (compare.out / "comparison.json").exists()
    # Nothing is begun after it, even if what it met was at its end.
    done, started = compare("t3s random inverse", KILL="random", SIGNAL="TERM", STATUS="finished")
    assert (done.returncode, started) == (0, ["run random random "]), done.stderr


@pytest.mark.parametrize("methods", ["t3s ftw", "t3s sft t3s"])
def test_a_method_that_is_none_or_stands_twice_is_refused(compare, methods):
    done, started = compare(methods)
    assert done.returncode == 2 and "METHODS: " in done.stderr and not started
