# SPDX-License-Identifier: Apache-2.0
"""The first samples as they are learned, for a person to look at before the GPUs are busy.

Every line of a target has a bar of its own, so that a log without colours says the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.tokenizing import Sample

#: How a line of each kind begins, and its colour on a terminal.
_CONTEXT, _TARGET = ("context | ", "\033[2m"), ("LEARNED # ", "\033[32m")
_FIRST_LINES, _LAST_LINES, _WIDTH = 12, 6, 200


def show_samples(corpus: Corpus, tokenizer, count: int, *, colours: bool = False) -> list[str]:
    """Lines that show the first `count` samples of `corpus`: what is context, what is learned."""
    total = len(corpus.samples)
    lines = []
    for number, sample in enumerate(corpus.samples[:count], start=1):
        lines.append(
            f"sample {number} of {total} as it is learned: {sample.n_targets} of "
            f"{len(sample.tokens)} tokens ({sample.where})"
        )
        lines += _shown(sample, tokenizer, colours)
    return lines


def _shown(sample: Sample, tokenizer, colours: bool) -> Iterator[str]:
    places = range(len(sample.tokens))
    for is_target, run in groupby(places, key=lambda place: bool(sample.is_target[place])):
        kind, colour = _TARGET if is_target else _CONTEXT
        text = str(
            tokenizer.decode(
                [int(sample.tokens[i]) for i in run],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
        )
        for line in _shortened(text.split("\n")):
            yield f"{colour}{kind}{line}\033[0m" if colours else f"{kind}{line}"


def _shortened(lines: list[str]) -> list[str]:
    """Beginning and end of many lines, and of a long one, with nothing that a terminal obeys."""
    left_out = len(lines) - _FIRST_LINES - _LAST_LINES
    if left_out > 1:
        middle = f"[... {left_out} lines ...]"
        lines = [*lines[:_FIRST_LINES], middle, *lines[-_LAST_LINES:]]
    return [_printable(_cut(line)) for line in lines]


def _cut(line: str) -> str:
    if len(line) <= _WIDTH:
        return line
    half = _WIDTH // 2
    return f"{line[:half]} [... {len(line) - 2 * half} characters ...] {line[-half:]}"


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
