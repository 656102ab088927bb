# SPDX-License-Identifier: Apache-2.0
"""examples/reproduce with a stand-in for the run script: what each table has trained, in which
order, and that the paper's figures of the same students stand beside."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from t3s_megatron.monitor.comparison import FORMAT, Answers, compare
from tests.support.launch import ROOT
from tests.support.published import MODELS
from tests.support.task import write_samples

#: Instead of a run: a line that says what was asked, and a finished summary.
RUN = """
where=${OUT##*/}
asked="${METHODS:-}|${METHOD:-}|${T3S_SIMPLE:-}|${STEPS:-}|$DATA|${MODULE:-}|${TARGETED_INTERVAL:-}"
echo "$where|$asked" >>"$STARTED"
mkdir -p "$OUT/t3s"
echo '{"finished": true}' >"$OUT/t3s/summary.json"
"""

#: What is trained: folder, METHODS, METHOD, T3S_SIMPLE, STEPS; of DATA "a b".
PLANNED = {
    "1": ["table|sft rrt|||"],
    "3": ["table|sft rrt inverse t3s|||"],
    "4": ["sft-1||sft||50", "sft-2||sft||100", "t3s-1||t3s||50", "t3s-2||t3s||100"],
    "6": ["t3s||t3s||"]
    + [f"{s}||t3s|1|" for s in ("anchor-easy", "anchor-hard", "other-easy", "other-hard")],
    "7": ["table|sft t3s|||", "t3s-simple||t3s|1|"],
    "8": ["table|sft t3s|||", "trajectory||sft|0|", "ckt-2||sft||", "ckt-8||sft||"],
    "9": ["table|sft t3s|||", "t3s-cross||sft||"],
    "19": ["table|sft mask-top-confidence mask-bottom-confidence t3s|||"],
}


@pytest.fixture
def table(tmp_path):
    """table(number, ...): (the finished process, what was started)."""
    (tmp_path / "run.sh").write_text(RUN)
    clean = {k: v for k, v in os.environ.items() if k not in ("METHODS", "METHOD", "DRY_RUN")}

    def start(number: str, **environment: str):
        started = tmp_path / "started"
        started.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", f"{ROOT}/examples/reproduce/table_{number}.sh"],
            env=clean
            | {"HF_MODEL": "student", "DATA": "a b", "OUT": str(tmp_path / "table"),
               "RUN_SCRIPT": str(tmp_path / "run.sh"), "STARTED": str(started),
               "PYTHON": sys.executable, "PYTHONPATH": ROOT}
            | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )  # fmt: skip
        return done, started.read_text().splitlines() if started.exists() else []

    return start


def test_every_table_has_a_script():
    scripts = Path(ROOT, "examples/reproduce").glob("table_*.sh")
    assert {path.stem.removeprefix("table_") for path in scripts} == set(PLANNED)


@pytest.mark.parametrize("number", PLANNED)
def test_a_table_is_planned(table, number):
    done, started = table(number, DRY_RUN="1", SELECTORS="2 8")
    assert done.returncode == 0, done.stderr
    asked = [line.split("|") for line in started]
    assert ["|".join(one[:5]) for one in asked] == PLANNED[number]
    assert {one[6] for one in asked} == {""}  # a plan is of an ordinary run
    # These read accuracies of the runs themselves, whose script measures none unless it is asked.
    if number in (measured := {"8": "50", "19": "2"}):
        assert {one[7] for one in asked if one[0] != "trajectory"} == {measured[number]}
    if number == "4":
        assert [one[5] for one in asked] == ["a", "a b"] * 2
    if number != "6":
        assert "paper AIME24" in done.stdout and "71.46" in done.stdout
        assert "--suite aime" in done.stdout


#: Python, but for what takes time: what is to be planned is written down, and planned below.
PLANNER = """#!/usr/bin/env bash
case "$*" in
    "-m t3s_megatron.cli arguments "*) echo --num-layers 36 ;;
    "-m torch.distributed.run --help") echo --shutdown-timeout ;;
    "-c import t3s_megatron" | "- "*) ;;  # nothing is lacking, nothing was run before
    "-m t3s_megatron.cli plan "*) shift 2; printf '%q ' "$@" >>"$PLANS"; echo >>"$PLANS" ;;
    *) exec {python} "$@" ;;
