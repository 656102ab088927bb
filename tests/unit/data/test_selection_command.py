# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron selection` on folders as runs leave them: stores, a selection, a summary."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from made_data import rewrite
from made_run_folder import ONE, TWO, Folder

from t3s_megatron.cli import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def one(tmp_path) -> Folder:
    return Folder(tmp_path / "one", ONE)


@pytest.fixture
def two(tmp_path) -> Folder:
    return Folder(tmp_path / "two", TWO)


def run(*words) -> int:
    return main(["selection", *map(str, words)])


# ------------------------------------------------------------------------------------ from-stores


@pytest.mark.parametrize(
    "line",
    [
        "--method t3s",
        "--method t3s --tau 0.25",
        "--method inverse --tau -0.1",
        "--method random",
        "--method random --share 0.3",
        "--method mask-top-confidence",
        "--method mask-bottom-confidence --share 0.5",
        "--method keep-top-delta --share 0.4",
        "--method keep-top-entropy --share 0.4",
        "--method t3s-soft --soft-temperature 0.5 --tau 0.1",
        "--method rho --share 0.4",
        "--method rho",
    ],
)
@pytest.mark.parametrize("teachers", [ONE, TWO], ids=["one teacher", "two"])
def test_from_stores_makes_the_file_of_a_run_byte_for_byte(tmp_path, teachers, line):
    words = line.split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    share, soft = (
        float(given[name]) if name in given else None for name in ("--share", "--soft-temperature")
    )
    method, tau = given["--method"], float(given.get("--tau", 0))
    asked = Folder(tmp_path / "asked", teachers, method, tau, share, soft)
    entropies = {"method": method, "share": share} if "entropy" in method else {}
    other = Folder(tmp_path / "other", teachers, **entropies)
    if method == "rho":
        words += ["--reference", *other.references]
    assert run("from-stores", other.t3s, *words, "--to", tmp_path / "made.safetensors") == 0
    theirs = (asked.t3s / "selection.safetensors").read_bytes()
    assert (tmp_path / "made.safetensors").read_bytes() == theirs


def test_the_t3s_mask_against_plain_numpy(one, tmp_path):
    run("from-stores", one.t3s, "--tau", 0.2, "--to", tmp_path / "made.safetensors")
    found = one.load(tmp_path / "made.safetensors")
    np.testing.assert_array_equal(found.keep, ~(one.c_b - one.c_0 > np.float32(0.2)))


@pytest.fixture
def soft(tmp_path) -> Folder:
    return Folder(tmp_path / "soft", TWO, "t3s-soft", 0.1, temperature=0.5)


def test_weights_are_shown_compared_exported_and_imported(soft, tmp_path, capsys):
    rows, made = tmp_path / "rows.parquet", tmp_path / "made.safetensors"
    assert run("show", soft.t3s) == 0
    shown = capsys.readouterr().out
    low, median, high = np.quantile(soft.keep, (0, 0.5, 1))
    assert f"weights        {low:g} to {high:g}, median {median:g}, mean" in shown
    assert run("export", soft.t3s, *soft.samples, "--to", rows) == 0
    assert run("import", rows, *soft.samples, "--to", made) == 0
    assert f"the others have a mean weight of {soft.keep.mean():.4g}" in capsys.readouterr().out
    np.testing.assert_array_equal(soft.load(made).keep, soft.keep)
    assert run("show", rows) == 0 and capsys.readouterr().out == shown

    run("from-stores", soft.t3s, "--tau", 0.1, "--to", tmp_path / "mask.safetensors")
    capsys.readouterr()
    assert run("diff", soft.t3s, tmp_path / "mask.safetensors") == 0
    apart = np.abs(soft.keep - soft.load(tmp_path / "mask.safetensors").keep)
    said = f"weights differ        by {apart.mean():.4g} on average, {apart.max():.4g} at most"
    assert said in capsys.readouterr().out


def test_sweep_tells_the_mean_of_soft_weights(soft, capsys):
    assert run("sweep", soft.t3s, "--tau", 0.1, "--soft-temperature", 0.5) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert float(line[5]) == pytest.approx(soft.keep.mean(), abs=1e-4)


