# SPDX-License-Identifier: Apache-2.0
"""The verdicts of `math` and of `math-lenient`: where the mathematics of a response stands, and
what it is worth."""

from __future__ import annotations

import re

from t3s_megatron.accuracy.extraction import final_answer, marked
from t3s_megatron.accuracy.math import engine
from t3s_megatron.accuracy.math.statements import compare
from t3s_megatron.accuracy.verdicts import Verdict

_FORMULA = r"\$[^$\n]+\$|\\\([^\n]+?\\\)"
_JOINED = r"\s*(?:,|;|,?\s*\b(?:and|or)\b)\s*"
# The last formulas of a sentence that are joined by "and", and what is said of them.
_LAST = re.compile(rf"((?:{_FORMULA})(?:{_JOINED}(?:{_FORMULA}))*)([^$\\\n]*)$")
_SAYS = re.compile(r"^.*(?:\bis\b|\bare\b|\bequals?\b|:)\s*", re.DOTALL)


def strict(text: str, gold: str | None) -> Verdict:
    """ValueError when the gold answer means nothing in mathematics."""
    found = marked(text, box_first=True)
    wanted = _gold(gold)
    if found is not None:
        return compare(wanted, found.content) if found.content else Verdict.UNPARSEABLE
    line = final_answer(text) or ""
    if engine.too_long(line):
        return Verdict.UNPARSEABLE
    verdict = compare(wanted, _formulas(line))
    if verdict is Verdict.UNPARSEABLE and line != _formulas(line):
        return compare(wanted, line)
    return verdict


def lenient(text: str, gold: str | None) -> Verdict:
    """As math-verify has it. ValueError when the gold answer means nothing in mathematics."""
    found = marked(text, box_first=True)
    if found is not None:
        parsed = _boxed(found.content) if found.content else []
    else:
        parsed = engine.parse_sentence(final_answer(text, box_first=True) or "")
    if not parsed:
        return Verdict.UNPARSEABLE
    wanted = _boxed(_gold(gold))
    if not wanted:
        raise ValueError(f"the gold answer {_gold(gold)[:80]!r} cannot be parsed")
    same = engine.same(wanted, parsed)
    if same is None:
        return Verdict.UNPARSEABLE
    return Verdict.CORRECT if same else Verdict.WRONG


def _boxed(text: str) -> list:
    return engine.parse_sentence(f"\\boxed{{{text}}}")


def _gold(gold: str | None) -> str:
    found = marked(gold or "", box_first=True)
    return gold or "" if found is None else found.content or ""


def _formulas(line: str) -> str:
    """What a sentence says in mathematics: its last formulas with the words after them, else what
    follows "is"."""
    match = _LAST.search(line.strip())
    if match:
        formulas = re.sub(r"(?<!\\)\$|\\[()]", " ", match[1])
        words = match[2].strip().rstrip(".!").strip()
        said = words and len(words.split()) <= 3 and not words.startswith(("(", ","))
        return f"{formulas.strip()} {words}" if said else formulas.strip()
    return _SAYS.sub("", line).strip() or line