esac
"""

#: Plans in one process, each line as the command does it.
PLAN_ALL = """
import shlex, sys
from t3s_megatron.cli import main
for line in open(sys.argv[1]):
    print(main(shlex.split(line)))
"""


def test_every_dry_run_is_of_runs_that_megatron_takes(table, tmp_path, task):
    """The real run script, with few layers of the student it is for: what the tables have in common
    is planned once."""
    student, plans = tmp_path / "student", tmp_path / "plans"
    AutoConfig.for_model(**MODELS["Qwen3-8B"] | {"num_hidden_layers": 4}).save_pretrained(student)
    AutoTokenizer.from_pretrained(task[1]).save_pretrained(student)
    python = tmp_path / "python"
    python.write_text(PLANNER.format(python=sys.executable))
    python.chmod(0o755)
    data = [write_samples(str(tmp_path / f"{n}.jsonl"), 4, seed=n) for n in range(3)]
    asked: dict[str, list[str]] = {}
    for number in PLANNED:
        plans.unlink(missing_ok=True)
        done, _ = table(
            number, DRY_RUN="1", HF_MODEL=str(student), PYTHON=str(python), PLANS=str(plans),
            RUN_SCRIPT=f"{ROOT}/examples/run_t3s_qwen3_8b.sh", SELECTORS="2 8",
            TARGETED_INTERVAL="0",
            DATA=" ".join(data) if number == "4" else data[0],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked[number] = plans.read_text().splitlines()
    lines = {tuple(_in_one_folder(shlex.split(line))) for of in asked.values() for line in of}
    methods = [line[line.index("--t3s-method") + 1] for line in lines]
    assert {*methods} == {"sft", "rrt", "inverse", "t3s", "mask-top-confidence",
                          "mask-bottom-confidence"}  # fmt: skip
    assert len(asked["4"]) == 6 and len(lines) < sum(map(len, asked.values()))
    plans.write_text("".join(f"{shlex.join(line)}\n" for line in sorted(lines)))
    done = subprocess.run(
        [sys.executable, "-c", PLAN_ALL, str(plans)],
        env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = done.stdout.splitlines()
    assert said.count("0") == len(lines) == sum(line.startswith("fits: ") for line in said)


def _in_one_folder(words: list[str]) -> list[str]:
    """With every folder of the run's own called the same."""
    own = ("--load", "--save", "--tensorboard-dir", "--t3s-dir", "--t3s-hf-export",
           "--t3s-server-weights")  # fmt: skip
    return ["/out" if before in own else word
            for before, word in zip(["", *words], words, strict=False)]  # fmt: skip


def test_what_is_finished_is_not_trained_again(table):
    assert table("7")[1][-1].startswith("t3s-simple")
    done, started = table("7")
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[0] for line in started] == ["table"]


@pytest.mark.parametrize("missing", ["HF_MODEL", "OUT", "DATA"])
def test_what_is_missing_is_said(table, missing):
    done, started = table("3", **{missing: ""})
    assert done.returncode == 2 and f"{missing} is not set" in done.stderr and not started


def test_ours_stand_beside_the_papers(tmp_path):
    answers = {
        name: Answers(marks=marks, k=1, problems="p", total=4, truncated=0, tokens=None)
        for name, marks in (("base", "1010"), ("t3s", "1110"), ("mine", "0000"))
    }
    found = compare("AIME24", answers)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"format": FORMAT, "comparisons": [found.to_dict()]}))
    said = subprocess.run(
        [sys.executable, f"{ROOT}/examples/reproduce/beside.py", "3", "--evaluation", str(path)],
        env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.split()}
    assert rows["base"][:4] == ["75.83", "67.08", "71.46", "50.00"]
    assert rows["t3s"][:4] == ["80.63", "73.96", "77.30", "75.00"]
    assert rows["sft"] == ["71.25", "55.00", "63.13", "-"]  # not evaluated
    assert rows["mine"][:4] == ["-", "-", "-", "0.00"]  # not in the paper
    assert "t3s - base: +0.250" in said


def test_the_papers_means_are_those_of_its_figures():
    paper = json.loads(Path(ROOT, "examples/reproduce/paper.json").read_text())
    for settings in paper.values():
        for rows in settings.values():
            for first, *others in rows.values():
                if others:
                    second, mean = others
                    assert mean == pytest.approx((first + second) / 2, abs=0.011)
