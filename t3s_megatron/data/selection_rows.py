# SPDX-License-Identifier: Apache-2.0
"""Selections as rows, one a sample, for other programs to read and to write (docs/selections.md).

Out of a run go tokens, mask or weights, and log-probs; into a run comes a mask of 0 and 1, or
weights. Both are read and written in pieces: besides the corpus, one piece is in memory.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.durable import replace_file
from t3s_megatron.data.files import raw_rows
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import DataError, T3SError

#: Where nothing is learned, in `labels`: what PyTorch's cross entropy leaves out.
NO_LABEL = -100
#: Columns with one value a token, and the type of it in Parquet; `weight` is only there where a
#: selection has weights.
TOKEN_COLUMNS = {
    "input_ids": "int32",
    "labels": "int32",
    "target": "int8",
    "mask": "int8",
    "weight": "float32",
    "c_theta_0": "float32",
    "c_theta_b": "float32",
    "delta_c": "float32",
}
_FLOATS = ("c_theta_0", "c_theta_b", "delta_c")
_PIECE = 2**20  # tokens
_ROWS_AT_ONCE = 32
#: Columns under which others have a weight a token.
_OTHERS_WEIGHTS = ("weights", "loss_mask", "loss_weight", "loss_weights", "loss_scale")


@dataclass(frozen=True)
class SelectionRow:
    """One sample of L tokens. `columns`: by name of TOKEN_COLUMNS, an array [L]; NaN stands for no
    log-prob."""

    uid: str
    teacher: str | None
    columns: dict[str, np.ndarray]


def selection_rows(
    corpus: Corpus, keep: np.ndarray, c_0: np.ndarray | None, c_b: np.ndarray | None
) -> Iterator[SelectionRow]:
    """The samples of `corpus` in its order. `keep` bool or float32 weights, `c_0` and `c_b`
    float32, each [n_target_tokens]; None or NaN where it was not scored."""
    for i, sample in enumerate(corpus.samples):
        where = corpus.target_slice(i)
        weight = np.zeros(len(sample.tokens), dtype=np.float32)
        weight[sample.is_target] = keep[where]
        mask = (weight > 0).astype(np.int8)
        at_0, at_b = (_spread(sample, c, where) for c in (c_0, c_b))
        columns = {
            "input_ids": sample.tokens,
            # Many read this column and no other: it has to be the selection.
            "labels": np.where(mask == 1, sample.tokens, NO_LABEL).astype(np.int32),
            "target": sample.is_target.astype(np.int8),
            "mask": mask,
            **({} if keep.dtype == np.bool_ else {"weight": weight}),
            "c_theta_0": at_0,
            "c_theta_b": at_b,
            "delta_c": at_b - at_0,
        }
        yield SelectionRow(sample.uid, sample.teacher, columns)


def _spread(sample: Sample, c: np.ndarray | None, where: slice) -> np.ndarray:
    """float32[L], NaN but for the targets."""
    spread = np.full(len(sample.tokens), np.nan, dtype=np.float32)
    if c is not None:
        spread[sample.is_target] = c[where]
    return spread


def write_rows(path: str, rows: Iterable[SelectionRow]) -> None:
    """Durable; what `path` ends with says how. WriteError when it cannot be written."""
    write = _WRITERS[checked_ending(path)]
    replace_file(path, lambda temporary: write(temporary, rows))


def checked_ending(path: str) -> str:
    """T3SError when the name does not end as a file of rows does."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in _WRITERS:
        raise T3SError(f"{path}: has to end in {' or '.join(_WRITERS)}")
    return ending


