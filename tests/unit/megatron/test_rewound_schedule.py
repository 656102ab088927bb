# SPDX-License-Identifier: Apache-2.0
"""A rewind starts every schedule of Megatron anew: learning rates and weight decays of each group
of parameters are those of a fresh run, whatever their style (verl-project/verl #7953,
NVIDIA/Megatron-LM #1533)."""

from __future__ import annotations

import itertools

import pytest

pytestmark = pytest.mark.child

BATCH, STEPS = 8, 12
COMMON = dict(
    init_lr=1e-5, max_lr=1e-2, min_lr=1e-4, lr_warmup_steps=3 * BATCH, lr_decay_steps=STEPS * BATCH,
    lr_decay_style="cosine", start_wd=0.1, end_wd=0.1, wd_incr_steps=STEPS * BATCH,
    wd_incr_style="constant",
)  # fmt: skip
STYLES = {
    "cosine": {},
    "linear": dict(lr_decay_style="linear"),
    "constant": dict(lr_decay_style="constant"),
    "inverse square root": dict(lr_decay_style="inverse-square-root"),
    "WSD": dict(lr_decay_style="WSD", wsd_decay_steps=4 * BATCH, lr_wsd_decay_style="exponential"),
    "WSD that ends in a straight line": dict(
        lr_decay_style="WSD", wsd_decay_steps=4 * BATCH, lr_wsd_decay_style="linear"
    ),
    "no warmup": dict(lr_warmup_steps=0, init_lr=0.0),
    "weight decay that grows": dict(start_wd=0.0, end_wd=0.1, wd_incr_style="linear"),
    "weight decay that grows as a cosine": dict(start_wd=0.0, end_wd=0.1, wd_incr_style="cosine"),
}


def scheduler_of(style: str, steps: int = 0):
    import torch
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    # The second as of --decoupled-lr, the third as of biases.
    groups = [
        {"params": weights[:1], "default_config": True},
        {"params": weights[1:2], "max_lr": 5e-2, "min_lr": 5e-3},
        {"params": weights[2:], "wd_mult": 0.0},
    ]
    scheduler = OptimizerParamScheduler(torch.optim.AdamW(groups), **COMMON | STYLES[style])
    scheduler.step(increment=steps * BATCH)
    return scheduler


def walked(scheduler, steps: int) -> list[list[tuple[float, float]]]:
    """(learning rate, weight decay) of each group at each step."""
    found = []
    for _ in range(steps):
        groups = scheduler.optimizer.param_groups
        found.append([(group["lr"], group["weight_decay"]) for group in groups])
        scheduler.step(increment=BATCH)
    return found


def test_after_a_rewind_every_schedule_is_that_of_a_fresh_run():
    """Of profiles that are shorter and longer than the schedule, begun at step 0 or 2."""
    from t3s_megatron.megatron.rewind import restart_schedule

    for style, begun, profile in itertools.product(STYLES, (0, 2), (1, 5, STEPS + 3)):
        fresh = walked(scheduler_of(style, begun), STEPS)
        assert len({str(step) for step in fresh}) > 1, f"{style}: nothing is scheduled"
        scheduler = scheduler_of(style, begun)
        at_theta_0 = scheduler.num_steps
        walked(scheduler, profile)
        restart_schedule(scheduler, at_theta_0)
        assert walked(scheduler, STEPS) == fresh, (style, begun, profile)
