# SPDX-License-Identifier: Apache-2.0
"""The samples of a run, in order, with the flat numbering of their target tokens."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from t3s_megatron.data.records import Record
from t3s_megatron.data.tokenizing import Sample, Tokenization
from t3s_megatron.errors import DataError, T3SError

_TARGETS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Columns:
    """What is known of m samples without their tokens. `n_tokens`, `n_targets` int64[m]; `hashes`:
    of tokens and targets, 16 hexadecimal digits."""

    uids: list[str]
    teachers: list[str | None]
    n_tokens: np.ndarray
    n_targets: np.ndarray
    hashes: list[str]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        return cls(
            [sample.uid for sample in samples],
            [sample.teacher for sample in samples],
            np.array([len(sample.tokens) for sample in samples], dtype=np.int64),
            np.array([sample.n_targets for sample in samples], dtype=np.int64),
            [hash_of(sample.tokens, sample.is_target) for sample in samples],
        )

    def at(self, indices: Sequence[int]) -> Columns:
        return Columns(
            [self.uids[i] for i in indices],
            [self.teachers[i] for i in indices],
            self.n_tokens[list(indices)],
            self.n_targets[list(indices)],
            [self.hashes[i] for i in indices],
        )


class Chosen(Sequence[Sample]):
    """Some of `samples`, by their indices; each is made when it is asked for."""

    def __init__(self, samples: Sequence[Sample], indices: Sequence[int]):
        self._samples = samples
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._samples[i] for i in self._indices[index]]
        return self._samples[self._indices[index]]


@dataclass
class Corpus:
    """`offsets` int64[n + 1]: targets of sample i are numbers offsets[i] to offsets[i + 1] - 1 of
    the corpus, the numbering of every flat per-target array (log-probs, selections).
    `lengths`: positions that each sample needs in a row: one less than it has tokens; for a student
    that learns by blocks of `block_size` tokens as many as it has, up to a whole block. An array of
    machine integers, a tenth of what a list of them takes.

    `fingerprint`: sha256 over ids, token ids and targets in order; blind to where they came from.
    `counts`: samples kept, tokens, target_tokens; of one that was read also records,
    dropped_overlong, truncated_overlong.

    `samples` may be those of a file that is mapped, each made when it is asked for: what has to be
    known of all of them is in `columns`, and in what is made of those.
    """

    samples: Sequence[Sample]
    tokenizer_fingerprint: str
    counts: dict
    columns: Columns | None = None
    block_size: int | None = None
    uids: list[str] = field(init=False)
    teachers: list[str | None] = field(init=False)
    offsets: np.ndarray = field(init=False)
    lengths: Sequence[int] = field(init=False)
    sample_hashes: list[str] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self):
        if self.columns is None:
            self.columns = Columns.of(self.samples)
        self.uids, self.teachers = self.columns.uids, self.columns.teachers
        self.offsets = np.concatenate([[0], np.cumsum(self.columns.n_targets)]).astype(np.int64)
        positions = _positions(self.columns.n_tokens, self.block_size)
        self.lengths = array("q", positions.astype(np.int64).tobytes())
        self.sample_hashes = self.columns.hashes
        self.fingerprint = fingerprint_of(self.uids, self.sample_hashes)

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
        block_size: int | None = None,
    ) -> Corpus:
        """Tokenise, then apply the policy for samples that do not fit a row of `seq_length`.

        A row holds tokens[:-1] and predicts tokens[1:]: a sample of L tokens needs L - 1 places.
        With a `block_size`, which divides `seq_length`, it predicts what stands in its own place:
        L places, up to a whole block.
        DataError, with `overlong="error"`, for samples that do not fit.
        """
        made = Tokenization(tokenizer, prompt_format, vocab_size)
        limit = LengthLimit(seq_length, overlong, block_size)
        kept = list(limit.applied_to(made(record) for record in records))
        columns = Columns.of(kept)
        counts = limit.counts | counts_of(columns)
        return cls(kept, tokenizer_fingerprint(tokenizer), counts, columns, block_size)

    def subset(self, indices: Sequence[int]) -> Corpus:
        """The samples of these indices as a corpus of their own, with its own numbering."""
        assert self.columns is not None
        columns = self.columns.at(indices)
        samples: Sequence[Sample] = Chosen(self.samples, indices)
        if isinstance(self.samples, list):
            samples = list(samples)
        return Corpus(
            samples, self.tokenizer_fingerprint, counts_of(columns), columns, self.block_size
        )

    def target_slice(self, index: int) -> slice:
        """Where sample `index` stands in a flat per-target array."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def targets_of(self, samples: range) -> slice:
        """Where neighbouring samples stand in a flat per-target array."""
        return slice(int(self.offsets[samples.start]), int(self.offsets[samples.stop]))

    def in_pieces(self) -> Iterator[range]:
        """All samples in order, some millions of targets at a time, or one sample that has more."""
        first, n = 0, len(self.samples)
        while first < n:
            bound = self.offsets[first] + _TARGETS_AT_ONCE
            end = max(first + 1, int(np.searchsorted(self.offsets, bound, side="right")) - 1)
            yield range(first, end)
            first = end

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


