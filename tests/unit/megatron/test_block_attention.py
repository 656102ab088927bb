# SPDX-License-Identifier: Apache-2.0
"""The rule of block diffusion: against its table, BD3-LM's formula, and what its limits are.

Whole students against plain PyTorch are in tests/parallel/test_diffusion.py.
"""

from __future__ import annotations

import types

import pytest
import torch

pytestmark = pytest.mark.child

HEADS, GROUPS, SIZE = 4, 2, 8


def params(lengths: list[int], block: int):
    from t3s_megatron.megatron.block_attention import NoisyCleanParams

    ends = torch.tensor([0, *(n for length in lengths for n in (length, length))]).cumsum(0)
    return NoisyCleanParams.of(ends.to(torch.int32), block)


def attention(block: int, backend: str = "sdpa"):
    from megatron.core.transformer import TransformerConfig

    from t3s_megatron.megatron.block_attention import BlockDiffusionAttention

    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * SIZE,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        attention_dropout=0.0,
    )
    made = type("Made", (BlockDiffusionAttention,), {"block_size": block, "backend": backend})
    return made(config, 1, None, "self")


def drawn(positions: int, heads: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + heads)
    return torch.randn(positions, heads, SIZE, generator=generator)


def by_hand(query, key, value, visible):
    """[t, h * k], a head at a time."""
    out = []
    for head in range(HEADS):
        group = head * GROUPS // HEADS
        scores = query[:, head] @ key[:, group].T / SIZE**0.5
        out.append(scores.masked_fill(~visible, float("-inf")).softmax(-1) @ value[:, group])
    return torch.stack(out, 1).flatten(1)


@pytest.mark.parametrize(
    ("lengths", "block"), [([8], 4), ([12], 1), ([6], 6), ([7, 12, 4], 4), ([5, 3], 5)]
)
def test_the_mask_is_the_table(lengths, block):
    places = [
        (sample, clean, place // block)
        for sample, length in enumerate(lengths)
        for clean in (False, True)
        for place in range(length)
    ]
    seen = {
        (False, False): lambda query, key: key == query,
        (False, True): lambda query, key: key < query,
        (True, False): lambda query, key: False,
        (True, True): lambda query, key: key <= query,
    }
    wanted = [[q[0] == k[0] and seen[q[1], k[1]](q[2], k[2]) for k in places] for q in places]
    assert params(lengths, block).dense_mask().tolist() == wanted


@pytest.mark.parametrize("block", [1, 3, 8])
def test_the_mask_is_bd3lms(block):
    """`M_BD | M_OBC | M_BC` of arXiv:2503.09573, over [x_t ; x_0] of n tokens."""
    n = 8
    index = torch.arange(2 * n)
    is_clean, number = index >= n, torch.where(index >= n, index - n, index) // block
    q, k = number[:, None], number[None]
    diagonal = (q == k) & (is_clean[:, None] == is_clean[None])
    offset = (q > k) & is_clean[None] & ~is_clean[:, None]
    causal = (q >= k) & is_clean[None] & is_clean[:, None]
    assert params([n], block).dense_mask().equal(diagonal | offset | causal)


@pytest.mark.parametrize(("lengths", "block"), [([8, 12], 4), ([5], 5), ([6, 7], 1)])
def test_attention_by_hand(lengths, block):
    packed, t = params(lengths, block), 2 * sum(lengths)
    q, k, v = drawn(t, HEADS), drawn(t, GROUPS), drawn(t, GROUPS, 9)
    made = attention(block)(q, k, v, packed_seq_params=packed)
    torch.testing.assert_close(made, by_hand(q, k, v, packed.dense_mask()), atol=2e-6, rtol=0)


def test_flex_attention_computes_the_same_and_its_blocks_cover_the_mask():
    packed = params([300, 128, 64], 32)
    t = 2 * (300 + 128 + 64)
    q, k, v = drawn(t, HEADS), drawn(t, GROUPS), drawn(t, GROUPS, 9)
    with torch.no_grad():
        dense = attention(32)(q, k, v, packed_seq_params=packed)
        flex = attention(32, "flex")(q, k, v, packed_seq_params=packed)
    torch.testing.assert_close(flex, dense, atol=5e-6, rtol=0)
    tiles = packed.flex_mask().to_dense()[0, 0].bool()
    whole = tiles.repeat_interleave(128, 0).repeat_interleave(128, 1)[:t, :t]
    assert (whole | ~packed.dense_mask()).all() and not tiles.all()


@pytest.mark.parametrize("first", [0, 4, 8])
def test_a_decoded_block_sees_itself_and_what_is_before_it(first):
    q, k, v = (drawn(12, heads, seed) for heads, seed in ((HEADS, 0), (GROUPS, 0), (GROUPS, 9)))
    block = torch.arange(12) // 4
    wanted = by_hand(q, k, v, block[None] <= block[:, None])[first : first + 4]
    made = attention(4)(q[first : first + 4, None], k[: first + 4, None], v[: first + 4, None])
    torch.testing.assert_close(made[:, 0], wanted, atol=2e-6, rtol=0)


def test_another_attention_is_refused():
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.block_attention import (
        require_block_attention,
        use_block_attention,
    )

    make_parallel()
    with pytest.raises(T3SError, match="use_block_attention"):
        require_block_attention([tiny_gpt()])
    args = types.SimpleNamespace(
        t3s_block_size=4, t3s_diffusion_attention="auto", distributed_backend="gloo"
    )
    made = tiny_gpt(lambda spec: use_block_attention(spec, args))
    require_block_attention([made])
    assert made.decoder.layers[0].self_attention.core_attention.backend == "sdpa"
