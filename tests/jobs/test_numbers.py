# SPDX-License-Identifier: Apache-2.0
"""Losses, gradients and log-probs that are not finite, and steps with nothing to learn from."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from t3s_megatron.data.selection_file import Selection
from tests.jobs.test_job import batch_of
from tests.support.launch import run
from tests.support.reference import latest, read_tensors
from tests.support.resumable import assert_same, errors_of

SIMPLE = "--t3s-simple --t3s-simple-step 2 --t3s-profile-iters 3".split()
SCHEDULE = """
--train-iters 4 --lr 2e-3 --min-lr 1e-4 --save-interval 1 --dist-ckpt-optim-fully-reshardable
""".split()
SHARDED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather".split()
PP2 = "--pipeline-model-parallel-size 2".split()


@pytest.fixture
def job(tmp_path, student, data_arguments):
    """job(*arguments): a short T3S-simple job with a checkpoint of every step, in `tmp_path`/out.

    `sample` is poisoned as `what` says.
    """

    def start(*arguments, method=SIMPLE, what="loss", sample=-1, folder="out", **more):
        return run(
            [*data_arguments, "--t3s", *method, *SCHEDULE, "--pretrained-checkpoint", student,
             "--load", tmp_path / folder, "--save", tmp_path / folder, *arguments],
            module="tests.jobs.poisoned_job",
            environment={"POISON": what, "POISON_SAMPLE": str(sample)},
            **more,
        )  # fmt: skip

    return start


def samples_in(text: str) -> set[str]:
    return set(re.findall(r"'(s\d+)'", text))


def test_a_bad_loss_stops_every_rank_before_the_step_and_names_its_sample(job, tmp_path, corpus):
    bad = batch_of(2, corpus)[3]
    ended = job(*SHARDED, sample=bad, processes=2, expect=1)
    error = errors_of(ended)
    assert "profile step 2: the loss of sample" in error and "is not finite" in error
    assert samples_in(error) == {corpus.samples[bad].uid}
    assert error.count("t3s-megatron: error:") == 1  # told once, for all ranks
    assert latest(str(tmp_path / "out")).endswith("iter_0000001")


def test_a_bad_gradient_names_the_samples_of_its_micro_batch(job, corpus):
    batch = batch_of(2, corpus)
    ended = job(*PP2, what="gradient", sample=batch[5], processes=2, expect=1)
    error = errors_of(ended)
    assert "profile step 2: the gradient of sample" in error
    # Micro-batches of two, in the order of the step.
    assert samples_in(error) == {corpus.samples[i].uid for i in batch[4:6]}


def test_a_bad_log_prob_names_its_sample(job, corpus):
    error = errors_of(job(what="score", sample=7, expect=1))
    assert "the log-prob at theta_b of sample" in error
    assert samples_in(error) == {corpus.samples[7].uid}


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_sample_is_left_out_counted_and_remembered(what, job, tmp_path, corpus):
    batch = batch_of(2, corpus)
    skip = ["--t3s-non-finite", "skip"]
    job(*skip, what=what, sample=batch[3], folder="whole")
    summary = json.loads((tmp_path / "whole/t3s/summary.json").read_text())
    assert summary["finished"]
    left_out = [corpus.samples[i].uid for i in (batch[3:4] if what == "loss" else batch[2:4])]
    assert [one["id"] for one in summary["skipped_samples"]] == sorted(
        left_out, key=[sample.uid for sample in corpus.samples].index
    )
    assert {(one["what"], one["step"]) for one in summary["skipped_samples"]} == {(what, 2)}
    for name, tensor in read_tensors(str(tmp_path / "whole")).items():
        assert tensor.isfinite().all(), name
    # The step that met the sample changed nothing.
    assert_same_training_state(tmp_path / "whole", 1, 2)
    if what == "loss":
        job(*skip, "--exit-interval", 3, sample=batch[3], folder="resumed")
        job(*skip, sample=batch[3], folder="resumed")
        assert_same(str(tmp_path / "whole"), str(tmp_path / "resumed"))


def test_a_step_with_no_kept_token_changes_nothing_and_is_counted(job, tmp_path, corpus):
    keep = np.ones(corpus.n_targets, dtype=bool)
    for i in batch_of(2, corpus):
        keep[corpus.target_slice(i)] = False
    path = str(tmp_path / "selection.safetensors")
    Selection(keep, corpus, "t3s", 2).save(path)
    job(method=["--t3s-selection-load", path, "--t3s-targeted-accuracy-interval", 0])
    summary = json.loads((tmp_path / "out/t3s/summary.json").read_text())
    assert summary["empty_steps"] == 1 and summary["finished"]
    assert_same_training_state(tmp_path / "out", 1, 2)
    with pytest.raises(AssertionError):  # a step that learns does change it
        assert_same_training_state(tmp_path / "out", 2, 3)


def assert_same_training_state(folder, one: int, other: int) -> None:
    """Weights and moments of two checkpoints, bit for bit."""
    first, second = (read_tensors(str(folder), step) for step in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
