# SPDX-License-Identifier: Apache-2.0
"""Padding of the vocabulary has no share of a softmax: against the model without it."""

from __future__ import annotations

import types

import pytest
import torch

pytestmark = pytest.mark.child

S, B = 12, 2
ROWS = 27  # of tiny_gpt's 32; the rest is padding, of random numbers here


def args_of(tensor: int = 1, rows: int | None = ROWS) -> types.SimpleNamespace:
    from tiny_gpt import VOCABULARY

    return types.SimpleNamespace(
        vocab_size=rows, padded_vocab_size=VOCABULARY, tensor_model_parallel_size=tensor
    )


def tokens(rows: int = ROWS) -> torch.Tensor:
    return torch.randint(0, rows, (B, S), generator=torch.Generator().manual_seed(1))


def losses(model, ids: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(S).expand_as(ids)
    return model(ids, positions, None, labels=ids.roll(-1, 1))


def hidden_of(model, ids: torch.Tensor) -> torch.Tensor:
    """Of the output layer's forward: [s, b, h], part of the graph."""
    seen = []
    hook = model.output_layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    losses(model, ids)
    hook.remove()
    return seen[0]


def without(logits: torch.Tensor, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Cross-entropy [b, s] of the first `rows` logits [s, b, V] alone."""
    wanted = ids.roll(-1, 1).t()
    return -logits[..., :rows].log_softmax(-1).gather(-1, wanted[..., None])[..., 0].t()


@pytest.mark.parametrize("fused", [False, True])
def test_losses_and_gradients_are_those_of_the_model_without_padding(fused):
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.vocabulary import leave_out_padding

    make_parallel()
    model = tiny_gpt(cross_entropy_loss_fusion=fused)
    weight = model.output_layer.weight
    expected = without(hidden_of(model, tokens()) @ weight.t(), tokens(), ROWS)
    before = losses(model, tokens())
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()))
    for _ in range(2):  # told twice is told once
        leave_out_padding([model], args_of())
    got = losses(model, tokens())
    assert (got - expected).abs().max() < 1e-5
    assert (before - expected).abs().max() > 1e-2  # Megatron's own
    found = torch.autograd.grad(got.sum(), list(model.parameters()))
    bound = 2**-7 if fused else 1e-5  # the fused loss rounds its gradient to bfloat16
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max()
    names = [name for name, _ in model.named_parameters()]
    assert not found[names.index("output_layer.weight")][ROWS:].any()


def test_where_nothing_is_known_or_nothing_is_padding_it_is_megatrons():
    from tiny_gpt import VOCABULARY, make_parallel, tiny_gpt

    from t3s_megatron.megatron.vocabulary import leave_out_padding

    make_parallel()
    model = tiny_gpt()
    before = losses(model, tokens())
    for rows in (None, VOCABULARY, VOCABULARY + 5):
        leave_out_padding([model], args_of(rows=rows))
        assert torch.equal(losses(model, tokens()), before)


def test_a_scoring_pass_of_float32_logits_leaves_it_out_too():
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.float32_logits import float32_logits
    from t3s_megatron.megatron.vocabulary import leave_out_padding

    make_parallel()
    model = tiny_gpt(bf16=True, params_dtype=torch.bfloat16)
    leave_out_padding([model], args_of())
    with torch.no_grad():
        training = losses(model, tokens())
        logits = hidden_of(model, tokens()).double() @ model.output_layer.weight.double().t()
        with float32_logits([model]):
            assert (losses(model, tokens()) - without(logits, tokens(), ROWS)).abs().max() < 1e-5
        assert torch.equal(losses(model, tokens()), training)  # and so does training afterwards


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("rows", [ROWS, 13])  # 13: the second rank has nothing but padding
def test_over_tensor_parallel_ranks(rows):
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.vocabulary import leave_out_padding

    make_parallel(tensor_model_parallel_size=2)
    model = tiny_gpt(tensor_model_parallel_size=2)
    ids = tokens(rows)
    hidden = hidden_of(model, ids).detach()
    parts = [torch.empty_like(model.output_layer.weight) for _ in range(2)]
    torch.distributed.all_gather(parts, model.output_layer.weight.detach().contiguous())
    expected = without(hidden @ torch.cat(parts).t(), ids, rows)
    leave_out_padding([model], args_of(2, rows))
    got = losses(model, ids)
    assert (got - expected).abs().max() < 1e-5
    got.sum().backward()
    first = max(0, rows - 16 * torch.distributed.get_rank())
    assert not model.output_layer.weight.grad[first:].any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
