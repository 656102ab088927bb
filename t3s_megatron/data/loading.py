# SPDX-License-Identifier: Apache-2.0
"""The corpora that a run's arguments name, tokenised for its model."""

from __future__ import annotations

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import Record
from t3s_megatron.data.teachers import Part, load_training_records, parts_of
from t3s_megatron.errors import T3SError


def build_corpus(records: list[Record], args, tokenizer, *, prompt_format, overlong) -> Corpus:
    """A corpus tokenised for `--seq-length` of Megatron's namespace `args`.

    DataError, T3SError for what cannot be trained on.
    """
    vocab_size = args.padded_vocab_size or args.vocab_size
    if vocab_size and vocab_size < len(tokenizer):
        raise T3SError(
            f"the model's vocabulary has {vocab_size} rows, the tokenizer of "
            f"{args.tokenizer_model} has {len(tokenizer)}: raise --vocab-size or change tokenizer"
        )
    return Corpus.build(
        records,
        tokenizer,
        seq_length=args.seq_length,
        prompt_format=prompt_format,
        overlong=overlong,
        vocab_size=vocab_size,
    )


def load_training_corpus(args, tokenizer) -> tuple[Corpus, list[Part]]:
    """The samples of --t3s-data, all together and by teacher."""
    records = load_training_records(tuple(args.t3s_data), split=args.t3s_data_split)
    how = dict(prompt_format=args.t3s_prompt_format, overlong=args.t3s_overlong)
    corpus = build_corpus(records, args, tokenizer, **how)
    return corpus, parts_of(corpus, records)
