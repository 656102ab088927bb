# SPDX-License-Identifier: Apache-2.0
"""Selections to look at, from what holds one: a run's folder, a selection file, exported rows."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.run_folder import SELECTION, read_bits, read_scores
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.selection_rows import read_row_columns
from t3s_megatron.errors import DataError, MismatchError


@dataclass(frozen=True)
class Selected:
    """A selection of m samples with n targets in all. `sizes` int64[m]; `keep` bool[n], sample
    after sample; `teachers[i]`: sample i's, None where there is one teacher."""

    uids: list[str]
    teachers: list[str | None]
    sizes: np.ndarray
    keep: np.ndarray

    def in_order_of(self, other: Selected, names: tuple[str, str]) -> np.ndarray:
        """`keep` with the samples as `other` has them. `names`: of this one and of `other`.

        MismatchError, naming the first sample, when they are not selections of the same samples.
        """
        mine = dict(
            zip(self.uids, zip(np.cumsum(self.sizes), self.sizes, strict=True), strict=True)
        )
        parts = []
        for uid, size in zip(other.uids, other.sizes, strict=True):
            if uid not in mine:
                raise MismatchError(f"{names[0]}: has no sample {uid!r}, which {names[1]} has")
            end, its = mine.pop(uid)
            if its != size:
                raise MismatchError(
                    f"{names[0]}: sample {uid!r} has {its} targets, in {names[1]} {size}; they are "
                    "selections of other data"
                )
            parts.append(self.keep[end - its : end])
        if mine:
            raise MismatchError(
                f"{names[1]}: has no sample {next(iter(mine))!r}, as {names[0]} has"
            )
        return np.concatenate(parts)


def read_selected(path: str, corpus: Corpus | None = None) -> Selected:
    """`path`: a run's folder, a selection file, or rows that `selection export` wrote.

    A selection file leaves the numbers of targets to the samples: of one, `corpus` has to be
    given, or the log-probs of the run lie in its folder. MismatchError, DataError for what cannot
    be read.
    """
    if path.lower().endswith((".parquet", ".jsonl")):
        return _from_rows(path)
    file = os.path.join(path, SELECTION) if os.path.isdir(path) else path
    if corpus is not None:
        keep = Selection.load(file, corpus).keep
        samples = corpus.samples
        sizes = np.diff(corpus.offsets)
        return Selected([s.uid for s in samples], [s.teacher for s in samples], sizes, keep)
    try:
        scores = read_scores(os.path.dirname(os.path.abspath(file)))
    except MismatchError as error:
        raise MismatchError(
            f"{file}: does not say how many targets its samples have, and no log-probs beside it "
            f"do ({error}). Give --data and --tokenizer-model"
        ) from None
    sizes_of, teacher_of = {}, {}
    for of_teacher in scores:
        for uid, size in zip(of_teacher.uids, of_teacher.sizes.tolist(), strict=True):
            sizes_of[uid], teacher_of[uid] = size, of_teacher.teacher
    bits = read_bits(file, sizes_of)
    uids = list(bits.keep)
    sizes = np.array([sizes_of[uid] for uid in uids], dtype=np.int64)
    return Selected(
        uids, [teacher_of[uid] for uid in uids], sizes, np.concatenate(list(bits.keep.values()))
    )


def _from_rows(path: str) -> Selected:
    uids, teachers, parts = [], [], []
    for where, row in read_row_columns(path, ("id", "teacher", "target", "mask")):
        try:
            target, mask = np.array(row["target"]), np.array(row["mask"])
            parts.append(mask[target == 1] == 1)
            uids.append(row["id"])
            teachers.append(row.get("teacher"))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise DataError(
                f"{where}: not a row that `selection export` wrote, with `id`, `target` and "
                f"`mask` ({type(error).__name__}: {error})"
            ) from None
    if not parts:
        raise DataError(f"{path}: no rows in it")
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    return Selected(uids, teachers, sizes, np.concatenate(parts))