def _write_jsonl(path: str, rows: Iterable[SelectionRow]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            columns = {name: values.tolist() for name, values in row.columns.items()}
            for name in _FLOATS:
                columns[name] = [None if c != c else c for c in columns[name]]
            line = {"id": row.uid, "teacher": row.teacher, **columns}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write_parquet(path: str, rows: Iterable[SelectionRow]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    rows = iter(rows)
    first = next(rows, None)
    columns = [name for name in TOKEN_COLUMNS if first is None or name in first.columns]
    rows = [] if first is None else itertools.chain([first], rows)
    types = [(name, getattr(pa, TOKEN_COLUMNS[name])()) for name in columns]
    schema = pa.schema(
        [("id", pa.string()), ("teacher", pa.string())]
        + [(name, pa.list_(kind)) for name, kind in types]
    )

    def table(piece: list[SelectionRow]) -> pa.Table:
        ends = np.cumsum([0, *(len(row.columns["mask"]) for row in piece)], dtype=np.int32)
        arrays = [pa.array([row.uid for row in piece], pa.string())]
        arrays.append(pa.array([row.teacher for row in piece], pa.string()))
        for name in columns:
            values = np.concatenate([row.columns[name] for row in piece])
            flat = pa.array(values, mask=np.isnan(values) if name in _FLOATS else None)
            arrays.append(pa.ListArray.from_arrays(ends, flat))
        return pa.Table.from_arrays(arrays, schema=schema)

    with ParquetWriter(path, schema, compression="zstd") as writer:
        for piece in _pieces(rows):
            writer.write_table(table(piece))


def _pieces(rows: Iterable[SelectionRow]) -> Iterator[list[SelectionRow]]:
    """At least a row each, and no more tokens than _PIECE where several are in it."""
    piece: list[SelectionRow] = []
    tokens = 0
    for row in rows:
        length = len(row.columns["mask"])
        if piece and tokens + length > _PIECE:
            yield piece
            piece, tokens = [], 0
        piece.append(row)
        tokens += length
    if piece:
        yield piece


_WRITERS: dict[str, Callable[[str, Iterable[SelectionRow]], None]] = {
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}


# ------------------------------------------------------------------------------------ a user's own


def read_row_columns(path: str, columns: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(file and row, these columns of it, those that are there) of a .parquet or .jsonl file.
    DataError when it cannot be read."""
    if checked_ending(path) == ".jsonl":
        for where, row in raw_rows(path, "train"):
            if not isinstance(row, dict):
                raise DataError(f"{where}: not a JSON object")
            yield where, {name: row[name] for name in columns if name in row}
        return
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            twice = [name for name in there if file.schema_arrow.names.count(name) > 1]
            if twice:
                raise DataError(f"{path}: two columns are called `{twice[0]}`; rename one")
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=there):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        if isinstance(error, T3SError):
            raise
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error


def read_keep(path: str, corpus: Corpus) -> np.ndarray:
    """What is kept of each target token of `corpus`, from rows with `id`, `input_ids`, and `weight`
    or `mask`, in any order. bool[n_target_tokens] where all weights are 0 or 1, else float32.

    DataError, naming sample and position, for other tokens than the corpus has, for a weight that
    is no finite number from 0 on or of what is no target, for a `mask` that says otherwise than
    `weight`, for a sample that is missing, unknown or there twice.
    """
    numbers = {sample.uid: i for i, sample in enumerate(corpus.samples)}
    keep = np.zeros(corpus.n_targets, dtype=np.float32)
    places: dict[int, str] = {}
    columns = ("id", "input_ids", "mask", "weight", *_OTHERS_WEIGHTS)
    for where, row in read_row_columns(path, columns):
        number = numbers.get(uid) if isinstance(uid := row.get("id"), str) else None
        if number is None:
            raise DataError(
                f"{where}: sample {uid!r} is not in the data. `id` is that of the sample, as "
                "`selection export` writes it (with several teachers teacher/id)"
            )
        if number in places:
            raise DataError(f"{where}: sample {uid!r} was already in {places[number]}")
        places[number] = where
        sample = corpus.samples[number]
        weights = _checked_weights(row, sample, f"{where}: sample {uid!r}")
        keep[corpus.target_slice(number)] = weights[sample.is_target]
    missing = [sample.uid for i, sample in enumerate(corpus.samples) if i not in places]
    if missing:
        raise DataError(
            f"{path}: has nothing for {len(missing)} of {len(corpus.samples)} samples: "
            f"{', '.join(map(repr, missing[:3]))}{', ...' if len(missing) > 3 else ''}. A sample "
            "of which nothing is learned has a mask of zeros; leave it out of the data otherwise"
        )
    if not keep.any():
        raise DataError(f"{path}: the mask keeps no token at all: there is nothing to learn")
    return keep == 1 if np.isin(keep, (0, 1)).all() else keep


@dataclass(frozen=True)
class KeptRow:
    """One sample of rows that `selection export` wrote. `keep`: bool of its targets where all are 0
    or 1 and it has no `weight`, else float32."""

    uid: str
    teacher: str | None
    keep: np.ndarray


def read_kept_rows(path: str) -> Iterator[KeptRow]:
    """The samples of rows that `selection export` wrote, without the data that they are of.

    DataError, naming row and position, for a row that it did not write, a weight as of `read_keep`,
    and a sample that is there twice.
    """
    places: dict[str, str] = {}
    for where, row in read_row_columns(path, ("id", "teacher", "target", "mask", "weight")):
        uid, teacher, target = row.get("id"), row.get("teacher"), row.get("target")
        if not isinstance(uid, str) or not isinstance(teacher, str | None):
            raise _not_exported(where, f"its `id` is {uid!r} and its `teacher` {teacher!r}")
        if uid in places:
            raise DataError(f"{where}: sample {uid!r} was already in {places[uid]}")
        places[uid] = where
        whose = f"{where}: sample {uid!r}"
        if not isinstance(target, list) or not all(entry in (0, 1) for entry in target):
            raise _not_exported(whose, "`target` is no list of 0 and 1")
        of_tokens = f"`target` has {len(target)}"
        weights = _weights_of(row, target, of_tokens, whose)[np.array(target, dtype=bool)]
        is_mask = row.get("weight") is None and bool(np.isin(weights, (0, 1)).all())
        yield KeptRow(uid, teacher, weights == 1 if is_mask else weights)


def _not_exported(where: str, why: str) -> DataError:
    return DataError(
        f"{where}: not a row that `selection export` wrote, with `id`, `target` and `mask`: {why}"
    )


def _checked_weights(row: dict, sample: Sample, whose: str) -> np.ndarray:
    """float32[L]; see `read_keep`."""
    tokens = row.get("input_ids")
    of_tokens = f"the sample has {len(sample.tokens)} tokens ({sample.where})"
    _require_weights(row, whose)
    if not isinstance(tokens, list):
        raise DataError(f"{whose} has no `input_ids`, a list with one entry for each token")
    for position, (found, token) in enumerate(zip(tokens, sample.tokens.tolist(), strict=False)):
        if found != token:
            raise DataError(
                f"{whose}, position {position}: token {found!r}, where the data has {token} "
                f"({sample.where}); the mask was made for other text or with another tokenizer"
            )
    _require_length("input_ids", tokens, len(sample.tokens), of_tokens, whose)
    return _weights_of(row, sample.is_target.tolist(), of_tokens, whose)


def _require_weights(row: dict, whose: str) -> list[str]:
    """Which of `weight` and `mask` a row has."""
    given = [name for name in ("weight", "mask") if row.get(name) is not None]
    if not given:
        other = next((name for name in _OTHERS_WEIGHTS if row.get(name) is not None), None)
        hint = f"; call `{other}` so, if it has one entry for each token, not shifted"
        raise DataError(
            f"{whose} has no `weight` and no `mask`, a list with one entry for each token"
            f"{hint if other else ''}"
        )
    return given


def _weights_of(row: dict, is_target: list, of_tokens: str, whose: str) -> np.ndarray:
    """float32[L] of a row, from `weight` or else `mask`; `of_tokens` says why there are L."""
    weights, *masks = (
        _checked_column(name, row[name], is_target, of_tokens, whose)
        for name in _require_weights(row, whose)
    )
    for mask in masks:
        differs = np.flatnonzero((mask > 0) != (weights > 0))
        if differs.size:
            at = int(differs[0])
            raise DataError(
                f"{whose}, position {at}: `mask` is {mask[at]:g} and `weight` {weights[at]:g}; "
                "change both, or leave `mask` out"
            )
    return weights


def _checked_column(
    name: str, values: object, is_target: list, of_tokens: str, whose: str
) -> np.ndarray:
    """float32[L] of `weight` or `mask`."""
    if not isinstance(values, list):
        raise DataError(f"{whose}: `{name}` is no list with one entry for each token")
    _require_length(name, values, len(is_target), of_tokens, whose)
    for position, (value, target) in enumerate(zip(values, is_target, strict=True)):
        number = isinstance(value, (bool, int, float))
        if not number or not 0 <= value <= _LARGEST:
            raise DataError(
                f"{whose}, position {position}: the {name} is {value!r}, and has to be a finite "
                "number, not below 0 (0: masked, 1: the token counts as ever)"
            )
        if value and not target:
            raise DataError(
                f"{whose}, position {position}: the {name} is {value:g} where nothing is learned; "
                "only tokens of the response can be kept"
            )
    return np.array(values, dtype=np.float32)


def _require_length(name: str, values: list, tokens: int, of_tokens: str, whose: str) -> None:
    if len(values) != tokens:
        raise DataError(f"{whose} has {len(values)} entries in `{name}`, and {of_tokens}")


#: Of float32, which a weight is stored in.
_LARGEST = float(np.finfo(np.float32).max)
