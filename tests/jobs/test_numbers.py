# SPDX-License-Identifier: Apache-2.0
"""Losses, gradients and log-probs that are not finite, and steps with nothing to learn from."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from tests.jobs.test_job import batch_of, summary_of
from tests.support.launch import EXPERT_BIAS, MOE, run
from tests.support.reference import latest, read_tensors
from tests.support.resumable import assert_same, errors_of

SIMPLE = "--t3s-simple --t3s-simple-step 2 --t3s-profile-iters 3".split()
SCHEDULE = """
--train-iters 4 --lr 2e-3 --min-lr 1e-4 --save-interval 1 --dist-ckpt-optim-fully-reshardable
""".split()
SHARDED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather".split()
PP2 = "--pipeline-model-parallel-size 2".split()
VIRTUAL = "--num-layers-per-virtual-pipeline-stage 1".split()


@pytest.fixture
def job(tmp_path, student, data_arguments):
    """job(*arguments): a short T3S-simple job with a checkpoint of every step, in `tmp_path`/out.

    `sample` is poisoned as `what` says; `exits` is a folder for the exit status of each rank.
    """
    pretrained = ["--pretrained-checkpoint", student]

    def start(
        *arguments,
        method=SIMPLE,
        theta_0=pretrained,
        what="loss",
        sample=-1,
        folder="out",
        exits="",
        **more,
    ):
        poison = {"POISON": what, "POISON_SAMPLE": str(sample), "POISON_EXITS": str(exits)}
        return run(
            [*data_arguments, "--t3s", *method, *SCHEDULE, *theta_0,
             "--load", tmp_path / folder, "--save", tmp_path / folder, *arguments],
            module="tests.jobs.poisoned_job",
            environment=poison,
            **more,
        )  # fmt: skip

    return start


def samples_in(text: str) -> set[str]:
    return set(re.findall(r"'(s\d+)'", text))


def test_a_bad_loss_stops_every_rank_before_the_step_and_names_its_sample(job, tmp_path, corpus):
    bad = batch_of(2, corpus)[3]
    exits = tmp_path / "exits"
    exits.mkdir()
    ended = job(*SHARDED, sample=bad, processes=2, expect=1, exits=exits)
    assert {file.name: file.read_text() for file in exits.iterdir()} == {"0": "2", "1": "2"}
    error = errors_of(ended)
    assert "profile step 2: the loss of sample" in error and "is not finite" in error
    assert samples_in(error) == {corpus.samples[bad].uid}
    assert error.count("t3s-megatron: error:") == 1  # told once, for all ranks
    assert latest(str(tmp_path / "out")).endswith("iter_0000001")


@pytest.mark.parametrize(
    ("layout", "at_fault"),
    # Micro-batches of two, in the order of the step; virtual stages take two of them together.
    [(PP2, slice(4, 6)), ([*PP2, *VIRTUAL, *SHARDED], slice(4, 8))],
    ids=["pipeline", "virtual pipeline"],
)
def test_a_bad_gradient_names_the_samples_of_its_micro_batch(layout, at_fault, job, corpus):
    batch = batch_of(2, corpus)
    ended = job(*layout, what="gradient", sample=batch[5], processes=2, expect=1)
    error = errors_of(ended)
    assert "profile step 2: the gradient of sample" in error
    assert samples_in(error) == {corpus.samples[i].uid for i in batch[at_fault]}


def test_a_bad_log_prob_names_its_sample_and_the_run_can_go_on_without_it(job, tmp_path, corpus):
    error = errors_of(job(what="theta_b", sample=7, expect=1))
    assert "the log-prob at theta_b of sample" in error
    assert samples_in(error) == {corpus.samples[7].uid}
    # As the error advises, from where it stopped. Another sample is bad only at theta_0, when
    # theta_b has been scored with it.
    job("--t3s-non-finite", "skip", what="theta_0", sample=3)
    summary = summary_of(tmp_path / "out/t3s")
    assert summary["finished"] and summary["arguments"]["non_finite"] == "skip"
    assert [(one["id"], one["what"]) for one in summary["skipped_samples"]] == [
        (corpus.samples[3].uid, "log-prob at theta_0")
    ]
    learned = np.ones(corpus.n_targets, dtype=bool)
    learned[corpus.target_slice(3)] = False
    for tag in ("theta_0", "theta_b"):
        c = LogProbStore.load(str(tmp_path / f"out/t3s/c_{tag}.safetensors"), corpus).c
        assert np.isfinite(c).all()
        assert (c[~learned] == 0).all() and (c[learned] < 0).all()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_sample_is_left_out_counted_and_remembered(what, job, tmp_path, corpus):
    batch = batch_of(2, corpus)
    skip = ["--t3s-non-finite", "skip"]
    # The second rank's sample, where gradients are reduced while others still arise.
    layout, processes = (SHARDED, 2) if what == "gradient" else ([], 1)
    job(*skip, *layout, what=what, sample=batch[3], folder="whole", processes=processes)
    summary = summary_of(tmp_path / "whole/t3s")
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


def test_a_step_with_no_kept_token_changes_nothing_and_is_counted(
    job, tmp_path, corpus, expert_bias_student
):
    """Not even the expert bias, which Megatron updates before the optimizer's step."""
    keep = np.ones(corpus.n_targets, dtype=bool)
    for i in batch_of(2, corpus):
        keep[corpus.target_slice(i)] = False
    path = str(tmp_path / "selection.safetensors")
    Selection(keep, corpus, "t3s", 2).save(path)
    method = ["--t3s-selection-load", path, "--t3s-targeted-accuracy-interval", 0]
    student = ["--pretrained-checkpoint", expert_bias_student]
    job(*MOE, *EXPERT_BIAS, method=method, theta_0=student)
    summary = summary_of(tmp_path / "out/t3s")
    assert summary["empty_steps"] == 1 and summary["finished"]
    assert_same_training_state(tmp_path / "out", 1, 2)
    before, after = (read_tensors(str(tmp_path / "out"), step) for step in (2, 3))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    for learns in ("expert_bias", "output_layer.weight", "optimizer.state.exp_avg."):
        assert any(learns in name for name in changed), learns


def assert_same_training_state(folder, one: int, other: int) -> None:
    """Weights and moments of two checkpoints, bit for bit."""
    first, second = (read_tensors(str(folder), step) for step in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
