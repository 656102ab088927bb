# SPDX-License-Identifier: Apache-2.0
"""Whole jobs as a user starts them: what they say, write and leave behind, and how they refuse.

Numbers of the parallel layouts are in tests/parallel; here is the rest of a run's outside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from tests.support.launch import FRESH, MODEL, ROOT, Job, run
from tests.support.reference import HALF, Reference, latest, read_gradient, read_weights

BUDGET = 4
SCHEDULE = f"--train-iters {BUDGET} --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()
T3S = ["--t3s", "--t3s-max-new-tokens", 16, "--t3s-temperature", 1, "--t3s-patience", 2,
       "--t3s-profile-iters", 4, "--t3s-simple-step", 2]  # fmt: skip


@pytest.fixture(scope="session")
def start(student, data_arguments) -> list:
    """Every job's beginning: the same data and student."""
    return [*data_arguments, *SCHEDULE, "--load", student, *FRESH]


def batch_of(step: int, corpus: Corpus) -> list[int]:
    """Samples of one step of a phase, 1-based, at 8 samples a batch."""
    order = EpochOrder(len(corpus.samples), seed=1234)
    return [order.sample_at(place) for place in range(8 * (step - 1), 8 * step)]


def summary_of(folder) -> dict:
    with open(os.path.join(folder, "summary.json")) as file:
        return json.load(file)


#: Where it is not installed, nothing is logged to it and the test of its artifact is skipped.
HAS_WANDB = importlib.util.find_spec("wandb") is not None


@pytest.fixture(scope="session")
def whole(once, start):
    """(folder, job) of one run of the default method at two processes, with all its outputs."""

    def make(folder: str) -> None:
        wandb = ["--wandb-project", "t3s", "--wandb-exp-name", "whole",
                 "--wandb-save-dir", f"{folder}/wandb"] if HAS_WANDB else []  # fmt: skip
        job = run(
            [*start, *T3S, "--save", folder, "--save-interval", 3,
             "--tensorboard-dir", f"{folder}/tensorboard", "--t3s-heldout-data", start[1],
             "--t3s-report-temperatures", 0, 0.7, "--t3s-report-samples", 2, *wandb],
            processes=2,
            environment={"WANDB_MODE": "offline"}
            | {f"WANDB_{what}_DIR": f"{folder}/wandb" for what in ("DATA", "CACHE", "CONFIG")},
        )  # fmt: skip
        job.write(folder)

    folder = once("whole", make)
    return folder, Job.read(folder)


def test_the_summary_says_what_was_done(whole, corpus):
    folder, _ = whole
    summary = summary_of(f"{folder}/t3s")
    profile, targeted = summary["phases"]
    assert summary["finished"] and summary["method"] == "t3s"
    assert (profile["phase"], profile["first_iteration"]) == ("profile", 1)
    assert targeted["first_iteration"] == profile["last_iteration"] + 1
    assert targeted["last_iteration"] == profile["last_iteration"] + BUDGET
    assert profile["seconds"] > 0 and targeted["seconds"] > 0

    steps = [(m["phase"], m["step"]) for m in summary["measurements"]]
    n = profile["last_iteration"]
    wanted = [("profile", k) for k in range(n + 1)] + [("targeted", k + 1) for k in range(BUDGET)]
    assert steps == wanted
    for m in summary["measurements"]:
        parts = ("correct", "wrong", "truncated", "unparseable")
        assert m["timed_out"] == m["crashed"] == m["unfinished"] == m["retries"] == 0
        assert m["total"] == len(corpus.samples) == sum(m[part] for part in parts)
        assert m["accuracy"] == m["correct"] / m["total"]
        assert m["generated_tokens"] > 0

    lowest = min(m["accuracy"] for m in summary["measurements"] if m["phase"] == "profile")
    at_b = summary["measurements"][summary["theta_b_step"]]["accuracy"]
    first = summary["measurements"][0]["accuracy"]
    assert at_b == lowest < first, "this student no longer shows a shock: choose another seed"

    evaluated = {(e["weights"], e["split"], e["temperature"]) for e in summary["evaluations"]}
    splits = [(s, t) for s in ("train", "heldout") for t in (0.0, 0.7)]
    assert evaluated == {(w, *st) for w in ("theta_0", "theta_targeted") for st in splits}
    assert summary["fingerprints"]["dataset"] == corpus.fingerprint
    assert summary["layout"]["data"] == 2 and summary["seeds"] == {"megatron": 1234, "t3s": 1234}
    assert summary["versions"]["megatron_core"] and summary["data"]["samples"] == 24
    padding = 1 - sum(corpus.lengths) / (24 * 48)
    assert summary["arrangement"]["kind"] == "padded"
    assert abs(summary["arrangement"]["padding_share"] - padding) < 1e-9
    assert {"generation", "verification", "scoring", "rewind", "run"} <= set(summary["seconds"])


