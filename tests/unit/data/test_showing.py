# SPDX-License-Identifier: Apache-2.0
"""The first samples as they are learned, for people."""

from __future__ import annotations

from made_data import record
from made_families import FAMILIES

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.showing import show_samples

TOKENIZER = FAMILIES["qwen3"].tokenizer()


def shown(*records, count: int = 1, **how) -> list[str]:
    return show_samples(
        Corpus.build(list(records), TOKENIZER, seq_length=10**5), TOKENIZER, count, **how
    )


def test_target_is_told_from_context_without_colours():
    lines = shown(record("What is 6*7?", "<think>\n6*7=42\n</think>\n\n42"), record("x", "y", "s"))
    head, *rest = lines
    assert head.startswith("sample 1 of 2 as it is learned: ") and "line of r" in head
    assert rest == [
        "context | <|im_start|>user",
        "context | What is 6*7?<|im_end|>",
        "context | <|im_start|>assistant",
        "context | ",
        "LEARNED # <think>",
        "LEARNED # 6*7=42",
        "LEARNED # </think>",
        "LEARNED # ",
        "LEARNED # 42<|im_end|>",
    ]


def test_as_many_as_are_asked_for():
    records = [record("q", "a", f"r{number}") for number in range(3)]
    for count, heads in ((0, 0), (1, 1), (2, 2), (9, 3)):
        assert sum("as it is learned" in line for line in shown(*records, count=count)) == heads


def test_colours_are_those_of_a_terminal_and_come_to_their_end():
    lines = shown(record("q", "a"), colours=True)[1:]
    assert all(line.startswith("\033[") and line.endswith("\033[0m") for line in lines)
    assert len({line[:5] for line in lines}) == 2


def test_a_long_sample_is_shortened_and_nothing_in_it_is_obeyed():
    long = "\n".join(f"line {number}" for number in range(5000)) + "x" * 5000
    lines = shown(record("\033[2J\r\x07 q", long))
    assert len(lines) < 30 and max(map(len, lines)) < 300
    assert any("lines ...]" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J\\r\\x07 q" in line for line in lines)