def test_a_reference_has_to_have_scored_these_samples(one, two, tmp_path, capsys):
    to = ["--to", tmp_path / "x.safetensors"]
    words = ["from-stores", two.t3s, "--method", "rho", "--reference"]
    assert run(*words, two.references[0], *to) == 2
    assert "no log-probs of sample 'qwq/s1'" in capsys.readouterr().err
    assert run(*words, *two.references, two.references[0], *to) == 2
    assert "is in" in capsys.readouterr().err
    assert run("from-stores", two.t3s, "--reference", *two.references, *to) == 2
    assert "--reference has no meaning with --method t3s" in capsys.readouterr().err
    rewrite(one.references[0], {"tokenizer_fingerprint": "u" * 64}, sealed=True)
    words[1] = one.t3s
    assert run(*words, one.references[0], *to) == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_theta_b_is_missed_by_name(one, tmp_path, capsys):
    (one.t3s / "c_theta_b.safetensors").unlink()
    to = tmp_path / "made.safetensors"
    assert run("from-stores", one.t3s, "--to", to) == 2 and not to.exists()
    assert "t3s needs log-probs at theta_b" in capsys.readouterr().err
    assert run("from-stores", one.t3s, "--method", "mask-top-confidence", "--share", 0.5,
               "--to", to) == 0  # fmt: skip


def test_a_share_of_another_method_is_refused(one, tmp_path, capsys):
    assert run("from-stores", one.t3s, "--share", 0.2, "--to", tmp_path / "x.safetensors") == 2
    assert "--share has no meaning with --method t3s" in capsys.readouterr().err


def test_a_random_mask_without_the_run_s_seed_is_refused(one, tmp_path, capsys):
    (one.t3s / "summary.json").unlink()
    words = ["from-stores", one.t3s, "--method", "random", "--to", tmp_path / "x.safetensors"]
    assert run(*words) == 2 and "give --seed" in capsys.readouterr().err
    assert run(*words, "--seed", 7) == 0


def test_stores_of_two_runs_are_refused(one, two, tmp_path, capsys):
    (two.t3s / "c_theta_b-r1.safetensors").rename(one.t3s / "c_theta_b.safetensors")
    assert run("from-stores", one.t3s, "--to", tmp_path / "x.safetensors") == 2
    assert "different runs" in capsys.readouterr().err


def test_a_folder_without_log_probs(tmp_path, capsys):
    assert run("sweep", tmp_path, "--tau", 0) == 2
    assert "no log-probs in it" in capsys.readouterr().err


def test_a_damaged_store_is_refused(one, capsys):
    rewrite(str(one.t3s / "c_theta_0.safetensors"), {"step": 9})
    assert run("sweep", one.t3s, "--tau", 0) == 2
    assert "checksum" in capsys.readouterr().err


# -------------------------------------------------------------------------------- show, diff, sweep


def test_sweep_counts_what_lies_above(two, capsys):
    assert run("sweep", two.t3s, "--tau", -0.25, 0, 0.25) == 0
    delta = two.c_b - two.c_0
    lines = capsys.readouterr().out.splitlines()[1:]
    masked = [int((delta > np.float32(tau)).sum()) for tau in (-0.25, 0, 0.25)]
    assert [int(line.split()[1]) for line in lines] == masked
    assert "qwq" not in "".join(lines) and all(line.count("%") == 3 for line in lines)


def test_show_of_a_folder_a_file_and_exported_rows_is_the_same(two, tmp_path, capsys):
    rows = tmp_path / "rows.parquet"
    run("export", two.t3s, *two.samples, "--to", rows)
    said = []
    capsys.readouterr()
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((two.t3s / "selection.safetensors").read_bytes())
    for words in ([two.t3s], [two.t3s / "selection.safetensors"], [rows], [moved, *two.samples]):
        assert run("show", *words) == 0
        said.append(capsys.readouterr().out)
    assert said == [said[0]] * 4
    assert f"masked         {int((~two.keep).sum())} (" in said[0]
    mine = ~two.keep[two.parts[1].targets]
    assert f"masked of teacher qwq: {100 * mine.mean():.1f} %" in said[0]


