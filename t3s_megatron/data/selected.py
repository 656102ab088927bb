# SPDX-License-Identifier: Apache-2.0
"""Selections to look at, from what holds one: a run's folder, a selection file, exported rows."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.run_folder import SELECTION, read_bits, read_scores
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.selection_rows import read_keep, read_kept_rows
from t3s_megatron.errors import DataError, MismatchError


@dataclass(frozen=True)
class Selected:
    """A selection of m samples with n targets in all. `sizes` int64[m]; `keep` bool[n], or
    float32[n] of weights, sample after sample; `teachers[i]`: sample i's, None where there is one
    teacher; `hashes[i]`: of its tokens, None where they are not known."""

    uids: list[str]
    teachers: list[str | None]
    hashes: list[str | None]
    sizes: np.ndarray
    keep: np.ndarray

    def in_order_of(self, other: Selected, names: tuple[str, str]) -> np.ndarray:
        """`keep` with the samples as `other` has them. `names`: of this one and of `other`.

        MismatchError, naming the first sample, when they are not selections of the same samples.
        """
        ends = np.cumsum(self.sizes)
        places = {uid: i for i, uid in enumerate(self.uids)}
        parts = []
        for uid, size, hashed in zip(other.uids, other.sizes, other.hashes, strict=True):
            place = places.pop(uid, None)
            if place is None:
                raise MismatchError(f"{names[0]}: has no sample {uid!r}, which {names[1]} has")
            mine = self.hashes[place]
            if self.sizes[place] != size or (mine and hashed and mine != hashed):
                raise MismatchError(
                    f"{names[0]}: sample {uid!r} has other tokens or targets than in {names[1]}; "
                    "they are selections of other data"
                )
            parts.append(self.keep[ends[place] - size : ends[place]])
        if places:
            left = next(iter(places))
            raise MismatchError(f"{names[1]}: has no sample {left!r}, which {names[0]} has")
        return np.concatenate(parts)


def read_selected(
    path: str, corpus: Corpus | None = None, alike: Selected | None = None
) -> Selected:
    """`path`: a run's folder, a selection file, or rows that `selection export` wrote.

    With a `corpus`, all are checked against its samples. A selection file leaves the numbers of
    targets to the samples: those of `corpus` or of `alike`, a selection of the same samples, or
    else of the log-probs in its folder. MismatchError, DataError for what cannot be read.
    """
    are_rows = path.lower().endswith((".parquet", ".jsonl"))
    if are_rows and corpus is None:
        return _from_rows(path)
    file = os.path.join(path, SELECTION) if os.path.isdir(path) else path
    if corpus is not None:
        keep = read_keep(path, corpus) if are_rows else Selection.load(file, corpus).keep
        return Selected(
            [sample.uid for sample in corpus.samples],
            [sample.teacher for sample in corpus.samples],
            list(corpus.sample_hashes),
            np.diff(corpus.offsets),
            keep,
        )
    if alike is not None:
        sizes_of = dict(zip(alike.uids, alike.sizes.tolist(), strict=True))
        teacher_of = dict(zip(alike.uids, alike.teachers, strict=True))
    else:
        sizes_of, teacher_of = _beside(file)
    bits = read_bits(file, sizes_of)
    uids = list(bits.keep)
    return Selected(
        uids,
        [teacher_of[uid] for uid in uids],
        bits.header["sample_hashes"],
        np.array([sizes_of[uid] for uid in uids], dtype=np.int64),
        np.concatenate(list(bits.keep.values())),
    )


def _beside(file: str) -> tuple[dict[str, int], dict[str, str | None]]:
    """Numbers of targets and teachers by uid, of the log-probs in the folder of `file`."""
    try:
        scores = read_scores(os.path.dirname(os.path.abspath(file)))
    except MismatchError as error:
        raise MismatchError(
            f"{file}: does not say how many targets its samples have, and no log-probs beside it "
            f"do ({error}). Give --data and --tokenizer-model, or compare it to the run's folder, "
            "named first"
        ) from None
    sizes, teachers = {}, {}
    for of_teacher in scores:
        for uid, size in zip(of_teacher.uids, of_teacher.sizes.tolist(), strict=True):
            sizes[uid], teachers[uid] = size, of_teacher.teacher
    return sizes, teachers


def _from_rows(path: str) -> Selected:
    rows = list(read_kept_rows(path))
    if not sum(len(row.keep) for row in rows):
        raise DataError(f"{path}: no rows in it, or none with a target")
    return Selected(
        [row.uid for row in rows],
        [row.teacher for row in rows],
        [None] * len(rows),
        np.array([len(row.keep) for row in rows], dtype=np.int64),
        np.concatenate([row.keep for row in rows]),
    )
