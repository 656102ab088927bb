# SPDX-License-Identifier: Apache-2.0
"""What several test modules share: the data, and students pre-trained once a session, whichever of
pytest-xdist's workers needs one first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from transformers import AutoTokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from tests.support.launch import EXPERT_BIAS, MOE, run
from tests.support.task import write_samples, write_task

# Another of pytest-xdist's processes has the other core, and threads that wait for one spin.
torch.set_num_threads(1)

# No test judges wall time; CI tries the same examples each time, a person at a desk new ones.
settings.register_profile("suite", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[str], object]], str]:
    """once(name, make): the folder that `make(folder)` has filled, once for all of a session's
    worker processes; the others wait for it. What has failed is made anew by the next who asks."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def folder_of(name: str, make: Callable[[str], object]) -> str:
        folder, done = shared / name, Path(f"{shared / name}.done")
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(str(folder))
                done.touch()
        return str(folder)

    return folder_of


@pytest.fixture(scope="session")
def task(once) -> tuple[str, str]:
    """(train.jsonl, tokenizer folder) of 24 samples."""
    folder = once("task", write_task)
    return f"{folder}/train.jsonl", f"{folder}/tokenizer"


@pytest.fixture(scope="session")
def data_arguments(task) -> list[str]:
    return ["--t3s-data", task[0], "--tokenizer-model", task[1]]


@pytest.fixture(scope="session")
def corpus(task) -> Corpus:
    """The samples of `task` as a job at the tests' sequence length reads them."""
    tokenizer = AutoTokenizer.from_pretrained(task[1])
    return Corpus.build(load_records(task[0]), tokenizer, seq_length=48)


@pytest.fixture(scope="session")
def student(once, task) -> str:
    """Folder of a checkpoint: a dense student that is right on part of the prompts."""
    return once("student", lambda folder: pretrain_student(folder, task[1], []))


@pytest.fixture(scope="session")
def moe_student(once, task) -> str:
    return once("moe_student", lambda folder: pretrain_student(folder, task[1], MOE))


@pytest.fixture(scope="session")
def expert_bias_student(once, task) -> str:
    model = [*MOE, *EXPERT_BIAS]
    return once("expert_bias_student", lambda folder: pretrain_student(folder, task[1], model))


def pretrain_student(folder: str, tokenizer: str, extra: list) -> str:
    """Trained on other samples than `task`'s, so that fine-tuning still has gradients: where they
    vanish, Adam blows rounding differences between layouts up to whole updates."""
    os.makedirs(folder, exist_ok=True)
    data = write_samples(f"{folder}/pretrain.jsonl", n=600, seed=1)
    schedule = "--train-iters 150 --lr 4e-3 --min-lr 4e-4 --lr-warmup-iters 10".split()
    batch = "--micro-batch-size 32 --global-batch-size 32".split()
    saving = ["--save", folder, "--save-interval", 1000, "--no-save-optim", "--no-save-rng"]
    arguments = ["--t3s-data", data, "--tokenizer-model", tokenizer]
    run([*arguments, *extra, *schedule, *batch, *saving])
    return folder