def test_a_file_alone_does_not_say_how_many_targets_it_has(one, tmp_path, capsys):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((one.t3s / "selection.safetensors").read_bytes())
    assert run("show", moved) == 2
    assert "Give --data and --tokenizer-model" in capsys.readouterr().err


def test_diff_of_a_run_with_another_selection_of_its_stores(two, tmp_path, capsys):
    made = tmp_path / "made.safetensors"
    run("from-stores", two.t3s, "--tau", 0.3, "--to", made)
    capsys.readouterr()
    assert run("diff", two.t3s, made) == 0
    out = capsys.readouterr().out
    a, b = ~two.keep, ~two.load(made).keep
    assert f"differ                {100 * (a != b).mean():.1f} %" in out
    assert f"Jaccard of the masked {(a & b).sum() / (a | b).sum():.4f}" in out


def test_selections_of_other_samples_are_not_compared(one, two, capsys):
    assert run("diff", one.t3s, two.t3s) == 2
    assert "'r1/s0' is not among" in capsys.readouterr().err


# --------------------------------------------------------------------------------- export, import


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_export_and_import_give_the_bits_back(two, tmp_path, ending):
    rows, made = tmp_path / f"rows.{ending}", tmp_path / "made.safetensors"
    assert run("export", two.t3s, *two.samples, "--to", rows) == 0
    assert run("import", rows, *two.samples, "--to", made) == 0
    found = two.load(made)
    np.testing.assert_array_equal(found.keep, two.keep)
    assert (found.method, found.theta_b_step) == ("imported", None)


def test_export_joins_the_log_probs_of_two_teachers(two, tmp_path):
    run("export", two.t3s, *two.samples, "--to", tmp_path / "rows.parquet")
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"),
                                 split="train", cache_dir=str(tmp_path / "cache"))  # fmt: skip
    assert rows["teacher"][:] == TWO and rows["id"][1] == "qwq/s1"
    flat = [c for row in rows for c in row["delta_c"] if c is not None]
    np.testing.assert_array_equal(np.float32(flat), two.c_b - two.c_0)


def test_the_length_of_a_run_that_dropped_samples_has_to_be_given(one, tmp_path, capsys):
    one.summarise(overlong="drop")
    words = ["export", one.t3s, *one.samples, "--to", tmp_path / "rows.parquet"]
    assert run(*words) == 2
    assert "give --seq-length" in capsys.readouterr().err
    assert run(*words, "--seq-length", 10**6) == 0


def test_export_with_other_data_is_refused(one, tmp_path, capsys):
    text = one.data.read_text().replace("six", "ten")
    one.data.write_text(text)
    assert run("export", one.t3s, *one.samples, "--to", tmp_path / "rows.parquet") == 2
    assert "other tokens or targets" in capsys.readouterr().err


# ------------------------------------------------------------------------------- what the docs show


def blocks() -> dict[str, str]:
    """Python blocks of docs/selections.md by the reader that their heading names."""
    page = (ROOT / "docs/selections.md").read_text()
    found = re.findall(r"^### (.+?)$.*?^```python\n(.*?)^```$", page, re.M | re.S)
    return {name: code for name, code in found}


def test_the_blocks_for_other_trainers_make_what_those_read(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run("export", one.t3s, *one.samples, "--to", "rows.parquet")
    code = blocks()
    assert set(code) == {"TRL", "Megatron-Bridge"}

    made: dict = {}
    exec(code["TRL"], made)
    assert set(made["train"].column_names) == {"input_ids", "labels"}
    learned = sum(label != -100 for row in made["train"] for label in row["labels"])
    assert learned == one.keep.sum()

    exec(code["Megatron-Bridge"], {})
    packed = datasets.load_dataset("parquet", data_files="packed.idx.parquet", split="train")
    for row, sample, i in zip(packed, one.corpus.samples, range(5), strict=True):
        assert row["seq_start_id"] == [0] and row["input_ids"] == sample.tokens.tolist()
        # Its reader cuts the last place off and takes the token behind each one for its label.
        keep = np.zeros(len(sample.tokens), dtype=int)
        keep[sample.is_target] = one.keep[one.corpus.target_slice(i)]
        assert row["loss_mask"][:-1] == keep[1:].tolist()
