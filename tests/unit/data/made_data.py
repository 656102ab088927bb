# SPDX-License-Identifier: Apache-2.0
"""Tokenizers and samples small enough to work out by hand."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import Record
from t3s_megatron.data.tokenizing import Sample
from tests.support.byte_level import byte_level

#: Qwen's shape: role headers, <|im_end|> as the end token, a newline after it.
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Qwen3's habit: thinking is removed from every assistant message but the last.
QWEN_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: The generation prompt opens the thinking, a rendered conversation does not have it.
R1_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
#: No end token after the response.
BARE = (
    "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)

WORDS = ["<unk>", "<bos>", "<|im_start|>", "<|im_end|>", "\n", "user", "assistant", "system"]
WORDS += ["<think>", "</think>", "a", "b", "c", "d", "e"]
(UNK, BOS, START, END, LINE, USER, ASSISTANT, SYSTEM) = range(8)
(THINK, UNTHINK, A, B, C, D, E) = range(8, 15)


def word_tokenizer(template: str | None = QWEN, bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a word of WORDS; spaces vanish."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pattern = r"<[^<>]*>|\n|[^\s<>]+"
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), behavior="removed"),
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        ]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        bos_token="<bos>" if bos else None,
        additional_special_tokens=["<|im_start|>"],
    )
    made.chat_template = template
    return made


def byte_tokenizer(template: str = QWEN) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained here on a few lines: any text has tokens."""
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    texts = ["the sum of two and three is five", "think and answer"]
    inner = byte_level(special, texts, 320)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    made.chat_template = template
    return made


def record(prompt: str = "a b", response: str = "c d", uid: str = "r", **changed) -> Record:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    fields = dict(messages=tuple(messages), answer="1", teacher=None, metadata=None)
    return Record(uid=uid, where=f"f.jsonl, line of {uid}", **(fields | changed))


def sample(tokens: list[int], n_prompt: int, uid: str = "s", **changed) -> Sample:
    """The first `n_prompt` tokens are the prompt, the others are targets."""
    fields = dict(answer="1", metadata=None, teacher=None, where=f"f.jsonl, line of {uid}")
    is_target = np.arange(len(tokens)) >= n_prompt
    return Sample(uid, np.array(tokens, dtype=np.int32), is_target, n_prompt, **(fields | changed))


def corpus(*samples: Sample, tokenizer: str = "t" * 64) -> Corpus:
    return Corpus(list(samples), tokenizer, {})


def three_samples() -> list[Sample]:
    """2, 9 and 1 targets: 12 in all, and one sample needs a second byte for its bits."""
    return [
        sample([5, 6, 7, 8], 2, "p"),
        sample([1, *range(20, 29)], 1, "q"),
        sample([9, 9, 9, 4], 3, "r"),
    ]


def header(path: str) -> dict:
    """Of a table: a selection or a log-prob store."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["t3s"])


def rewrite(
    path: str, changed: dict | None = None, without: str = "", sealed: bool = False, **tensors
) -> None:
    """A table again, with other header fields or tensors and everything else as it was; with its
    old checksum, or one that fits if `sealed`."""
    fields = {k: v for k, v in (header(path) | (changed or {})).items() if k != without}
    content = load_file(path) | tensors
    if sealed:
        rest = json.dumps({k: v for k, v in fields.items() if k != "checksum"})
        parts = [rest.encode(), content["sizes"].tobytes(), content["values"].tobytes()]
        fields["checksum"] = hashlib.sha256(b"".join(parts)).hexdigest()
    save_file(content, path, metadata={"t3s": json.dumps(fields)})
