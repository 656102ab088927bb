# SPDX-License-Identifier: Apache-2.0
"""A selection: one bit a target token, 1 where it stays in the loss; or a float, its weight there.

It may be used by another model with the same tokenizer (Appendix C), so the file is tied to the
samples and the tokenizer, not to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from t3s_megatron import __version__
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.kept_bits import KeptBits
from t3s_megatron.data.tables import corpus_keys, in_order, load_table, places_of, save_table
from t3s_megatron.errors import MismatchError

#: Kind of its table and dtypes (packed bits, or weights), and what stands in its header.
SELECTION_TYPE = ("selection", (np.uint8, np.float32))
SELECTION_NEEDS = ("method", "theta_b_step", "counts")


@dataclass
class Selection:
    """keep bool[n_target_tokens] in the order of `corpus`, or float32 of finite weights, none below
    0; a token of weight 0 is masked. `theta_b_step`: by teacher where there are several. `model`:
    what selected, written down and not checked."""

    keep: np.ndarray
    corpus: Corpus
    method: str
    theta_b_step: int | dict[str, int] | None
    counts: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)

    def save(self, path: str) -> None:
        """Durable. Each sample starts at a byte of its own, so that samples can be reordered.

        ValueError when `keep` is not one bool, or one weight, for each target of the corpus.
        """
        n = self.corpus.n_targets
        if self.keep.shape != (n,) or self.keep.dtype not in (np.bool_, np.float32):
            raise ValueError(
                f"keep has to be bool[{n}] or float32[{n}], found {self.keep.dtype}"
                f"{list(self.keep.shape)}"
            )
        parts = [self.keep[self.corpus.target_slice(i)] for i in range(len(self.corpus.samples))]
        info = selection_info(self.method, self.theta_b_step, self.counts, self.model)
        save_selection(path, parts, corpus_keys(self.corpus), info)

    @classmethod
    def load(cls, path: str, corpus: Corpus) -> Selection:
        """The bits, or the weights, of the samples of `corpus`, in its order.

        MismatchError when the file is damaged, or belongs to other samples or another tokenizer.
        """
        keep, header = _mapped(path, corpus)
        return cls(
            np.array(keep),
            corpus,
            header["method"],
            header["theta_b_step"],
            header["counts"],
            header.get("model", {}),
        )


@dataclass(frozen=True)
class MappedSelection:
    """A selection of whose `keep` a run asks for slices, numbers and sums: it stays in the file.
    The other fields as of `Selection`."""

    keep: np.ndarray | KeptBits
    method: str
    theta_b_step: int | dict[str, int] | None
    model: dict

    @classmethod
    def load(cls, path: str, corpus: Corpus) -> MappedSelection:
        """As `Selection.load`."""
        keep, header = _mapped(path, corpus)
        return cls(keep, header["method"], header["theta_b_step"], header.get("model", {}))


def map_kept(path: str, corpus: Corpus) -> np.ndarray | KeptBits:
    """What the selection at `path` keeps of `corpus`, in its order, bool or float32 of weights; it
    stays in the file, which is mapped (weights in another order are copied).

    MismatchError as of `Selection.load`.
    """
    return _mapped(path, corpus)[0]


def _mapped(path: str, corpus: Corpus) -> tuple[np.ndarray | KeptBits, dict]:
    """(what `map_kept` returns, header)."""
    values, sizes, header = load_table(path, *SELECTION_TYPE, SELECTION_NEEDS)
    places = np.array(places_of(path, header, corpus), dtype=np.int64)
    n_targets = np.diff(corpus.offsets)
    are_weights = values.dtype == np.float32
    wrong = np.flatnonzero(sizes[places] != _stored(n_targets, are_weights))
    if wrong.size:
        i = int(wrong[0])
        raise _damaged(path, corpus.uids[i], n_targets[i], sizes[places[i]], are_weights)
    if are_weights:
        return in_order(values, sizes, places), header
    return KeptBits(values, (np.cumsum(sizes) - sizes)[places], corpus.offsets), header


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


def save_selection(path: str, parts: list[np.ndarray], keys: dict, info: dict) -> None:
    """A selection from its samples' arrays, one each, all bool, or float32, or `packed`; `keys`: as
    of `corpus_keys`, `info`: as of `selection_info`. Durable. ValueError for weights that are not
    finite, or below 0."""
    parts = [packed(part) for part in parts]
    are_weights = parts[0].dtype == np.float32
    if are_weights and not all((np.isfinite(part) & (part >= 0)).all() for part in parts):
        raise ValueError("the weights of a selection have to be finite, and none below 0")
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    save_table(path, SELECTION_TYPE[0], np.concatenate(parts), sizes, keys, info)


def packed(kept: np.ndarray) -> np.ndarray:
    """One sample's bool[n] as the bytes of its bits, as the file has them; anything else as it
    is."""
    return np.packbits(kept) if kept.dtype == np.bool_ else kept


def unpack(path: str, uid: str, values: np.ndarray, n_targets: int) -> np.ndarray:
    """bool[n_targets] or float32[n_targets] of one sample, from its bytes of bits or its weights.
    MismatchError when that many targets have other bytes or weights."""
    are_weights = values.dtype == np.float32
    if len(values) != _stored(n_targets, are_weights):
        raise _damaged(path, uid, n_targets, len(values), are_weights)
    return values if are_weights else np.unpackbits(values, count=n_targets).astype(bool)


def _stored(n_targets, are_weights: bool):
    """Entries of the file for so many targets, a number or an array of them."""
    return n_targets if are_weights else -(-n_targets // 8)


def _damaged(path: str, uid: str, n_targets: int, found: int, are_weights: bool) -> MismatchError:
    what = "weights" if are_weights else "bytes of bits"
    return MismatchError(
        f"{path}: damaged, sample {uid!r} has {n_targets} targets and {found} {what} in the file; "
        "select again"
    )
