# SPDX-License-Identifier: Apache-2.0
"""Every parallel layout against an independent PyTorch model and against one process.

From one checkpoint, each layout runs a whole T3S job (profile, scoring, rewind, selection, masked
training) with a step of a given selection in it. What has to hold, and how closely:

log-probs             PyTorch reference, 1e-5 (float32 sums in another order)
greedy generations    PyTorch reference, token for token
theta_b               equal to one process
selection             equal to one process but for |delta_c| < 1e-5
rewind                bit-exact: losses and gradient norms of the profile's first steps again
masked gradient       PyTorch reference, every parameter, 1e-5 of the largest entry; with samples,
                      micro-batches and data-parallel ranks in which nothing is kept (2**-8 for
                      the fused loss, which computes it in bfloat16)
weighted gradient     the same of a step with float weights, each times sg(p_t), over the number of
                      tokens with a weight above 0

Not covered here: NCCL, Transformer Engine, CUDA; see the README's table.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from tests.parallel.probed_job import PROBE_STEPS
from tests.support.launch import FRESH, MOE, run
from tests.support.reference import HALF, Reference, read_gradient, read_weights

PROFILE_STEPS = 5
BUDGET = 6
GLOBAL_BATCH = 8


@dataclass(frozen=True)
class Layout:
    processes: int
    arguments: str
    moe: bool = False
    micro_batch_size: int = 2
    gradient_tolerance: float = 1e-5


LAYOUTS = {
    "1": Layout(1, ""),
    "1-one-micro-batch": Layout(1, "", micro_batch_size=8),
    "tp2-sp": Layout(2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": Layout(2, "--pipeline-model-parallel-size 2"),
    "pp2-vpp2": Layout(
        2, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
    ),
    "tp2-pp2": Layout(4, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2"),
    "dp2-distributed-optimizer": Layout(
        2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"
    ),
    "cp2": Layout(2, "--context-parallel-size 2"),
    "tp2-fused-loss": Layout(
        2,
        "--tensor-model-parallel-size 2 --cross-entropy-loss-fusion "
        "--cross-entropy-fusion-impl native",
        # Megatron's fused loss rounds the gradient of the logits to bfloat16, 8 bits
        # (fused_cross_entropy.py:82); its forward, and so every c_t, stays float32.
        gradient_tolerance=2**-8,
    ),
    "moe-1": Layout(1, "", moe=True),
    "moe-ep2": Layout(2, "--expert-model-parallel-size 2", moe=True),
    # Experts are cut up as well, which is the default: ranks gather unequal numbers of tokens.
    "moe-tp2-ep2": Layout(
        4,
        "--tensor-model-parallel-size 2 --sequence-parallel --expert-model-parallel-size 2",
        moe=True,
    ),
}


class Baseline:
    """What the plain PyTorch model says about one student and the corpus."""

    def __init__(self, corpus: Corpus, student: str):
        self.corpus = corpus
        self.model = Reference(read_weights(student))
        self.c_0 = self.model.target_log_probs(corpus.samples)
        end = corpus.samples[0].tokens[-1]
        self.greedy = [
            self.model.greedy(s.tokens[: s.prompt_length].tolist(), int(end), 16)
            for s in corpus.samples
        ]

    def masked_gradient(self, keep: np.ndarray, dft: bool = False) -> dict[str, torch.Tensor]:
        """Gradient of the loss of the first batch: the sum over its targets, with these weights
        (times sg(p_t) in DFT), over the number of those that have one."""
        order = EpochOrder(len(self.corpus.samples), seed=1234)
        for tensor in self.model.w.values():
            tensor.grad = None
        count = 0
        for position in range(GLOBAL_BATCH):
            index = order.sample_at(position)
            sample = self.corpus.samples[index]
            weights = torch.from_numpy(keep[self.corpus.target_slice(index)]).float()
            kept = weights > 0
            if kept.any():
                targets = self.model.log_probs(sample.tokens)[
                    torch.from_numpy(sample.is_target[1:])
                ]
                if dft:
                    weights = weights * targets.detach().exp()
                (-(weights * targets)[kept].sum()).backward()
            count += int(kept.sum())
        return {k: v.grad / count for k, v in self.model.w.items() if v.grad is not None}


@pytest.fixture(scope="module")
def dense(corpus, student) -> Baseline:
    return Baseline(corpus, student)


@pytest.fixture(scope="module")
def mixture(corpus, moe_student) -> Baseline:
    return Baseline(corpus, moe_student)


@pytest.fixture(scope="session")
def sparse_selection(corpus) -> Selection:
    """Keeps a third of the tokens, and nothing at all in half of the first batch: with 2 samples a
    micro-batch, two whole micro-batches, and the first data-parallel rank, have nothing."""
    keep = np.random.default_rng(0).random(corpus.n_targets) < 0.33
    order = EpochOrder(len(corpus.samples), seed=1234)
    for position in (0, 1, 4, 5):
        keep[corpus.target_slice(order.sample_at(position))] = False
    return Selection(keep, corpus, "t3s", None)


@pytest.fixture(scope="session")
def sparse_weights(sparse_selection) -> Selection:
    """The same tokens, with weights between 0.1 and 2."""
    weights = np.random.default_rng(1).uniform(0.1, 2, sparse_selection.keep.size)
    keep = np.where(sparse_selection.keep, weights, 0).astype(np.float32)
    return Selection(keep, sparse_selection.corpus, "imported", None)


class Outcome:
    """One whole probed job in one layout. `gradient`: of the step with the given selection, as the
    optimizer was given it; `weighted`: of that with the given weights and DFT."""

    def __init__(self, folder: str, corpus: Corpus):
        with open(os.path.join(folder, "probe.json")) as file:
            self.greedy = json.load(file)["greedy"]
        with open(os.path.join(folder, "losses.json")) as file:
            self.losses = json.load(file)
        with open(os.path.join(folder, "summary.json")) as file:
            self.summary = json.load(file)
        self.c = {
            tag: LogProbStore.load(os.path.join(folder, f"c_{tag}.safetensors"), corpus).c
            for tag in ("theta_0", "theta_b")
        }
        self.keep = Selection.load(os.path.join(folder, "selection.safetensors"), corpus).keep
        self.profile_steps = self.summary["phases"][0]["last_iteration"]
        self.gradient, self.weighted = (
            read_gradient(folder, self.profile_steps + PROBE_STEPS + step) for step in (1, 2)
        )


def whole_job(
    folder,
    layout: Layout,
    student: str,
    data_arguments,
    selection: Selection,
    weights: Selection,
) -> None:
    selection_file, weights_file = (
        os.path.join(folder, f"{name}.safetensors") for name in ("given", "weights")
    )
    selection.save(selection_file)
    weights.save(weights_file)
    method = ["--t3s", "--t3s-dir", folder, "--t3s-patience", 2, "--t3s-max-new-tokens", 16,
              "--t3s-profile-iters", PROFILE_STEPS, "--t3s-simple-step", 3,
              "--t3s-temperature", 1]  # fmt: skip
    # Nothing is clipped, and the norm is still computed.
    optimizer = ["--adam-beta1", HALF, "--clip-grad", 1e9, "--dist-ckpt-optim-fully-reshardable"]
    schedule = f"--train-iters {BUDGET} --lr 1e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()
    saving = ["--save", folder, "--save-interval", 1000]
    run(
        [*_common(layout, student, data_arguments), *schedule, *optimizer, *saving, *method],
        processes=layout.processes,
        module="tests.parallel.probed_job",
        environment={
            "PROBE_FILE": os.path.join(folder, "probe.json"),
            "LOSS_FILE": os.path.join(folder, "losses.json"),
            "SELECTION": selection_file,
            "WEIGHTS": weights_file,
        },
    )


def _common(layout: Layout, student: str, data_arguments) -> list:
    moe = MOE if layout.moe else []
    batch = ["--micro-batch-size", layout.micro_batch_size, "--global-batch-size", GLOBAL_BATCH]
    return [*data_arguments, "--load", student, *FRESH, *moe, *batch, *layout.arguments.split()]


@pytest.fixture(scope="session")
def outcome_of(once, request, data_arguments, corpus, sparse_selection, sparse_weights):
    """outcome_of(name): of the whole job in a layout, made once."""

    def of(name: str) -> Outcome:
        layout = LAYOUTS[name]
        student = request.getfixturevalue("moe_student" if layout.moe else "student")

        folder = once(
            f"layout-{name}",
            lambda made: whole_job(
                made, layout, student, data_arguments, sparse_selection, sparse_weights
            ),
        )
        return Outcome(folder, corpus)

    return of


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, request, outcome_of, sparse_selection, sparse_weights):
    layout = LAYOUTS[name]
    baseline: Baseline = request.getfixturevalue("mixture" if layout.moe else "dense")
    reference, got = outcome_of("moe-1" if layout.moe else "1"), outcome_of(name)

    assert np.abs(got.c["theta_0"] - baseline.c_0).max() < 1e-5
    assert got.greedy == baseline.greedy
    assert got.summary["theta_b_step"] == reference.summary["theta_b_step"]
    # Measured at the same answers: the same tokens were sampled in every layout.
    assert _accuracies(got) == _accuracies(reference)

    delta = reference.c["theta_b"] - reference.c["theta_0"]
    decided = np.abs(delta) >= 1e-5
    assert decided.any()
    assert (got.keep == reference.keep)[decided].all()
    assert 0 < got.keep.sum() < got.keep.size

    first, again = (got.losses[begin : begin + PROBE_STEPS] for begin in (0, got.profile_steps))
    assert len(again) == PROBE_STEPS and again == first
    masked = got.losses[got.profile_steps + PROBE_STEPS + 2][0]
    assert masked != first[0][0], "the selection did not change the loss"

    for expected, found in (
        (baseline.masked_gradient(sparse_selection.keep), got.gradient),
        (baseline.masked_gradient(sparse_weights.keep, dft=True), got.weighted),
    ):
        assert set(expected) == set(found)
        for key, wanted in expected.items():
            bound = layout.gradient_tolerance * float(wanted.abs().max())
            assert float((found[key] - wanted).abs().max()) <= bound, key


def _accuracies(outcome: Outcome) -> list[tuple]:
    return [
        (m["phase"], m["step"], m["correct"])
        for m in outcome.summary["measurements"]
        if m["phase"] == "profile"
    ]
