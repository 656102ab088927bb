# SPDX-License-Identifier: Apache-2.0
"""The run scripts: the Qwen3 ones' command lines at their real world sizes, the generic one run.

The full-size lines go through Megatron's own validation (on CPU, so nothing of Transformer Engine
is loaded); the runs are of random students of two families, on CPU, from folder to folder, with
nothing said of the model.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from t3s_megatron.data.selection_file import Selection
from tests.support.families import VOCABULARY, save_student
from tests.support.hub import Hub
from tests.support.launch import ROOT, end_processes, job_environment
from tests.support.ports import free_port
from tests.support.published import LLADA2_MINI, MODELS
from tests.support.task import make_samples

SCRIPTS = {
    # model: (script, GPUs, data-parallel size)
    "Qwen3-8B": ("run_t3s_qwen3_8b.sh", 8, 1),
    "Qwen3-32B": ("run_t3s_qwen3_32b.sh", 16, 1),
    "Qwen3-235B-A22B": ("run_t3s_qwen3_235b_a22b.sh", 128, 2),
}


RECIPE = {
    "t3s-arrangement": "own",
    "global-batch-size": "64",
    "train-iters": "50",
    "t3s-temperature": "0.6",
}


def start(script: str, given: dict) -> subprocess.CompletedProcess:
    environment = job_environment() | {"PYTHON": sys.executable} | given
    try:
        return subprocess.run(
            ["bash", f"{ROOT}/examples/{script}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
    finally:
        end_processes(environment)


@pytest.mark.parametrize("model", SCRIPTS)
def test_the_command_line_is_valid_at_its_world_size(model, tmp_path, task):
    script, world, data_parallel = SCRIPTS[model]
    student = tmp_path / "student"
    AutoConfig.for_model(**MODELS[model]).save_pretrained(student)
    AutoTokenizer.from_pretrained(task[1]).save_pretrained(student)
    done = start(
        script,
        {"HF_MODEL": str(student), "DATA": task[0], "OUT": str(tmp_path), "DRY_RUN": "1"},
    )
    assert done.returncode == 0, done.stderr
    command, _, plan = done.stdout.partition("\n\n")
    # The paper's samples are longer than these, and the plan counts what is there.
    assert "counted in the data" in plan and plan.splitlines()[-1].startswith("fits: ")
    line = shlex.split(command.splitlines()[0])
    nodes, processes = (int(line[line.index(f"--{n}") + 1]) for n in ("nnodes", "nproc-per-node"))
    assert nodes * processes == world
    # The paper's recipe.
    given = {name: line[line.index(f"--{name}") + 1] for name in RECIPE}
    assert given == RECIPE and "--sequence-parallel" in line
    # The plan has the line parsed and validated by Megatron and T3S, at this world size.
    assert f"GPUs     {world} on " in plan and (f"DP {data_parallel}" in plan) == (
        data_parallel > 1
    )


def test_a_diffusion_student_and_its_selector_are_planned(tmp_path, task):
    """Both runs of the one command, at 16K; in between them no selection is there yet."""
    folders = {"Ling-mini-2.0": MODELS["Ling-mini-2.0"], "LLaDA2.0-mini": LLADA2_MINI}
    for name, config in folders.items():
        AutoTokenizer.from_pretrained(task[1]).save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    done = start(
        "run_t3s_llada2_mini.sh",
        {"HF_MODEL": str(tmp_path / "LLaDA2.0-mini"), "OUT": str(tmp_path / "out"), "DRY_RUN": "1",
         "SELECTOR_MODEL": str(tmp_path / "Ling-mini-2.0"), "DATA": task[0]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    launches = [shlex.split(line) for line in said if "torch.distributed.run" in line]
    selector, student = launches
    assert "--t3s-stop-after" in selector and "--t3s-diffusion" not in selector
    assert student[student.index("--t3s-selector") + 1] == str(tmp_path / "out/selector/t3s")
    for line in launches:
        assert line[line.index("--seq-length") + 1] == "16384"
        assert line[line.index("--expert-model-parallel-size") + 1] == "8"
    assert sum(line.startswith("fits: ") for line in said) == 2
    assert sum(line.startswith("GPUs     8 on ") for line in said) == 2


def as_written(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


#: How published files say one and the same: (prompt, thinking, answer) to a row.
FORMS = {
    "ShareGPT": lambda prompt, thinking, answer: {
        "conversations": [
            {"from": "human", "value": prompt},
            {"from": "gpt", "value": as_written(thinking, answer)},
        ]
    },
    "a field for thinking": lambda prompt, thinking, answer: {
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer, "reasoning_content": thinking},
        ]
    },
    "plain": lambda prompt, thinking, answer: {
        "prompt": prompt,
        "response": as_written(thinking, answer),
    },
}


def write_traces(path: Path, form: str) -> str:
    """`task`'s samples with their steps as thinking."""
    with open(path, "w") as file:
        for sample in make_samples(24, 0):
            thinking, _, answer = sample["response"].partition("<answer>")
            row = FORMS[form](sample["prompt"], thinking, f"<answer>{answer}")
            file.write(json.dumps(row | {"answer": sample["answer"]}) + "\n")
    return str(path)


