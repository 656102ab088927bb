# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron report`: what it prints and how it exits."""

from __future__ import annotations

import pytest
from made_summaries import sft_summary, t3s_summary, write

from t3s_megatron.cli import main
from t3s_megatron.monitor.report import tables


def test_a_report_prints_the_tables_and_exits_0(tmp_path, capsys):
    paths = [write(tmp_path / "a.json", sft_summary()), write(tmp_path / "b.json", t3s_summary())]
    assert main(["report", *paths]) == 0
    out, err = capsys.readouterr()
    assert out == tables([sft_summary(), t3s_summary()]) + "\n" and err == ""


def test_a_picture_is_written_where_it_was_asked_for(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    path = write(tmp_path / "a.json", t3s_summary())
    assert main(["report", path, "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"\npicture: {picture}\n")


def test_an_error_is_one_line_and_exits_2(tmp_path, capsys):
    good = write(tmp_path / "a.json", t3s_summary())
    assert main(["report", good, str(tmp_path / "gone.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("t3s-megatron: error: ") and "gone.json" in err
    assert err.count("\n") == 1


def test_a_picture_that_cannot_be_written_exits_2_after_the_tables(tmp_path, capsys):
    path = write(tmp_path / "a.json", t3s_summary())
    assert main(["report", path, "--picture", str(tmp_path / "no" / "p.png")]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("t3s: ") and "--picture" in err


@pytest.mark.parametrize("argv", [[], ["report"], ["draw", "a.json"]])
def test_a_usage_error_exits_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2 and "usage: t3s-megatron" in capsys.readouterr().err
