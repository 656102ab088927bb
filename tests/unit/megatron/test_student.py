# SPDX-License-Identifier: Apache-2.0
"""A new run starts from the student that its command describes, and from no other numbers.

Sources of the cases: THUDM/slime #345, NVIDIA-NeMo/Megatron-Bridge #6032 (a load that reports
success), NVIDIA/Megatron-LM #2616 and swiss-ai/Megatron-LM #106 (arguments that a checkpoint does
not restore), NVIDIA/Megatron-LM #1754, alibaba/Pai-Megatron-Patch #338 (padding of the vocabulary).
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

SHAPE = dict(
    num_layers=4, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, kv_channels=16,
    group_query_attention=True, num_query_groups=2, normalization="RMSNorm", qk_layernorm=True,
    layernorm_epsilon=1e-6, position_embedding_type="rope", rotary_base=1000000,
    rotary_percent=1.0, use_rope_scaling=False, rope_scaling_factor=8.0, num_experts=None,
    untie_embeddings_and_output_weights=True, multi_latent_attention=False, swiglu=True,
    add_bias_linear=False,
)  # fmt: skip

#: What a checkpoint may have otherwise: nothing of the model depends on it.
IGNORED = dict(lr=1.0, rope_scaling_factor=32.0, vocab_size=101)


def command(**changed) -> Namespace:
    return Namespace(
        **SHAPE
        | dict(load=None, pretrained_checkpoint=None, ckpt_step=None, finetune=False,
               padded_vocab_size=128, tensor_model_parallel_size=1)
        | changed
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved_student(once, in_child) -> str:
    """A checkpoint of iteration 5 as Megatron writes it, which takes seconds: made once."""
    return once("saved_student", lambda folder: in_child(write_checkpoint, folder=folder))


def write_checkpoint(folder: str) -> None:
    """One of the student SHAPE, with an embedding of 128 rows, 101 of them the model's own."""
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor

    store = f"file://{folder}.store"  # Megatron's writer asks who is who
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    name = "embedding.word_embeddings.weight"
    embedding = ShardedTensor.from_rank_offsets(name, torch.zeros(128, 4))
    where = Path(folder, "iter_0000005")
    where.mkdir()
    dist_checkpointing.save({"args": Namespace(**SHAPE | IGNORED), "model": embedding}, str(where))
    Path(folder, "latest_checkpointed_iteration.txt").write_text("5")


def refusal(args: Namespace, required: bool = True) -> str:
    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.student import find_student

    with pytest.raises(T3SError) as error:
        find_student(args, required=required)
    return str(error.value)


@pytest.mark.child
def test_the_checkpoint_of_the_command_is_found(tmp_path, saved_student):
    from t3s_megatron.megatron.student import find_student

    for argument in ("load", "pretrained_checkpoint"):
        found = find_student(command(**{argument: saved_student}), required=True)
        assert found is not None and found.path == f"{saved_student}/iter_0000005"
    both = command(load=str(tmp_path / "new"), pretrained_checkpoint=saved_student)
    found = find_student(both, required=True)
    assert found is not None and found.argument == "--pretrained-checkpoint"


@pytest.mark.child
def test_a_format_in_which_it_is_not_read_is_named(saved_student):
    given = dict(load=saved_student, ckpt_format="torch", auto_detect_ckpt_format=False)
    assert "does not read with --ckpt-format torch: drop" in refusal(command(**given))


@pytest.mark.child
def test_every_difference_to_the_command_is_named(saved_student):
    changed = dict(rotary_base=10000, layernorm_epsilon=1e-5, rotary_percent=0.5,
                   untie_embeddings_and_output_weights=False, qk_layernorm=False)  # fmt: skip
    said = refusal(command(pretrained_checkpoint=saved_student, **changed))
    assert f"--pretrained-checkpoint {saved_student} is not the model" in said
    for line in (
        "--rotary-base is 1000000 in the checkpoint, here 10000",
        "--norm-epsilon is 1e-06 in the checkpoint, here 1e-05",
        "--rotary-percent is 1.0 in the checkpoint, here 0.5",
        "--untie-embeddings-and-output-weights is given in the checkpoint, here not given",
        "--qk-layernorm is given in the checkpoint, here not given",
    ):
        assert line in said
    assert said.count("in the checkpoint") == 5