def test_selection_and_stores_belong_together(whole, corpus):
    folder, _ = whole
    summary = summary_of(f"{folder}/t3s")
    c_0 = LogProbStore.load(f"{folder}/t3s/c_theta_0.safetensors", corpus)
    c_b = LogProbStore.load(f"{folder}/t3s/c_theta_b.safetensors", corpus)
    selection = Selection.load(f"{folder}/t3s/selection.safetensors", corpus)
    assert (c_0.tag, c_0.step, c_b.tag) == ("theta_0", 0, "theta_b")
    assert c_b.step == selection.theta_b_step == summary["theta_b_step"]
    assert (selection.keep == (c_b.c - c_0.c <= 0)).all()
    counts = summary["tokens"]
    assert counts["target_tokens"] == corpus.n_targets
    assert counts["anchors"] == counts["masked"] == int((~selection.keep).sum())
    assert c_0.model["num_layers"] == selection.model["num_layers"] == 4


@pytest.mark.skipif(not HAS_WANDB, reason="wandb is not installed")
def test_wandb_has_the_page_of_the_run(whole):
    """Made by the root rank, the first, and handed in by the last, which writes to wandb."""
    folder, job = whole
    assert "the report" not in job.output  # that it failed
    staged = [path.read_text() for path in Path(folder, "wandb/artifacts/staging").iterdir()]
    (page,) = [text for text in staged if text.startswith("<!DOCTYPE html>")]  # beside Megatron's
    theta_b = summary_of(f"{folder}/t3s")["theta_b_step"]
    assert f"step {theta_b}" in page


def test_tensorboard_shows_the_run(whole, corpus):
    folder, _ = whole
    summary = summary_of(f"{folder}/t3s")
    events = EventAccumulator(f"{folder}/tensorboard", size_guidance={"scalars": 0})
    events.Reload()
    total = summary["phases"][-1]["last_iteration"]
    profile = summary["phases"][0]["last_iteration"]

    def series(name):
        return {e.step: e.value for e in events.Scalars(f"t3s/{name}")}

    accuracy = series("accuracy")
    assert sorted(accuracy) == list(range(total + 1)) == sorted(series("accuracy_standard_error"))
    measured = [m["accuracy"] for m in summary["measurements"]]
    assert np.allclose([accuracy[k] for k in range(total + 1)], measured, atol=1e-6)
    assert set(series("phase").values()) == {0.0, 1.0}
    kept = series("kept_tokens")
    assert all(kept[k] > 0 for k in range(1, total + 1))
    useful = [sum(corpus.lengths[i] for i in batch_of(k, corpus)) for k in range(1, profile + 1)]
    shares = [series("padding_share")[k] for k in range(1, profile + 1)]
    assert np.allclose(shares, 1 - np.array(useful) / (8 * 48), atol=1e-6)
    assert set(series("micro_batches").values()) == {2.0}  # of 2 samples, on each of 2 ranks
    for name in (
        "loss_anchor",
        "loss_other",
        "delta_anchor",
        "delta_other",
        "padding_share",
        "balance_efficiency",
    ):
        assert sorted(series(name)) == list(range(1, total + 1)), name
    # The forward of step theta_b + 1 sees theta_b: its figures are those of the stores. That of
    # step 1 sees theta_0: Figure 4 begins at zero.
    b = summary["theta_b_step"]
    c_0, c_b = (LogProbStore.load(f"{folder}/t3s/c_theta_{i}.safetensors", corpus).c for i in "0b")
    for step, c in ((1, c_0), (b + 1, c_b)):
        targets = np.concatenate([np.r_[corpus.target_slice(i)] for i in batch_of(step, corpus)])
        for name, group in (("anchor", c_b > c_0), ("other", c_b <= c_0)):
            of_group = targets[group[targets]]
            delta, loss = (c - c_0)[of_group].mean(), -c[of_group].mean()
            assert abs(series(f"delta_{name}")[step] - delta) < 1e-5
            assert abs(series(f"loss_{name}")[step] - loss) < 1e-5
    assert abs(series("anchor_share")[profile] - summary["tokens"]["anchor_share"]) < 1e-6
    (histogram,) = events.Histograms("t3s/delta_c_at_theta_b")
    assert histogram.histogram_value.num == corpus.n_targets
    assert {"seconds_generation", "seconds_scoring", "seconds_rewind"} <= {
        tag.removeprefix("t3s/") for tag in events.Tags()["scalars"]
    }


