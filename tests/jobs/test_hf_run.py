# SPDX-License-Identifier: Apache-2.0
"""A run that starts from a Hugging Face folder, is stopped and goes on, and ends in another.

Two data-parallel ranks with the distributed optimizer and both overlaps; held against transformers.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.megatron.releases import TESTED_RELEASES
from tests.jobs.test_job import refused_cleanly
from tests.support.hf_models import ARGUMENTS, logits_of, read_tensors, save_model
from tests.support.launch import MODEL, ROOT, RUNTIME, run
from tests.support.reference import Reference, read_weights

DISTRIBUTED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather".split()
SCHEDULE = "--train-iters 4 --lr 1e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()
VOCABULARY = 24  # the tokenizer has 20 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    where = tmp_path_factory.mktemp("hf") / "model"
    return save_model(str(where), vocab_size=VOCABULARY, tied=True, shard_size="60KB", seed=3)


@pytest.fixture(scope="module")
def start(data_arguments, folder) -> list:
    return [*data_arguments, *SCHEDULE, "--t3s-hf-model", folder]


@pytest.fixture(scope="module")
def tied_model() -> list[str]:
    return [word for word in MODEL if word != "--untie-embeddings-and-output-weights"]


def log_probs(folder: str, corpus) -> np.ndarray:
    """Of the corpus's targets, as transformers computes them."""
    found = []
    for sample in corpus.samples:
        ids = torch.from_numpy(sample.tokens.astype(np.int64))[None]
        logits = logits_of(folder, ids[:, :-1])
        per_token = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[0, :, 0]
        found.append(per_token.numpy()[sample.is_target[1:]])
    return np.concatenate(found)


def test_from_folder_to_folder(tmp_path, start, folder, tied_model, corpus, data_arguments):
    out, exported = tmp_path / "run", tmp_path / "exported"
    command = [*start, *DISTRIBUTED, "--t3s", "--t3s-simple", "--t3s-simple-step", 2,
               "--save", out, "--load", out, "--save-interval", 3,
               "--t3s-hf-export", exported]  # fmt: skip

    job = run([*command, "--exit-interval", 3], processes=2, model=RUNTIME)
    assert f"weights of {folder} loaded" in job.output and not exported.exists()
    # theta_0 was scored: it is the folder's, as transformers sees it.
    c_0 = LogProbStore.load(str(out / "t3s" / "c_theta_0.safetensors"), corpus).c
    assert np.abs(c_0 - log_probs(folder, corpus)).max() < 1e-4

    # The weights are not read again: a resumed job needs no more than the small files.
    moved = tmp_path / "without weights"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("*.safetensors*"))
    job = run([*command, "--t3s-hf-model", moved], processes=2, model=RUNTIME)
    assert "loaded in" not in job.output and f"exported to {exported}" in job.output

    assert json.loads((exported / "config.json").read_text())["tie_word_embeddings"] is True
    names = set(os.listdir(exported))
    assert {"tokenizer.json", "generation_config.json", "model.safetensors.index.json"} <= names
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".tmp", ".old"))]
    before, after = read_tensors(folder), read_tensors(str(exported))
    assert set(before) == set(after)
    assert all(not torch.equal(before[key], after[key]) for key in before)

    # What the run's own last checkpoint scores is what transformers computes from the export.
    run(
        [*ARGUMENTS, *data_arguments, *SCHEDULE, "--make-vocab-size-divisible-by", VOCABULARY,
         "--pretrained-checkpoint", out, "--t3s", "--t3s-simple", "--t3s-simple-step", 1,
         "--t3s-dir", tmp_path / "check"],
        model=tied_model,
    )  # fmt: skip
    c = LogProbStore.load(str(tmp_path / "check" / "c_theta_0.safetensors"), corpus).c
    assert np.abs(c - log_probs(str(exported), corpus)).max() < 1e-4

    # The command outside of a run gives the same folder out of the last checkpoint, bit for bit.
    outside = tmp_path / "outside"
    run(
        [*command, "--t3s-hf-export", outside],
        processes=2,
        model=RUNTIME,
        module="t3s_megatron.convert",
    )
    other = read_tensors(str(outside))
    assert set(other) == set(after) and all(torch.equal(other[k], after[k]) for k in after)


def test_weights_before_training_are_the_folders_bits(tmp_path, data_arguments):
    """bf16 at learning rate 0: main parameters are copies, and publish themselves every step."""
    folder = save_model(str(tmp_path / "model"), vocab_size=24, dtype=torch.bfloat16)
    run(
        [*data_arguments, *DISTRIBUTED, "--bf16", "--train-iters", 2, "--lr", 0,
         "--weight-decay", 0, "--t3s-hf-model", folder, "--t3s-hf-export", tmp_path / "out"],
        processes=2,
        model=RUNTIME,
    )  # fmt: skip
    before, after = read_tensors(folder), read_tensors(str(tmp_path / "out"))
    assert set(before) == set(after)
    for key, value in before.items():
        assert after[key].dtype == torch.bfloat16 and torch.equal(after[key], value), key


