# SPDX-License-Identifier: Apache-2.0
"""Runs that share a profile end as runs of their own do, bit for bit; students behind a server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from t3s_megatron.cli import main
from t3s_megatron.errors import T3SError
from t3s_megatron.evaluation.students import Served, Student, probe
from t3s_megatron.monitor.comparison import read_comparisons
from t3s_megatron.monitor.progress import read_progress
from t3s_megatron.teacher_data.prompts import Prompt
from tests.support.hf_models import save_model
from tests.support.launch import run
from tests.support.reference import latest, read_tensors
from tests.support.resumable import summary_of
from tests.support.task import make_samples, make_tokenizer


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


def test_a_masked_run_takes_the_selection_of_another(tmp_path, start, uninterrupted, task):
    """T3S itself, so that there is something to compare with: the targeted phase alone. Accuracy on
    held-out prompts is measured beside it, and changes nothing."""
    folder, selection = str(tmp_path / "loaded"), str(tmp_path / "selection.safetensors")
    stores = f"{uninterrupted('one')}/t3s"
    assert main(["selection", "from-stores", stores, "--method", "t3s", "--to", selection]) == 0
    held_out = ["--t3s-heldout-data", task[0], "--t3s-heldout-interval", 2]
    run([*start("one", folder), "--t3s-selection-load", selection, *held_out])
    wanted, got = read_tensors(uninterrupted("one")), read_tensors(folder)
    assert wanted.keys() == got.keys()
    different = [key for key, tensor in wanted.items() if not torch.equal(tensor, got[key])]
    assert not different
    summary = summary_of(folder)
    measured = [
        [m["marks"] for m in found["measurements"] if m["phase"] == "targeted"]
        for found in (summary_of(uninterrupted("one")), summary)
    ]
    # The loaded one has measured theta_0 as well, which the other did in its profile.
    assert measured[0] == measured[1][1:] and len(measured[0]) == 5
    # The held-out prompts are the training prompts here, and so are their accuracies.
    beside = [(m["step"], m["split"], m["marks"]) for m in summary["heldout"]]
    assert beside == [(step, "heldout", measured[1][step]) for step in (0, 2, 4)]
    reached = read_progress(f"{folder}/t3s")
    assert reached and (reached.phase, reached.step, reached.budget) == ("done", 5, 5)


@pytest.fixture(scope="module")
def students(tmp_path_factory) -> list[str]:
    """Folders of two tiny models with other weights."""
    folders = []
    for seed in (3, 4):
        folder = str(tmp_path_factory.mktemp(f"student-{seed}"))
        tokenizer = make_tokenizer(folder)
        # Or the server looks for Qwen3's tags, and hands the prompt back with the answer.
        tokenizer.response_template = {
            "defaults": {"role": "assistant"},
            "start_anchor": "<assistant>",
            "fields": {"content": {"close": "<eos>", "content": "text"}},
        }
        tokenizer.save_pretrained(folder)
        save_model(folder, vocab_size=len(tokenizer), seed=seed)
        how = {"do_sample": True, "top_k": 0, "eos_token_id": 1, "pad_token_id": 0}
        (Path(folder) / "generation_config.json").write_text(json.dumps(how))
        folders.append(folder)
    return folders


def test_students_behind_a_real_server_are_evaluated(students, server, tmp_path, capsys):
    """`transformers serve`, whose greedy answers are compared with those of each folder."""
    suite = tmp_path / "sums.jsonl"
    rows = [{key: one[key] for key in ("id", "prompt", "answer")} for one in make_samples(3, 0)]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = "--samples 2 --temperature 1 --max-tokens 8 --probes 2 --verifier numeric --workers 1"
    command = ["evaluate", "--base", students[0], "--model", f"other={students[1]}",
               "--url", server, "--reload", "model", "--suite", str(suite),
               "--output", str(tmp_path / "out"), *how.split()]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err.count("the servers agree to ") == 2  # else the exit status is 3
    (found,) = read_comparisons(str(tmp_path / "out/evaluation.json"))
    assert found.name == "sums" and list(found.scores) == ["base", "other"]
    assert all(score.problems == 3 and score.unknown == 0 for score in found.scores.values())
    # Nothing is asked again: this server is not there any more.
    assert main([*command[:6], "http://localhost:1", *command[7:]]) == 0
    assert read_comparisons(str(tmp_path / "out/evaluation.json")) == [found]


def test_a_server_with_other_weights_is_not_believed(students, server):
    prompts = [Prompt(f"{n}", ({"role": "user", "content": f"{n}+4"},), None, None, "")
               for n in range(3)]  # fmt: skip
    held = Served([server], students[0], None)
    with pytest.raises(T3SError, match="it holds other weights"):
        probe(Student("other", students[1]), held, prompts, 60.0)
