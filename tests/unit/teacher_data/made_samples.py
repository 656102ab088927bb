# SPDX-License-Identifier: Apache-2.0
"""Teachers' answers to sums, with a fate that is known by the way they are made."""

from __future__ import annotations

import json
import random

from t3s_megatron.teacher_data.filtering import Fate

QUESTION = "What is {a} + {b}?"

RESPONSES = {
    Fate.CORRECT: "<think>\n{a} and {b}, note {n}\n</think>\n\nIt is \\boxed{{{right}}}.",
    Fate.WRONG: "<think>\nguess {n}\n</think>\n\nIt is \\boxed{{{wrong}}}.",
    Fate.TRUNCATED: "<think>\n\\boxed{{{right}}}? let me check, note {n}",
    Fate.EMPTY: "<think>\n\\boxed{{{right}}} {n}\n</think>\n\n",
    Fate.MALFORMED: "<think>a {n}</think>\\boxed{{{right}}}<think>b</think>\\boxed{{{right}}}",
    Fate.UNPARSEABLE: "<think>\nnote {n}\n</think>\n\nI do not know.",
}


def response(fate: Fate, a: int, b: int, n: int = 0) -> str:
    return RESPONSES[fate].format(a=a, b=b, n=n, right=a + b, wrong=a + b + 1)


def row(fate: Fate, a: int, b: int, n: int = 0, **fields) -> dict:
    """One sample. A field that is None is left out."""
    made = {
        "id": f"{a}+{b}",
        "prompt": QUESTION.format(a=a, b=b),
        "answer": str(a + b),
        "response": response(fate, a, b, n),
        "finish_reason": "stop",
        **fields,
    }
    return {key: value for key, value in made.items() if value is not None}


def rows(fates: dict[tuple[int, int], list[Fate]], **fields) -> list[dict]:
    return [
        row(fate, a, b, n, **fields)
        for (a, b), some in fates.items()
        for n, fate in enumerate(some)
    ]


def shuffled(some: list, seed: int) -> list:
    return random.Random(seed).sample(some, len(some))


def write(path, some: list) -> str:
    """One line each: an object as JSON, a text as it is."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in some]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)
