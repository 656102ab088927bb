# SPDX-License-Identifier: Apache-2.0
"""Faults of generation and verification during a run cost a bounded time and no more.

One job of two ranks meets them all: a deadline that passes on one rank, verifiers that hang, exit,
raise and kill their process, a measurement that a retry saves and one that stays void, and a rank
that is killed during a retry. It ends with the weights and the selection of a run without faults.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.launch import Job, run
from tests.support.reference import read_tensors
from tests.support.resumable import SCHEDULE, T3S, errors_of, summary_of
from tests.support.task import make_samples

DP2 = ["--bf16", "--attention-softmax-in-fp32", "--use-distributed-optimizer",
       "--overlap-grad-reduce", "--overlap-param-gather"]  # fmt: skip
FAULTS = ["--t3s-verify-timeout", 3, "--t3s-verify-workers", 2, "--t3s-measurement-retries", 1,
          "--t3s-generation-timeout", 600, "--t3s-max-new-tokens", 28]  # fmt: skip


@pytest.fixture(scope="session")
def start(once, student, task):
    """start(folder): one job's arguments; its samples carry a number for the verifier."""

    def make(folder: str) -> None:
        samples = [s | {"metadata": {"number": i}} for i, s in enumerate(make_samples(24, 0))]
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        Path(folder, "train.jsonl").write_text(lines)

    data = once("numbered", make) + "/train.jsonl"

    def arguments(folder, *extra) -> list:
        return ["--t3s-data", data, "--tokenizer-model", task[1], *SCHEDULE, *T3S, *FAULTS,
                "--t3s-verifier", "tests.jobs.faulty_verifier:verify", "--save", folder,
                "--load", folder, "--pretrained-checkpoint", student, "--save-interval", 2,
                "--dist-ckpt-optim-fully-reshardable", *extra]  # fmt: skip

    return arguments


@pytest.fixture(scope="session")
def jobs(once, start):
    """(folder of the run without faults, folder of the one with them, its outputs)."""
    job = dict(processes=2, module="tests.jobs.faulty_job")

    def make(folder: str) -> None:
        calm = start(f"{folder}/calm", *DP2)
        run(calm, **job)
        faulty = start(f"{folder}/faulty", *DP2, "--tensorboard-dir", f"{folder}/board")
        faults = {"FAULTS": folder, "LATE_RANK": "1", "KILL_MARK": f"{folder}/killed"}
        run(faulty, **job, environment=faults, expect=1).write(f"{folder}/faulty", "killed")
        assert os.path.exists(f"{folder}/killed.1"), "no retry was reached"
        run(faulty, **job, environment=faults).write(f"{folder}/faulty", "again")

    folder = Path(once("faults", make))
    outputs = [Job.read(folder / "faulty", name).output for name in ("killed", "again")]
    return folder / "calm", folder / "faulty", outputs


def measurements(folder) -> dict[str, dict]:
    return {f"{m['phase']} {m['step']}": m for m in summary_of(str(folder))["measurements"]}


def test_weights_and_selection_are_those_of_a_run_without_faults(jobs):
    calm, faulty, _ = jobs
    wanted, got = read_tensors(str(calm)), read_tensors(str(faulty))
    assert wanted.keys() == got.keys()
    for key, tensor in wanted.items():
        assert torch.equal(tensor, got[key]), key
    for name in ("selection", "c_theta_0", "c_theta_b"):
        files = [folder / "t3s" / f"{name}.safetensors" for folder in (calm, faulty)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_measurement_that_a_retry_saves_is_the_one_without_faults(jobs):
    """Unfinished answers are generated again with their seeds. (The other one that a retry saves
    was interrupted by the death of a rank, and made anew.)"""
    calm, faulty, outputs = jobs
    wanted, got = measurements(calm), measurements(faulty)
    assert wanted.keys() == got.keys()
    assert got.pop("profile 1") == wanted.pop("profile 1") | {"retries": 1}
    for spoilt in ("targeted 2", "targeted 3"):
        del got[spoilt], wanted[spoilt]
    assert got == wanted
    first, second = (o.split("is void: ")[1].split("\n")[0] for o in outputs[0].split("[t3s] the")
                     if "measurement is void" in o)  # fmt: skip
    unfinished = int(first.split(" unfinished")[0].split()[-1])
    assert 3 <= unfinished < 24, "the deadline has to pass in the middle: see _LATE_AT"
    assert "3 of 24 answers failed" in second and "2 timed out, 1 crashed" in second


def test_what_stays_void_is_no_accuracy_and_the_run_goes_on(jobs):
    _, faulty, _ = jobs
    void = measurements(faulty)["targeted 2"]
    assert void["void"] and void["accuracy"] is None and void["retries"] == 1
    assert (void["timed_out"], void["crashed"]) == (1, 2)
    assert [m for m, found in measurements(faulty).items() if found["void"]] == ["targeted 2"]


def test_a_few_faults_are_counted_apart_from_wrong_answers(jobs):
    calm, faulty, _ = jobs
    wanted, got = measurements(calm)["targeted 3"], measurements(faulty)["targeted 3"]
    assert (got["timed_out"], got["crashed"], got["void"], got["retries"]) == (1, 1, False, 0)
    lost = sum(wanted[what] - got[what] for what in ("correct", "wrong"))
    assert lost == 2 and got["accuracy"] == got["correct"] / (got["total"] - 2)


def test_the_curves_show_the_faults(jobs, tmp_path):
    _, faulty, outputs = jobs
    events = EventAccumulator(str(faulty.parent / "board"), size_guidance={"scalars": 0})
    events.Reload()
    profile = summary_of(str(faulty))["phases"][0]["last_iteration"]

    def series(name):
        return {e.step: e.value for e in events.Scalars(f"t3s/{name}")}

    assert [k for k, value in series("measurement_void").items() if value] == [profile + 2]
    assert profile + 2 not in series("accuracy") and profile + 3 in series("accuracy")
    assert series("answers_timed_out")[profile + 3] == series("answers_crashed")[profile + 3] == 1
    assert "the verifier failed, first on" in outputs[1] and "no verdict within 3 s" in outputs[1]


def test_a_run_that_cannot_measure_its_start_ends_with_the_reason(tmp_path, start):
    """Two pipeline stages; time is up at the first token, and again on the retry."""
    command = start(tmp_path, "--pipeline-model-parallel-size", 2, "--t3s-generation-timeout", 1e-6)
    job = run(command, processes=2, expect=1)
    assert "the accuracy before the first step could not be measured" in errors_of(job)
    assert job.output.count("24 unfinished") == 2
    assert "megatron/training/training.py" not in job.output, "a traceback through Megatron"


def test_a_rank_that_fails_ends_the_job_and_does_not_hang_it(tmp_path, start):
    job = run(
        start(tmp_path, "--tensor-model-parallel-size", 2),
        processes=2,
        module="tests.jobs.faulty_job",
        environment={"RAISE_RANK": "1"},
        expect=1,
    )
    assert "an accelerator fell off the bus" in job.output
    assert "[t3s] rank 1 failed while it generated answers" in job.output
