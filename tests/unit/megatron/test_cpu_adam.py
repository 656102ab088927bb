# SPDX-License-Identifier: Apache-2.0
"""The CPU layer's Adam makes the steps of torch's, and keeps its state as TE's and Apex's do."""

from __future__ import annotations

import copy

import pytest
import torch

from t3s_megatron.megatron.device import CpuFusedAdam

STEPS = 12


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (1,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer, params, steps: int = STEPS, first: int = 0) -> None:
    """Gradients of widely different sizes, that change from step to step."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for scale, parameter in zip((1.0, 1e-3, 30.0), params, strict=True):
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def assert_same(params, expected) -> None:
    for found, wanted in zip(params, expected, strict=True):
        assert (found - wanted).abs().max() <= 1e-6, (found, wanted)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("lr", [1e-3, 0.05])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.95)])
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_it_makes_the_steps_of_adamw(weight_decay, lr, betas, eps):
    how = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    ours, theirs, start = parameters(), parameters(), parameters()
    train(CpuFusedAdam(ours, **how), ours)
    train(torch.optim.AdamW(theirs, **how), theirs)
    assert_same(ours, theirs)
    assert all((a - b).abs().min() > 1e-6 for a, b in zip(ours, start, strict=True))


def test_without_adam_w_mode_the_decay_is_part_of_the_gradient():
    ours, theirs = parameters(), parameters()
    train(CpuFusedAdam(ours, lr=0.05, weight_decay=0.1, adam_w_mode=False), ours)
    train(torch.optim.Adam(theirs, lr=0.05, weight_decay=0.1), theirs)
    assert_same(ours, theirs)


def test_without_bias_correction_the_first_step_is_that_of_the_raw_moments():
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = CpuFusedAdam([parameter], lr=0.1, eps=0.0, bias_correction=False)
    parameter.grad = torch.tensor([2.0])
    optimizer.step()
    # m = 0.1 * 2, v = 0.001 * 4
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.2 / 0.004**0.5, abs=1e-6)


def test_groups_have_their_own_rates_and_decays():
    ours, theirs = parameters(), parameters()

    def groups(params):
        return [
            {"params": params[:1], "lr": 0.05, "weight_decay": 0.1},
            {"params": params[1:], "lr": 0.001},
        ]

    train(CpuFusedAdam(groups(ours), weight_decay=0.0), ours)
    train(torch.optim.AdamW(groups(theirs), weight_decay=0.0), theirs)
    assert_same(ours, theirs)


def test_a_changed_rate_counts_from_the_next_step():
    ours, theirs = parameters(), parameters()
    optimizers = CpuFusedAdam(ours, lr=0.05), torch.optim.AdamW(theirs, lr=0.05, weight_decay=0.0)
    for params, optimizer in zip((ours, theirs), optimizers, strict=True):
        train(optimizer, params, 3)
        optimizer.param_groups[0]["lr"] = 0.002
        train(optimizer, params, 3, first=3)
    assert_same(ours, theirs)


def test_a_parameter_without_a_gradient_stays():
    ours = parameters()
    before = [p.detach().clone() for p in ours]
    optimizer = CpuFusedAdam(ours, lr=0.1, weight_decay=0.1)
    ours[0].grad = torch.ones_like(ours[0])
    optimizer.step()
    assert not torch.equal(ours[0], before[0])
    assert torch.equal(ours[1], before[1]) and ours[1] not in optimizer.state


def test_its_state_is_laid_out_as_the_fused_ones_do():
    ours = parameters()
    optimizer = CpuFusedAdam(ours)
    assert not optimizer.state  # made in the first step
    train(optimizer, ours, 3)
    assert all(set(state) == {"exp_avg", "exp_avg_sq"} for state in optimizer.state.values())
    assert type(optimizer.param_groups[0]["step"]) is int
    assert optimizer.param_groups[0]["step"] == 3


def test_a_group_without_parameters_on_this_rank_counts_no_step():
    ours = parameters()
    optimizer = CpuFusedAdam([{"params": ours}, {"params": []}])
    train(optimizer, ours, 2)
    assert "step" not in optimizer.param_groups[1]


def test_a_loaded_state_goes_on_as_if_never_interrupted():
    whole, halves = parameters(), parameters()
    train(CpuFusedAdam(whole, lr=0.05, weight_decay=0.1), whole, 6)
    first = CpuFusedAdam(halves, lr=0.05, weight_decay=0.1)
    train(first, halves, 3)
    second = CpuFusedAdam(halves, lr=0.05, weight_decay=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, halves, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))
