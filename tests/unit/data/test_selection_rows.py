# SPDX-License-Identifier: Apache-2.0
"""Selections as rows: what others read, read back with `datasets`, and masks that come in."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from made_data import corpus, three_samples

from t3s_megatron.data import selection_rows as module
from t3s_megatron.data.selection_rows import read_keep, selection_rows, write_rows
from t3s_megatron.errors import DataError, T3SError

#                p: 2        q: 9                         r: 1
KEEP = np.array([True, False, *[True] * 3, *[False] * 5, True, False])
C_0 = np.linspace(-3, -0.5, 12).astype(np.float32)
C_B = np.array([-1 / 3] * 12, dtype=np.float32)

ENDINGS = (".parquet", ".jsonl")


@pytest.fixture(params=ENDINGS)
def written(request, tmp_path) -> str:
    path = str(tmp_path / f"rows{request.param}")
    write_rows(path, selection_rows(corpus(*three_samples()), KEEP, C_0, C_B))
    return path


def loaded(path: str) -> datasets.Dataset:
    kind = "parquet" if path.endswith(".parquet") else "json"
    return datasets.load_dataset(kind, data_files=path, split="train", cache_dir=f"{path}.cache")


def test_datasets_reads_back_every_column(written):
    rows = loaded(written)
    assert rows["id"][:] == ["p", "q", "r"] and rows["teacher"][:] == [None] * 3
    assert rows[0]["input_ids"] == [5, 6, 7, 8]
    assert rows[0]["target"] == [0, 0, 1, 1]
    assert rows[0]["mask"] == [0, 0, 1, 0]
    assert rows[0]["labels"] == [-100, -100, 7, -100], "a masked token has no label"
    assert rows[0]["c_theta_0"][:2] == [None, None]
    assert rows[1]["mask"] == [0, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    flat_0 = [c for row in rows for c in row["c_theta_0"] if c is not None]
    flat_d = [c for row in rows for c in row["delta_c"] if c is not None]
    np.testing.assert_array_equal(np.array(flat_0, dtype=np.float32), C_0)
    np.testing.assert_array_equal(np.array(flat_d, dtype=np.float32), C_B - C_0)


def test_what_was_not_scored_is_null(tmp_path, written):
    path = written.replace("rows", "unscored")
    half = np.where(np.arange(12) < 2, C_0, np.float32(np.nan))  # one of two teachers
    write_rows(path, selection_rows(corpus(*three_samples()), KEEP, half, None))
    rows = loaded(path)
    np.testing.assert_array_equal(np.float32(rows[0]["c_theta_0"][2:]), C_0[:2])
    assert rows[1]["c_theta_0"] == [None] * 10
    assert rows[0]["c_theta_b"] == rows[0]["delta_c"] == [None] * 4


def test_parquet_has_the_types_that_are_documented(tmp_path):
    path = str(tmp_path / "rows.parquet")
    write_rows(path, selection_rows(corpus(*three_samples()), KEEP, C_0, C_B))
    types = {f.name: str(f.type) for f in pyarrow.parquet.read_schema(path)}
    assert types == {"id": "string", "teacher": "string"} | {
        name: f"list<element: {'float' if kind == 'float32' else kind}>"
        for name, kind in module.TOKEN_COLUMNS.items()
        if name != "weight"
    }


@pytest.mark.parametrize("piece, groups", [(1, 3), (14, 2), (10**6, 1)])
def test_it_is_written_in_pieces_that_do_not_show(monkeypatch, tmp_path, piece, groups):
    whole, cut = str(tmp_path / "whole.parquet"), str(tmp_path / "cut.parquet")
    rows = lambda: selection_rows(corpus(*three_samples()), KEEP, C_0, C_B)  # noqa: E731
    write_rows(whole, rows())
    monkeypatch.setattr(module, "_PIECE", piece)
    write_rows(cut, rows())
    assert pyarrow.parquet.read_table(whole) == pyarrow.parquet.read_table(cut)
    assert pyarrow.parquet.ParquetFile(cut).num_row_groups == groups


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(T3SError, match="has to end in .parquet or .jsonl"):
        write_rows(str(tmp_path / "rows.csv"), iter(()))


# ------------------------------------------------------------------------------------ a user's own


def test_what_goes_out_comes_in_again(written):
    np.testing.assert_array_equal(read_keep(written, corpus(*three_samples())), KEEP)


def own(tmp_path, *changes: dict, without: str = "") -> str:
    """Rows of the three samples in another order, changed one by one."""
    rows = [
        {"id": s.uid, "input_ids": s.tokens.tolist(), "mask": s.is_target.astype(int).tolist()}
        for s in three_samples()
    ][::-1]
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
        if without:
            row.pop(without)
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_may_come_in_any_order(tmp_path):
    keep = read_keep(own(tmp_path, {"mask": [0, 0, 0, 0]}), corpus(*three_samples()))
    assert keep.tolist() == [True] * 11 + [False]


@pytest.mark.parametrize("mask", [[0, 0, 0, 1.0], [False, False, False, True]])
def test_ones_of_any_type_are_ones(tmp_path, mask):
    assert read_keep(own(tmp_path, {"mask": mask}), corpus(*three_samples())).all()


R = "sample 'r'"
REFUSED = {
    "negative": ({"mask": [0, 0, 0, -0.5]}, f"{R}, position 3: the mask is -0.5, .*not below 0"),
    "too large": ({"weight": [0, 0, 0, 1e39]}, f"{R}, position 3: the weight is 1e\\+39"),
    "a word": ({"mask": [0, 0, 0, "1"]}, f"{R}, position 3: the mask is '1'"),
    "two minds": (
        {"weight": [0, 0, 0, 0.0]},
        f"{R}, position 3: `mask` is 1 and `weight` 0; change both",
    ),
    "others": ({"mask": None, "loss_scale": [0.5] * 4}, "no `mask`.*call `loss_scale` so"),
    "none": ({"mask": None}, f"{R} has no `weight` and no `mask`"),
    "no list": ({"mask": 1}, f"{R}: `mask` is no list"),
    "no tokens": ({"input_ids": None}, f"{R} has no `input_ids`"),
    "token": ({"input_ids": [9, 9, 8, 4]}, f"{R}, position 2: token 8, where the data has 9"),
    "short": ({"input_ids": [9, 9, 9]}, f"{R} has 3 entries in `input_ids`.* 4 tokens"),
    "short mask": ({"mask": [0, 0, 0]}, f"{R} has 3 entries in `mask`.* 4 tokens"),
    "prompt": ({"mask": [0, 1, 0, 1]}, f"{R}, position 1: the mask is 1 where nothing is learned"),
    "weight": ({"weight": [0.1, 0, 0, 1]}, f"{R}, position 0: the weight is 0.1 where nothing"),
    "unknown": ({"id": "s"}, "sample 's' is not in the data"),
    "no id": ({"id": 3}, "sample 3 is not in the data"),
    "twice": ({"id": "q", "input_ids": [1, *range(20, 29)], "mask": [0] * 10}, "'q' was already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mask_that_does_not_fit_is_refused_by_sample_and_position(tmp_path, case):
    change, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        read_keep(own(tmp_path, change), corpus(*three_samples()))


@pytest.mark.parametrize("change", [{"weight": [0, 0, 0, 0.3]}, {"mask": [0, 0, 0, 0.3]}])
def test_weights_come_in_under_either_name(tmp_path, change):
    keep = read_keep(own(tmp_path, change), corpus(*three_samples()))
    assert keep.dtype == np.float32
    np.testing.assert_array_equal(keep, np.array([1] * 11 + [0.3], dtype=np.float32))


def test_weights_of_0_and_1_are_a_mask(tmp_path):
    change = {"weight": [0.0, 0.0, 0.0, 0.0], "mask": [0] * 4}
    keep = read_keep(own(tmp_path, change), corpus(*three_samples()))
    assert keep.dtype == np.bool_ and keep.tolist() == [True] * 11 + [False]


@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_that_go_out_come_in_again(tmp_path, ending):
    path = str(tmp_path / f"rows{ending}")
    weights = np.where(KEEP, np.linspace(0.1, 2, 12), 0).astype(np.float32)
    write_rows(path, selection_rows(corpus(*three_samples()), weights, C_0, C_B))
    np.testing.assert_array_equal(read_keep(path, corpus(*three_samples())), weights)
    row = loaded(path)[0]
    assert row["mask"] == [0, 0, 1, 0] and row["labels"] == [-100, -100, 7, -100]
    np.testing.assert_array_equal(np.float32(row["weight"]), [0, 0, *weights[:2]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parquet_may_hold_what_is_no_weight(tmp_path, bad):
    path = str(tmp_path / "rows.parquet")
    weights = np.where(np.arange(12) == 11, bad, 0.5).astype(np.float32)
    write_rows(path, selection_rows(corpus(*three_samples()), weights, C_0, C_B))
    with pytest.raises(DataError, match=f"{R}, position 3: the weight is {bad}"):
        read_keep(path, corpus(*three_samples()))


def test_a_missing_sample_is_named(tmp_path):
    path = own(tmp_path)
    lines = Path(path).read_text().splitlines()
    Path(path).write_text("\n".join(lines[:2]))
    with pytest.raises(DataError, match="nothing for 1 of 3 samples: 'p'"):
        read_keep(path, corpus(*three_samples()))


def test_a_mask_of_nothing_is_refused(tmp_path):
    zeros = [{"mask": [0] * 4}, {"mask": [0] * 10}, {"mask": [0] * 4}]
    with pytest.raises(DataError, match="keeps no token at all"):
        read_keep(own(tmp_path, *zeros), corpus(*three_samples()))


def test_a_file_that_is_no_parquet(tmp_path):
    path = tmp_path / "own.parquet"
    path.write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_keep(str(path), corpus(*three_samples()))
