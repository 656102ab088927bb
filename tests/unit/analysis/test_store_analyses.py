# SPDX-License-Identifier: Apache-2.0
"""Analyses of log-probs that are there: against counting by hand, and from files by the command."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.analysis import stores
from t3s_megatron.analysis.groups import SUBSETS, require_both, subsets
from t3s_megatron.analysis.overlap import separation
from t3s_megatron.analysis.sweep import selector_sweep
from t3s_megatron.cli import main
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from t3s_megatron.data.selected import read_selected
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.analyses import Analysis, Lines, Table, analysis_sections, read_analysis
from tests.support.task import write_task


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_separation_is_counted_over_all_pairs(first, second):
    a, b = np.array(first, dtype=np.float32), np.array(second, dtype=np.float32)
    found = separation(a, b)
    pairs = [(x > y) + 0.5 * (x == y) for x in first for y in second]
    assert found.auc == pytest.approx(sum(pairs) / len(pairs))
    best = max(
        max(rate, 1 - rate)
        for cut in range(-1, 7)
        for rate in [((a <= cut).mean() + (b > cut).mean()) / 2]
    )
    assert found.best_threshold_accuracy == pytest.approx(best)
    assert 0 <= found.shared_area <= 1 + 1e-9


def test_groups_that_are_equal_or_apart():
    values = np.linspace(0, 1, 101, dtype=np.float32)
    same, apart = separation(values, values), separation(values + 2, values)
    assert (same.auc, same.best_threshold_accuracy, same.shared_area) == pytest.approx(
        (0.5, 0.5, 1)
    )
    assert (apart.auc, apart.best_threshold_accuracy, apart.shared_area) == (1, 1, 0)


def test_subsets_halve_each_group_by_base_confidence():
    c_0 = np.array([-3, -1, -2, -1, -5, -4, -4], dtype=np.float32)
    c_b = c_0 + np.array([1, 1, 1, -1, 0, -1, -1], dtype=np.float32)
    names = [SUBSETS[i] for i in subsets(c_b, c_0)]
    # Of three anchors one is hard; a tie of delta_c is no anchor; equal ones are cut by position.
    assert names == ["anchor-hard", "anchor-easy", "anchor-easy", "other-easy", "other-hard",
                     "other-hard", "other-easy"]  # fmt: skip
    assert {SUBSETS[i] for i in subsets(c_b, c_0, tau=2.0)} == {"other-easy", "other-hard"}


def test_two_groups_are_needed():
    with pytest.raises(T3SError, match="3 of 3 target tokens are anchors"):
        require_both(np.ones(3, dtype=bool))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> tuple[str, str, str, Corpus, np.ndarray, np.ndarray]:
    """(t3s folder, data, tokenizer, corpus, c_0, c_b)."""
    folder = tmp_path_factory.mktemp("run")
    data, tokenizer = write_task(str(folder / "task"))
    corpus = Corpus.build(load_records(data), load_tokenizer(tokenizer), seq_length=64)
    rng = np.random.default_rng(0)
    c_0 = -rng.exponential(1.0, corpus.n_targets).astype(np.float32)
    c_b = c_0 + rng.normal(0, 1, corpus.n_targets).astype(np.float32)
    c_b[:5] = c_0[:5]
    for tag, c, step in (("theta_0", c_0, 0), ("theta_b", c_b, 7)):
        LogProbStore(c, corpus, tag, step).save(str(folder / f"t3s/c_{tag}.safetensors"))
    return str(folder / "t3s"), data, tokenizer, corpus, c_0, c_b


def test_drops_are_counted(run_folder, tmp_path, capsys):
    folder, *_, c_0, c_b = run_folder
    assert main(["analyse", "drops", folder, "--to", str(tmp_path)]) == 0
    assert "picture: " in capsys.readouterr().out
    found = read_analysis(str(tmp_path / "drops.json")).figures["teachers"]["all"]
    assert found["fell"] == pytest.approx((c_b < c_0).mean())
    assert found["rose"] == pytest.approx((c_b > c_0).mean())
    assert found["equal"] == pytest.approx(5 / len(c_0))


def test_base_confidence_and_shares(run_folder, tmp_path):
    folder, *_, c_0, c_b = run_folder
    for name in ("base-confidence", "shares"):
        assert main(["analyse", name, folder, "--to", str(tmp_path)]) == 0
    found = read_analysis(str(tmp_path / "base-confidence.json")).figures
    p, rose = np.exp(c_0.astype(np.float64)), c_b > c_0
    wanted = (p[rose][:, None] > p[~rose][None]).mean()
    assert found["signals"]["probability at theta_0"]["auc"] == pytest.approx(wanted, abs=1e-6)
    assert found["anchor_share"] == pytest.approx(rose.mean())
    by_tau = read_analysis(str(tmp_path / "shares.json")).figures["by_tau"]
    assert by_tau[0]["share above tau"] == pytest.approx(rose.mean())
    assert [row["share above tau"] for row in by_tau] == sorted(
        (row["share above tau"] for row in by_tau), reverse=True
    )


def test_subset_selections_share_out_the_tokens(run_folder, tmp_path):
    folder, *_, corpus, c_0, c_b = run_folder
    assert main(["analyse", "subsets", folder, "--to", str(tmp_path)]) == 0
    kept = [read_selected(str(tmp_path / f"{name}.safetensors"), corpus).keep for name in SUBSETS]
    assert (np.sum(kept, axis=0) == 1).all()
    label = subsets(c_b, c_0)
    assert all((keep == (label == i)).all() for i, keep in enumerate(kept))


def test_a_folder_without_theta_b_is_refused(run_folder, tmp_path, capsys):
    _, _, _, corpus, c_0, _ = run_folder
    LogProbStore(c_0, corpus, "theta_0", 0).save(str(tmp_path / "c_theta_0.safetensors"))
    assert main(["analyse", "drops", str(tmp_path)]) == 2
    assert "take the folder of a run with a profile" in capsys.readouterr().err


def _at(step: int, scale: float) -> dict:
    names = ("anchors", "others", *SUBSETS)
    groups = {
        name: {"tokens": 4, "loss": 2.0 * (1 + scale * i), "delta": 0.1, "probability": 0.0,
               "below": 0.25, "above": 0.75}
        for i, name in enumerate(names)
    }  # fmt: skip
    return {"step": step, "groups": groups}


def _write_trajectory(folder, trained_on: str | None, scale: float, data: str = "x") -> str:
    folder.mkdir()
    content = {"format": 1, "data": data, "groups_of": "/g", "trained_on": trained_on,
               "samples": 3, "records": [_at(0, 0.0), _at(4, scale)]}  # fmt: skip
    (folder / "trajectory.json").write_text(json.dumps(content))
    return str(folder)


def test_transfer_is_in_percent_of_the_loss_before(tmp_path):
    folders = [
        _write_trajectory(tmp_path / name, f"{name}.safetensors", 0.1 * (i + 1))
        for i, name in enumerate(SUBSETS)
    ]
    assert main(["analyse", "transfer", *folders, "--to", str(tmp_path)]) == 0
    found = read_analysis(str(tmp_path / "transfer.json"))
    percent, loss = found.figures["percent"], found.figures["loss"]
    # In `_at`, anchor-easy is the third name: 2 * (1 + 2 scale) after 2.
    assert percent["anchor-easy"]["anchor-easy"] == pytest.approx(20)
    assert percent["other-hard"]["anchor-hard"] == pytest.approx(120)
    assert loss["theta_0"] == dict.fromkeys(SUBSETS, 2.0)
    assert loss["other-hard"]["anchor-hard"] == pytest.approx(4.4)
    assert [row[0] for row in found.tables[1].rows] == ["theta_0", *SUBSETS]


WRONG_FOUR = {
    "give four": lambda made: made("a", "s")[:1],
    "not on anchor-easy alone": lambda made: [*made("a", None), *made("b", "s")],
    "other samples": lambda made: [*made("a", "s"), *made("b", "s", data="y")],
}


@pytest.mark.parametrize("said", WRONG_FOUR)
def test_trajectories_of_no_transfer_are_refused(tmp_path, capsys, said):
    def made(name, trained_on, **kwargs):
        return [_write_trajectory(tmp_path / f"{name}{i}", trained_on, 0.1, **kwargs)
                for i in range(2)]  # fmt: skip

    assert main(["analyse", "transfer", *WRONG_FOUR[said](made)]) == 2
    assert said in capsys.readouterr().err


def test_what_was_not_looked_at_is_asked_for(tmp_path, capsys):
    folder = _write_trajectory(tmp_path / "t", None, 0.1)
    assert main(["analyse", "confidence", folder]) == 0
    assert main(["analyse", "one-step", folder]) == 2
    assert "run it with --analyse one-step" in capsys.readouterr().err
    assert main(["analyse", "gradients", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err


def test_trends_leave_out_what_a_batch_had_nothing_of():
    entries = [
        {"phase": "profile", "step": 1, "delta_anchor": 0.5, "delta_other": float("nan"),
         "loss_anchor": 1.0, "loss_other": float("nan")},
    ]  # fmt: skip
    found = stores.trends({"figure_4": entries}, "x")
    chart = found.charts[0]
    assert isinstance(chart, Lines) and chart.series == {"anchors": [(1.0, 0.5)], "others": []}
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_sweep_is_placed_by_the_selector():
    def summary(step, accuracy):
        return {"selection": {"theta_b_step": step}, "tokens": {"masked_share": 0.2},
                "evaluations": [], "measurements": [
                    {"accuracy": accuracy, "standard_error": 0.1, "temperature": 0.6}]}  # fmt: skip

    found = selector_sweep([summary(6, 0.5), summary(2, 0.25)], ["a", "b"])
    assert [row[0] for row in found.tables[0].rows] == ["2", "6"]
    with pytest.raises(T3SError, match="a second run"):
        selector_sweep([summary(2, 0.5), summary(2, 0.25)], ["a", "b"])
    with pytest.raises(T3SError, match="nothing to place it by"):
        selector_sweep([summary(None, 0.5)], ["a"])


def test_an_analysis_is_read_back_and_shown_as_text_only(tmp_path):
    chart = Lines("<b>", "x", "y", {"<i>": [(0.0, 1.0), (1.0, 2.0)]})
    made = Analysis("n", "t", "s", {"a": 1}, [Table("<u>", ["<s>", "b"], [["x", 0.5]])], [chart])
    again = Analysis.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.tables == made.tables and again.figures == made.figures
    (section,) = analysis_sections([again])
    assert "&lt;u&gt;" in section and "<u>" not in section and "<i>" not in section


def test_matplotlib_is_needed_for_pictures_alone(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["analyse", "shares", run_folder[0], "--to", str(tmp_path)]) == 0
    assert "pip install" in capsys.readouterr().err
    assert (tmp_path / "shares.json").exists() and not (tmp_path / "shares.png").exists()
