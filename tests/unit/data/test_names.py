# SPDX-License-Identifier: Apache-2.0
"""A mistyped path is not looked for on the hub, and names on the hub are not taken for paths."""

from __future__ import annotations

import pytest

from t3s_megatron.data.names import is_missing_path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "tokenizer").mkdir(parents=True)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-8B", "open-r1/OpenR1-Math.220k"])
def test_names_that_the_hub_may_know(name):
    assert not is_missing_path(name)


@pytest.mark.parametrize(
    "name",
    [
        "/nowhere/tokenizer",
        "./tokenizer",
        "../tokenizer",
        "a/b/c",
        "elsewhere/",
        "a\\b",
        "~/x",
        "out/b",
    ]
    + ["file.parquet/", "\udcff/x", "a b"],
)
def test_paths_to_nothing(name):
    assert is_missing_path(name)


@pytest.mark.parametrize("name", ["out", "out/tokenizer", "./out", "out/../out"])
def test_paths_to_something(name):
    assert not is_missing_path(name)
