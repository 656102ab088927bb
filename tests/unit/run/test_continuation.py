# SPDX-License-Identifier: Apache-2.0
"""A command goes on from the run in its folders as that very run, or is told why it would not.

Sources of the cases: modelscope/ms-swift #7846, #6008, #9438, #8240, #9385 (a restart that starts
over or cannot go on), THUDM/slime #1775 and verl-project/verl #7953 (moments and schedule restart
silently), NVIDIA/Megatron-LM #1138, #963 (what is taken from a checkpoint and what from the
command), NVIDIA-NeMo/RL #969 and google/flax #1120 (two runs in one folder), NVIDIA/Megatron-LM
#1754 (padding of the vocabulary).
"""

from __future__ import annotations

import json
import re

import pytest

from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.errors import T3SError
from t3s_megatron.run.continuation import check_continuation
from t3s_megatron.run.identity import identity
from t3s_megatron.run.inputs import read_inputs
from tests.support.arguments import namespace
from tests.support.task import make_samples, make_tokenizer

MEGATRON = dict(
    load=None, finetune=False, ckpt_step=None, no_load_optim=False, no_load_rng=False,
    no_save_optim=False, hidden_dropout=0.0, attention_dropout=0.0, rotary_base=10000,
    layernorm_epsilon=1e-5, clip_grad=1.0, lr=1e-2, min_lr=0.0, weight_decay=0.01,
    lr_decay_style="cosine", tensor_model_parallel_size=1, log_interval=1, save_interval=2,
    recompute_granularity=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    make_tokenizer(folder)
    return folder


@pytest.fixture
def command(tmp_path, tokenizer):
    """command(**megatron): what a job that is started with these arguments says at its start."""
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in make_samples(8, 0)))

    def read(**megatron):
        args = namespace(
            f"--t3s-data {data}",
            **{"tokenizer_model": tokenizer, "save": str(tmp_path / "out")} | MEGATRON | megatron,
        )
        return read_inputs(args), args

    def start(**megatron) -> None:
        check_continuation(*read(**megatron))

    start.read = read
    return start


@pytest.fixture
def out(tmp_path, command) -> str:
    """Folder of an unfinished run, at the checkpoint of iteration 2."""
    inputs, _ = command.read()
    states = StateFolder(str(tmp_path / "out" / "t3s" / "state"))
    states.commit(2, {"identity": identity(inputs)})
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").write_text("2")
    return str(tmp_path / "out")


def refuses(start, reason: str, **megatron) -> None:
    with pytest.raises(T3SError, match=reason):
        start(**megatron)


def test_the_same_command_goes_on(command, out):
    command(load=out)


def test_what_changes_no_number_may_change(command, out):
    """Another layout, interval of logging, way to recompute."""
    command(load=out, log_interval=10, save_interval=5, recompute_granularity="full",
            tensor_model_parallel_size=2)  # fmt: skip


CHANGES = {
    "rotary_base": (500000, "--rotary-base 10000, this one has 500000"),
    "layernorm_epsilon": (1e-3, "--norm-epsilon 1e-05, this one has 0.001"),
    "hidden_dropout": (0.1, "--hidden-dropout 0.0, this one has 0.1"),
    "clip_grad": (0.1, "--clip-grad 1.0, this one has 0.1"),
    "lr": (5e-3, "--lr 0.01, this one has 0.005"),
    "min_lr": (1e-3, "--min-lr 0.0, this one has 0.001"),
    "weight_decay": (0.1, "--weight-decay 0.01, this one has 0.1"),
    "train_iters": (40, "--train-iters 50, this one has 40"),
    "global_batch_size": (4, "--global-batch-size 8, this one has 4"),
    "lr_decay_style": ("linear", "--lr-decay-style cosine, this one has linear"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_numbers_is_refused_by_name(name, command, out):
    value, reason = CHANGES[name]
    refuses(command, re.escape(reason), load=out, **{name: value})


def test_every_difference_is_named(command, out):
    refuses(
        command, "(?s)--lr 0.01.*--clip-grad|--clip-grad.*--lr 0.01", load=out, lr=1, clip_grad=2
    )


def test_other_padding_of_the_vocabulary_says_what_to_add(tmp_path, command):
    inputs, _ = command.read(padded_vocab_size=128)
    states = StateFolder(str(tmp_path / "out" / "t3s" / "state"))
    states.commit(2, {"identity": identity(inputs)})
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").write_text("2")
    refuses(
        command,
        r"--padded-vocab-size 128, this one has 256 \(add --make-vocab-size-divisible-by 64\)",
        load=str(tmp_path / "out"),
        padded_vocab_size=256,
        tensor_model_parallel_size=2,
    )


def test_an_unfinished_run_is_not_started_over(command, out):
    start_over = "iteration 2 there is of a T3S run, and this command would write over it"
    refuses(command, f"{start_over}: --finetune starts", load=out, finetune=True)
    refuses(command, f"{start_over}: --load is not given. To go on, give --load {out}")
    refuses(command, f"{start_over}: --load .*elsewhere has no checkpoint", load=f"{out}/elsewhere")


def test_a_folder_of_another_run_is_not_written_over(tmp_path, command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").write_text("8")
    refuses(command, "iteration 8 there is of another run.*give another --save")


def test_a_run_that_died_before_megatron_named_its_checkpoint_starts_again(tmp_path, command, out):
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").unlink()
    command(load=out)


def test_what_a_run_would_lose(command, out):
    refuses(command, "without the optimizer's moments", load=out, no_load_optim=True)
    command(load=out, no_load_rng=True)


def test_what_a_run_with_dropout_would_lose(tmp_path, command):
    refuses(command, "--no-save-optim does not work", no_save_optim=True)
    inputs, _ = command.read(hidden_dropout=0.1)
    StateFolder(str(tmp_path / "out" / "t3s" / "state")).commit(2, {"identity": identity(inputs)})
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").write_text("2")
    out = str(tmp_path / "out")
    refuses(command, "random state", load=out, hidden_dropout=0.1, no_load_rng=True)


def test_a_checkpoint_without_its_state(command, out, tmp_path):
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").write_text("4")
    refuses(command, "state.json: not there.*states of iterations: 2", load=out)
