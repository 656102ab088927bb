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
from collections.abc import Callable

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
    taken = _layers(chunks, _is_known)
    try:
        for layer in taken:
            layer._adjust_key_value_for_inference = functools.partial(_append, layer)
            core = layer.core_attention
            core.forward = functools.partial(_attend, core.forward, _reach(layer), _sinks(layer))
        with sdpa_kernel(_BACKENDS), inference_mode():
            yield
    finally:
        for layer in taken:
            vars(layer).pop("_adjust_key_value_for_inference", None)
            vars(layer.core_attention).pop("forward", None)


@contextlib.contextmanager
def torch_attention(chunks: list[torch.nn.Module]):
    """Causal self-attention of `chunks` (unwrapped) is torch's own, which sums and rounds in
    another order than that of training. Not for rows that are cut up or packed."""
    taken = [layer.core_attention for layer in _layers(chunks, _is_plain)]
    try:
        for core in taken:
            core.forward = functools.partial(_attend_causally, core.forward)
        with sdpa_kernel(_BACKENDS):
            yield
    finally:
        for core in taken:
            vars(core).pop("forward", None)


def _layers(chunks: list[torch.nn.Module], which: Callable) -> list:
    return [
        layer
        for chunk in chunks
        for layer in chunk.modules()
        if isinstance(layer, attention.SelfAttention) and which(layer)
    ]


def _is_known(layer) -> bool:
    """Whether softmax(q k / sqrt(size)) v is what this layer computes, over all keys or those of a
    window, with a learned sink or without."""
    config = layer.config
    return (
        not config.flash_decode
        and getattr(config, "softmax_scale", None) is None
        and getattr(config, "softmax_type", "vanilla") in ("vanilla", "learnable")
    )


def _is_plain(layer) -> bool:
    """Whether it is over all keys and nothing else."""
    return _is_known(layer) and _reach(layer) is None and _sinks(layer) is None


def _reach(layer) -> int | None:
    """Keys before its own that a query of this layer sees; None: all."""
    config = layer.config
    if getattr(config, "window_size", None) is None:
        return None
    from megatron.core.transformer.utils import is_layer_window_attention

    pattern = config.window_attn_skip_freq
    windowed = is_layer_window_attention(config.window_size, pattern, layer.layer_number)
    return config.window_size[0] if windowed and config.window_size[0] >= 0 else None


def _sinks(layer) -> torch.Tensor | None:
    """[h]"""
    return getattr(layer.core_attention, "softmax_offset", None)


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


def _attend(original, reach, sinks, query, key, value, *args, **kwargs):
    """In the place of the core attention's: query [1, b, h, k], key and value [s, b, g, k]. `reach`
    and `sinks` are its layer's, found once and not for each token."""
    if query.size(0) > 1 or key.size(0) == 1:  # a prompt
        return original(query, key, value, *args, **kwargs)
    if reach is not None:
        key, value = key[-reach - 1 :], value[-reach - 1 :]
    bias = None
    if sinks is not None:
        # A key more, of zeros, and nothing to take from it.
        key, value = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, 1)) for x in (key, value))
        bias = query.new_zeros(1, query.size(2), 1, key.size(0))
        bias[..., -1] = sinks.view(-1, 1)
    return _by_torch(query, key, value, is_causal=False, bias=bias)


def _attend_causally(original, query, key, value, *args, packed_seq_params=None, **kwargs):
    """In the place of the core attention's forward; all [s, b, heads or groups, k]."""
    if packed_seq_params is not None:
        return original(query, key, value, *args, packed_seq_params=packed_seq_params, **kwargs)
    return _by_torch(query, key, value, is_causal=True)


def _by_torch(query, key, value, *, is_causal: bool, bias=None) -> torch.Tensor:
    """[s, b, h * k] of queries [s, b, h, k]. `bias`: of their products with keys."""
    out = torch.nn.functional.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),
        key.permute(1, 2, 0, 3),
        value.permute(1, 2, 0, 3),
        attn_mask=bias,
        is_causal=is_causal,
        enable_gqa=query.size(2) != key.size(2),
    )
    return out.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)