class LengthLimit:
    """What happens to samples that do not fit a row of `seq_length`: `overlong` is error, drop or
    truncate. `block_size`: as of a `Corpus`."""

    def __init__(self, seq_length: int, overlong: str, block_size: int | None = None):
        self._seq_length = seq_length
        self._longest = seq_length + 1 if block_size is None else seq_length  # tokens
        self._overlong = overlong
        self._seen = self._truncated = self._kept = self._long = 0
        self._named: list[str] = []

    def applied_to(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Those that are left, in order. DataError, once all have been seen, when some do not fit
        and may not be left out, or none is left."""
        longest = self._longest
        for sample in samples:
            self._seen += 1
            if len(sample.tokens) > longest:
                self._long += 1
                if self._long <= 3:
                    self._named.append(f"{sample.where} ({len(sample.tokens)} tokens)")
                if self._overlong != "truncate" or not sample.is_target[:longest].any():
                    continue
                sample = _truncate(sample, longest)
                self._truncated += 1
            self._kept += 1
            yield sample
        self._check()

    def _check(self) -> None:
        if self._long and self._overlong == "error":
            raise DataError(
                f"{self._long} of {self._seen} samples do not fit --seq-length "
                f"{self._seq_length}: {'; '.join(self._named)}{', ...' if self._long > 3 else ''}. "
                "Raise it, or choose --t3s-overlong drop or --t3s-overlong truncate."
            )
        if not self._kept:
            raise DataError(
                f"no sample fits --seq-length {self._seq_length}: --t3s-overlong {self._overlong} "
                f"leaves none of {self._seen}; raise --seq-length"
            )

    @property
    def counts(self) -> dict:
        """What `Corpus.counts` says of the samples that were seen."""
        return {
            "records": self._seen,
            "dropped_overlong": self._seen - self._kept,
            "truncated_overlong": self._truncated,
        }


def build_corpus(records: list[Record], args, tokenizer) -> Corpus:
    """These records tokenised as Megatron's `args` ask for: for `--seq-length` and the model's
    vocabulary. DataError, T3SError for what cannot be trained on."""
    return Corpus.build(records, tokenizer, **how_to_build(args, tokenizer))


def how_to_build(args, tokenizer) -> dict:
    """What `Corpus.build` is told by Megatron's `args`, JSON-able. T3SError for a vocabulary that
    the tokenizer's does not fit."""
    vocab_size = vocabulary_of(args)
    if vocab_size and vocab_size < len(tokenizer):
        raise T3SError(
            f"the model's vocabulary has {vocab_size} rows, the tokenizer of "
            f"{args.tokenizer_model} has {len(tokenizer)}: raise --vocab-size or change tokenizer"
        )
    return {
        "seq_length": args.seq_length,
        "prompt_format": args.t3s_prompt_format,
        "overlong": args.t3s_overlong,
        "vocab_size": vocab_size,
        "block_size": args.t3s_block_size if args.t3s_diffusion else None,
    }


def vocabulary_of(args) -> int | None:
    """Rows of the vocabulary that are the model's: Megatron's `--vocab-size`, where it is known, of
    the `padded_vocab_size` that there are. None where neither is known."""
    known = [rows for rows in (args.vocab_size, args.padded_vocab_size) if rows]
    return min(known, default=None)


def _positions(n_tokens: np.ndarray, block_size: int | None) -> np.ndarray:
    """Positions int64[m] that samples of so many tokens need in a row: see `Corpus`."""
    if block_size is None:
        return n_tokens - 1
    return -(-n_tokens // block_size) * block_size


def counts_of(columns: Columns) -> dict:
    """What `Corpus.counts` says of samples, however they came to be."""
    return {
        "samples": len(columns.uids),
        "tokens": int(columns.n_tokens.sum()),
        "target_tokens": int(columns.n_targets.sum()),
    }


def _truncate(sample: Sample, length: int) -> Sample:
    return replace(sample, tokens=sample.tokens[:length], is_target=sample.is_target[:length])


def hash_of(tokens: np.ndarray, is_target: np.ndarray) -> str:
    """16 hexadecimal digits for a sample's tokens int32[L] and targets bool[L]."""
    digest = hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i4"))
    digest.update(np.packbits(is_target))
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
