# SPDX-License-Identifier: Apache-2.0
"""The tables of a finished run's folder (`t3s/`), read without the samples that they belong to.

What a table says of its samples is enough to select again: their ids, hashes and numbers of
targets. The samples themselves are needed only for tokens.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np

from t3s_megatron.data.selection_file import SELECTION_NEEDS, SELECTION_TYPE, unpack
from t3s_megatron.data.stores import ENTROPY, STORE_NEEDS, STORE_TYPE
from t3s_megatron.data.tables import load_table
from t3s_megatron.errors import MismatchError

SELECTION = "selection.safetensors"
_THETA_0, _THETA_B = "c_theta_0", "c_theta_b"
#: Names of the tables, and where in `Scores` their values are.
_TABLES = {_THETA_0: "c_0", _THETA_B: "c_b", ENTROPY: "entropy"}


@dataclass(frozen=True)
class Scores:
    """Log-probs of the samples of one teacher; `teacher` None: of all of them.

    `uids`, `hashes`: of its m samples, in the order of its corpus; `sizes` int64[m]: their numbers
    of targets, n in all. `c_0`, `c_b`, `entropy`: float32[n], None where there is no such file, not
    all of them. `step`: theta_b's, None without `c_b`. `tokenizer`: fingerprint. `model`: what was
    scored.
    """

    teacher: str | None
    uids: list[str]
    hashes: list[str]
    sizes: np.ndarray
    c_0: np.ndarray | None
    c_b: np.ndarray | None
    entropy: np.ndarray | None
    step: int | None
    tokenizer: str
    model: dict

    @property
    def n(self) -> int:
        return int(self.sizes.sum())


@dataclass(frozen=True)
class Bits:
    """A selection by sample: `keep[uid]` is bool of its targets, or float32. `header`: of the
    file."""

    keep: dict[str, np.ndarray]
    header: dict


def files_of(folder: str) -> list[str]:
    """The tables that a run leaves in its folder: of log-probs those that are there, and its
    selection."""
    tables = [path for tag in _TABLES for path, _ in _files_of(folder, tag)]
    return [*tables, os.path.join(folder, SELECTION)]


def _files_of(folder: str, tag: str) -> Iterator[tuple[str, str | None]]:
    """(file, its teacher or None) of a table."""
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"{tag}*.safetensors"))):
        name = os.path.basename(path).removesuffix(".safetensors").removeprefix(tag)
        if not name:
            yield path, None
        elif name.startswith("-"):  # another is a file of somebody else's
            yield path, unquote(name[1:])


def read_scores(folder: str) -> list[Scores]:
    """The log-probs in a run's folder, by teacher in the order of their names.

    MismatchError when there are none, one is damaged, or two do not belong together.
    """
    found: dict[str | None, Scores] = {}
    for tag in _TABLES:
        for path, teacher in _files_of(folder, tag):
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
    of_tag = {"c_0": None, "c_b": None, "entropy": None} | {_TABLES[tag]: values}
    return Scores(
        teacher,
        header["uids"],
        header["sample_hashes"],
        sizes,
        **of_tag,
        step=header["step"] if tag == _THETA_B else None,
        tokenizer=header["tokenizer_fingerprint"],
        model=header.get("model", {}),
    )


def _joined(first: Scores, more: Scores, path: str) -> Scores:
    """Both are of one run: same samples, tokens and order."""
    if (first.uids, first.hashes, first.tokenizer) != (more.uids, more.hashes, more.tokenizer):
        raise MismatchError(
            f"{path}: its samples are not those of {_THETA_0} in the same folder; they are of "
            "different runs. Keep those of one"
        )
    new = {name: getattr(more, name) for name in (*_TABLES.values(), "step")}
    return replace(first, **{name: value for name, value in new.items() if value is not None})


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
