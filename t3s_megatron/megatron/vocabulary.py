# SPDX-License-Identifier: Apache-2.0
"""Rows of the vocabulary that no model has: they only make it divide over the ranks.

Megatron's losses give them a share of every softmax. Here they have none, as in the model without
them; their logits' gradient is zero, so that rows of zeros stay zero. Rows that a model has and its
tokenizer does not (151,669 tokens, 151,936 rows of Qwen3) are the model's: they take part, as they
do in transformers.

Shapes: s positions, b rows, V vocabulary, tp tensor-parallel size.
"""

from __future__ import annotations

import functools

import torch
from megatron.core import mpu
from megatron.core.utils import unwrap_model

from t3s_megatron.data.corpus import vocabulary_of

#: Where a chunk keeps the first of its columns of logits that is padding.
_FIRST = "_t3s_first_padding"


def leave_out_padding(model: list, args) -> None:
    """Losses of `model` (chunks of this rank, wrapped or not) are those of the model's own rows.
    Idempotent."""
    rows = vocabulary_of(args)
    if rows is None or rows == args.padded_vocab_size:
        return
    for chunk in map(unwrap_model, model):
        if getattr(chunk, "post_process", False) and _FIRST not in vars(chunk):
            columns = args.padded_vocab_size // args.tensor_model_parallel_size
            first = rows - mpu.get_tensor_model_parallel_rank() * columns
            vars(chunk)[_FIRST] = max(0, first)
            original = chunk.compute_language_model_loss
            chunk.compute_language_model_loss = functools.partial(_losses, chunk, original)


def _losses(chunk, original, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """In the place of a GPTModel's `compute_language_model_loss`: [b, s] of labels [b, s] and
    logits [s, b, V / tp], which are written to."""
    return original(labels, without_padding(chunk, logits))


def without_padding(chunk, logits: torch.Tensor) -> torch.Tensor:
    """`logits` [..., V / tp] of a GPTModel (not wrapped) with no probability for padding; in place,
    since there is no room for another of them."""
    first = vars(chunk).get(_FIRST, logits.size(-1))
    return logits if first >= logits.size(-1) else _WithoutPadding.apply(logits, first)


class _WithoutPadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, first):
        # Finite: a rank may have nothing else, and its largest logit is subtracted.
        logits[..., first:] = torch.finfo(logits.dtype).min / 2
        ctx.mark_dirty(logits)
        return logits

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None  # of the padding it is zero, as its probability