@pytest.fixture
def hub_of(tmp_path):
    """hub_of(name, folder): a hub with one model, on this machine, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda name, folder: stack.enter_context(
            Hub({name: str(folder)}, str(tmp_path / "home"))
        )


@pytest.mark.parametrize(
    ("family", "form"), [("llama", "ShareGPT"), ("qwen2_moe", "a field for thinking")]
)
def test_from_folder_to_folder_with_a_tiny_student(family, form, tmp_path, task, hub_of):
    """The Llama by its name on a hub, stopped and gone on with; the mixture by two methods that
    are compared. Whatever the form of the records, what is learned is what they say."""
    student, out = tmp_path / "student", tmp_path / "out"
    save_student(family, str(student))
    tokenizer = AutoTokenizer.from_pretrained(task[1])
    tokenizer.add_tokens(["<think>", "</think>", "\n"])  # as many as the student has rows
    tokenizer.save_pretrained(student)
    data = write_traces(tmp_path / "traces.jsonl", form)
    said = load_records(write_traces(tmp_path / "plain.jsonl", "plain"))
    environment = {
        "HF_MODEL": str(student), "DATA": data, "OUT": str(out),
        "DEVICE": "cpu", "NNODES": "1", "NPROC_PER_NODE": "2", "TP": "2", "PP": "1",
        "SEQ_LENGTH": "48", "GBS": "8", "STEPS": "3", "LR": "1e-3", "SAVE_INTERVAL": "2",
        # This student can nothing: it has no accuracy that could fall.
        "T3S_SIMPLE": "1", "VERIFIER": "numeric", "MASTER_PORT": str(free_port()), "EP": "2",
        "EXTRA_ARGS": "--t3s-max-new-tokens 8 --t3s-simple-step 3 "
                      "--t3s-targeted-accuracy-interval 1",
    }  # fmt: skip
    if family == "llama":
        hub = hub_of("tiny/llama", student)
        environment |= hub.environment | {"HF_MODEL": "tiny/llama"}
        stopped = environment | {"EXTRA_ARGS": environment["EXTRA_ARGS"] + " --exit-interval 2"}
        first = start("run_t3s.sh", stopped)
        assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
        assert not (out / "hf").exists()
        assert hub.downloads["model.safetensors"] == 1  # of two ranks
    runs = {"t3s": out}  # their folders
    if family == "qwen2_moe":
        environment["METHODS"] = "t3s inverse"
        runs = {method: out / method for method in ("t3s", "inverse")}
    job = start("run_t3s.sh", environment)
    assert job.returncode == 0, job.stdout[-3000:] + job.stderr[-3000:]
    assert ("resumed at iteration 2" in job.stdout) == (family == "llama")
    learned = Corpus.build(said, AutoTokenizer.from_pretrained(student), seq_length=48)
    for method, folder in runs.items():
        summary = json.loads((folder / "t3s/summary.json").read_text())
        assert summary["finished"] and summary["method"].startswith(method)
        assert summary["arrangement"]["kind"] == "own"
        assert summary["fingerprints"]["dataset"] == learned.fingerprint
        trained = AutoModelForCausalLM.from_pretrained(folder / "hf")
        assert trained.config.vocab_size == VOCABULARY
        assert AutoTokenizer.from_pretrained(folder / "hf").chat_template
    # Those of the last two of the saves at 2, 4 and 6.
    saved = sorted(path.name for path in (runs["t3s"] / "checkpoints").glob("iter_*"))
    assert saved == ["iter_0000004", "iter_0000006"]
    if family == "llama":
        assert set(hub.downloads.values()) == {1}
    else:  # the second has its selection of the first's log-probs, and no profile
        made, given = (
            Selection.load(str(out / file), learned).keep
            for file in ("t3s/t3s/selection.safetensors", "inverse/selection.safetensors")
        )
        assert (made == ~given).all()
        assert [phase["phase"] for phase in summary["phases"]] == ["targeted"]
        assert "inverse" in (out / "report.html").read_text()


REFUSED = {
    "no student": ({"HF_MODEL": ""}, "HF_MODEL is not set"),
    "no data": ({"DATA": ""}, "DATA is not set"),
    "no folder to write to": ({"OUT": ""}, "OUT is not set"),
    "a student that is not there": ({}, "gone: no such folder"),
    "a world that does not divide": (
        {"TP": "3", "HF_MODEL": "here"},
        "8 processes are not a multiple of TP*PP*CP = 6",
    ),
    "a switch that only knows 1": ({"DRY_RUN": "true"}, "DRY_RUN=true: has to be one of 0 1"),
    "another switch": ({"T3S_SIMPLE": "true"}, "T3S_SIMPLE=true: has to be one of 0 1"),
    "who answers": ({"SERVE": "vllm"}, "SERVE=vllm: has to be colocate, live, or URLs"),
    "more than a GPU has": ({"SERVE_MEMORY": "45"}, "SERVE_MEMORY=45: has to be a share"),
    "a server on more GPUs than a node has": (
        {"SERVE_TP": "16", "HF_MODEL": "here"},
        "SERVE_TP=16: the 8 GPUs of a node are no multiple of it",
    ),
    "servers of nodes without a name": (
        {"NNODES": "2", "HF_MODEL": "here"},
        "NODES='': has to name the 2 nodes",
    ),
    "no number": ({"NNODES": "two"}, "NNODES=two: has to be a whole number from 1"),
    "nothing to divide by": ({"TP": "0"}, "TP=0: has to be a whole number from 1"),
    "another Python": (
        {"PYTHON": "/usr/bin/false"},
        "pip install --no-build-isolation 't3s-megatron[gpu",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_is_said_before_anything_starts(case, tmp_path):
    changed, wanted = REFUSED[case]
    student = tmp_path / "here"
    AutoConfig.for_model(**MODELS["Qwen3-8B"]).save_pretrained(student)
    if changed.get("HF_MODEL") == "here":
        changed = changed | {"HF_MODEL": str(student)}
    given = {"HF_MODEL": f"{tmp_path}/gone", "DATA": "traces.jsonl", "OUT": str(tmp_path / "out")}
    done = start("run_t3s_qwen3_8b.sh", given | changed)
    assert done.returncode == 2 and wanted in done.stderr
    assert not os.path.exists(tmp_path / "out")
