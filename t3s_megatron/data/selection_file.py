# SPDX-License-Identifier: Apache-2.0
"""A selection: one bit a target token, 1 where it stays in the loss.

It may be used by another model with the same tokenizer (Appendix C), so the file is tied to the
samples and the tokenizer, not to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from t3s_megatron import __version__
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.kept_bits import KeptBits
from t3s_megatron.data.tables import corpus_keys, load_table, places_of, save_table
from t3s_megatron.errors import MismatchError

#: Kind and dtype of its table, and what stands in its header.
SELECTION_TYPE = ("selection", np.uint8)
SELECTION_NEEDS = ("method", "theta_b_step", "counts")


@dataclass
class Selection:
    """keep bool[n_target_tokens] in the order of `corpus`. `theta_b_step`: by teacher where there
    are several. `model`: what selected, written down and not checked."""

    keep: np.ndarray
    corpus: Corpus
    method: str
    theta_b_step: int | dict[str, int] | None
    counts: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)

    def save(self, path: str) -> None:
        """Durable. Each sample starts at a byte of its own, so that samples can be reordered.

        ValueError when `keep` is not one bool for each target of the corpus.
        """
        if self.keep.shape != (self.corpus.n_targets,) or self.keep.dtype != np.bool_:
            raise ValueError(
                f"keep has to be bool[{self.corpus.n_targets}], found {self.keep.dtype}"
                f"{list(self.keep.shape)}"
            )
        parts = [self.keep[self.corpus.target_slice(i)] for i in range(len(self.corpus.samples))]
        info = selection_info(self.method, self.theta_b_step, self.counts, self.model)
        save_bits(path, parts, corpus_keys(self.corpus), info)

    @classmethod
    def load(cls, path: str, corpus: Corpus) -> Selection:
        """The bits of the samples of `corpus`, in its order.

        MismatchError when the file is damaged, or belongs to other samples or another tokenizer.
        """
        values, sizes, header = load_table(path, *SELECTION_TYPE, SELECTION_NEEDS)
        ends = np.cumsum(sizes)
        parts = []
        n_targets = np.diff(corpus.offsets).tolist()
        places = places_of(path, header, corpus)
        for uid, n, i in zip(corpus.uids, n_targets, places, strict=True):
            packed = values[ends[i] - sizes[i] : ends[i]]
            parts.append(unpack(path, uid, packed, n))
        return cls(
            np.concatenate(parts),
            corpus,
            header["method"],
            header["theta_b_step"],
            header["counts"],
            header.get("model", {}),
        )


def map_kept(path: str, corpus: Corpus) -> KeptBits:
    """What the selection at `path` keeps of `corpus`, in its order; the bits stay in the file.

    MismatchError as of `Selection.load`.
    """
    values, sizes, header = load_table(path, *SELECTION_TYPE, SELECTION_NEEDS)
    places = np.array(places_of(path, header, corpus), dtype=np.int64)
    needed = -(-np.diff(corpus.offsets) // 8)
    wrong = np.flatnonzero(sizes[places] != needed)
    if wrong.size:
        number = int(wrong[0])
        found = values[: int(sizes[places[number]])]
        unpack(path, corpus.uids[number], found, int(np.diff(corpus.offsets)[number]))
    return KeptBits(values, (np.cumsum(sizes) - sizes)[places], corpus.offsets)


def selection_info(
    method: str, theta_b_step: int | dict[str, int] | None, counts: dict, model: dict
) -> dict:
    """What the header of a selection says beside what it belongs to."""
    return {
        "method": method,
        "theta_b_step": theta_b_step,
        "counts": counts,
        "model": model,
        "created_by": __version__,
    }


def save_bits(path: str, parts: list[np.ndarray], keys: dict, info: dict) -> None:
    """A selection from its samples' bool arrays, one each; `keys`: as of `corpus_keys`, `info`: as
    of `selection_info`. Durable."""
    packed = [np.packbits(part) for part in parts]
    sizes = np.array([len(p) for p in packed], dtype=np.int64)
    save_table(path, SELECTION_TYPE[0], np.concatenate(packed), sizes, keys, info)


def unpack(path: str, uid: str, packed: np.ndarray, n_targets: int) -> np.ndarray:
    """bool[n_targets] of one sample. MismatchError when that many bits have other bytes."""
    if len(packed) != -(-n_targets // 8):
        raise MismatchError(
            f"{path}: damaged, sample {uid!r} has {n_targets} targets and {len(packed)} bytes of "
            "bits in the file; select again"
        )
    return np.unpackbits(packed, count=n_targets).astype(bool)