def test_the_log_tells_the_run_in_plain_words(whole):
    _, job = whole
    said = "\n".join(job.said)
    assert "Megatron runs through the callback seam: train 1x, train_step 1x, training_log 1x" in (
        said
    )
    for words in ("is a new minimum", "theta_b is step", "rewound to theta_0", "masked out",
                  "targeted training begins", "done"):  # fmt: skip
        assert words in said, words
    assert said.count("[t3s] done") == 1, "every rank said it"


def test_the_checkpoint_is_of_the_whole_run(whole):
    folder, _ = whole
    last = summary_of(f"{folder}/t3s")["phases"][-1]["last_iteration"]
    assert latest(folder).endswith(f"{last:07d}")
    assert all(torch.isfinite(w).all() for w in read_weights(folder).values())


def test_residual_transfer_leaves_theta_0_plus_theta_f_minus_theta_b(tmp_path, start, student):
    """Against the checkpoints of a plain fine-tuning run, bit for bit (float32, one process)."""
    run([*start, "--save", tmp_path / "sft", "--save-interval", 1])
    run([*start, *T3S, "--t3s-method", "rrt", "--save", tmp_path / "rrt", "--save-interval", 100])
    summary = summary_of(tmp_path / "rrt" / "t3s")
    b = summary["theta_b_step"]
    assert 0 < b < BUDGET
    steps = {}
    for step in (b, BUDGET):
        (tmp_path / "sft" / "latest_checkpointed_iteration.txt").write_text(str(step))
        steps[step] = read_weights(str(tmp_path / "sft"))
    theta_0, rrt = read_weights(student), read_weights(str(tmp_path / "rrt"))
    assert set(rrt) == set(theta_0)
    for key, value in rrt.items():
        assert torch.equal(value, theta_0[key] + (steps[BUDGET][key] - steps[b][key])), key
    # Megatron loads it, and goes on from it.
    job = run([*start[:4], "--train-iters", BUDGET + 1, "--lr", 1e-4, "--load", tmp_path / "rrt",
               "--no-load-optim", "--no-load-rng"])  # fmt: skip
    assert f"iteration        {BUDGET + 1}/" in job.output


def test_a_selection_serves_another_model_with_the_same_tokenizer(
    tmp_path, whole, data_arguments, corpus
):
    """Appendix C: no profile, no theta_b of its own, and the very same tokens are kept. In another
    layout than the one that made them."""
    selection = f"{whole[0]}/t3s/selection.safetensors"
    smaller = ["--num-layers", 2, "--hidden-size", 32, "--ffn-hidden-size", 64]
    student = tmp_path / "student"
    saving = ["--train-iters", 1, "--lr", 1e-3, "--save", student, "--save-interval", 1]
    run([*data_arguments, *smaller, *saving])
    job = run(
        [*data_arguments, *SCHEDULE, *smaller, "--tensor-model-parallel-size", 2, "--t3s",
         "--pretrained-checkpoint", student,
         "--t3s-selection-load", selection, "--t3s-dir", tmp_path, "--t3s-accuracy-interval", 0],
        processes=2,
    )  # fmt: skip
    summary = summary_of(tmp_path)
    (phase,) = summary["phases"]
    assert (phase["phase"], phase["last_iteration"]) == ("targeted", BUDGET)
    kept = Selection.load(selection, corpus).keep
    assert summary["tokens"]["kept"] == int(kept.sum())
    assert summary["selection"]["model"]["num_layers"] == 4
    assert f"{1 - kept.mean():.1%} of {kept.size} target tokens are masked" in job.output


def test_a_selection_of_other_samples_is_refused(tmp_path, whole, task, student):
    lines = Path(task[0]).read_text().splitlines()
    other = json.loads(lines[3]) | {"response": "0+0=0<answer>0</answer>"}
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join([*lines[:3], json.dumps(other), *lines[4:]]) + "\n")
    job = run(
        ["--t3s-data", changed, "--tokenizer-model", task[1], *SCHEDULE, "--load", student,
         *FRESH, "--t3s", "--t3s-dir", tmp_path, "--t3s-accuracy-interval", 0,
         "--t3s-selection-load", f"{whole[0]}/t3s/selection.safetensors"],
        expect=1,
    )  # fmt: skip
    refused_cleanly(job, "changed.jsonl, line 4")


