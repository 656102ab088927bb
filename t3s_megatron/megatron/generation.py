# SPDX-License-Identifier: Apache-2.0
"""Answers from the live training weights, inside the run, in every layout.

Tokens are chosen so that the answer to a prompt depends on the prompt, its seed and the weights,
and on nothing else: not on which prompts share its batch, nor on the layout. Each answer owns a
generator that draws one uniform number a token, turned into a token by inverting the cumulative
distribution.

Every rank takes part: chunks of a pipeline hand activations on in order, the last stage samples,
and bounds and the stop flag are common to all data-parallel ranks, because expert-parallel ranks
have to step together. So is the end of the time that generation may take: the clock of the rank
that samples goes with its tokens. Finished answers leave the batch, as many on every rank. With
context parallelism, and in models with gated delta nets, there is no key-value cache and the whole
sequence is computed for each token: correct, and slow.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import mpu
from megatron.core.utils import get_model_config, unwrap_model

from t3s_megatron.accuracy.answers import Progress, Sampling
from t3s_megatron.megatron.decoding import KeyValueCache, decoding
from t3s_megatron.megatron.forward import zigzag_slice
from t3s_megatron.megatron.layout import gather_over_data
from t3s_megatron.megatron.pause import training_paused
from t3s_megatron.megatron.seam import CallbackContext

#: Decode steps have sequence length 1, which sequence parallelism cannot split: the names that say
#: so, and what they say without it.
_SEQUENCE_PARALLEL_SWITCHES = {
    "sequence_parallel": False,
    "scatter_to_sequence_parallel": False,
    "reduce_scatter_embeddings": False,
    "sp_size": 1,  # of gated delta nets
}

#: Tokens between two looks at what is finished: each waits for the device and for all ranks.
_LOOK_EVERY = 8

#: Finished answers leave the batch when they are at least this share of it: moving the others' keys
#: and values costs as much as reading them a few times.
SHARE_TO_LEAVE = 1 / 8


@dataclass(frozen=True)
class Generated:
    """Token ids without the end token; `truncated` when the limit came before the end token,
    `unfinished` when the time was up before either. `forwards`, `blocks`: as in
    `accuracy.answers.Answer`."""

    tokens: list[int]
    truncated: bool
    unfinished: bool = False
    forwards: int | None = None
    blocks: int | None = None


def generate(
    context: CallbackContext,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    numbers: list[int] | None = None,
    timeout: float | None = None,
    progress: Progress | None = None,
    make_decoder: Callable[..., Decoder] | None = None,
) -> list[Generated]:
    """One answer to each prompt. Same arguments and same result on every rank; collective.

    `numbers`: which answer of the measurement each one is, for its seed; default 0, 1, 2, ...
    `timeout` in seconds: what is not answered by then is `unfinished`. `progress` is told of every
    batch. `make_decoder`: of a student that does not answer token by token; called as `Decoder` is.
    """
    if not prompts:
        return []
    if numbers is None:
        numbers = list(range(len(prompts)))
    ranks, rank = mpu.get_data_parallel_world_size(), mpu.get_data_parallel_rank()
    # Similar lengths together: a batch is prefilled up to its shortest prompt.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    order += [order[-1]] * (-len(order) % ranks)  # equal batches on all ranks; duplicates agree
    answers: dict[int, Generated] = {}
    with training_paused(context), _without_sequence_parallel(context):
        decoder = (make_decoder or Decoder)(context, sampling, timeout)
        for first in range(0, len(order), sampling.batch_size * ranks):
            block = order[first : first + sampling.batch_size * ranks]
            lengths = [len(prompts[i]) for i in block]
            if decoder.time_is_up:  # on every rank
                answers.update(dict.fromkeys(block, Generated([], False, unfinished=True)))
                continue
            mine = block[rank::ranks]
            texts = decoder.decode(
                [prompts[i] for i in mine], [numbers[i] for i in mine], min(lengths), max(lengths)
            )
            for part in gather_over_data(dict(zip(mine, texts, strict=True))):
                answers.update(part)
            if progress is not None:
                progress.add(len(block), sum(len(answers[i].tokens) for i in block))
    torch.cuda.empty_cache()  # pieces of odd sizes that training could not use
    return [answers[i] for i in range(len(prompts))]


class Batch:
    """Prompts that are answered together; those that are still in it, in the order of `lines`.

    `tokens` int64[b, longest prompt + limit], `lengths` of the prompts int64[b], `uniforms`
    float64[b, limit] or None, `done` bool[b], all on the device. `forwards` int64[b]: those that
    have set a token of each, where somebody counts them.
    """

    forwards: torch.Tensor | None = None

    def __init__(self, prompts: list[list[int]], total: int, uniforms, device):
        self.prompts = prompts
        self.lines = list(range(len(prompts)))
        self.tokens = torch.zeros(len(prompts), total, dtype=torch.long, device=device)
        for line, prompt in enumerate(prompts):
            self.tokens[line, : len(prompt)] = torch.tensor(prompt, device=device)
        self.lengths = torch.tensor([len(p) for p in prompts], device=device)
        self.uniforms = uniforms
        self.done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        #: (tokens after the prompt, whether they are all, forwards), by line, of those that left.
        self.left: dict[int, tuple[list[int], bool, int | None]] = {}

    def shrink(self, size: int, end: int) -> torch.Tensor:
        """Finished answers leave until `size` are left; which stay, int64[size], ascending."""
        stay = torch.sort(torch.argsort(self.done.int(), stable=True)[:size]).values
        staying = set(stay.tolist())
        self._take_out([place for place in range(len(self.lines)) if place not in staying], end)
        self.lines = [self.lines[place] for place in sorted(staying)]
        self.tokens, self.lengths = self.tokens[stay], self.lengths[stay]
        self.done = self.done[stay]
        if self.uniforms is not None:
            self.uniforms = self.uniforms[stay]
        if self.forwards is not None:
            self.forwards = self.forwards[stay]
        return stay

    def finish(self, end: int) -> list[tuple[list[int], bool, int | None]]:
        """Of all lines in their order, as in `left`."""
        self._take_out(range(len(self.lines)), end)
        return [self.left[line] for line in range(len(self.prompts))]

    def _take_out(self, places: Sequence[int], end: int) -> None:
        tokens, done = self.tokens[:, : end + 1].cpu(), self.done.tolist()
        forwards = [None] * len(done) if self.forwards is None else self.forwards.tolist()
        for place in places:
            line = self.lines[place]
            of_line = tokens[place, len(self.prompts[line]) :].tolist()
            self.left[line] = of_line, done[place], forwards[place]


class Decoder:
    """Autoregressive decoding of one batch at a time through all stages. `time_is_up` is common to
    all ranks."""

    def __init__(self, context: CallbackContext, sampling: Sampling, timeout: float | None):
        self.chunks = [unwrap_model(chunk) for chunk in context.model]
        self.config = get_model_config(self.chunks[0])
        self.sampling = sampling
        self.device = torch.cuda.current_device()
        self.context_size = mpu.get_context_parallel_world_size()
        # Gated delta nets have none (ssm/gated_delta_net/gdn.py:92).
        variant = getattr(self.config, "experimental_attention_variant", None)
        self.use_cache = self.context_size == 1 and variant is None
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.time_is_up = False

    def decode(
        self, prompts: list[list[int]], numbers: list[int], shortest: int, longest: int
    ) -> list[Generated]:
        """`shortest` and `longest` prompt over all data-parallel ranks of this batch, of which each
        has the same number."""
        total = longest + self.sampling.max_new_tokens
        batch = Batch(prompts, total, self._uniforms(numbers), self.device)
        cache = KeyValueCache(len(prompts), total) if self.use_cache else None
        start = end = 0
        with decoding(self.chunks) if self.use_cache else contextlib.nullcontext():
            for end in range(shortest, total):  # chooses the token at position `end`
                logits = self._logits(batch.tokens, start, end, cache)
                if self.use_cache:
                    start = end
                overdue = self._advance(batch, logits, end)
                if (end - shortest) % _LOOK_EVERY:
                    continue
                live, self.time_is_up = self._in_common(batch.done, overdue)
                if not live or self.time_is_up:
                    break
                if live <= (1 - SHARE_TO_LEAVE) * len(batch.lines):
                    stay = batch.shrink(live, end)
                    if cache is not None:
                        cache.keep(stay)
        return [self._answer(*left) for left in batch.finish(end)]

    def _advance(self, batch: Batch, logits, end: int) -> torch.Tensor:
        """Put the next token of every answer at position `end`; whether the time is up (0 or 1)."""
        limit = self.sampling.max_new_tokens
        age = end - batch.lengths
        chosen, overdue = self._choose(logits, batch.uniforms, age.clamp(0, limit - 1))
        # Longer prompts are fed their own tokens until they end.
        live = (age >= 0) & ~batch.done
        batch.tokens[:, end] = torch.where(live, chosen, batch.tokens[:, end])
        batch.done |= live & (chosen == self.sampling.end_token)
        batch.done |= age + 1 >= limit
        return overdue

    def _answer(self, tokens: list[int], is_done: bool, forwards: int | None) -> Generated:
        tokens = tokens[: self.sampling.max_new_tokens]
        if self.sampling.end_token in tokens:
            tokens = tokens[: tokens.index(self.sampling.end_token)]
            return Generated(tokens, False, forwards=forwards)
        return Generated(tokens, is_done, not is_done, forwards)

    def _uniforms(self, numbers: list[int]) -> torch.Tensor | None:
        """float64[b, max_new_tokens] in [0, 1): a generator of its own for each answer."""
        if self.sampling.temperature == 0:
            return None
        lines = []
        for number in numbers:
            generator = torch.Generator().manual_seed(self.sampling.seed_of(number))
            lines.append(
                torch.rand(self.sampling.max_new_tokens, generator=generator, dtype=torch.float64)
            )
        return torch.stack(lines).to(self.device)

    def _choose(self, logits, uniforms, step) -> tuple[torch.Tensor, torch.Tensor]:
        """Next token int64[b] and whether the time is up (0 or 1), both equal on all ranks that
        work on these prompts. `logits` [b, V] or None."""
        batch = step.numel()
        overdue = self.deadline is not None and time.monotonic() >= self.deadline
        # In one tensor, so that the clock costs no message of its own.
        message = torch.full((batch + 1,), int(overdue), dtype=torch.long, device=self.device)
        if logits is not None:
            logits = logits[:, : self.sampling.vocab_size].float()  # never the vocabulary's padding
            if uniforms is None:
                chosen = logits.argmax(dim=-1)
            else:
                weights = torch.softmax(logits.double() / self.sampling.temperature, dim=-1)
                cumulative = weights.cumsum(dim=-1)
                u = uniforms.gather(1, step[:, None]) * cumulative[:, -1:]
                chosen = torch.searchsorted(cumulative, u, right=True)[:, 0]
                chosen = chosen.clamp(max=logits.size(-1) - 1)
            message[:batch] = chosen
        self._agree(message)
        return message[:batch], message[batch]

    def _agree(self, message: torch.Tensor) -> None:
        """Make `message` on all ranks of these prompts what it is where the logits are."""
        group = mpu.get_model_parallel_group()
        if group.size() > 1:
            # First tensor-parallel rank of the last stage; see layout of the group in mpu.
            tp = mpu.get_tensor_model_parallel_world_size()
            source = dist.get_process_group_ranks(group)[-tp]
            dist.broadcast(message, source, group=group)
        if self.context_size > 1:
            # All context ranks computed the same token up to rounding: take one's word for it.
            context = mpu.get_context_parallel_group()
            dist.broadcast(message, dist.get_process_group_ranks(context)[0], group=context)

    def _in_common(self, done: torch.Tensor, overdue: torch.Tensor) -> tuple[int, bool]:
        """How many answers are live on the data-parallel rank that has most of them, and whether
        the time of any is up.

        Each data-parallel group holds one rank of every part of the data, and all ranks of a part
        have the same `done` and `overdue`: so all groups come to the same end.
        """
        group = mpu.get_data_parallel_group()
        values = torch.stack([(~done).sum(), overdue])
        if group.size() > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=group)
        live, is_overdue = values.tolist()
        return live, bool(is_overdue)

    # ------------------------------------------------------------------------------ one forward

    def _logits(self, tokens, start: int, end: int, cache) -> torch.Tensor | None:
        """Logits [b, V] that predict position `end`, on the last stage; None elsewhere."""
        if self.use_cache:
            x = tokens[:, start:end]
            positions = torch.arange(start, end, device=self.device).expand_as(x)
            out = self._through_stages(x, positions, cache)
            cache.increment_sequence_len_offset(end - start)
            return None if out is None else out[:, -1]
        # Right padding is harmless to a causal model.
        size, rank = self.context_size, mpu.get_context_parallel_rank()
        multiple = 2 * size
        padded = -(-end // multiple) * multiple
        x = torch.nn.functional.pad(tokens[:, :end], (0, padded - end))
        positions = torch.arange(padded, device=self.device).expand_as(x)
        out = self._through_stages(
            zigzag_slice(x, rank, size), zigzag_slice(positions, rank, size), None
        )
        if out is None:
            return None
        return self._from_owner(out, zigzag_slice(positions, rank, size)[0], end - 1)

    def _from_owner(self, out, positions, wanted: int) -> torch.Tensor:
        """The logits of position `wanted` from whichever context rank holds it."""
        group = mpu.get_context_parallel_group()
        here = (positions == wanted).nonzero()
        logits = out[:, int(here[0])] if len(here) else torch.zeros_like(out[:, 0])
        logits = logits.float().contiguous()
        dist.all_reduce(logits, group=group)  # the others contribute exact zeros
        return logits

    def _through_stages(self, tokens, positions, cache, **more) -> torch.Tensor | None:
        """Full-vocabulary logits [b, s, V] on the last stage, None elsewhere. `more`: arguments of
        the model."""
        group = mpu.get_pipeline_model_parallel_group()
        ranks = dist.get_process_group_ranks(group)
        size, rank = group.size(), group.rank()
        dtype = torch.float32 if self.config.fp32_residual_connection else self.config.params_dtype
        shape = (tokens.size(1), tokens.size(0), self.config.hidden_size)
        out = None
        for number, chunk in enumerate(self.chunks):
            first = rank == 0 and number == 0
            last = rank == size - 1 and number == len(self.chunks) - 1
            received = out if size == 1 and not first else None
            if size > 1 and not first:
                received = torch.empty(shape, dtype=dtype, device=self.device)
                dist.recv(received, src=ranks[(rank - 1) % size], group=group)
            chunk.set_input_tensor(received)
            kwargs = more if cache is None else {"inference_context": cache} | more
            out = chunk(tokens, positions, None, runtime_gather_output=True, **kwargs)
            chunk.set_input_tensor(None)
            if size > 1 and not last:
                dist.send(out.to(dtype).contiguous(), dst=ranks[(rank + 1) % size], group=group)
                out = None
        return out


@contextlib.contextmanager
def _without_sequence_parallel(context: CallbackContext):
    """Sequence parallelism off in every module and config, then back as it was."""
    switched = []
    owners = {
        id(owner): owner
        for chunk in context.model
        for module in chunk.modules()
        for owner in (module, getattr(module, "config", None))
        if owner is not None
    }
    try:
        for owner in owners.values():
            for name, off in _SEQUENCE_PARALLEL_SWITCHES.items():
                value = getattr(owner, name, off)
                if value != off:
                    switched.append((owner, name, value))
                    object.__setattr__(owner, name, off)
        yield
    finally:
        for owner, name, value in switched:
            object.__setattr__(owner, name, value)
