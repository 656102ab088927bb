# SPDX-License-Identifier: Apache-2.0
"""A profile on some of the samples is that of a run that has no others; what follows is of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.teachers import drawn_from, parts_of
from tests.support.launch import FRESH, run

T3S = """
--t3s --t3s-simple --t3s-simple-step 3 --train-iters 3 --lr 2e-3 --min-lr 1e-4
--lr-warmup-iters 1 --seed 5
""".split()


def test_a_profile_on_some_samples(task, student, corpus, tmp_path):
    (whole,) = parts_of(corpus, corpus.samples)
    few = drawn_from(corpus, whole, 8, seed=5).samples
    lines = Path(task[0]).read_text().splitlines()
    alone = tmp_path / "alone.jsonl"
    alone.write_text("".join(lines[i] + "\n" for i in few))

    def scores(name: str, data, *more) -> tuple[dict, Corpus, np.ndarray]:
        """(summary, corpus, c at theta_b)"""
        folder = tmp_path / name
        job = run(["--t3s-data", data, "--tokenizer-model", task[1], "--load", student, *FRESH,
                   *T3S, "--t3s-dir", folder, *more])  # fmt: skip
        assert ("the profile takes 8 of 24 samples" in job.output) == bool(more)
        of_run = corpus if more else corpus.subset(few)
        c = LogProbStore.load(f"{folder}/c_theta_b.safetensors", of_run).c
        return json.loads((folder / "summary.json").read_text()), of_run, c

    some, _, c = scores("some", task[0], "--t3s-profile-samples", 8)
    only, small, wanted = scores("only", alone)

    targets = np.concatenate([np.arange(corpus.n_targets)[corpus.target_slice(i)] for i in few])
    # The same steps; scored in rows beside other samples, so that sums are in another order.
    assert np.abs(c[targets] - wanted).max() < 1e-5
    assert np.isfinite(c).all() and len(c) == corpus.n_targets > small.n_targets
    # Trained on, it is the selection of all samples.
    keep = Selection.load(f"{tmp_path}/some/selection.safetensors", corpus).keep
    other = np.setdiff1d(np.arange(corpus.n_targets), targets)
    assert 0 < np.count_nonzero(keep[other]) < len(other)
    assert some["theta_b_step"] == only["theta_b_step"] == 3