def test_simple_needs_no_answers_and_generates_nothing(tmp_path, task, student, corpus):
    without = tmp_path / "without.jsonl"
    with open(task[0]) as file:
        samples = [json.loads(line) for line in file]
    without.write_text("".join(
        json.dumps({k: v for k, v in s.items() if k != "answer"}) + "\n" for s in samples
    ))  # fmt: skip
    run(
        ["--t3s-data", without, "--tokenizer-model", task[1], *SCHEDULE, "--load", student,
         *FRESH, "--t3s", "--t3s-simple", "--t3s-simple-step", 3, "--t3s-dir", tmp_path / "out"]
    )  # fmt: skip
    summary = summary_of(tmp_path / "out")
    assert summary["method"] == "t3s-simple" and summary["theta_b_step"] == 3
    assert [p["last_iteration"] for p in summary["phases"]] == [3, 3 + BUDGET]
    assert summary["measurements"] == [] and "generation" not in summary["seconds"]


def of_method(method: str, folder, start, *extra) -> dict:
    """A run of the method, and its summary."""
    run([*start, "--t3s", "--t3s-method", method, "--t3s-dir", folder, *extra,
         "--t3s-targeted-accuracy-interval", 0])  # fmt: skip
    summary = summary_of(folder)
    assert summary["finished"]
    return summary


SIMPLE = ["--t3s-simple", "--t3s-simple-step", 2]


def test_a_random_mask_masks_as_many_as_t3s_would(tmp_path, start):
    summary = of_method("random", tmp_path, start, *SIMPLE)
    assert summary["tokens"]["masked"] == summary["tokens"]["anchors"]
    assert len(summary["phases"]) == 2


def test_rho_keeps_what_the_reference_knows_better(tmp_path, start, whole, corpus):
    """The reference: theta_b of another run, whose log-probs are in its folder."""
    reference = f"{whole[0]}/t3s/c_theta_b.safetensors"
    summary = of_method("rho", tmp_path, start, *SIMPLE, "--t3s-reference", reference)
    keep = Selection.load(f"{tmp_path}/selection.safetensors", corpus).keep
    c_0, c_ref = (
        LogProbStore.load(path, corpus).c
        for path in (f"{tmp_path}/c_theta_0.safetensors", reference)
    )
    assert 0 < summary["tokens"]["masked"] == summary["tokens"]["anchors"] == (~keep).sum()
    assert (c_ref - c_0)[keep].min() >= (c_ref - c_0)[~keep].max()


def test_the_highest_entropies_are_kept(tmp_path, start, student, corpus):
    summary = of_method("keep-top-entropy", tmp_path, start, "--t3s-mask-share", 0.2)
    assert len(summary["phases"]) == 1, "a share of its own needs no profile"
    assert summary["tokens"]["masked"] == round(0.2 * corpus.n_targets)
    model, wanted = Reference(read_weights(student)), []
    for sample in corpus.samples:
        ids = torch.from_numpy(sample.tokens.astype(np.int64))[None]
        log_p = model.logits(ids[:, :-1]).double().log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)[0].detach().numpy()
        wanted.append(entropy[sample.is_target[1:]])
    found = LogProbStore.load(f"{tmp_path}/entropy_theta_0.safetensors", corpus).c
    assert np.abs(found - np.concatenate(wanted)).max() < 1e-5
    keep = Selection.load(f"{tmp_path}/selection.safetensors", corpus).keep
    assert found[keep].min() >= found[~keep].max()


