# SPDX-License-Identifier: Apache-2.0
"""Prompts that a dataset has rendered for one model, with its turn markers, taken apart again.

A teacher's server renders what it is sent: a prompt that still has another model's markers would be
rendered twice, and the markers learned as text.
"""

from __future__ import annotations

import re

# A prompt that ends inside the answer has had its thinking opened, or closed, by a template.
_BEGUN = re.compile(r"\s*(?:<think>\s*(?:</think>\s*)?)?")
_DEEPSEEK = re.compile(
    r"\s*(?:<｜begin▁of▁sentence｜>)?(?P<system>[^｜]*?)"
    r"<｜User｜>(?P<user>.*?)(?:<｜Assistant｜>(?P<answer>.*))?",
    re.DOTALL,
)
_CHATML = re.compile(
    r"\s*(?:<\|im_start\|>system\n(?P<system>.*?)<\|im_end\|>\s*)?"
    r"<\|im_start\|>user\n(?P<user>.*?)<\|im_end\|>\s*"
    r"(?:<\|im_start\|>assistant\n?(?P<answer>.*))?",
    re.DOTALL,
)
#: <|...|> and DeepSeek's <｜...｜>, Llama's [INST], Gemma's turns.
_MARKER = re.compile(r"<[|｜][^<>\s]{1,40}[|｜]>|\[/?INST\]|<(?:start|end)_of_turn>")


def take_apart(prompt: str) -> tuple[dict[str, str], ...]:
    """The turns of a prompt: a user's question, after a system's instruction where there is one.

    Text without markers is a question. ValueError, saying why, for markers of other templates, for
    several questions, and where an answer has been begun.
    """
    for template in (_DEEPSEEK, _CHATML):
        found = template.fullmatch(prompt)
        if found is not None:
            parts = found.groupdict(default="")
            if not _BEGUN.fullmatch(parts["answer"]):
                raise ValueError("an answer is begun in its prompt")
            break
    else:
        parts = {"system": "", "user": prompt}
    turns = tuple(
        {"role": role, "content": content}
        for role in ("system", "user")
        if (content := parts[role].strip()) or role == "user"
    )
    if any(_MARKER.search(turn["content"]) for turn in turns):
        raise ValueError("its prompt has turn markers that are not understood")
    return turns
