# SPDX-License-Identifier: Apache-2.0
"""The selection that a run would have made from log-probs that are there, without the run.

Each teacher's tokens are selected among themselves, as in `run.selector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.corpus import fingerprint_of
from t3s_megatron.data.run_folder import Scores
from t3s_megatron.data.stores import read_reference
from t3s_megatron.errors import T3SError
from t3s_megatron.method.selection import delta_c, keep_mask
from t3s_megatron.method.selection_counts import selection_counts


@dataclass(frozen=True)
class Reselected:
    """A selection and what its file says. `parts`: by sample, bool of its targets or float32
    weights, in the order of `keys`, which tie them to samples and tokenizer. `by_teacher`: the same
    of the n targets of each. `theta_b_step`: one, or with several teachers one for each."""

    parts: list[np.ndarray]
    keys: dict
    by_teacher: list[np.ndarray]
    theta_b_step: int | dict | None
    counts: dict


def reselect(
    scores: list[Scores],
    method: str,
    *,
    tau: float = 0.0,
    share: float | None = None,
    seed: int = 0,
    temperature: float | None = None,
    reference: Sequence[str] = (),
    order: list[str] | None = None,
) -> Reselected:
    """The selection of `scores`, with arguments as of `method.selection.keep_mask`. `reference`:
    stores with the log-probs of one.

    `order`: of all samples by uid, and so of the teachers; None: these scores one after another.
    T3SError for what does not go together, or has not been scored.
    """
    if order is not None:
        place = {uid: i for i, uid in enumerate(order)}
        scores = sorted(scores, key=lambda of: min(place.get(uid, 0) for uid in of.uids))
    by_teacher: list[np.ndarray] = []
    parts: dict[str, np.ndarray] = {}
    for of in scores:
        c_ref = None
        if reference:
            found = read_reference(reference, of.uids, of.hashes, of.tokenizer)
            c_ref = found.of(range(len(of.uids)))
        try:
            kept = keep_mask(
                method, n=of.n, c_0=of.c_0, c_b=of.c_b, seed=seed, share=share, tau=tau,
                c_ref=c_ref, entropy=of.entropy, temperature=temperature,
            )  # fmt: skip
        except ValueError as error:
            whose = "" if of.teacher is None else f" of teacher {of.teacher}"
            raise T3SError(
                f"the log-probs{whose} do not make this selection: {error}. A run whose method "
                "reads theta_0 and theta_b leaves both files, one of keep-top-entropy the entropies"
            ) from None
        by_teacher.append(kept)
        pieces = np.split(kept, np.cumsum(of.sizes)[:-1])
        parts |= dict(zip(of.uids, pieces, strict=True))
    hash_of = {uid: h for of in scores for uid, h in zip(of.uids, of.hashes, strict=True)}
    uids = list(hash_of) if order is None else order
    if len(hash_of) != sum(len(of.uids) for of in scores) or set(uids) != set(hash_of):
        raise T3SError("the log-probs of the teachers are not of different samples of one data set")
    hashes = [hash_of[uid] for uid in uids]
    keys = {
        "dataset_fingerprint": fingerprint_of(uids, hashes),
        "tokenizer_fingerprint": scores[0].tokenizer,
        "uids": uids,
        "sample_hashes": hashes,
    }
    keep = np.concatenate([parts[uid] for uid in uids])
    counts = selection_counts(keep, _deltas(scores, uids), tau)
    return Reselected([parts[uid] for uid in uids], keys, by_teacher, _steps(scores), counts)


def _deltas(scores: list[Scores], uids: list[str]) -> np.ndarray | None:
    """delta_c in the order of `uids`; None unless every teacher has been scored twice."""
    by_uid: dict[str, np.ndarray] = {}
    for of in scores:
        if of.c_0 is None or of.c_b is None:
            return None
        pieces = np.split(delta_c(of.c_b, of.c_0), np.cumsum(of.sizes)[:-1])
        by_uid |= dict(zip(of.uids, pieces, strict=True))
    return np.concatenate([by_uid[uid] for uid in uids])


def _steps(scores: list[Scores]) -> int | dict | None:
    if len(scores) == 1:
        return scores[0].step
    return {of.teacher: of.step for of in scores}
