# SPDX-License-Identifier: Apache-2.0
"""A server that decodes by blocks and is given weights as SGLang is: transformers' own model, whole
forwards, no cache. No real SGLang was asked; of its rules this keeps those that are sent to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.servers import HTTPCall, scripted_server

#: transformers changes functions of its own, for all threads, while it loads a model: two at once
#: left a process in which tied embeddings are not tied.
_LOADING = threading.Lock()


@torch.no_grad()
def decode_by_blocks(
    logits_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    prompt: list[int],
    limit: int,
    block: int,
    threshold: float,
    mask_token: int,
    end: int,
) -> tuple[list[int], int]:
    """A greedy answer without its end token, and the forwards that set some of it: each over
    everything so far. `logits_of(tokens [1, S], seen bool[S, S])`: [1, S, V]; `mask_token` is the
    last of the table."""
    length = -(-(len(prompt) + limit) // block) * block
    canvas = torch.tensor(prompt + [mask_token] * (length - len(prompt)))
    number, forwards, made = torch.arange(length) // block, 0, []
    for first in range(0, length, block):
        last = first + block
        seen = number[None, :last] <= number[:last, None]
        while (hidden := canvas[first:last] == mask_token).any():
            logits = logits_of(canvas[None, :last], seen)[0, first:, :mask_token]
            confidence, token = logits.softmax(-1).max(-1)
            confidence[~hidden] = -1
            sure = hidden & (confidence > threshold)
            if not sure.any():
                sure[confidence.argmax()] = True
            canvas[first:last] = torch.where(sure, token, canvas[first:last])
            forwards += 1
        made = canvas[len(prompt) : last].tolist()
        if end in made:
            break
    made = made[:limit]
    return made[: made.index(end)] if end in made else made, forwards


class BlockServer:
    """Answers for the folder that it was last given; `loaded`: all of them. `takes_weights=False`:
    says that it has the new ones, and keeps the first."""

    def __init__(self, block: int, threshold: float, takes_weights: bool = True):
        self.block = block
        self.threshold = threshold
        self.takes_weights = takes_weights
        self.loaded: list[str] = []

    def __call__(self, call: HTTPCall) -> None:
        if call.path == "/v1/models":
            call.send({"data": [{"id": "student"}]})
        elif call.path == "/update_weights_from_disk":
            self._load(call.body["model_path"])
            call.send({"success": True, "message": "Succeeded to update model weights."})
        elif call.path == "/v1/completions":
            self._complete(call)
        else:
            call.send({})

    def _load(self, folder: str) -> None:
        if self.takes_weights or not self.loaded:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            with _LOADING:
                self.model = AutoModelForCausalLM.from_pretrained(
                    folder, attn_implementation="eager", dtype=torch.float32
                )
        self.loaded.append(folder)

    def _complete(self, call: HTTPCall) -> None:
        assert call.body["temperature"] == 0
        limit, end = call.body["max_tokens"], self.tokenizer.eos_token_id
        made, _ = decode_by_blocks(
            self._logits, call.body["prompt"], limit, self.block, self.threshold,
            self.tokenizer.mask_token_id, end,
        )  # fmt: skip
        ended = len(made) < limit
        tokens = len(made) + ended  # with the end token
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        call.complete(
            text, "stop" if ended else "length",
            usage={"prompt_tokens": len(call.body["prompt"]), "completion_tokens": tokens},
        )  # fmt: skip

    def _logits(self, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, float("-inf"))
        return self.model(tokens, attention_mask=hidden).logits


@contextlib.contextmanager
def block_server(*how, **more) -> Iterator[tuple[str, BlockServer]]:
    """(URL, server); arguments of BlockServer."""
    server = BlockServer(*how, **more)
    with scripted_server(server) as url:
        yield url, server
