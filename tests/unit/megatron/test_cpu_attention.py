# SPDX-License-Identifier: Apache-2.0
"""Attention over two processes that share a sequence is plain attention over the whole of it.

Shapes: S positions, B batch, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch

S, B, H, K = 16, 2, 4, 8


@pytest.mark.child
@pytest.mark.parametrize(
    ("size", "local", "positions"),
    [
        (1, 4, [0, 1, 2, 3]),
        (2, 2, [0, 3, 1, 2]),
        (2, 4, [0, 1, 6, 7, 2, 3, 4, 5]),
        (3, 2, [0, 5, 1, 4, 2, 3]),
    ],
)
def test_each_rank_holds_a_chunk_from_the_front_and_one_from_the_back(size, local, positions):
    from t3s_megatron.megatron.cpu_attention import zigzag_positions

    found = zigzag_positions(size, local)
    assert found.dtype == torch.int64 and found.tolist() == positions


@pytest.mark.child(processes=2)
def test_the_positions_are_those_that_megatron_deals_out():
    from megatron.core import parallel_state
    from megatron.core.utils import get_batch_on_this_cp_rank

    from t3s_megatron.megatron.cpu_attention import zigzag_positions
    from t3s_megatron.megatron.forward import zigzag_slice

    parallel_state.initialize_model_parallel(context_parallel_size=2)
    whole, rank = torch.arange(S)[None], torch.distributed.get_rank()
    mine = zigzag_positions(2, S // 2)[rank * S // 2 : (rank + 1) * S // 2].tolist()
    parameters = inspect.signature(get_batch_on_this_cp_rank).parameters
    hybrid = {"is_hybrid_cp": False} if "is_hybrid_cp" in parameters else {}  # from 0.19 on
    assert get_batch_on_this_cp_rank({"tokens": whole}, **hybrid)["tokens"][0].tolist() == mine
    assert zigzag_slice(whole, rank, 2)[0].tolist() == mine


def plain_attention(q_SBHK, k_SBGK, v_SBGK):
    """Causal softmax attention, written out. [S, B, H * K]."""
    repeats = q_SBHK.shape[2] // k_SBGK.shape[2]
    k, v = (t.repeat_interleave(repeats, dim=2) for t in (k_SBGK, v_SBGK))
    scores = torch.einsum("sbhk,tbhk->bhst", q_SBHK, k) / K**0.5
    future = torch.ones(S, S, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("bhst,tbhk->sbhk", weights, v).reshape(S, B, -1)


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_forward_and_backward_are_those_of_plain_attention(groups):
    from megatron.core import parallel_state
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig

    from t3s_megatron.megatron.cpu_attention import ContextParallelAttention, zigzag_positions

    parallel_state.initialize_model_parallel(context_parallel_size=2)
    rank = torch.distributed.get_rank()
    generator = torch.Generator().manual_seed(0)  # the same numbers in both processes
    shapes = [(S, B, H, K), (S, B, groups, K), (S, B, groups, K), (S, B, H * K)]
    *whole, upstream = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    for tensor in whole:
        tensor.requires_grad_()
    expected = plain_attention(*whole)
    expected.backward(upstream)

    config = TransformerConfig(
        num_layers=1, hidden_size=H * K, num_attention_heads=H, num_query_groups=groups,
        context_parallel_size=2, attention_dropout=0.0,
    )  # fmt: skip
    attention = ContextParallelAttention(
        config, layer_number=1, attn_mask_type=AttnMaskType.causal, attention_type="self"
    )
    assert config.context_parallel_size == 2  # the caller's config is not touched
    mine = zigzag_positions(2, S // 2)[rank * S // 2 : (rank + 1) * S // 2]
    local = [tensor.detach()[mine].requires_grad_() for tensor in whole]
    out = attention(*local, None)
    torch.testing.assert_close(out, expected[mine], rtol=0, atol=1e-12)
    out.backward(upstream[mine])
    for name, ours, theirs in zip("query key value".split(), local, whole, strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad[mine], rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("groups", [4, 1])
def test_packed_segments_are_attended_to_one_by_one(groups):
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig

    from t3s_megatron.megatron.cpu_attention import PackedAttention
    from t3s_megatron.megatron.uneven import packed_seq_params

    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(0)  # Megatron's own attention draws its dropout from there
    config = TransformerConfig(
        num_layers=1, hidden_size=H * K, num_attention_heads=H, num_query_groups=groups,
        attention_dropout=0.0,
    )  # fmt: skip
    attention = PackedAttention(
        config, layer_number=1, attn_mask_type=AttnMaskType.causal, attention_type="self"
    )
    generator = torch.Generator().manual_seed(0)
    shapes = [(S, 1, H, K), (S, 1, groups, K), (S, 1, groups, K)]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    boundaries = [0, 5, 6, S]
    packed = packed_seq_params(torch.tensor([boundaries], dtype=torch.int32))
    assert (packed.qkv_format, packed.max_seqlen_q) == ("thd", S - 6)
    found = attention(q[:, 0], k[:, 0], v[:, 0], None, packed_seq_params=packed)
    for first, last in itertools.pairwise(boundaries):
        alone = attention(q[first:last], k[first:last], v[first:last], None)
        torch.testing.assert_close(found[first:last], alone, rtol=0, atol=1e-6)
    whole = attention(q, k, v, None)
    assert (whole[5:] - found[5:]).abs().max() > 0.01, "segments see each other anyway"
