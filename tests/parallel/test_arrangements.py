# SPDX-License-Identifier: Apache-2.0
"""Rows of their own length and packed rows give what padded rows give, in every parallel layout.

Each layout is one job, packed where it can be, which also scores the corpus in the other
arrangements and repeats its first steps in rows of their own length. What has to hold:

log-probs                 of every arrangement: PyTorch reference, 1e-5
losses, gradient norms    one process with padded rows, 1e-5 relative, packed and own
rewind                    bit-exact, in varying numbers of micro-batches
Megatron's FLOPs count    told of the tokens there are, without padding

The reference rows are three times as long as the average sample, and a step holds all 24 samples,
so that packed rows hold several also where a pipeline wants many micro-batches.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from tests.parallel.arranged_job import PROBE_STEPS
from tests.support.families import save_student
from tests.support.hf_models import logits_of
from tests.support.launch import FRESH, MOE, RUNTIME, ArrangedLayout, run
from tests.support.reference import Reference, read_weights

PROFILE_STEPS = 3
LENGTHS = "--seq-length 96 --max-position-embeddings 96 --global-batch-size 24".split()
SCHEDULE = "--lr 1e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()


LAYOUTS = {
    "1": ArrangedLayout(1, ""),
    "tp2-sp": ArrangedLayout(2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp4": ArrangedLayout(4, "--pipeline-model-parallel-size 4"),
    "pp2-vpp2-recompute": ArrangedLayout(
        2,
        "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1 "
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
    ),
    "dp2-distributed-optimizer": ArrangedLayout(
        2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"
    ),
    "cp2": ArrangedLayout(2, "--context-parallel-size 2", kind="own"),
    "moe-ep2": ArrangedLayout(2, "--expert-model-parallel-size 2", moe=True),
}


@pytest.fixture(scope="session")
def padded(once, request, data_arguments):
    """[loss, gradient norm] of each step at one process with padded rows, by kind of student."""

    def of(moe: bool) -> np.ndarray:
        student = request.getfixturevalue("moe_student" if moe else "student")

        def make(folder: str) -> None:
            run(
                [*data_arguments, *LENGTHS, *SCHEDULE, *(MOE if moe else []), "--load", student,
                 *FRESH, "--train-iters", PROFILE_STEPS],
                module="tests.parallel.probed_job",
                environment={"LOSS_FILE": f"{folder}/losses.json"},
            )  # fmt: skip

        with open(once(f"padded-{'moe' if moe else 'dense'}", make) + "/losses.json") as file:
            return figures(json.load(file))

    return of


def figures(losses: list) -> np.ndarray:
    return np.array([[float.fromhex(value) for value in step] for step in losses])


def arranged(arguments: list, folder, kind: str, **how) -> tuple[dict, list, dict]:
    """What a run of `tests.parallel.arranged_job` wrote down: probe, losses, summary."""
    run(
        [*arguments, *SCHEDULE, "--micro-batch-size", 1, "--train-iters", 2 * PROBE_STEPS + 1,
         "--t3s", "--t3s-dir", folder, "--t3s-simple", "--t3s-simple-step", PROFILE_STEPS,
         "--t3s-arrangement", kind],
        module="tests.parallel.arranged_job",
        environment={
            "PROBE_FILE": os.path.join(folder, "probe.json"),
            "LOSS_FILE": os.path.join(folder, "losses.json"),
        },
        **how,
    )  # fmt: skip
    probe, losses, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("probe", "losses", "summary")
    )
    return probe, losses, summary


def by_phase(losses: list) -> tuple[list, list, list]:
    """The losses of the profile, of the same steps again, and of those in rows of own lengths."""
    assert len(losses) == PROFILE_STEPS + 2 * PROBE_STEPS + 1
    targeted = losses[PROFILE_STEPS:]
    return losses[:PROFILE_STEPS], targeted[:PROBE_STEPS], targeted[PROBE_STEPS : 2 * PROBE_STEPS]


@pytest.mark.parametrize("name", LAYOUTS)
def test_arrangements(name, tmp_path, request, corpus, padded, data_arguments):
    layout = LAYOUTS[name]
    student = request.getfixturevalue("moe_student" if layout.moe else "student")
    probe, losses, summary = arranged(
        [*data_arguments, *LENGTHS, *(MOE if layout.moe else []), "--load", student, *FRESH,
         *layout.arguments.split()],
        tmp_path,
        layout.kind,
        processes=layout.processes,
    )  # fmt: skip

    wanted = Reference(read_weights(student)).target_log_probs(corpus.samples)
    off = {kind: np.abs(np.array(c) - wanted).max() for kind, c in probe["scores"].items()}
    not_told = off.pop("packed, not told", None)
    assert set(off) == {"padded", "own", layout.kind}
    assert max(off.values()) < 1e-5, off
    if name == "pp4":
        assert not_told > 0.01, "stages between do not need to be told of packed rows any more"

    reference = padded(layout.moe)
    profile, again, own = by_phase(losses)
    np.testing.assert_allclose(figures(profile), reference, rtol=1e-5)
    np.testing.assert_allclose(figures(own), reference[:PROBE_STEPS], rtol=1e-5)
    assert again == profile[:PROBE_STEPS]

    real = {
        "total_real_tokens_in_batch": sum(corpus.lengths),
        "seqlen_squared_sum_in_batch": sum(length**2 for length in corpus.lengths),
    }
    assert len(probe["told"]) >= len(losses) and all(one == real for one in probe["told"])

    assert summary["finished"] and summary["arrangement"]["kind"] == layout.kind
    assert 0 <= summary["arrangement"]["padding_share"] < 0.1
    assert 0.7 < summary["arrangement"]["balance_efficiency"] <= 1
    rows = summary["arrangement"]["micro_batches_per_step"] * summary["layout"]["data"]
    assert rows < 24 if layout.kind == "packed" else rows == 24


def test_windows_and_sinks_in_packed_rows(tmp_path, corpus, data_arguments):
    """A gpt-oss student with windows of 8 positions: log-probs as transformers has them, and the
    same steps, in every arrangement."""
    folder = save_student("gpt_oss", str(tmp_path / "student"))
    probe, losses, summary = arranged(
        [*data_arguments, "--seq-length", 64, "--global-batch-size", 24, "--t3s-hf-model", folder],
        tmp_path,
        "packed",
        model=RUNTIME,
    )
    wanted = np.concatenate(
        [
            torch.log_softmax(logits_of(folder, torch.tensor(sample.tokens)[None])[0, :-1], -1)
            .gather(1, torch.tensor(sample.tokens[1:])[:, None])
            .numpy()[sample.is_target[1:], 0]
            for sample in corpus.samples
        ]
    )
    assert set(probe["scores"]) == {"padded", "own", "packed"}
    for kind, scores in probe["scores"].items():
        assert np.abs(np.array(scores) - wanted).max() < 1e-5, kind
    profile, again, own = by_phase(losses)
    np.testing.assert_allclose(figures(own), figures(profile[:PROBE_STEPS]), rtol=1e-5)
    assert again == profile[:PROBE_STEPS]
    assert summary["arrangement"]["micro_batches_per_step"] < 24, "no row holds several samples"
