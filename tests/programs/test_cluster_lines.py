# SPDX-License-Identifier: Apache-2.0
"""The command line of each cluster script against what an installation has: a stand-in for Python
says what can be imported and what torchrun knows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPTS = ["run_t3s_qwen3_8b.sh", "run_t3s_qwen3_32b.sh", "run_t3s_qwen3_235b_a22b.sh"]
EVERYTHING = "fused_weight_gradient_mlp_cuda transformer_engine math_verify"

PYTHON = """#!/usr/bin/env bash
case "$*" in
    "- "*) shift; for name; do [[ " $HAS " == *" $name "* ]] || printf '%s ' "$name"; done ;;
    "-m torch.distributed.run --help") [ -z "${OLD_TORCH:-}" ] && echo "  --shutdown-timeout N" ;;
    "-m torch.distributed.run"*) env; echo "started $*" ;;
esac
exit 0
"""


@pytest.fixture
def start(tmp_path):
    """start(script, **environment): its process, with everything installed by default."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    student = tmp_path / "student"
    student.mkdir()
    (student / "config.json").write_text("{}")

    def start(script: str, **given: str) -> subprocess.CompletedProcess:
        environment = {
            "PATH": os.environ["PATH"], "PYTHON": str(python), "HAS": EVERYTHING,
            "HF_MODEL": str(student), "DATA": "traces.jsonl", "OUT": str(tmp_path / "out"),
            "SERVE": "live",
        }  # fmt: skip
        return subprocess.run(
            ["bash", f"{ROOT}/examples/{script}"],
            env=environment | given,
            capture_output=True,
            text=True,
        )

    return start


@pytest.fixture
def line(start):
    """line(script, **environment): the words of the command that it would start."""

    def line(script: str, **given: str) -> list[str]:
        done = start(script, DRY_RUN="1", **given)
        assert done.returncode == 0, done.stderr
        return shlex.split(done.stdout.splitlines()[0])

    return line


@pytest.mark.parametrize("script", SCRIPTS)
def test_apexs_kernel_is_asked_for_only_where_it_is(line, script):
    flag = "--no-gradient-accumulation-fusion"
    assert flag not in line(script)
    assert flag in line(script, HAS="transformer_engine math_verify")
    assert flag in line(script, DEVICE="cpu")  # whatever is installed


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_cluster_run_always_has(line, script):
    words = line(script)
    after = dict(zip(words, words[1:], strict=False))
    assert after["--shutdown-timeout"] == "1800"
    assert after["--manual-gc-interval"] == "10"
    assert after["--transformer-impl"] == "transformer_engine"
    assert after["--attention-backend"] == "fused"
    for flag in ("--manual-gc", "--exit-signal-handler", "--cross-entropy-loss-fusion",
                 "--use-distributed-optimizer", "--sequence-parallel"):  # fmt: skip
        assert flag in words
    assert "--deterministic-mode" not in words


@pytest.mark.parametrize("script", SCRIPTS)
def test_equal_bits_are_asked_for_as_a_whole(start, line, script):
    words = line(script, DETERMINISTIC="1")
    assert "--deterministic-mode" in words and "--cross-entropy-loss-fusion" not in words
    said = start(script, DETERMINISTIC="1").stdout
    for pair in ("NCCL_ALGO=Ring", "NVTE_ALLOW_NONDETERMINISTIC_ALGO=0",
                 "CUBLAS_WORKSPACE_CONFIG=:4096:8"):  # fmt: skip
        assert pair in said