def test_tail_sft_leaves_out_what_is_fitted_also_in_a_resumed_step(
    tmp_path, student, data_arguments, corpus
):
    """The second step's gradient, made by a job that goes on from the first, against PyTorch: of
    the half of its samples whose mean log-prob has risen least since theta_0."""
    job = [*data_arguments, "--train-iters", 2, "--lr", 2e-3, "--adam-beta1", HALF, "--clip-grad",
           1e9, "--dist-ckpt-optim-fully-reshardable", "--save", tmp_path, "--save-interval", 1,
           "--load", tmp_path, "--pretrained-checkpoint", student, "--t3s", "--t3s-method",
           "tail-sft", "--t3s-mask-share", 0.5, "--t3s-accuracy-interval", 0,
           "--t3s-targeted-accuracy-interval", 0]  # fmt: skip
    run([*job, "--exit-interval", 1])
    again = run(job)
    assert "resumed at iteration 1" in again.output

    start, model = Reference(read_weights(student)), Reference(read_weights(str(tmp_path), 1))
    rise, losses = [], []
    batch = [corpus.samples[i] for i in sorted(batch_of(2, corpus))]
    for sample in batch:
        of_targets = torch.from_numpy(sample.is_target[1:])
        losses.append(-model.log_probs(sample.tokens)[of_targets])
        risen = (-losses[-1] - start.log_probs(sample.tokens)[of_targets]).detach()
        rise.append(float(risen.mean()))
    ranked = sorted(rise)
    assert ranked[4] - ranked[3] > 1e-5, "no sample may be in doubt"
    stay = [loss for loss, r in zip(losses, rise, strict=True) if r <= ranked[3]]
    (torch.cat(stay).sum() / sum(map(len, stay))).backward()

    first, second = (read_gradient(str(tmp_path), step) for step in (1, 2))
    for key, moment in second.items():  # exp_avg is half of the last gradient, and of the moment
        wanted = model.w[key].grad
        got = moment - HALF * first[key]
        assert float((got - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()), key


def test_without_a_shock_the_run_says_so_and_goes_on_as_simple(tmp_path, start):
    """Learning rate 0: accuracy stays where it was, which is no fall."""
    job = run([*start, "--lr", 0, "--min-lr", 0, *T3S, "--t3s-dir", tmp_path])
    summary = summary_of(tmp_path)
    assert summary["theta_b_step"] == 2 and "no Imitation Shock" in summary["theta_b_reason"]
    assert "no Imitation Shock in 4 steps" in "\n".join(job.said)
    accuracies = {m["accuracy"] for m in summary["measurements"]}
    assert len(accuracies) == 1, "the same weights gave other answers"


def test_a_users_own_verifier_and_a_loss_of_each_step(tmp_path, start, student, corpus):
    """The loss: ProFit's, of which the first step is compared with PyTorch."""
    (tmp_path / "own.py").write_text("def never(text, answer, metadata):\n    return 0.0\n")
    job = run(
        [*start, "--t3s", "--t3s-method", "profit", "--t3s-min-probability", 0.5, "--t3s-dir",
         tmp_path, "--t3s-max-new-tokens", 16, "--t3s-verifier", "own:never",
         "--t3s-accuracy-interval", 2, "--t3s-accuracy-prompts", 5],
        environment={"PYTHONPATH": f"{ROOT}:{tmp_path}"})  # fmt: skip
    c = (
        Reference(read_weights(student))
        .target_log_probs([corpus.samples[i] for i in batch_of(1, corpus)])
        .astype(np.float64)
    )
    counted = np.exp(c) >= 0.5
    assert np.abs(np.exp(c) - 0.5).min() > 1e-5 and 0 < counted.mean() < 1
    printed = re.findall(r"lm loss: ([\d.E+-]+)", job.output)
    assert float(printed[0]) == pytest.approx(-c[counted].sum() / c.size, rel=1e-5)
    measured = summary_of(tmp_path)["measurements"]
    assert [m["step"] for m in measured] == [0, 2, 4]
    assert all(m["correct"] == 0 and m["total"] == 5 for m in measured)
    assert any(m["wrong"] > 0 for m in measured)


def test_bad_input_ends_with_a_message_before_the_model_is_built(tmp_path, start):
    """The wording of each message is tested in tests/unit; here, how a user meets it."""
    for extra, wanted in (
        (["--t3s-data", "/nowhere.jsonl"], "/nowhere.jsonl: no such file"),
        (["--t3s-mask-share", 0.5], "--t3s-mask-share only applies to --t3s-method"),
        (["--t3s-verifier", "magic"], "--t3s-verifier magic: unknown"),
        (["--load", "/studnet"], "no student: --load /studnet: no such folder"),
    ):
        job = run([*start, *T3S, "--t3s-dir", tmp_path, *extra], expect=1)
        refused_cleanly(job, wanted)


def test_a_loss_averaged_over_micro_batches_is_refused(tmp_path, start):
    model = [word for word in MODEL if word != "--calculate-per-token-loss"]
    job = run([*start, "--t3s", "--t3s-dir", tmp_path], model=model, expect=1)
    refused_cleanly(job, "--t3s needs --calculate-per-token-loss")


def test_a_checkpoint_without_the_state_of_its_run_is_refused(tmp_path, whole, data_arguments):
    job = run(
        [*data_arguments, *SCHEDULE, "--load", whole[0], *T3S, "--t3s-dir", tmp_path], expect=1
    )
    refused_cleanly(job, "state.json: not there")


def refused_cleanly(job, wanted: str, *, built: bool = False) -> None:
    """`built`: what is refused shows only once the model is there."""
    errors = [line for line in job.output.splitlines() if "t3s-megatron: error:" in line]
    assert errors and all(wanted in line for line in errors)
    assert "megatron/training/training.py" not in job.output, "a traceback through Megatron"
    assert built or "number of parameters" not in job.output, "the model was built first"
