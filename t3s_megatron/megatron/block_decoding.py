# SPDX-License-Identifier: Apache-2.0
"""Answers of a block-diffusion student: block after block, each from all masked to all set.

A step is one forward of the block over the key-value cache of what stands before it. Every masked
position whose most probable token is more probable than the threshold is set to it, or the single
most confident one where none is; a token that is set stays (LLaDA2.0's report, section 5.4). A last
forward of the finished block puts its keys and values into the cache. The first block to be
generated begins with the end of the prompt.

What `generation` promises holds here: an answer depends on its prompt, its seed and the weights.
Above temperature 0 each position has one uniform number, the same in every step, which is turned
into a token by inverting the cumulative distribution; its confidence is that token's probability.

Shapes: b answers, n positions of a block, V tokens of the vocabulary.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from t3s_megatron.accuracy.answers import Sampling
from t3s_megatron.megatron.decoding import KeyValueCache
from t3s_megatron.megatron.generation import (
    SHARE_TO_LEAVE,
    Batch,
    Decoder,
    Generated,
    generate,
)
from t3s_megatron.megatron.seam import CallbackContext


def generating_by_blocks(
    block_size: int, mask_token: int, threshold: float
) -> Callable[..., list[Generated]]:
    """`generation.generate` for a diffusion student; the same arguments and promises."""
    made = functools.partial(
        BlockDecoder, block_size=block_size, mask_token=mask_token, threshold=threshold
    )
    return functools.partial(generate, make_decoder=made)


class BlockDecoder(Decoder):
    """Decodes one batch at a time. `forwards`: of blocks that were made so far."""

    def __init__(
        self,
        context: CallbackContext,
        sampling: Sampling,
        timeout: float | None,
        *,
        block_size: int,
        mask_token: int,
        threshold: float,
    ):
        super().__init__(context, sampling, timeout)
        self.block_size = block_size
        self.mask_token = mask_token
        self.threshold = threshold
        self.forwards = 0
        self._overdue = torch.zeros((), dtype=torch.long, device=self.device)

    def decode(
        self, prompts: list[list[int]], numbers: list[int], shortest: int, longest: int
    ) -> list[Generated]:
        """As `Decoder.decode`."""
        size, limit = self.block_size, self.sampling.max_new_tokens
        total = -(-(longest + limit) // size) * size
        batch = Batch(prompts, total, self._uniforms(numbers), self.device)
        at = torch.arange(total, device=self.device)
        batch.tokens[at[None] >= batch.lengths[:, None]] = self.mask_token
        batch.forwards = torch.zeros_like(batch.lengths)
        cache = KeyValueCache(len(prompts), total)
        start = end = shortest // size * size
        if start:  # whole blocks of every prompt
            self._forward(batch, 0, start, cache, wanted=False)
            cache.increment_sequence_len_offset(start)
        for first in range(start, total, size):
            end = first + size
            self._finish_block(batch, first, cache)
            cache.increment_sequence_len_offset(size)
            place = at[None, first:end] - batch.lengths[:, None]
            ended = (batch.tokens[:, first:end] == self.sampling.end_token) & (place >= 0)
            batch.done |= ended.any(1) | (end - batch.lengths >= limit)
            # What is not generated any more is nothing that would have to be unmasked.
            batch.tokens[batch.done, end:] = self.sampling.end_token
            live, self.time_is_up = self._in_common(batch.done, self._overdue)
            if not live or self.time_is_up:
                break
            if live <= (1 - SHARE_TO_LEAVE) * len(batch.lines):
                cache.keep(batch.shrink(live, end - 1))
        found = [self._answer(*left) for left in batch.finish(end - 1)]
        return [self._counted(*pair) for pair in zip(prompts, found, strict=True)]

    def _counted(self, prompt: list[int], answer: Generated) -> Generated:
        """`answer` with its blocks, from the one that the prompt ends in."""
        first, size = len(prompt), self.block_size
        has_end = not (answer.truncated or answer.unfinished)
        last = first + len(answer.tokens) + has_end - 1
        return replace(answer, blocks=last // size - first // size + 1)

    def _finish_block(self, batch: Batch, first: int, cache: KeyValueCache) -> None:
        """Set every masked token of the block, on all ranks in step, and keep its keys."""
        last = first + self.block_size
        while True:
            hidden = batch.tokens[:, first:last] == self.mask_token
            most, _ = self._in_common(~hidden.any(1), self._overdue)
            logits = self._forward(batch, first, last, cache, wanted=most > 0)
            if not most:
                return
            assert batch.forwards is not None
            batch.forwards += hidden.any(1)
            self._set(batch, first, hidden, logits)

    def _set(self, batch: Batch, first: int, hidden: torch.Tensor, logits) -> None:
        """One step: the same tokens on all ranks that work on these prompts. `hidden` bool[b, n];
        `logits` [n, b, V] on the last stage, None elsewhere."""
        block = batch.tokens[:, first : first + self.block_size]
        overdue = self.deadline is not None and time.monotonic() >= self.deadline
        message = torch.full((block.numel() + 1,), int(overdue), device=self.device)
        if logits is not None:
            message[:-1] = self._chosen(batch, first, hidden, logits).flatten()
        self._agree(message)
        block.copy_(message[:-1].view_as(block))
        self._overdue = message[-1]

    def _chosen(self, batch: Batch, first: int, hidden, logits) -> torch.Tensor:
        """The block's tokens [b, n] after the step."""
        block = batch.tokens[:, first : first + self.block_size]
        logits = logits.transpose(0, 1)[..., : self.sampling.vocab_size].float()
        if self.mask_token < logits.size(-1):  # no answer has one
            logits[..., self.mask_token] = float("-inf")
        if batch.uniforms is None:
            log_p, token = torch.log_softmax(logits, -1).max(-1)
            confidence = log_p.exp()
        else:
            weights = torch.softmax(logits.double() / self.sampling.temperature, -1)
            cumulative = weights.cumsum(-1)
            age = torch.arange(first, first + self.block_size, device=self.device)
            age = (age[None] - batch.lengths[:, None]).clamp(0, batch.uniforms.size(1) - 1)
            u = batch.uniforms.gather(1, age)[..., None] * cumulative[..., -1:]
            token = torch.searchsorted(cumulative, u, right=True).clamp(max=logits.size(-1) - 1)
            confidence = weights.gather(-1, token)[..., 0]
            token = token[..., 0]
        confidence = torch.where(hidden, confidence, -1.0)
        best = confidence == confidence.max(1, keepdim=True).values
        best &= best.cumsum(1) == 1  # the first of equals
        sure = confidence > self.threshold
        setting = hidden & (sure | (best & ~sure.any(1, keepdim=True)))
        return torch.where(setting, token, block)

    def _forward(self, batch: Batch, first: int, last: int, cache, *, wanted: bool):
        """Logits [n, b, V] of these positions on the last stage, None elsewhere and unless
        `wanted`."""
        self.forwards += 1
        tokens = batch.tokens[:, first:last]
        positions = torch.arange(first, last, device=self.device).expand_as(tokens)
        out = self._through_stages(
            tokens, positions, cache, output_processor=_all_logits if wanted else _no_logits
        )
        return out if wanted else None


def _all_logits(hidden_states, output_layer, output_weight, scale_logits, **_unused):
    """`output_processor` of GPTModel.forward; outside of a run's inference mode, which has only the
    logits of the last position."""
    logits, _ = output_layer(hidden_states, weight=output_weight, runtime_gather_output=True)
    return scale_logits(logits)


def _no_logits(hidden_states, **_unused):
    return hidden_states
