# SPDX-License-Identifier: Apache-2.0
"""What a decoding step does in another way than a training forward: its attention, its cache, and
the logits of the last position alone.

A token is one query against all keys so far. Megatron hands those to the attention of training and
applies rotary embedding to all of them again at every token (attention.py:696); cuDNN's builds, and
keeps for ever, a plan for each number of keys. Here keys are kept with their embedding, and the
query goes to torch's own attention, which needs no plan.

Shapes: b answers, g groups of keys and values, h query heads, k size of a head, s positions.
"""

from __future__ import annotations

import contextlib
import functools

import megatron.core.transformer.attention as attention
import torch
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.transformer.enums import AttnMaskType
from torch.nn.attention import SDPBackend, sdpa_kernel

from t3s_megatron.megatron.releases import inference_mode, rotary_concentration

#: Not cuDNN's.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class KeyValueCache(StaticInferenceContext):
    """Keys and values of the answers of one batch, at most `positions` long.

    Attention that `decoding` has not taken over keeps its own in Megatron's `key_value_memory_dict`
    [s, b, g, k].
    """

    def __init__(self, batch: int, positions: int):
        super().__init__(batch, positions)
        self._kept: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(
        self, layer: torch.nn.Module, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new key and value [s, b, g, k] of a layer; all of it so far, [b, g, s, k]."""
        start, end = self.sequence_len_offset, self.sequence_len_offset + key.size(0)
        if layer not in self._kept:
            self._kept[layer] = self._room(key), self._room(value)
        kept = self._kept[layer]
        for memory, new in zip(kept, (key, value), strict=True):
            memory[:, :, start:end] = new.permute(1, 2, 0, 3)
        return kept[0][:, :, :end], kept[1][:, :, :end]

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        _, batch, groups, size = like.shape
        return like.new_empty(batch, groups, self.max_sequence_length, size)

    def keep(self, lines: torch.Tensor) -> None:
        """Only these answers from here on; int64[b], ascending."""
        end, n = self.sequence_len_offset, len(lines)
        for layer, memories in self._kept.items():
            for memory in memories:
                memory[:n, :, :end] = memory[:, :, :end].index_select(0, lines)
            self._kept[layer] = memories[0][:n], memories[1][:n]
        for number, memories in self.key_value_memory_dict.items():
            self.key_value_memory_dict[number] = tuple(
                memory.index_select(1, lines) for memory in memories
            )
        self.max_batch_size = n


@contextlib.contextmanager
def decoding(chunks: list[torch.nn.Module]):
    """Every forward of `chunks` (unwrapped) has a `KeyValueCache`."""
    taken = [
        layer
        for chunk in chunks
        for layer in chunk.modules()
        if isinstance(layer, attention.SelfAttention) and _is_plain(layer)
    ]
    try:
        for layer in taken:
            layer._adjust_key_value_for_inference = functools.partial(_append, layer)
            core = layer.core_attention
            core.forward = functools.partial(_attend, core.forward)
        with sdpa_kernel(_BACKENDS), inference_mode():
            yield
    finally:
        for layer in taken:
            vars(layer).pop("_adjust_key_value_for_inference", None)
            vars(layer.core_attention).pop("forward", None)


def _is_plain(layer) -> bool:
    """Whether softmax(q k / sqrt(size)) v over all keys is what this layer computes."""
    config = layer.config
    return (
        not config.flash_decode
        and getattr(config, "window_size", None) is None
        and getattr(config, "softmax_scale", None) is None
        and getattr(config, "softmax_type", "vanilla") == "vanilla"
    )


def _append(layer, cache, query, key, value, rotary_pos_emb, *_unused, **_unused_too):
    """In the place of `Attention._adjust_key_value_for_inference`; same result."""
    start = cache.sequence_len_offset
    end = start + key.size(0)
    if rotary_pos_emb is not None:
        of_query, of_key = rotary_pos_emb
        key = apply_rotary_pos_emb(
            key,
            of_key[start:end],
            config=layer.config,
            mscale=rotary_concentration(layer),
            cp_group=layer.pg_collection.cp,
        )
        rotary_pos_emb = of_query[start:end], None  # the key's is done
    keys, values = cache.append(layer, key, value)
    if start == 0:
        return query, key, value, rotary_pos_emb, layer.attn_mask_type, None
    keys, values = keys.permute(2, 0, 1, 3), values.permute(2, 0, 1, 3)
    return query, keys, values, rotary_pos_emb, AttnMaskType.no_mask, None


def _attend(original, query, key, value, *args, **kwargs):
    """In the place of the core attention's: query [1, b, h, k], key and value [s, b, g, k]."""
    if query.size(0) > 1 or key.size(0) == 1:  # a prompt
        return original(query, key, value, *args, **kwargs)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),
        key.permute(1, 2, 0, 3),
        value.permute(1, 2, 0, 3),
        enable_gqa=query.size(2) != key.size(2),
    )
    return out.permute(2, 0, 1, 3).reshape(1, query.size(1), -1)
