# SPDX-License-Identifier: Apache-2.0
"""From the targets of one tokenizer to those of another that cuts responses up in the same way.

The selector and its diffusion student may have tables of their own for the same text: the token
that ends a turn of Ling has the number of LLaDA2's mask. So tokens are compared by their text, one
by one; only what ends a response may differ.
"""

from __future__ import annotations

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import MismatchError


def align(theirs: Corpus, mine: Corpus, their_tokenizer, my_tokenizer) -> np.ndarray:
    """int64[mine.n_targets]: for each target of `mine`, the number of its partner in `theirs`, -1
    for an end token without one.

    A response of `mine` may be the beginning of its partner. MismatchError, naming the first sample
    and token, where the responses differ in anything but their end tokens, and for a sample that
    `theirs` lacks.
    """
    if theirs.tokenizer_fingerprint == mine.tokenizer_fingerprint:
        their_tokenizer = my_tokenizer
    same_text = _numbers_of_the_same_text(their_tokenizer, my_tokenizer)
    places = {uid: place for place, uid in enumerate(theirs.uids)}
    partner = np.full(mine.n_targets, -1, dtype=np.int64)
    wrong: list[str] = []
    for place, sample in enumerate(mine.samples):
        if sample.uid not in places:
            raise MismatchError(f"sample {sample.uid!r} ({sample.where}): the selector has none")
        other = places[sample.uid]
        a, b = _targets(theirs.samples[other]), _targets(sample)
        common = min(len(a), len(b))
        differ = np.flatnonzero(same_text[a[:common]] != b[:common])
        agreed = int(differ[0]) if differ.size else common
        # One that was cut to fit a row ends before its partner does.
        whole = agreed < len(b) and not _ends(a[agreed:], their_tokenizer)
        if whole or not _ends(b[agreed:], my_tokenizer):
            wrong.append(_misfit(sample, agreed, a, b, their_tokenizer, my_tokenizer))
            continue
        mine_from, theirs_from = mine.offsets[place], theirs.offsets[other]
        partner[mine_from : mine_from + agreed] = np.arange(theirs_from, theirs_from + agreed)
    if wrong:
        raise MismatchError(
            f"{len(wrong)} of {len(mine.samples)} responses are other tokens in the selector's "
            f"tokenizer than in the student's: {wrong[0]}. A selector whose tokenizer cuts text "
            "up in the same way is needed"
        )
    return partner


def _numbers_of_the_same_text(of, to) -> np.ndarray:
    """int64: by token id of `of`, the id that `to` has for the same text; -1 for none."""
    vocabulary, wanted = of.get_vocab(), to.get_vocab()
    numbers = np.full(max(vocabulary.values()) + 1, -1, dtype=np.int64)
    for text, number in vocabulary.items():
        numbers[number] = wanted.get(text, -1)
    return numbers


def _targets(sample: Sample) -> np.ndarray:
    return sample.tokens[sample.is_target].astype(np.int64)


def _ends(tokens: np.ndarray, tokenizer) -> bool:
    """Whether all of these tokens are special ones, of which an end is made."""
    added = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special} | set(tokenizer.all_special_ids)
    return set(tokens.tolist()) <= special


def _misfit(sample: Sample, at: int, theirs, mine, their_tokenizer, my_tokenizer) -> str:
    def text(tokens: np.ndarray, tokenizer) -> str:
        there = at < len(tokens)
        return repr(tokenizer.convert_ids_to_tokens(int(tokens[at]))) if there else "no token"

    return (
        f"sample {sample.uid!r} ({sample.where}), token {at} of the response: "
        f"{text(theirs, their_tokenizer)} and {text(mine, my_tokenizer)}"
    )
