# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron selection` on files that are not what it takes them for: each is refused in a
sentence that names the file, with nothing written, or read for what it is."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from made_run_folder import ONE, Folder

from t3s_megatron.cli import main

TO = ["--to", "made.safetensors"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a run in one/, and beside it what `selection` is given."""
    where = tmp_path_factory.mktemp("made")
    one = Folder(where / "one", ONE)
    main(["selection", "export", str(one.t3s), *one.samples, "--to", f"{where}/rows.jsonl"])
    main(["selection", "export", str(one.t3s), *one.samples, "--to", f"{where}/rows.parquet"])
    (where / "text.parquet").write_text("hello\n")
    (where / "binary.jsonl").write_bytes(bytes(range(128, 256)))
    (where / "empty.jsonl").touch()
    (where / "array.jsonl").write_text("[1, 2]\n")
    (where / "folder.jsonl").mkdir()
    (where / "nothing").mkdir()
    (where / "other.jsonl").write_text('{"id": "a", "prompt": "b", "response": "c"}\n')
    table = pyarrow.parquet.read_table(where / "rows.parquet")
    twice = table.append_column("mask", table["target"])
    pyarrow.parquet.write_table(twice, where / "twice.parquet")
    return where


@pytest.fixture
def refused(made, monkeypatch, capsys):
    """refused(words): what is said; nothing else has happened."""
    monkeypatch.chdir(made)

    def refused(*words) -> str:
        before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
        try:
            code = main(["selection", *words])
        except SystemExit as stopped:  # argparse's
            code = stopped.code
        said = capsys.readouterr()
        assert code == 2, said.out
        assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
        return said.err

    return refused


DATA = ["--data", "one/train.jsonl", "--tokenizer-model", "one/tokenizer"]
IMPORT = {
    "nowhere.jsonl": "nowhere.jsonl: no such file",
    "nowhere.parquet": "nowhere.parquet: cannot be read as Parquet",
    "folder.jsonl": "folder.jsonl: not a file",
    "nothing": "has to end in .parquet or .jsonl",
    "binary.jsonl": "binary.jsonl, line 1: not UTF-8",
    "text.parquet": "text.parquet: cannot be read as Parquet",
    "empty.jsonl": "has nothing for 5 of 5 samples",
    "array.jsonl": "not a JSON object",
    "one/t3s/selection.safetensors": "has to end in .parquet or .jsonl",
    "twice.parquet": "two columns are called `mask`",
}


@pytest.mark.parametrize("file", IMPORT)
def test_a_file_that_holds_no_rows_is_not_imported(refused, file):
    assert IMPORT[file] in refused("import", file, *DATA, *TO)


@pytest.mark.parametrize("file", [file for file in IMPORT if file.endswith(("jsonl", "parquet"))])
def test_nor_shown_nor_compared(refused, file):
    assert file in refused("show", file)
    assert file in refused("diff", "one/t3s", file)


def first(name: str, value) -> Callable[[list[dict]], None]:
    """The first row gets this in that column."""
    return lambda rows: rows[0].update({name: value})


def at(position: int, name: str, value) -> Callable[[list[dict]], None]:
    return lambda rows: rows[0][name].__setitem__(position, value)


#: (what is changed in exported rows, what is said)
ROWS = {
    "a word for a mask": (first("mask", "abc"), "`mask` is no list"),
    "too short": (lambda rows: rows[0]["mask"].pop(), "entries in `mask`"),
    "too long": (lambda rows: rows[0]["mask"].append(0), "entries in `mask`"),
    "no mask in one": (first("mask", None), "has no `weight` and no `mask`"),
    "a list in a mask": (at(-2, "mask", [1]), "the mask is [1]"),
    "a word in a mask": (at(-2, "mask", "1"), "the mask is '1'"),
    "null in a mask": (at(-2, "mask", None), "the mask is None"),
    "below 0": (at(-2, "mask", -1), "the mask is -1"),
    "of the prompt": (at(0, "mask", 1), "the mask is 1 where nothing is learned"),
    "beyond float32": (
        lambda rows: rows[0].update(weight=[0.0] * (len(rows[0]["mask"]) - 1) + [1e300]),
        "the weight is 1e+300",
    ),
    "no number": (at(-2, "mask", math.nan), "NaN is no JSON"),
    "another kind of id": (first("id", 7), "7"),
    "twice": (lambda rows: rows.append(rows[0]), "was already in"),
}
#: Of rows that are given with their data alone.
ROWS_OF_DATA = {
    "no id": (lambda rows: rows[0].pop("id"), "sample None is not in the data"),
    "half a token": (at(0, "input_ids", 2.5), "token 2.5, where the data has"),
    "no token of any model": (at(0, "input_ids", 2**70), f"token {2**70}, where the data has"),
    "another token": (at(3, "input_ids", 9), "position 3: token 9, where the data has"),
    "one too few": (lambda rows: rows.pop(), "has nothing for 1 of 5 samples: 's4'"),
    "one too many": (lambda rows: rows.append({**rows[0], "id": "z"}), "'z' is not in the data"),
    "nothing kept": (
        lambda rows: [row.update(mask=[0] * len(row["mask"])) for row in rows],
        "keeps no token at all",
    ),
    "two minds": (
        lambda rows: [row.update(weight=[0.0] * len(row["mask"])) for row in rows],
        "change both, or leave `mask` out",
    ),
}
#: Of rows that are looked at alone, and what `target` has to say then.
ROWS_ALONE = {
    "a teacher that is a list": (first("teacher", ["a"]), "`teacher` ['a']"),
    "no target": (first("target", None), "`target` is no list of 0 and 1"),
    "a target of 2": (at(0, "target", 2), "`target` is no list of 0 and 1"),
    "another length of target": (lambda rows: rows[0]["target"].append(1), "entries in `mask`"),
    "a mask of none": (
        lambda rows: [row.update(target=[], mask=[]) for row in rows],
        "or none with a target",
    ),
}


def write(made: Path, change: Callable) -> str:
    rows = [json.loads(line) for line in (made / "rows.jsonl").read_text().splitlines()]
    change(rows := copy.deepcopy(rows))
    (made / "changed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "changed.jsonl"


@pytest.mark.parametrize("case", ROWS | ROWS_OF_DATA)
def test_rows_that_are_not_of_the_data_are_not_imported(made, refused, case):
    change, said = (ROWS | ROWS_OF_DATA)[case]
    file = write(made, change)
    wrong = refused("import", file, *DATA, *TO)
    assert said in wrong and file in wrong
    assert said in refused("show", file, *DATA), "looked at with the data they are checked alike"


@pytest.mark.parametrize("case", ROWS | ROWS_ALONE)
def test_rows_that_no_export_wrote_are_not_shown(made, refused, case):
    change, said = (ROWS | ROWS_ALONE)[case]
    file = write(made, change)
    wrong = refused("show", file)
    assert said in wrong and file in wrong


def test_a_mask_of_fractions_is_weights_wherever_it_is_read(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    rows = [json.loads(line) for line in (made / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["mask"] = [0.5 * entry for entry in row["mask"]]
    (made / "halved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in ([], DATA):
        assert main(["selection", "show", "halved.jsonl", *words]) == 0
        assert "weights        0.5 to 0.5, median 0.5, mean 0.5" in capsys.readouterr().out


FROM = ["from-stores", "one/t3s"]
WORDS = {
    "more than all": ([*FROM, "--method", "random", "--share", "2", *TO], "--share: 2: has to be"),
    "no share": ([*FROM, "--method", "random", "--share", "nan", *TO], "--share: nan: has to be"),
    "no number": ([*FROM, "--tau", "nan", *TO], "--tau: nan: has to be a finite number"),
    "a word": ([*FROM, "--tau", "high", *TO], "--tau: high: has to be a finite number"),
    "no seed": ([*FROM, "--method", "random", "--seed", "-1", *TO], "--seed: -1: has to be"),
    "no step": ([*FROM, "--soft-temperature", "0", *TO], "0: has to be a number above 0"),
    "no edge": ([*FROM, "--method", "t3s-soft", *TO], "t3s-soft needs --soft-temperature"),
    "an edge": ([*FROM, "--soft-temperature", "1", *TO], "has no meaning with --method t3s"),
    "no reference": ([*FROM, "--method", "rho", *TO], "--method rho needs --reference"),
    "a reference that is none": (
        [*FROM, "--method", "rho", "--reference", "binary.jsonl", *TO],
        "binary.jsonl: cannot be read",
    ),
    "no entropies": (
        [*FROM, "--method", "keep-top-entropy", "--share", "0.5", *TO],
        "needs entropies at theta_0",
    ),
    "no selection": ([*FROM, "--method", "sft", *TO], "invalid choice: 'sft'"),
    "no run": (["from-stores", "nothing", *TO], "nothing: no log-probs in it"),
    "no folder": (["sweep", "nowhere", "--tau", "0"], "nowhere: no log-probs in it"),
    "over the run's own": (
        [*FROM, "--method", "inverse", "--to", "one/t3s/selection.safetensors"],
        "is one of the files that are read",
    ),
    "over log-probs": (
        [*FROM, "--to", "one/t3s/../t3s/c_theta_0.safetensors"],
        "is one of the files that are read",
    ),
    "over the data": (
        ["export", "one/t3s", *DATA, "--to", "one/train.jsonl"],
        "is one of the files that are read",
    ),
    "over the rows": (["import", "rows.jsonl", *DATA, "--to", "rows.jsonl"], "end in .safetensors"),
    "another ending": ([*FROM, "--to", "x.jsonl"], "x.jsonl: has to end in .safetensors"),
    "onto a file": ([*FROM, "--to", "rows.jsonl/x.safetensors"], "cannot be written"),
    "to text": (["export", "one/t3s", *DATA, "--to", "x.txt"], "end in .parquet or .jsonl"),
    "of nothing": (["export", "nothing", *DATA, "--to", "x.jsonl"], "it is missing or damaged"),
    "of rows": (
        ["export", "one/t3s", "--selection", "rows.jsonl", *DATA, "--to", "x.jsonl"],
        "rows.jsonl: cannot be read",
    ),
    "with other data": (
        ["export", "one/t3s", "--data", "other.jsonl", *DATA[2:], "--to", "x.jsonl"],
        "has nothing for sample 'a'",
    ),
    "no data": (
        ["import", "rows.jsonl", "--data", "nowhere.jsonl", *DATA[2:], *TO],
        "nowhere.jsonl: no such file",
    ),
    "no tokenizer": (
        ["import", "rows.jsonl", *DATA[:2], "--tokenizer-model", "nothing", *TO],
        "--tokenizer-model nothing: not a Hugging Face tokenizer",
    ),
    "no length": (["show", "one/t3s", *DATA, "--seq-length", "0"], "0: has to be a whole number"),
    "a tokenizer alone": (["show", "one/t3s", *DATA[2:]], "--tokenizer-model says nothing without"),
    "a length alone": (["diff", "one/t3s", "one/t3s", "--seq-length", "9"], "says nothing without"),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_that_do_not_go_together_are_refused(refused, case):
    words, said = WORDS[case]
    assert said in refused(*words)


def test_rows_of_fewer_samples_are_not_compared(made, refused):
    file = write(made, lambda rows: rows.pop())
    assert f"{file}: has no sample 's4', which one/t3s has" in refused("diff", "one/t3s", file)
    assert "sample 's4' is not among" in refused("diff", file, "one/t3s")


def test_a_folder_under_the_name_of_the_result(made, refused):
    (made / "made.safetensors").mkdir()
    try:
        assert "made.safetensors: cannot be written" in refused(*FROM, *TO)
    finally:
        shutil.rmtree(made / "made.safetensors")
