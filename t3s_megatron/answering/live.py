# SPDX-License-Identifier: Apache-2.0
"""`--t3s-generation live`: the training weights answer, in this process, on every rank."""

from __future__ import annotations

from collections.abc import Callable

from t3s_megatron.accuracy.answers import Answer, Progress, Sampling
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.generation import Generated
from t3s_megatron.megatron.seam import CallbackContext


class LiveBackend:
    """See `accuracy.answers.Backend`. `tell` is for a person who watches; only rank `root` is
    told, and only its answers have a text. `answer`: `generation.generate`, or one of its kind."""

    def __init__(
        self,
        tokenizer,
        root: int,
        tell: Callable[[str], None],
        answer: Callable[..., list[Generated]],
    ):
        self.tokenizer = tokenizer
        self.answer = answer
        self.is_root = layout.rank() == root
        self.tell = tell

    def check(self, context: CallbackContext) -> None:
        pass

    def take(self, context: CallbackContext, *, step: int) -> CallbackContext:
        return context

    @layout.failures_named("generated answers")
    def generate(
        self,
        weights: CallbackContext,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        numbers: list[int],
        timeout: float | None,
    ) -> list[Answer]:
        progress = Progress(len(prompts), self.tell)
        found = self.answer(
            weights,
            prompts,
            sampling,
            numbers=numbers,
            timeout=timeout,
            progress=progress if self.is_root else None,
        )
        return [
            Answer(
                str(self.tokenizer.decode(one.tokens)) if self.is_root else "",
                len(one.tokens),
                one.truncated,
                one.unfinished,
                one.forwards,
                one.blocks,
            )
            for one in found
        ]

    def release(self, weights: CallbackContext) -> None:
        pass

    def close(self) -> None:
        pass