@pytest.mark.child
def test_other_rows_of_the_vocabulary_say_what_to_add(saved_student):
    wider = dict(padded_vocab_size=256, tensor_model_parallel_size=2)
    said = refusal(command(load=saved_student, finetune=True, **wider))
    assert "128 rows in the checkpoint, here 256" in said
    assert "Add --make-vocab-size-divisible-by 64" in said
    said = refusal(command(load=saved_student, padded_vocab_size=129, tensor_model_parallel_size=3))
    assert "--tensor-model-parallel-size 3 does not divide them" in said
    assert "fewer" in refusal(command(load=saved_student, padded_vocab_size=100))


@pytest.mark.child
def test_no_student_is_refused_and_a_path_to_none_is_named(tmp_path, saved_student):
    from t3s_megatron.megatron.student import find_student

    assert "no student: neither --load nor" in refusal(command())
    assert find_student(command(), required=False) is None  # a script may have its own weights
    gone = str(tmp_path / "studnet")
    assert f"--load {gone}: no such folder" in refusal(command(load=gone, finetune=True))
    named = command(pretrained_checkpoint=gone)
    assert f"--pretrained-checkpoint {gone}: no such folder" in refusal(named, required=False)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    said = refusal(command(pretrained_checkpoint=str(tmp_path / "hf")))
    assert "a Hugging Face folder, which is given as --t3s-hf-model" in said
    said = refusal(command(pretrained_checkpoint=f"{saved_student}/iter_0000005"))
    assert f"give the folder above it, {saved_student}" in said
    said = refusal(command(load=saved_student, finetune=True, ckpt_step=3))
    assert "--ckpt-step 3" in said and "--load has iter_0000005" in said


def checkpoint_of(model, folder: Path, **beside):
    """A checkpoint of all of a model's tensors, and of others beside them."""
    from megatron.core import dist_checkpointing

    from t3s_megatron.megatron.student import Source

    folder.mkdir()
    content = model.sharded_state_dict() | beside
    dist_checkpointing.save(content, str(folder))
    return Source("--load", str(folder), str(folder))


@pytest.mark.child
def test_every_tensor_of_a_checkpoint_has_a_place_in_the_model(tmp_path):
    """Megatron drops those that have none, as the output layer of an untied student."""
    import torch
    from megatron.core.dist_checkpointing import ShardedTensor
    from tiny_gpt import context_of, make_parallel, tiny_gpt

    from t3s_megatron.errors import MismatchError
    from t3s_megatron.megatron.student import StudentTensors

    make_parallel()
    model = tiny_gpt()
    context = context_of(model)
    moments = {"optimizer.state.exp_avg.x": torch.zeros(2)}
    others = {
        name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in moments.items()
    }
    StudentTensors(checkpoint_of(model, tmp_path / "same", **others)).on_train_start(context)
    untied = {
        name: ShardedTensor.from_rank_offsets(name, torch.zeros(2))
        for name in ("decoder.layers.0.self_attention.gate.weight", "another.weight")
    }
    source = checkpoint_of(model, tmp_path / "other", **untied)
    with pytest.raises(MismatchError, match="no place for 2 of its tensors .*another.weight"):
        StudentTensors(source).on_train_start(context)


@pytest.mark.child
def test_a_checkpoint_of_another_format_is_megatrons_to_judge(tmp_path):
    from tiny_gpt import context_of, make_parallel, tiny_gpt

    from t3s_megatron.megatron.student import Source, StudentTensors

    make_parallel()
    (tmp_path / "mp_rank_00").mkdir()
    source = Source("--load", str(tmp_path), str(tmp_path))
    StudentTensors(source).on_train_start(context_of(tiny_gpt()))


@pytest.mark.child
def test_a_checkpoint_says_how_many_rows_of_the_vocabulary_are_the_models(tmp_path, saved_student):
    from t3s_megatron.errors import MismatchError
    from t3s_megatron.megatron.student import keep_vocabulary, take_vocabulary

    for given, tokens, wanted in ((None, 90, 101), (120, 90, 120), (None, 110, None)):
        args = command(load=saved_student, vocab_size=given)
        take_vocabulary(args, "load", tokens)
        assert args.vocab_size == wanted
    args = command(load=str(tmp_path / "none"), vocab_size=None)
    take_vocabulary(args, "load", 90)
    assert args.vocab_size is None
    for given in (None, 101):
        args = command(load=saved_student, vocab_size=given)
        keep_vocabulary(args)
        assert args.vocab_size == 101
    with pytest.raises(MismatchError, match="--vocab-size 101, this command 90"):
        keep_vocabulary(command(load=saved_student, vocab_size=90))