def test_a_student_of_megatrons_becomes_a_folder(tmp_path, student, corpus, task):
    """It never was one: config.json is made of the arguments."""
    out = tmp_path / "out"
    run(
        ["--tokenizer-model", task[1], "--load", student, "--t3s-hf-export", out],
        module="t3s_megatron.convert",
    )
    model = Reference(read_weights(student))
    with torch.no_grad():
        wanted = [model.log_probs(s.tokens).numpy()[s.is_target[1:]] for s in corpus.samples]
    assert np.abs(log_probs(str(out), corpus) - np.concatenate(wanted)).max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    assert tokenizer.chat_template and len(tokenizer) == 20
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id


def test_refusals(tmp_path, data_arguments):
    folder = save_model(str(tmp_path / "model"), vocab_size=24)
    common = [*data_arguments, "--train-iters", 1, "--lr", 1e-3, "--t3s-hf-model", folder]
    wrong = "--num-layers 2 --kv-channels 16 --norm-epsilon 1e-5 --rotary-base 10000".split()
    job = run([*common, *wrong], model=RUNTIME, expect=1)
    refused_cleanly(job, f"--t3s-hf-model {folder} is not the model")
    for line in (
        "num_hidden_layers is 4, but --num-layers is 2",
        "head_dim is 32, but --kv-channels is 16",
        "rms_norm_eps is 1e-06, but --norm-epsilon is 1e-05",
        "rope_theta is 1000000.0, but --rotary-base is 10000",
    ):
        assert line in job.output
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("mine")
    job = run([*common, "--t3s-hf-export", tmp_path / "own"], model=RUNTIME, expect=1)
    refused_cleanly(job, "is there already, and no earlier export")


def test_tensors_of_another_shape_are_named_with_their_file(tmp_path, data_arguments):
    folder = save_model(str(tmp_path / "model"), vocab_size=24)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.2.mlp.up_proj.weight"
    save_file(tensors | {name: torch.zeros(100, 64)}, file, metadata={"format": "pt"})
    job = run(
        ["--tokenizer-model", data_arguments[-1], "--t3s-hf-model", folder,
         "--save", tmp_path / "out"],
        model=RUNTIME,
        module="t3s_megatron.convert",
        expect=1,
    )  # fmt: skip
    refused_cleanly(job, f"{name} [100, 64] in model.safetensors", built=True)
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"vocab_size": 30}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    save_file(tensors, file, metadata={"format": "pt"})
    job = run(
        ["--tokenizer-model", data_arguments[-1], "--t3s-hf-model", folder,
         "--save", tmp_path / "out"],
        model=RUNTIME,
        module="t3s_megatron.convert",
        expect=1,
    )  # fmt: skip
    refused_cleanly(job, "model.embed_tokens.weight [24, 64] in model.safetensors")


@pytest.mark.parametrize("release", [r for r in TESTED_RELEASES if r != "0.19.2"])
def test_other_releases(release, tmp_path, data_arguments, task):
    overlay = Path(ROOT) / ".venv" / "releases" / release
    folder = save_model(str(tmp_path / "model"), vocab_size=23)
    environment = {"PYTHONPATH": f"{overlay}:{ROOT}"}
    two = ["--tensor-model-parallel-size", 2]
    run(
        [*ARGUMENTS, *data_arguments, *two, "--train-iters", 1, "--lr", 0, "--weight-decay", 0,
         "--t3s-hf-model", folder, "--t3s-hf-export", tmp_path / "out"],
        processes=2,
        environment=environment,
    )  # fmt: skip
    run(
        [*ARGUMENTS, "--tokenizer-model", task[1], "--t3s-hf-model", folder,
         "--save", tmp_path / "checkpoint"],
        module="t3s_megatron.convert",
        environment=environment,
    )  # fmt: skip
    run(
        [*ARGUMENTS, "--tokenizer-model", task[1], "--load", tmp_path / "checkpoint",
         "--t3s-hf-model", folder, "--t3s-hf-export", tmp_path / "back"],
        module="t3s_megatron.convert",
        environment=environment,
    )  # fmt: skip
    before = read_tensors(folder)
    for name in ("out", "back"):
        after = read_tensors(str(tmp_path / name))
        assert set(before) == set(after), name
        assert all(torch.equal(before[key], after[key]) for key in before), name
