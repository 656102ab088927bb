# SPDX-License-Identifier: Apache-2.0
"""Which token stands for a masked one, checked before anything is learned with it."""

from __future__ import annotations

from collections.abc import Iterable

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.errors import T3SError


def mask_token(
    tokenizer, given: str | None, corpora: Iterable[Corpus | None], rows: int | None
) -> int:
    """Its id: of `given`, a token's text or id, else the tokenizer's own. `rows`: of the model's
    embedding, where they are known.

    T3SError when there is none, when it means something else (end, padding, or a token of a sample
    of `corpora`), or when it has no row.
    """
    number = _number(tokenizer, given)
    shown = f"the mask token {tokenizer.convert_ids_to_tokens(number)!r} (id {number})"
    for name, other in (("end", tokenizer.eos_token_id), ("pad", tokenizer.pad_token_id)):
        if number == other:
            raise T3SError(
                f"{shown} is the {name} token, which is learned as itself: give another as "
                "--t3s-mask-token"
            )
    if rows is not None and number >= rows:
        raise T3SError(
            f"{shown} has no row in the model's embedding of {rows}: give another as "
            "--t3s-mask-token, or raise --vocab-size"
        )
    for corpus in filter(None, corpora):
        for sample in corpus.samples:
            if (sample.tokens == number).any():
                raise T3SError(
                    f"{shown} occurs in sample {sample.uid!r} ({sample.where}), where it would be "
                    "taken for a masked token: give another as --t3s-mask-token"
                )
    return number


def _number(tokenizer, given: str | None) -> int:
    if given is None:
        if tokenizer.mask_token_id is None:
            raise T3SError(
                "the tokenizer has no mask token: give its text or id as --t3s-mask-token"
            )
        return int(tokenizer.mask_token_id)
    vocabulary = tokenizer.get_vocab()
    if given in vocabulary:
        return int(vocabulary[given])
    if given.isdecimal():
        return int(given)
    raise T3SError(f"--t3s-mask-token {given}: not a token of the tokenizer, and not an id")
