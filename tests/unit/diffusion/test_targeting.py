# SPDX-License-Identifier: Apache-2.0
"""From the files of a selector's run to forced tokens, and folders that cannot be one."""

from __future__ import annotations

import numpy as np
import pytest

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.teachers import parts_by_teacher
from t3s_megatron.diffusion.targeting import SelectorScores, target, warning_about_share
from t3s_megatron.errors import MismatchError, T3SError
from tests.unit.data.made_data import sample

C_0 = np.array([-1, -1, -2, -3, -0.5, -1], dtype=np.float32)
FALL = np.array([0.0, -0.5, 0.3, -0.1, -0.25, 0.0], dtype=np.float32)


def corpus(*uids: str) -> Corpus:
    return Corpus([sample([1, 2, 3, 4], 2, uid) for uid in uids], "tokenizer", {})


@pytest.fixture
def folder(tmp_path) -> str:
    made = corpus("a", "b", "c")
    LogProbStore(C_0, made, "theta_0", 0).save(str(tmp_path / "c_theta_0.safetensors"))
    LogProbStore(C_0 + FALL, made, "theta_b", 7).save(str(tmp_path / "c_theta_b.safetensors"))
    return str(tmp_path)


def load(folder: str, made: Corpus) -> SelectorScores:
    return SelectorScores.load(folder, made, parts_by_teacher(made, [None]))


def forced(method: str, folder: str, tau: float = 0.2):
    made = corpus("a", "b", "c")
    parts = parts_by_teacher(made, [None])
    return target(method, made, parts, load(folder, made), tau=tau, seed=3)


def test_what_fell_in_the_selector_is_forced_and_told(folder):
    found = forced("t3s", folder)
    assert np.flatnonzero(found.forced).tolist() == np.flatnonzero(found.fell).tolist() == [1, 4]
    assert found.about["forced_tokens"] == 2
    assert found.about["selector"]["theta_b_step"] == {"all": 7}
    assert found.about["fell_share_by_tau"]["0"] == pytest.approx(0.5)
    assert np.flatnonzero(forced("t3s", folder, tau=0.3).fell).tolist() == [1]


def test_the_baseline_forces_nothing_and_knows_what_fell(folder):
    found = forced("sft", folder)
    assert not found.forced.any() and found.fell.sum() == 2
    assert forced("random", folder).forced.sum() == 2
    assert found.fingerprint != forced("t3s", folder).fingerprint


@pytest.mark.parametrize(("share", "warns"), [(0.004, True), (0.05, False), (0.5, True)])
def test_an_unusual_share_is_warned_of(share, warns):
    said = warning_about_share(share, 0.2)
    assert bool(said) == warns and (not said or f"{share:.1%} of the target tokens" in said)


def test_a_threshold_under_which_nothing_fell_is_refused(folder):
    with pytest.raises(T3SError, match="so --t3s-method t3s would be sft") as raised:
        forced("t3s", folder, tau=5.0)
    assert "lower it" in str(raised.value)


@pytest.mark.parametrize("name", ["c_theta_0", "c_theta_b"])
def test_a_folder_without_both_files_is_refused(folder, name, tmp_path):
    (tmp_path / f"{name}.safetensors").unlink()
    with pytest.raises(MismatchError, match=f"has no {name}.safetensors"):
        forced("t3s", folder)


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(T3SError, match="no such folder; give the t3s/ of its run"):
        forced("t3s", f"{folder}/nowhere")
    (tmp_path / "c_theta_b.safetensors").rename(tmp_path / "c_theta_0.safetensors")
    LogProbStore(C_0, corpus("a", "b", "c"), "theta_0", 0).save(f"{folder}/c_theta_b.safetensors")
    with pytest.raises(MismatchError, match="holds log-probs at theta_b, not at theta_0"):
        forced("t3s", folder)


def test_a_sample_that_the_selector_has_not_scored_is_refused(folder):
    with pytest.raises(MismatchError, match="d"):
        load(folder, corpus("a", "b", "d"))


def test_each_teacher_has_files_of_its_own(tmp_path):
    samples = [sample([1, 2, 3, 4], 2, uid, teacher=t) for uid, t in (("a", "x"), ("b", "y"))]
    made = Corpus(samples, "tokenizer", {})
    parts = parts_by_teacher(made, ["x", "y"])
    for part, fall in zip(parts, ([-1.0, 0.0], [0.0, -1.0]), strict=True):
        c_0, c_b = np.full(2, -1, np.float32), np.full(2, -1, np.float32) + np.float32(fall)
        for c, tag in ((c_0, "theta_0"), (c_b, "theta_b")):
            path = tmp_path / f"{part.file_name(f'c_{tag}')}.safetensors"
            LogProbStore(c, part.corpus, tag, 3).save(str(path))
    scores = SelectorScores.load(str(tmp_path), made, parts)
    found = target("random", made, parts, scores, tau=0.2, seed=0)
    # As many as fell, of each teacher.
    assert [int(found.forced[part.targets].sum()) for part in parts] == [1, 1]
    assert scores.about["theta_b_step"] == {"x": 3, "y": 3}
