# SPDX-License-Identifier: Apache-2.0
"""Per-token losses whose logits were never rounded, or entropies, for passes that score.

A bf16 model's output layer writes bf16 logits: their spacing is 0.125 from 16 to 32, where a sure
model's largest logit is, and that times the probability of the other tokens is the error of c_t.
Everything after them is float32 (Megatron's cross-entropy). Here the same hidden states and weights
are multiplied in float32 instead, some rows at a time, so that there is no tensor of all logits
either. Forward only; the training loss stays as it is, and so does a float32 model.

Shapes: s positions (of this context-parallel rank), b rows, h hidden size, V vocabulary, tp
tensor-parallel size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from megatron.core import mpu, tensor_parallel
from megatron.core.utils import unwrap_model

from t3s_megatron.megatron.device import is_cpu_layer_active
from t3s_megatron.megatron.vocabulary import without_padding

#: Bytes of float32 logits of a chunk; Megatron's cross-entropy holds about three times as many.
_CHUNK_BYTES = 2**28


@contextlib.contextmanager
def float32_logits(model: list) -> Iterator[None]:
    """Within it, forwards of `model` (chunks of this rank) with labels give losses of float32
    logits, [b, s] as ever."""
    last = [
        chunk
        for chunk in map(unwrap_model, model)
        if chunk.post_process and chunk.config.params_dtype != torch.float32
    ]
    with _taken_over(last, tensor_parallel.vocab_parallel_cross_entropy):
        yield


@contextlib.contextmanager
def entropies_as_scores(model: list) -> Iterator[None]:
    """Within it, forwards of `model` with labels give minus the entropy of each prediction, of
    float32 logits and in nats, where losses would be, [b, s]."""
    last = [chunk for chunk in map(unwrap_model, model) if chunk.post_process]
    with _taken_over(last, lambda logits, _: -vocab_parallel_entropy(logits)):
        yield


def vocab_parallel_entropy(logits: torch.Tensor) -> torch.Tensor:
    """H = -sum_v p_v log p_v over the whole vocabulary, float32[s, b] in nats, from this rank's
    float32[s, b, V / tp]. With Z = sum_v exp(z_v): H = log Z - sum_v exp(z_v) z_v / Z, with logits
    z_v taken from the largest. Collective over the tensor-parallel group."""
    group = mpu.get_tensor_model_parallel_group()
    largest = logits.amax(-1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    shifted = logits - largest[..., None]
    weights = shifted.exp()
    sums = torch.stack([weights.sum(-1), (weights * shifted).sum(-1)])
    dist.all_reduce(sums, group=group)
    return sums[0].log() - sums[1] / sums[0]


@contextlib.contextmanager
def _taken_over(chunks: list, per_token: Callable) -> Iterator[None]:
    """`per_token`: from logits float32[s, b, V / tp] and labels [s, b] to float32[s, b]."""
    taken = [_ExactLosses(chunk, per_token) for chunk in chunks]
    try:
        for losses in taken:
            losses.take_over()
        yield
    finally:
        for losses in taken:
            losses.give_back()


class _ExactLosses:
    """The last two steps of one `GPTModel`: its output layer hands hidden states on, and its loss
    multiplies them with the weights."""

    def __init__(self, chunk, per_token: Callable):
        self.chunk = chunk
        self.per_token = per_token
        self._weight: torch.Tensor | None = None  # float32[V / tp, h], made once
        self._of_training = vars(chunk).get("compute_language_model_loss")

    def take_over(self) -> None:
        self.chunk.output_layer.forward = self._hand_on
        self.chunk.compute_language_model_loss = self._losses

    def give_back(self) -> None:
        vars(self.chunk.output_layer).pop("forward", None)
        vars(self.chunk).pop("compute_language_model_loss", None)
        if self._of_training is not None:
            self.chunk.compute_language_model_loss = self._of_training

    def _hand_on(self, hidden, weight=None, **_unused):
        """In the place of the output layer's forward: hidden states [s, b, h] of all positions."""
        layer = self.chunk.output_layer
        if self._weight is None:
            self._weight = (layer.weight if weight is None else weight).detach().float()
        if layer.sequence_parallel:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden)
        return hidden, None

    def _losses(self, labels, hidden):
        """In the place of `compute_language_model_loss`: float32[b, s]."""
        assert self._weight is not None
        labels = labels.transpose(0, 1).contiguous()
        rows = max(1, _CHUNK_BYTES // (4 * self._weight.size(0) * labels.size(1)))
        losses = [
            self.per_token(self._logits(part), wanted)
            for part, wanted in zip(hidden.split(rows), labels.split(rows), strict=True)
        ]
        return torch.cat(losses).transpose(0, 1).contiguous()

    def _logits(self, hidden):
        assert self._weight is not None
        precision = torch.get_float32_matmul_precision()
        if hidden.dtype == torch.bfloat16 and not is_cpu_layer_active():
            # Tensor cores, and nothing is lost: TF32 holds every bf16 number, and products are
            # summed in float32. Here only: a router's float32 is to stay that.
            torch.set_float32_matmul_precision("high")
        try:
            return without_padding(self.chunk, torch.matmul(hidden.float(), self._weight.t()))
        finally:
            torch.set_float32_matmul_precision(precision)
