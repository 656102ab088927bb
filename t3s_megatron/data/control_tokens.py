# SPDX-License-Identifier: Apache-2.0
"""Control tokens of a tokenizer, those that it calls special, where a text speaks of them.

A question may quote `<|im_end|>`; as the token it would close the user's turn. There it is written
with the tokens of its letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from t3s_megatron.errors import DataError


class ControlTokens:
    """Those of one Hugging Face tokenizer."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        names = {str(token) for token in added if token.special}
        names |= set(map(str, tokenizer.all_special_tokens))
        names.discard("")
        # The longest one first: one may begin as another does.
        self._names = tuple(sorted(names, key=lambda name: (-len(name), name)))
        self._any = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        named = {str(token) for token in (tokenizer.eos_token, tokenizer.pad_token) if token}
        self._ends = tuple(sorted(named | set(self._any.findall(_behind_a_response(tokenizer)))))

    def first(self, text: str) -> str | None:
        """The first control token in `text`, None without one."""
        found = self._any.search(text)
        return None if found is None else found[0]

    def without_trailing(self, text: str) -> str:
        """`text` without the end tokens at its end (the tokenizer's, its padding, and what its chat
        template writes behind a response); as it is where it ends with none."""
        while (shorter := text.rstrip()).endswith(self._ends):
            name = next(name for name in self._ends if shorter.endswith(name))
            text = shorter[: -len(name)]
        return text

    def encode(self, text: str, said: Sequence[tuple[int, int]], where: str) -> list[int]:
        """The tokens of a rendered `text`. Control tokens between `said`, (start, end) of what
        people said, are tokens; within it they are letters. DataError when the tokenizer cannot
        write them so."""
        encode = self._tokenizer.encode
        if not any(self._any.search(text, *place) for place in said):
            return encode(text, add_special_tokens=False)
        made: list[int] = []
        at = 0
        for found in self._any.finditer(text):
            if not any(start <= found.start() < end for start, end in said):
                made += self._as_letters(text[at : found.start()])
                made += encode(found[0], add_special_tokens=False)
                at = found.end()
        made += self._as_letters(text[at:])
        back = self._tokenizer.decode(made, clean_up_tokenization_spaces=False)
        if unicodedata.normalize("NFC", str(back)) != unicodedata.normalize("NFC", text):
            quoted = next(filter(None, (self.first(text[slice(*place)]) for place in said)))
            raise DataError(
                f"{where}: a message has the control token {quoted!r} in its text, and this "
                "tokenizer cannot write it as text; take it out"
            )
        return made

    def _as_letters(self, text: str) -> list[int]:
        if not text:
            return []
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _behind_a_response(tokenizer) -> str:
    """What the chat template writes there; nothing where there is none, or it wants something
    else."""
    said = "t3sResponse"
    turns = [{"role": "user", "content": "t3sQuestion"}, {"role": "assistant", "content": said}]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(said)[2]
    except Exception:  # a template may raise anything; each record says so when it is rendered
        return ""
