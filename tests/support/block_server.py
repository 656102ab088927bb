# SPDX-License-Identifier: Apache-2.0
"""A server that decodes by blocks and is given weights as SGLang is: transformers' own model, whole
forwards, no cache. No real SGLang was asked; of its rules this keeps those that are sent to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.servers import HTTPCall, scripted_server


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
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, attn_implementation="eager", dtype=torch.float32
            )
        self.loaded.append(folder)

    def _complete(self, call: HTTPCall) -> None:
        assert call.body["temperature"] == 0
        limit, end = call.body["max_tokens"], self.tokenizer.eos_token_id
        made = self._decode(call.body["prompt"], limit, end)
        ended = end in made[:limit]
        tokens = made.index(end) + 1 if ended else limit
        text = self.tokenizer.decode(made[:tokens], skip_special_tokens=True)
        call.complete(
            text, "stop" if ended else "length",
            usage={"prompt_tokens": len(call.body["prompt"]), "completion_tokens": tokens},
        )  # fmt: skip

    @torch.no_grad()
    def _decode(self, prompt: list[int], limit: int, end: int) -> list[int]:
        """Tokens to the end of the block with the end token in it, or with the limit."""
        mask_token = self.tokenizer.mask_token_id
        length = -(-(len(prompt) + limit) // self.block) * self.block
        canvas = torch.tensor(prompt + [mask_token] * (length - len(prompt)))
        block = torch.arange(length) // self.block
        for first in range(0, length, self.block):
            last = first + self.block
            hidden_from = torch.zeros(1, 1, last, last)
            hidden_from[..., block[None, :last] > block[:last, None]] = float("-inf")
            while (masked := canvas[first:last] == mask_token).any():
                logits = self.model(canvas[None, :last], attention_mask=hidden_from).logits
                confidence, token = logits[0, first:, :mask_token].softmax(-1).max(-1)
                confidence[~masked] = -1
                sure = masked & (confidence > self.threshold)
                sure[confidence.argmax()] = True
                canvas[first:last] = torch.where(sure, token, canvas[first:last])
            made = canvas[len(prompt) : last].tolist()
            if end in made:
                break
        return made


@contextlib.contextmanager
def block_server(*how, **more) -> Iterator[tuple[str, BlockServer]]:
    """(URL, server); arguments of BlockServer."""
    server = BlockServer(*how, **more)
    with scripted_server(server) as url:
        yield url, server
