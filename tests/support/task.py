# SPDX-License-Identifier: Apache-2.0
"""A few samples and a real tokenizer for tests: running sums, written out digit by digit."""

from __future__ import annotations

import json
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHARACTERS = list("0123456789+=; ")
SPECIAL = ["<pad>", "<eos>", "<user>", "<assistant>", "<answer>", "</answer>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<user>' if m['role'] == 'user' else '<assistant>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(folder: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(SPECIAL + CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    pattern = "|".join([*SPECIAL[2:], "."])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return wrapped


def make_samples(n: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    samples = []
    for i in range(n):
        terms = [rng.randrange(10) for _ in range(rng.randrange(2, 5))]
        total, steps = terms[0], []
        for term in terms[1:]:
            steps.append(f"{total}+{term}={total + term}")
            total += term
        samples.append(
            {
                "id": f"s{i}",
                "prompt": "+".join(map(str, terms)),
                "response": "; ".join(steps) + f"<answer>{total}</answer>",
                "answer": str(total),
            }
        )
    return samples


def write_task(folder: str, n: int = 24, seed: int = 0) -> tuple[str, str]:
    """(path of train.jsonl, tokenizer folder)."""
    os.makedirs(folder, exist_ok=True)
    tokenizer = os.path.join(folder, "tokenizer")
    make_tokenizer(tokenizer)
    return write_samples(os.path.join(folder, "train.jsonl"), n, seed), tokenizer


def write_samples(path: str, n: int, seed: int) -> str:
    with open(path, "w") as file:
        file.writelines(json.dumps(sample) + "\n" for sample in make_samples(n, seed))
    return path
