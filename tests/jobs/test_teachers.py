# SPDX-License-Identifier: Apache-2.0
"""Two teachers in one run (section 4.2), against runs with each of them alone.

What a teacher's profile is (batches, losses, answers, theta_b, log-probs, its part of the
selection) has to be, bit for bit, what it is in a run on this teacher's samples only: nothing of
one teacher may be felt in the profile of the other. The run of both reads them from shards, of one
compressed and of the other Parquet; the runs of one, from one file of lines.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.tables import load_table
from t3s_megatron.data.teachers import load_training_records, parts_of
from tests.support.launch import Job, run
from tests.support.resumable import T3S, assert_same, summary_of
from tests.support.task import make_samples

DROPOUT = ["--attention-dropout", 0.1, "--hidden-dropout", 0.1]
TEACHERS = ("forward", "backward")
BUDGET = 4


def traces(teacher: str) -> list[dict]:
    """Sums over the same prompts; the second teacher works from the last term to the first, on
    fewer of them than a batch of 8 takes."""
    samples = make_samples(20, 0)
    if teacher == "forward":
        return samples
    made = []
    # The shortest sums, which the student can solve: without, it has no accuracy that could fall.
    for sample in sorted(samples, key=lambda sample: len(sample["prompt"]))[:7]:
        total, *terms = (int(term) for term in reversed(sample["prompt"].split("+")))
        steps = []
        for term in terms:
            steps.append(f"{term}+{total}={total + term}")
            total += term
        made.append(sample | {"response": "; ".join(steps) + f"<answer>{total}</answer>"})
    return made


@pytest.fixture(scope="session")
def data(once) -> dict[str, str]:
    """A file of each teacher, and "both": one with a column, in which they take turns."""
    by_teacher = {
        teacher: [sample | {"teacher": teacher} for sample in traces(teacher)]
        for teacher in TEACHERS
    }
    first, second = by_teacher.values()
    both = [s for i, s in enumerate(first) for s in (s, *second[i : i + 1])]
    files = {teacher: traces(teacher) for teacher in TEACHERS} | {"both": both}

    def make(folder: str) -> None:
        for name, samples in files.items():
            Path(folder, f"{name}.jsonl").write_bytes(lines_of(samples))
        for shard, path in enumerate(shards_of(folder, "forward")):
            Path(path).write_bytes(gzip.compress(lines_of(files["forward"][shard * 9 :][:9])))
        for shard, path in enumerate(shards_of(folder, "backward")):
            table = pyarrow.Table.from_pylist(files["backward"][shard * 3 :][:3])
            pyarrow.parquet.write_table(table, path)

    folder = once("teachers", make)
    return {name: f"{folder}/{name}.jsonl" for name in files}


def lines_of(samples: list[dict]) -> bytes:
    return "".join(json.dumps(sample) + "\n" for sample in samples).encode()


def shards_of(folder: str, teacher: str) -> list[str]:
    """Of one teacher's file in `folder`."""
    ending = {"forward": "jsonl.gz", "backward": "parquet"}[teacher]
    return [f"{folder}/{teacher}-{shard:05d}-of-00003.{ending}" for shard in range(3)]


@pytest.fixture(scope="session")
def start(data, task, student):
    """start(folder, names...): the command of a run on these files; of several, on their shards."""

    def command(folder, *names: str) -> list:
        files = [data[name] for name in names]
        if len(names) > 1:
            files = [shard for file in files for shard in shards_of(*os.path.split(file[:-6]))]
        return [
            "--t3s-data", *files, "--tokenizer-model", task[1], *T3S,
            # So that a fall can be seen among seven prompts.
            "--t3s-max-new-tokens", 28, "--t3s-accuracy-samples", 4,
            "--train-iters", BUDGET, *"--lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 1".split(),
            "--save", folder, "--load", folder, "--pretrained-checkpoint", student,
            "--save-interval", 2, "--dist-ckpt-optim-fully-reshardable",
        ]  # fmt: skip

    return command


@pytest.fixture(scope="session")
def together(once, start):
    """(folder, job) of the run with both teachers, in one process, with dropout."""

    def make(folder: str) -> None:
        run(watched(start(folder, *TEACHERS), folder)).write(folder)

    folder = once("together", make)
    return folder, Job.read(folder)


def watched(command: list, folder) -> list:
    return [*command, *DROPOUT, "--tensorboard-dir", f"{folder}/board"]


def corpus_of(task, *paths: str) -> tuple[Corpus, list]:
    records = load_training_records(paths)
    tokenizer = AutoTokenizer.from_pretrained(task[1])
    corpus = Corpus.build(records, tokenizer, seq_length=48)
    return corpus, parts_of(corpus, records)


def log_probs(folder: str, name: str) -> np.ndarray:
    return load_table(f"{folder}/t3s/{name}.safetensors", "log-prob store", (np.float32,), ())[0]


