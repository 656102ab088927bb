# SPDX-License-Identifier: Apache-2.0
"""Runs that share a profile end as runs of their own do, bit for bit."""

from __future__ import annotations

import os

import torch

from t3s_megatron.cli import main
from tests.support.launch import run
from tests.support.reference import latest, read_tensors
from tests.support.resumable import summary_of


def _figures(folder: str) -> dict:
    """Of a summary, all but what a run has said in words, and its places."""
    summary = summary_of(folder)
    del summary["log"]
    return summary


def test_plain_fine_tuning_branches_off_a_profile(tmp_path, start, uninterrupted):
    """With dropout, whose random numbers have to go on as well."""
    folder = str(tmp_path / "sft")
    assert main(["branch", uninterrupted("one"), folder]) == 0
    shared = int((tmp_path / "sft/latest_checkpointed_iteration.txt").read_text())
    job = run(start("sft", folder))
    assert f"resumed at iteration {shared}" in job.output and shared >= 2
    wanted, got = read_tensors(uninterrupted("sft")), read_tensors(folder)
    assert latest(folder)[-12:] == latest(uninterrupted("sft"))[-12:]
    assert wanted.keys() == got.keys()
    assert all(torch.equal(tensor, got[key]) for key, tensor in wanted.items())
    assert _figures(folder) == _figures(uninterrupted("sft"))
    # Nothing was written through the link.
    assert os.path.islink(f"{folder}/iter_{shared:07d}")


def test_a_masked_run_takes_the_selection_of_another(tmp_path, start, uninterrupted):
    """T3S itself, so that there is something to compare with: the targeted phase alone."""
    folder, selection = str(tmp_path / "loaded"), str(tmp_path / "selection.safetensors")
    stores = f"{uninterrupted('one')}/t3s"
    assert main(["selection", "from-stores", stores, "--method", "t3s", "--to", selection]) == 0
    run([*start("one", folder), "--t3s-selection-load", selection])
    wanted, got = read_tensors(uninterrupted("one")), read_tensors(folder)
    assert wanted.keys() == got.keys()
    different = [key for key, tensor in wanted.items() if not torch.equal(tensor, got[key])]
    assert not different
    measured = [
        [m["marks"] for m in summary_of(of)["measurements"] if m["phase"] == "targeted"]
        for of in (uninterrupted("one"), folder)
    ]
    # The loaded one has measured theta_0 as well, which the other did in its profile.
    assert measured[0] == measured[1][1:] and len(measured[0]) == 5
