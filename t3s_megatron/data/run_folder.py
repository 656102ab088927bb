# SPDX-License-Identifier: Apache-2.0
"""The tables of a finished run's folder (`t3s/`), read without the samples that they belong to.

What a table says of its samples is enough to select again: their ids, hashes and numbers of
targets. The samples themselves are needed only for tokens.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np

from t3s_megatron.data.selection_file import SELECTION_NEEDS, SELECTION_TYPE, unpack
from t3s_megatron.data.stores import STORE_NEEDS, STORE_TYPE
from t3s_megatron.data.tables import load_table
from t3s_megatron.errors import MismatchError

SELECTION = "selection.safetensors"
_THETA_0, _THETA_B = "c_theta_0", "c_theta_b"


@dataclass(frozen=True)
class Scores:
    """Log-probs of the samples of one teacher; `teacher` None: of all of them.

    `uids`, `hashes`: of its m samples, in the order of its corpus; `sizes` int64[m]: their numbers
    of targets, n in all. `c_0`, `c_b`: float32[n], None where there is no such file, one of them at
    most. `step`: theta_b's, None without `c_b`. `tokenizer`: fingerprint. `model`: what was scored.
    """

    teacher: str | None
    uids: list[str]
    hashes: list[str]
    sizes: np.ndarray
    c_0: np.ndarray | None
    c_b: np.ndarray | None
    step: int | None
    tokenizer: str
    model: dict

    @property
    def n(self) -> int:
        return int(self.sizes.sum())


@dataclass(frozen=True)
class Bits:
    """A selection by sample: `keep[uid]` is bool of its targets. `header`: of the file."""

    keep: dict[str, np.ndarray]
    header: dict


def read_scores(folder: str) -> list[Scores]:
    """The log-probs in a run's folder, by teacher in the order of their names.

    MismatchError when there are none, one is damaged, or two do not belong together.
    """
    found: dict[str | None, Scores] = {}
    for tag in (_THETA_0, _THETA_B):
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"{tag}*.safetensors"))):
            name = os.path.basename(path).removesuffix(".safetensors").removeprefix(tag)
            if name and not name.startswith("-"):
                continue  # a file of somebody else's
            teacher = unquote(name[1:]) if name else None
            scores = _read_scores(path, teacher, tag)
            if teacher in found:
                scores = _joined(found[teacher], scores, path)
            found[teacher] = scores
    if not found:
        raise MismatchError(
            f"{folder}: no log-probs in it, {_THETA_0}.safetensors or {_THETA_B}.safetensors; give "
            "the folder that --t3s-dir named, of a run that scored"
        )
    if len(found) > 1 and None in found:
        raise MismatchError(
            f"{folder}: log-probs of all samples and of single teachers; they are of different "
            "runs. Keep those of one"
        )
    return list(found.values())


def _read_scores(path: str, teacher: str | None, tag: str) -> Scores:
    values, sizes, header = load_table(path, *STORE_TYPE, STORE_NEEDS)
    at_b = tag == _THETA_B
    return Scores(
        teacher,
        header["uids"],
        header["sample_hashes"],
        sizes,
        None if at_b else values,
        values if at_b else None,
        header["step"] if at_b else None,
        header["tokenizer_fingerprint"],
        header.get("model", {}),
    )


def _joined(at_0: Scores, at_b: Scores, path: str) -> Scores:
    """Both are of one run: same samples, tokens and order."""
    if (at_0.uids, at_0.hashes, at_0.tokenizer) != (at_b.uids, at_b.hashes, at_b.tokenizer):
        raise MismatchError(
            f"{path}: its samples are not those of {_THETA_0} in the same folder; they are of "
            "different runs. Keep those of one"
        )
    return replace(at_0, c_b=at_b.c_b, step=at_b.step)


def read_bits(path: str, sizes: dict[str, int]) -> Bits:
    """The selection at `path` by sample; `sizes`: numbers of targets by uid, which the file leaves
    to the samples. MismatchError when it is damaged or `sizes` do not fit it."""
    values, n_bytes, header = load_table(path, *SELECTION_TYPE, SELECTION_NEEDS)
    ends = np.cumsum(n_bytes)
    keep = {}
    for uid, end, count in zip(header["uids"], ends, n_bytes, strict=True):
        if uid not in sizes:
            raise MismatchError(
                f"{path}: sample {uid!r} is not among the samples or log-probs given with it; "
                "they belong to another data set"
            )
        keep[uid] = unpack(path, uid, values[end - count : end], sizes[uid])
    return Bits(keep, header)