def told(entries: list[dict], teacher: str | None) -> list[dict]:
    """Of the profile: measurements, or points of Figure 4."""
    return [
        {key: value for key, value in one.items() if key not in ("teacher", "seconds")}
        for one in entries
        if one["phase"] == "profile" and one.get("teacher") == teacher
    ]


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_profile_is_that_of_a_run_with_this_teacher_alone(
    teacher, tmp_path, together, start, data, task
):
    run(watched(start(tmp_path, teacher), tmp_path))
    alone, both = summary_of(str(tmp_path)), summary_of(together[0])
    mine = both["teachers"][teacher]
    for key in ("theta_b_step", "theta_b_reason", "tokens"):
        assert mine[key] == alone[key], key
    assert both["theta_b_step"] is None and "teachers" not in alone
    for key in ("measurements", "figure_4"):
        found = told(both[key], teacher)
        assert found == told(alone[key], None) and len(found) > 2, key
    for tag in ("theta_0", "theta_b"):
        of_both = log_probs(together[0], f"c_{tag}-{teacher}")
        assert (of_both == log_probs(str(tmp_path), f"c_{tag}")).all(), tag
    corpus, parts = corpus_of(task, *(data[name] for name in TEACHERS))
    (part,) = (part for part in parts if part.teacher == teacher)
    selection = Selection.load(f"{together[0]}/t3s/selection.safetensors", corpus)
    single = Selection.load(
        f"{tmp_path}/t3s/selection.safetensors", corpus_of(task, data[teacher])[0]
    )
    assert (selection.keep[part.targets] == single.keep).all() and not single.keep.all()
    assert selection.theta_b_step[teacher] == single.theta_b_step


def test_the_run_tells_its_teachers_apart(together):
    folder, job = together
    summary = summary_of(folder)
    first, second, targeted = summary["phases"]
    assert [first["teacher"], second["teacher"]] == list(TEACHERS) and "teacher" not in targeted
    assert second["first_iteration"] == first["last_iteration"] + 1
    assert targeted["last_iteration"] == second["last_iteration"] + BUDGET
    of_targeted = [m for m in summary["measurements"] if m["phase"] == "targeted"]
    # Four answers to each of 20 prompts, 7 of which both have answered.
    assert [m["total"] for m in of_targeted] == [4 * 20] * BUDGET
    assert {m["total"] for m in summary["measurements"] if m.get("teacher") == "backward"} == {
        4 * 7
    }
    points = [(p.get("teacher"), p["step"]) for p in summary["figure_4"] if p["phase"] != "profile"]
    wanted = [(t, k) for k in range(1, BUDGET + 1) for t in (None, *TEACHERS)]
    assert points == wanted
    for step in range(1, BUDGET + 1):
        whole, *parts = (
            p for p in summary["figure_4"] if p["phase"] == "targeted" and p["step"] == step
        )
        assert whole["targets"] == sum(p["targets"] for p in parts)
        assert whole["kept"] == sum(p["kept"] for p in parts)
    wanted = sum(summary["teachers"][t]["tokens"]["masked"] for t in TEACHERS)
    assert summary["tokens"]["masked"] == wanted

    events = EventAccumulator(f"{folder}/board", size_guidance={"scalars": 0})
    events.Reload()
    for teacher in TEACHERS:
        curve = [e.value for e in events.Scalars(f"t3s/accuracy/{teacher}")]
        measured = [m["accuracy"] for m in summary["measurements"] if m.get("teacher") == teacher]
        assert np.allclose(curve, measured)
        share = events.Scalars(f"t3s/anchor_share/{teacher}")[-1].value
        assert abs(share - summary["teachers"][teacher]["tokens"]["anchor_share"]) < 1e-6
        assert len(events.Scalars(f"t3s/delta_anchor/{teacher}")) >= BUDGET
    said = "\n".join(job.said)
    assert "2 teachers: forward (20 samples), backward (7 samples); a profile of at most 6" in said
    assert "teacher backward: theta_b is step" in said
    state = f"{folder}/t3s/state"
    assert all(name.startswith("iter_") for name in os.listdir(state)), "weights were left behind"


def test_killed_in_the_second_profile_and_in_the_targeted_phase(tmp_path, together, start):
    command = watched(start(tmp_path / "run", *TEACHERS), tmp_path)
    for number, point in enumerate(("in the second profile", "in targeted training")):
        kill = {"KILL_AT": point, "KILL_MARK": str(tmp_path / f"killed-{number}")}
        job = run(command, module="tests.jobs.killed_job", environment=kill, expect=1)
        assert os.path.exists(f"{kill['KILL_MARK']}.0"), "the point was never reached"
        if number:
            assert "phase profile of teacher backward, step" in job.output
    again = run(command)
    assert "phase targeted, step" in again.output
    assert_same(together[0], str(tmp_path / "run"))


def test_two_data_parallel_ranks_find_what_one_process_finds(tmp_path, start, task, data):
    """As far as a rounding difference does not decide: it does where delta_c is nearly 0."""
    corpus, parts = corpus_of(task, data["both"])
    found = []
    for processes in (1, 2):
        folder = str(tmp_path / f"{processes}")
        run(start(folder, "both"), processes=processes)
        summary = summary_of(folder)
        steps = {t: summary["teachers"][t]["theta_b_step"] for t in TEACHERS}
        accuracies = [m["accuracy"] for m in summary["measurements"] if m["phase"] == "profile"]
        found.append((steps, accuracies, summary["phases"]))
    assert found[0] == found[1]
    one, two = (
        Selection.load(f"{tmp_path}/{n}/t3s/selection.safetensors", corpus).keep for n in (1, 2)
    )
    for part in parts:
        c_0, c_b = (
            log_probs(str(tmp_path / "1"), part.file_name(f"c_{tag}"))
            for tag in ("theta_0", "theta_b")
        )
        assert (one[part.targets] == (c_b <= c_0)).all()
        decided = np.abs(c_b - c_0) >= 1e-5
        assert decided.mean() > 0.5
        assert (one[part.targets] == two[part.targets])[decided].all()
