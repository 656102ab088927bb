# SPDX-License-Identifier: Apache-2.0
"""What several test modules share: the data, and students pre-trained once a session."""

from __future__ import annotations

import pytest

from tests.support.launch import MOE, run
from tests.support.task import write_task


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> tuple[str, str]:
    """(train.jsonl, tokenizer folder) of 24 samples."""
    return write_task(str(tmp_path_factory.mktemp("task")))


@pytest.fixture(scope="session")
def data_arguments(task) -> list[str]:
    return ["--t3s-data", task[0], "--tokenizer-model", task[1]]


@pytest.fixture(scope="session")
def student(tmp_path_factory, data_arguments) -> str:
    """Folder of a checkpoint: the dense student after 120 steps, right on part of the prompts."""
    return _pretrained(tmp_path_factory, data_arguments, [])


@pytest.fixture(scope="session")
def moe_student(tmp_path_factory, data_arguments) -> str:
    return _pretrained(tmp_path_factory, data_arguments, MOE)


def _pretrained(tmp_path_factory, data_arguments, extra) -> str:
    folder = str(tmp_path_factory.mktemp("student"))
    schedule = "--train-iters 120 --lr 3e-3 --min-lr 3e-4 --lr-warmup-iters 2".split()
    batch = "--micro-batch-size 24 --global-batch-size 24".split()
    saving = ["--save", folder, "--save-interval", 1000, "--no-save-optim", "--no-save-rng"]
    run([*data_arguments, *extra, *schedule, *batch, *saving])
    return folder
