# SPDX-License-Identifier: Apache-2.0
"""A job that left in one parallel layout and goes on in another.

Against the run that never left: the same theta_b and phases, log-probs of both stores to 1e-5, the
same selection but for targets whose delta_c is smaller than that, losses to 1e-5 relative. Float32:
what differs is the order of sums.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from tests.support.launch import EXPERT_BIAS, MODEL, MOE, run

T3S = """
--t3s --t3s-max-new-tokens 16 --t3s-temperature 1 --t3s-patience 2 --t3s-profile-iters 6
--t3s-simple-step 2 --train-iters 5 --lr 5e-4 --min-lr 1e-4 --lr-warmup-iters 1 --save-interval 2
--dist-ckpt-optim-fully-reshardable
""".split()
TP2 = "--tensor-model-parallel-size 2".split()
PP2 = "--pipeline-model-parallel-size 2".split()
VPP2 = "--num-layers-per-virtual-pipeline-stage 1".split()
SP = "--sequence-parallel".split()
SHARDED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather".split()
EP2 = "--expert-model-parallel-size 2".split()


@dataclass(frozen=True)
class Move:
    """From `before` to `after`: (processes, arguments), leaving after iteration `leave`."""

    before: tuple
    after: tuple
    leave: int
    both: list = field(default_factory=list)
    moe: bool = False


MOVES = {
    # theta_0's log-probs go along, which the profile's are compared with.
    "1 -> DP2 in the profile": Move(
        (1, SHARDED), (2, SHARDED), leave=3, both=["--t3s-signal", "confidence"]
    ),
    "TP2 x PP2 x VPP2 -> 1 in the profile": Move((4, [*TP2, *SP, *PP2, *VPP2]), (1, []), leave=3),
    "DP2 -> TP2 in targeted training": Move((2, SHARDED), (2, [*TP2, *SP, *SHARDED]), leave=8),
    # With as many expert-parallel ranks: Megatron cannot load its own optimizer state else.
    "EP2 -> EP2 x PP2 before the residual transfer": Move(
        (2, EP2), (4, [*EP2, *PP2]), leave=3, both=["--t3s-method", "rrt"], moe=True
    ),
}


@pytest.mark.parametrize("case", MOVES)
def test_goes_on_in_another_layout(
    case, tmp_path, student, expert_bias_student, data_arguments, corpus
):
    move = MOVES[case]
    model = [*MODEL, *MOE, *EXPERT_BIAS] if move.moe else MODEL
    theta_0 = expert_bias_student if move.moe else student

    def job(folder, layout, *more):
        processes, arguments = layout
        return run(
            [*data_arguments, *T3S, *move.both, *arguments, "--pretrained-checkpoint", theta_0,
             "--save", folder, "--load", folder, *more],
            processes=processes, model=model,
        )  # fmt: skip

    stayed = job(tmp_path / "stayed", move.before)
    left = job(tmp_path / "moved", move.before, "--exit-interval", move.leave)
    came = job(tmp_path / "moved", move.after)
    assert f"resumed at iteration {move.leave} in another layout" in came.output
    moved, expected = losses(left) | losses(came), losses(stayed)
    assert moved.keys() == expected.keys()
    # Megatron's second line after a start is the mean of two steps.
    del moved[move.leave + 2], expected[move.leave + 2]
    assert moved == pytest.approx(expected, rel=1e-5)

    folders = {name: f"{tmp_path}/{name}/t3s" for name in ("stayed", "moved")}
    summaries = {name: read_json(f"{folder}/summary.json") for name, folder in folders.items()}
    for key in ("theta_b_step", "theta_b_reason", "finished"):
        assert summaries["moved"][key] == summaries["stayed"][key], key
    accuracies = {
        name: [one["accuracy"] for one in summary["measurements"]]
        for name, summary in summaries.items()
    }
    assert accuracies["moved"] == accuracies["stayed"]
    if "rrt" in move.both:
        return
    figures = [summaries[name]["figure_4"] for name in ("stayed", "moved")]
    assert len(figures[0]) == len(figures[1])
    for one, other in zip(*figures, strict=True):
        assert one.pop("phase") == other.pop("phase")
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True)
    c = {
        (name, tag): LogProbStore.load(f"{folder}/c_{tag}.safetensors", corpus).c
        for name, folder in folders.items()
        for tag in ("theta_0", "theta_b")
    }
    for tag in ("theta_0", "theta_b"):
        assert np.abs(c["moved", tag] - c["stayed", tag]).max() < 1e-5, tag
    stayed_keep, moved_keep = (
        Selection.load(f"{folder}/selection.safetensors", corpus).keep
        for folder in folders.values()
    )
    clear = np.abs(c["stayed", "theta_b"] - c["stayed", "theta_0"]) > 2e-5
    assert clear.mean() > 0.95
    assert (stayed_keep == moved_keep)[clear].all()


def losses(job) -> dict[int, float]:
    found = re.findall(r"iteration +(\d+)/.*lm loss: ([\d.E+-]+)", job.output)
    return {int(iteration): float(loss) for iteration, loss in found}


def read_json(path: str) -> dict:
    with open(path) as file:
        return json.load(file)
