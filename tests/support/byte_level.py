# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE for tests: any text has tokens, and comes back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers


def byte_level(
    special: Sequence[str], texts: Iterable[str], size: int, tags: Sequence[str] = ()
) -> Tokenizer:
    """Trained on `texts` to at most `size` tokens, the first of which are control tokens `special`,
    in order; `tags` are whole tokens of ordinary text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.add_tokens([AddedToken(tag, special=False) for tag in tags])
    return made
