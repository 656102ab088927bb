# SPDX-License-Identifier: Apache-2.0
"""The samples of a run, in order, with the flat numbering of their target tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from t3s_megatron.data.records import Record
from t3s_megatron.data.tokenizing import Sample, Tokenization
from t3s_megatron.errors import DataError, T3SError


@dataclass
class Corpus:
    """`offsets` int64[n + 1]: targets of sample i are numbers offsets[i] to offsets[i + 1] - 1 of
    the corpus, the numbering of every flat per-target array (log-probs, selections).
    `lengths`: positions that each sample needs in a row, one less than it has tokens.

    `fingerprint`: sha256 over ids, token ids and targets in order; blind to where they came from.
    `counts`: samples kept, tokens, target_tokens; of one that was read also records,
    dropped_overlong, truncated_overlong.
    """

    samples: list[Sample]
    tokenizer_fingerprint: str
    counts: dict
    offsets: np.ndarray = field(init=False)
    lengths: list[int] = field(init=False)
    sample_hashes: list[str] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self):
        sizes = [sample.n_targets for sample in self.samples]
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.lengths = [len(sample.tokens) - 1 for sample in self.samples]
        self.sample_hashes = [_hash(sample) for sample in self.samples]
        self.fingerprint = fingerprint_of([s.uid for s in self.samples], self.sample_hashes)

    @classmethod
    def build(
        cls,
        records: list[Record],
        tokenizer,
        *,
        seq_length: int,
        prompt_format: str = "chat",
        overlong: str = "error",
        vocab_size: int | None = None,
    ) -> Corpus:
        """Tokenise, then apply the policy for samples that do not fit a row of `seq_length`.

        A row holds tokens[:-1] and predicts tokens[1:]: a sample of L tokens needs L - 1 places.
        DataError, with `overlong="error"`, for samples that do not fit.
        """
        made = Tokenization(tokenizer, prompt_format, vocab_size)
        samples = [made(record) for record in records]
        long = [sample for sample in samples if len(sample.tokens) - 1 > seq_length]
        if long and overlong == "error":
            named = "; ".join(f"{s.where} ({len(s.tokens)} tokens)" for s in long[:3])
            raise DataError(
                f"{len(long)} of {len(samples)} samples do not fit --seq-length {seq_length}: "
                f"{named}{', ...' if len(long) > 3 else ''}. Raise it, or choose "
                "--t3s-overlong drop or --t3s-overlong truncate."
            )
        kept, truncated = [], 0
        for sample in samples:
            if len(sample.tokens) - 1 <= seq_length:
                kept.append(sample)
            elif overlong == "truncate" and sample.is_target[: seq_length + 1].any():
                kept.append(_truncate(sample, seq_length + 1))
                truncated += 1
        if not kept:
            raise DataError(
                f"no sample fits --seq-length {seq_length}: --t3s-overlong {overlong} leaves none "
                f"of {len(samples)}; raise --seq-length"
            )
        counts = {
            "records": len(records),
            "dropped_overlong": len(samples) - len(kept),
            "truncated_overlong": truncated,
        }
        return cls(kept, tokenizer_fingerprint(tokenizer), counts | _counts(kept))

    def subset(self, indices: Sequence[int]) -> Corpus:
        """The samples of these indices as a corpus of their own, with its own numbering."""
        samples = [self.samples[i] for i in indices]
        return Corpus(samples, self.tokenizer_fingerprint, _counts(samples))

    def target_slice(self, index: int) -> slice:
        """Where sample `index` stands in a flat per-target array."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def sample_index(self, targets: np.ndarray) -> np.ndarray:
        """For each of these target numbers, int64 of any shape, the index of its sample."""
        return np.searchsorted(self.offsets, targets, side="right") - 1

    @property
    def n_targets(self) -> int:
        return int(self.offsets[-1])

    def require_answers(self) -> None:
        """DataError when a sample has no gold answer to verify generated ones against."""
        missing = [sample.where for sample in self.samples if sample.answer is None]
        if missing:
            raise DataError(
                f"{len(missing)} samples have no gold `answer`, which measuring accuracy needs: "
                f"{'; '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Add it, or use "
                "--t3s-simple, which measures nothing."
            )


def build_corpus(records: list[Record], args, tokenizer) -> Corpus:
    """These records tokenised as Megatron's `args` ask for: for `--seq-length` and the model's
    vocabulary. DataError, T3SError for what cannot be trained on."""
    vocab_size = vocabulary_of(args)
    if vocab_size and vocab_size < len(tokenizer):
        raise T3SError(
            f"the model's vocabulary has {vocab_size} rows, the tokenizer of "
            f"{args.tokenizer_model} has {len(tokenizer)}: raise --vocab-size or change tokenizer"
        )
    return Corpus.build(
        records,
        tokenizer,
        seq_length=args.seq_length,
        prompt_format=args.t3s_prompt_format,
        overlong=args.t3s_overlong,
        vocab_size=vocab_size,
    )


def vocabulary_of(args) -> int | None:
    """Rows of the vocabulary that are the model's: Megatron's `--vocab-size`, where it is known, of
    the `padded_vocab_size` that there are. None where neither is known."""
    known = [rows for rows in (args.vocab_size, args.padded_vocab_size) if rows]
    return min(known, default=None)


def _counts(samples: list[Sample]) -> dict:
    return {
        "samples": len(samples),
        "tokens": sum(len(sample.tokens) for sample in samples),
        "target_tokens": sum(sample.n_targets for sample in samples),
    }


def _truncate(sample: Sample, length: int) -> Sample:
    return replace(sample, tokens=sample.tokens[:length], is_target=sample.is_target[:length])


def _hash(sample: Sample) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(sample.tokens, dtype="<i4").tobytes())
    digest.update(np.packbits(sample.is_target).tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of(uids: list[str], sample_hashes: list[str]) -> str:
    """`Corpus.fingerprint` of samples of which only this is known."""
    return hashlib.sha256(json.dumps([uids, sample_hashes]).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer) -> str:
    """sha256 over what decides the token ids of a text: vocabulary, special tokens, template."""
    parts = [
        sorted(tokenizer.get_vocab().items()),
        sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items()),
        getattr(tokenizer, "chat_template", None),
    ]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
