# SPDX-License-Identifier: Apache-2.0
"""Log-probs of every target token at one set of weights, on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from t3s_megatron import __version__
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.tables import (
    corpus_keys,
    in_order,
    load_table,
    places_of,
    save_table,
    slices_of,
)
from t3s_megatron.errors import MismatchError, T3SError

#: Kind and dtype of its table, and what stands in its header.
STORE_TYPE = ("log-prob store", (np.float32,))
STORE_NEEDS = ("tag", "step")
#: Tag of a store of the entropies of the student's predictions at theta_0, in nats.
ENTROPY = "entropy_theta_0"


@dataclass
class LogProbStore:
    """c float32[n_target_tokens] in corpus order (Eq. 2). `tag`: theta_0 or theta_b; or ENTROPY,
    whose values are no log-probs. `model`: what scored them, written down and not checked."""

    c: np.ndarray
    corpus: Corpus
    tag: str
    step: int
    model: dict = field(default_factory=dict)

    def save(self, path: str) -> None:
        """Durable. T3SError, naming the sample, for a log-prob that is not finite; ValueError for
        an array that is not the corpus's."""
        bad = list(not_finite(self.c))
        if count := sum(map(len, bad)):
            place = bad[0][0]
            sample = self.corpus.samples[int(self.corpus.sample_index(place))]
            raise T3SError(
                f"{count} log-probs at {self.tag} are not finite, first in sample "
                f"{sample.uid!r} ({sample.where}): the weights have diverged"
            )
        info = {
            "tag": self.tag,
            "step": self.step,
            "model": self.model,
            "created_by": __version__,
        }
        sizes = np.diff(self.corpus.offsets)
        save_table(
            path,
            STORE_TYPE[0],
            np.asarray(self.c, dtype=np.float32),
            sizes,
            corpus_keys(self.corpus),
            info,
        )

    @classmethod
    def load(cls, path: str, corpus: Corpus) -> LogProbStore:
        """`c` is mapped, read-only, where the file has the samples of `corpus` in its order.

        MismatchError when the file is damaged or belongs to other samples."""
        values, sizes, header = load_table(path, *STORE_TYPE, STORE_NEEDS)
        places = np.array(places_of(path, header, corpus), dtype=np.int64)
        wrong = np.flatnonzero(sizes[places] != np.diff(corpus.offsets))
        if wrong.size:
            sample = corpus.samples[int(wrong[0])]
            raise MismatchError(
                f"{path}: damaged, sample {sample.uid!r} has {sample.n_targets} targets and "
                f"{sizes[places[wrong[0]]]} log-probs in the file; score again"
            )
        return cls(
            in_order(values, sizes, places),
            corpus,
            header["tag"],
            header["step"],
            header.get("model", {}),
        )


def not_finite(values: np.ndarray) -> Iterator[np.ndarray]:
    """Places int64[any] of the values that are not finite, in pieces with at least one."""
    for some in slices_of(values.size):
        found = np.flatnonzero(~np.isfinite(values[some]))
        if found.size:
            yield some.start + found


@dataclass(frozen=True)
class Reference:
    """Log-probs that another model gave m samples, in its stores, which are mapped.

    `values`: of each store, float32[any]; `store`, `first`, `size` int64[m]: which of them has a
    sample's, from where on, and how many.
    """

    values: list[np.ndarray]
    store: np.ndarray
    first: np.ndarray
    size: np.ndarray

    def of(self, samples: Sequence[int]) -> np.ndarray:
        """float32[n]: those of these samples, one after the other; a view of the file where they
        stand there like that, else a copy."""
        which = np.asarray(samples)
        store, first, size = self.store[which], self.first[which], self.size[which]
        if (store == store[0]).all() and (first[1:] == first[:-1] + size[:-1]).all():
            return self.values[store[0]][first[0] : first[-1] + size[-1]]
        places = zip(store.tolist(), first.tolist(), size.tolist(), strict=True)
        return np.concatenate([self.values[i][begin : begin + n] for i, begin, n in places])

    def digest(self) -> str:
        """sha256 over the bytes of all of them, one sample after the other, in hexadecimal."""
        digest = hashlib.sha256()
        for sample in range(len(self.size)):
            digest.update(np.ascontiguousarray(self.of([sample])))
        return digest.hexdigest()


def read_reference(
    paths: Sequence[str], uids: Sequence[str], hashes: Sequence[str], tokenizer: str
) -> Reference:
    """Log-probs that another model gave these samples, in their order.

    `paths`: stores which together hold all of them; `hashes`, `tokenizer`: of the samples' tokens
    and targets, and of the tokenizer. MismatchError, naming file and sample, when a store is
    damaged or is not of these tokens, or a sample is in none.
    """
    stores: list[np.ndarray] = []
    found: dict[str, tuple[str, str, int, int, int]] = {}
    for path in paths:
        values, sizes, header = load_table(path, *STORE_TYPE, STORE_NEEDS)
        if header["tag"] == ENTROPY:
            raise MismatchError(f"{path}: holds entropies, and no log-probs of a reference")
        if header["tokenizer_fingerprint"] != tokenizer:
            raise MismatchError(
                f"{path}: the reference has another tokenizer than the samples; its log-probs are "
                "of other tokens. Score these samples with a reference of the same tokenizer"
            )
        stores.append(values)
        places = zip((np.cumsum(sizes) - sizes).tolist(), sizes.tolist(), strict=True)
        samples = zip(header["uids"], header["sample_hashes"], places, strict=True)
        for uid, hashed, (first, size) in samples:
            if uid in found:
                raise MismatchError(f"{path}: sample {uid!r} is in {found[uid][0]} too; give one")
            found[uid] = path, hashed, len(stores) - 1, first, size
    for uid, hashed in zip(uids, hashes, strict=True):
        if uid not in found:
            raise MismatchError(
                f"{', '.join(paths)}: no log-probs of sample {uid!r}; let the reference score the "
                "same data"
            )
        if found[uid][1] != hashed:
            raise MismatchError(
                f"{found[uid][0]}: sample {uid!r} has other tokens or targets than when the "
                "reference scored it; let it score this data"
            )
    store, first, size = np.array([found[uid][2:] for uid in uids], dtype=np.int64).T
    return Reference(stores, store, first, size)
