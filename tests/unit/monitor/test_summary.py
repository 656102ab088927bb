# SPDX-License-Identifier: Apache-2.0
"""The summary file is whole or not there, is strict JSON whatever the figures are, and adds up."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

import numpy as np
import pytest

from t3s_megatron.errors import WriteError
from t3s_megatron.monitor.summary import Summary


def strict(path) -> dict:
    """As any JSON reader sees it: Python's own would take NaN."""

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t3s" / "summary.json"  # a folder that is not there yet


def test_a_summary_starts_empty_and_unfinished(path):
    Summary(str(path)).write()
    found = strict(path)
    assert found.pop("seconds").keys() == {"run"}
    assert found == {
        "format": 2,
        "finished": False,
        "method": None,
        "theta_b_step": None,
        "theta_b_reason": None,
        "theta_b_evidence": None,
        "turn_step": None,
        "noise": None,
        "measurements": [],
        "confidence": [],
        "evaluations": [],
        "heldout": [],
        "tokens": {},
        "skipped_samples": [],
        "empty_steps": 0,
        "figure_4": [],
        "masked_losses": [],
        "phases": [],
        "log": [],
    }


def test_figures_that_do_not_exist_are_null_at_any_depth(path):
    summary = Summary(str(path))
    summary.append("figure_4", {"loss_anchor": float("nan"), "steps": [1.5, float("inf")]})
    summary.update(nested={"a": ({"b": np.float32("nan")}, np.float64("-inf"))})
    summary.write()
    found = strict(path)
    assert found["figure_4"] == [{"loss_anchor": None, "steps": [1.5, None]}]
    assert found["nested"] == {"a": [{"b": None}, None]}


def test_figures_of_numpy_become_numbers(path):
    summary = Summary(str(path))
    summary.update(
        tokens={"kept": np.int64(3), "share": np.float32(0.25), "any": np.bool_(True), 7: "key"}
    )
    summary.write()
    assert strict(path)["tokens"] == {"kept": 3, "share": 0.25, "any": True, "7": "key"}


def test_a_measurement_is_written_with_what_it_derives(path):
    @dataclass
    class Half:
        total: int

        def to_dict(self):
            return asdict(self) | {"accuracy": 0.5}

    summary = Summary(str(path))
    summary.append("measurements", Half(8))
    summary.append("measurements", {"total": 4})
    summary.write()
    assert strict(path)["measurements"] == [{"total": 8, "accuracy": 0.5}, {"total": 4}]


def test_seconds_accumulate_by_what_they_were_spent_on(path):
    summary = Summary(str(path))
    summary.add_seconds("scoring", 1.25)
    summary.add_seconds("rewind", 0.5)
    summary.add_seconds("scoring", 2.0)
    summary.write()
    found = strict(path)["seconds"]
    assert (found["scoring"], found["rewind"]) == (3.25, 0.5)
    assert found["run"] >= 0


def test_many_small_parts_are_not_rounded_away(path):
    summary = Summary(str(path))
    for _ in range(1000):
        summary.add_seconds("verification", 0.00004)
    summary.write()
    assert strict(path)["seconds"]["verification"] == 0.04


def test_writing_again_replaces_the_file_and_goes_on(path):
    summary = Summary(str(path))
    summary.write()
    summary.append("log", "one")
    summary.add_seconds("rewind", 1)
    summary.write()
    summary.update(finished=True)
    summary.add_seconds("rewind", 1)
    summary.write()
    found = strict(path)
    assert (found["log"], found["finished"], found["seconds"]["rewind"]) == (["one"], True, 2)
    assert os.listdir(path.parent) == ["summary.json"]


def test_a_crash_while_writing_leaves_the_last_whole_file(path, monkeypatch):
    summary = Summary(str(path))
    summary.write()
    before = path.read_bytes()

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", crash)  # the last thing before the new file is in place
    summary.append("log", "new")
    with pytest.raises(WriteError, match="no space"):
        summary.write()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["summary.json"]


def test_what_cannot_be_json_leaves_the_last_whole_file(path):
    summary = Summary(str(path))
    summary.write()
    before = path.read_bytes()
    summary.append("log", object())
    with pytest.raises(TypeError):
        summary.write()
    assert path.read_bytes() == before


def test_a_path_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Summary("summary.json").write()
    assert strict(tmp_path / "summary.json")["format"] == 2


def test_the_other_ranks_collect_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = Summary(None)
    summary.append("log", "line")
    summary.add_seconds("rewind", 1)
    summary.write()
    assert os.listdir(tmp_path) == []