def test_memory_grows_in_place(start):
    assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in start(SCRIPTS[0]).stdout
    mine = start(SCRIPTS[0], PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64").stdout
    assert "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:64" in mine


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("missing", ["transformer_engine", "math_verify"])
def test_what_is_missing_is_warned_of_dry_and_refused_at_the_start(start, script, missing):
    has = EVERYTHING.replace(missing, "")
    dry = start(script, DRY_RUN="1", HAS=has)
    assert dry.returncode == 0 and f"would lack {missing}" in dry.stderr
    done = start(script, HAS=has)
    assert done.returncode == 2 and f"lacks {missing}" in done.stderr and not done.stdout


def test_another_verifier_does_not_need_math_verify(start):
    has = EVERYTHING.replace("math_verify", "")
    assert start(SCRIPTS[0], HAS=has, VERIFIER="numeric").returncode == 0


def test_a_torchrun_that_kills_after_30_seconds_is_warned_of(start, line):
    assert "--shutdown-timeout" not in line(SCRIPTS[0], OLD_TORCH="1")
    assert "kills the ranks 30 s after SIGTERM" in start(SCRIPTS[0], OLD_TORCH="1").stderr
    assert "SIGTERM" not in start(SCRIPTS[0]).stderr


def test_slurm_gives_as_much_notice_as_torchrun_has_patience(line):
    with open(f"{ROOT}/examples/slurm/t3s.sbatch") as file:
        notice = re.search(r"^#SBATCH --signal=URG@(\d+)", file.read(), re.MULTILINE)
    words = line(SCRIPTS[0])
    assert int(notice[1]) == int(words[words.index("--shutdown-timeout") + 1])
    words = line(SCRIPTS[0], NOTICE="600")
    assert words[words.index("--shutdown-timeout") + 1] == "600"


LLADA2 = {"SELECTOR_MODEL": "/models/Ling-mini-2.0"}


def test_the_diffusion_students_script_runs_its_selector_first(start, tmp_path):
    out = tmp_path / "out"
    done = start("run_t3s_llada2_mini.sh", DRY_RUN="1", TAU="0.3", **LLADA2)
    assert done.returncode == 0, done.stderr
    selector, student = map(shlex.split, filter(None, done.stdout.splitlines()))
    after = dict(zip(selector, selector[1:], strict=False))
    assert after["--t3s-hf-model"] == LLADA2["SELECTOR_MODEL"] and after["--train-iters"] == "50"
    assert after["--t3s-stop-after"] == "selection" and "--t3s-diffusion" not in selector
    given = dict(zip(student, student[1:], strict=False))
    assert given["--t3s-hf-model"] == str(tmp_path / "student") and "--t3s-diffusion" in student
    assert given["--t3s-selector"] == f"{after['--save'].removesuffix('/checkpoints')}/t3s"
    assert given["--t3s-selector-tokenizer"] == LLADA2["SELECTOR_MODEL"]
    assert given["--t3s-drop-threshold"] == "0.3" and given["--t3s-dir"] == f"{out}/t3s/t3s"
    assert after["--seq-length"] == given["--seq-length"] == "16384"
    # Once the selection is there only the student is trained.
    (out / "selector/t3s").mkdir(parents=True)
    (out / "selector/t3s/selection.safetensors").touch()
    again = start("run_t3s_llada2_mini.sh", DRY_RUN="1", METHOD="sft", **LLADA2)
    (student,) = map(shlex.split, filter(None, again.stdout.splitlines()))
    assert student[student.index("--t3s-method") + 1] == "sft"


@pytest.mark.parametrize("name", ["SELECTOR_MODEL", "HF_MODEL", "OUT"])
def test_what_the_diffusion_students_script_needs_is_asked_for(start, name):
    done = start("run_t3s_llada2_mini.sh", **LLADA2 | {name: ""})
    assert done.returncode == 2 and f"{name} is not set" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("given", "context", "recomputes"),
    [
        ({"SERVE": ""}, "2", False),  # servers on these GPUs
        ({"T3S_SIMPLE": "1"}, "2", False),
        ({"SERVE": "http://a:1"}, "2", False),
        ({"SERVE": "live"}, "1", True),
        ({"SERVE": "", "SEQ_LENGTH": "4096"}, "1", True),
        ({"T3S_SIMPLE": "1", "CP": "1"}, "1", True),
        ({"T3S_SIMPLE": "1", "RECOMPUTE": "1"}, "2", True),
        ({"CP": "2"}, "2", True),
    ],
)
def test_8b_computes_nothing_twice_where_nothing_is_generated_live(
    line, given, context, recomputes
):
    words = line("run_t3s_qwen3_8b.sh", **given)
    assert words[words.index("--context-parallel-size") + 1] == context
    assert ("--recompute-granularity" in words) == recomputes
