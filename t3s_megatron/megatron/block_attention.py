# SPDX-License-Identifier: Apache-2.0
"""Attention of a block-diffusion student, in the place of Megatron's core attention.

A row holds of each sample two segments of one length: noisy (x_t), then clean (x_0); `cu_seqlens`
lists both, so Megatron's own rotary embedding of packed rows begins anew at each. A query sees a
key of the same sample if and only if

    noisy query, noisy key    they stand in the same block
    noisy query, clean key    the key's block is an earlier one
    clean query, clean key    the key's block is the same or an earlier one

(LLaDA2.0's report, Eq. 3). While generating nothing is noisy: a query sees every key of its own
block and of earlier ones.

Shapes: t positions of a row, s of a decoding step, b answers, h query heads, g groups, k head size.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import divide

from t3s_megatron.data.lengths import uses_flex_attention
from t3s_megatron.errors import T3SError


@dataclass
class NoisyCleanParams(PackedSeqParams):
    """What every layer of a micro-batch shares: segments 2 i and 2 i + 1 are sample i, noisy and
    clean. `places`: (sample int64, is_clean bool, block int64) of each position, [t] each, on the
    device. Masks are made once, by the first layer that asks."""

    places: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    _made: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cu_seqlens: torch.Tensor, block_size: int) -> NoisyCleanParams:
        """`cu_seqlens` int32[2 n + 1] of one row, on the host."""
        sizes = (cu_seqlens[1:] - cu_seqlens[:-1]).to(torch.int64)
        segment = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        place = torch.arange(int(cu_seqlens[-1])) - cu_seqlens.to(torch.int64)[segment]
        device = torch.cuda.current_device()
        of_positions = segment // 2, segment % 2 == 1, place // block_size
        sample, clean, block = (x.to(device, non_blocking=True) for x in of_positions)
        bounds, longest = cu_seqlens.to(device, non_blocking=True), int(sizes.max())
        return cls(
            qkv_format="thd",
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            places=(sample, clean, block),
        )

    def rule(self):
        """Whether a query sees a key, of their places: as FlexAttention takes it."""
        assert self.places is not None
        sample, clean, block = self.places

        def sees(batch, head, query, key):
            noisy = ~clean[query] & ~clean[key] & (block[query] == block[key])
            context = ~clean[query] & clean[key] & (block[query] > block[key])
            both_clean = clean[query] & clean[key] & (block[query] >= block[key])
            return (sample[query] == sample[key]) & (noisy | context | both_clean)

        return sees

    def dense_mask(self) -> torch.Tensor:
        """bool[t, t], True where the query (first) sees the key."""
        if "dense" not in self._made:
            assert self.places is not None
            index = torch.arange(len(self.places[0]), device=self.places[0].device)
            self._made["dense"] = self.rule()(0, 0, index[:, None], index[None, :])
        return self._made["dense"]

    def flex_mask(self):
        """The same as FlexAttention's blocks, made without a tensor of t * t."""
        if "flex" not in self._made:
            assert self.places is not None
            t, device = len(self.places[0]), self.places[0].device
            self._made["flex"] = _flex_mask_maker()(self.rule(), None, None, t, t, device=device)
        return self._made["flex"]


@functools.cache
def _flex_attention():
    """Compiled once a process: uncompiled it computes every score."""
    from torch.nn.attention.flex_attention import flex_attention

    # Each length of a row is compiled anew; `data.lengths` sees to it that there are few.
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 512)
    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def _flex_mask_maker():
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=False)


class BlockDiffusionAttention(MegatronModule):
    """`use_block_attention` makes subclasses of it, with a `block_size` and a `backend` (flex or
    sdpa). No parameters: checkpoints do not see it."""

    block_size: int
    backend: str

    def __init__(
        self,
        config,
        layer_number,
        attn_mask_type,
        attention_type,
        attention_dropout=None,
        softmax_scale=None,
        cp_comm_type=None,
        pg_collection=None,
        **_unused,
    ):
        super().__init__(config=config)
        heads = pg_collection.tp.size() if pg_collection else config.tensor_model_parallel_size
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.hidden = divide(config.kv_channels * config.num_attention_heads, heads)

    def forward(
        self,
        query,
        key,
        value,
        attention_mask=None,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params=None,
        **_unused,
    ) -> torch.Tensor:
        """[t, h * k] of a row's queries [t, h, k] and keys [t, g, k]; or, without
        `packed_seq_params`, [s, b, h * k] of [s, b, h, k] and the n keys so far [n, b, g, k], of
        which the last s are the queries' own."""
        if packed_seq_params is None:
            return self._decode(query, key, value)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        how = {"scale": self.scale, "enable_gqa": q.size(1) != k.size(1)}
        if self.backend == "flex":
            out = _flex_attention()(q, k, v, block_mask=packed_seq_params.flex_mask(), **how)
        else:
            mask = packed_seq_params.dense_mask()
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **how)
        return out.squeeze(0).transpose(0, 1).reshape(query.size(0), self.hidden)

    def _decode(self, query, key, value) -> torch.Tensor:
        n, s = key.size(0), query.size(0)
        block = torch.arange(n, device=query.device) // self.block_size
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=block[None, :] <= block[n - s :, None],
            scale=self.scale,
            enable_gqa=query.size(2) != key.size(2),
        )
        return out.permute(2, 0, 1, 3).reshape(s, query.size(1), self.hidden)


def use_block_attention(spec, args) -> None:
    """Have the layers of a model's `spec` attend as a block-diffusion student's; for a pretrain
    script with a model of its own, before it makes the model. `args`: Megatron's namespace."""
    made = type(
        "BlockDiffusionAttention",
        (BlockDiffusionAttention,),
        {
            "block_size": args.t3s_block_size,
            "backend": "flex" if uses_flex_attention(args) else "sdpa",
        },
    )
    layers = getattr(spec, "layer_specs", None) or [spec]  # a block lists its layers
    for layer in layers:
        layer.submodules.self_attention.submodules.core_attention = made


def require_block_attention(chunks: list[torch.nn.Module]) -> None:
    """T3SError for a model (of a script of one's own) whose attention is another, which would let
    masked tokens see themselves. `chunks`: of this rank."""
    for chunk in chunks:
        cores = [m.core_attention for m in chunk.modules() if hasattr(m, "core_attention")]
        if not all(isinstance(core, BlockDiffusionAttention) for core in cores):
            raise T3SError(
                "--t3s-diffusion: the model of this script has another attention than that of "
                "block diffusion. Call t3s_megatron.megatron.block_attention.use_block_attention("
                "spec, args) before the model is made, or use python -m t3s_megatron.pretrain"
            )
