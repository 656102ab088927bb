# SPDX-License-Identifier: Apache-2.0
"""What the plan asks of Megatron and of torch, without a launch."""

from __future__ import annotations

import pytest
import torch

from t3s_megatron.megatron.fake_world.meters import LiveBytes, SavedTensors, storage_bytes

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_storage_is_counted_once_and_whole():
    x = torch.zeros(100)
    assert storage_bytes([x, x[:10], x.view(10, 10), torch.zeros(3)]) == 400 + 12


def test_saved_tensors_are_what_autograd_keeps_but_for_the_weights():
    weight = torch.ones(8, 8, requires_grad=True)
    x = torch.ones(4, 8)
    saved = SavedTensors(ignored=[weight])
    with saved.recording():
        y = (x @ weight).exp()  # keeps x, and its own result
    assert saved.take() == storage_bytes([x, y])
    assert saved.take() == 0


def test_the_peak_is_what_was_there_at_once():
    known = torch.ones(1000)
    with LiveBytes(ignored=[known]) as live:
        a = known.clone()
        b = a + 1
        del a
        c = known.view(10, 100)  # nothing new
        d = b * 2
    assert live.peak == 2 * 4000 and live.now == 2 * 4000
    del b, d
    assert live.now == 0 and c.numel() == 1000


SHAPES = {
    "dense": "--num-layers 6 --hidden-size 512 --ffn-hidden-size 1536",
    "mixture": "--num-layers 6 --hidden-size 512 --ffn-hidden-size 1536 --num-experts 8 "
    "--moe-router-topk 2 --moe-ffn-hidden-size 384 --moe-token-dispatcher-type alltoall",
}
SHAPES["mixture over ranks"] = (
    SHAPES["mixture"] + " --expert-model-parallel-size 2 --expert-tensor-parallel-size 1"
)
REST = """--num-attention-heads 8 --group-query-attention --num-query-groups 2 --kv-channels 64
--swiglu --normalization RMSNorm --qk-layernorm --disable-bias-linear --position-embedding-type rope
--untie-embeddings-and-output-weights --seq-length 2048 --max-position-embeddings 2048
--micro-batch-size 1 --global-batch-size 8 --train-iters 1 --lr 1e-5 --bf16
--tokenizer-type HuggingFaceTokenizer --tokenizer-model nowhere --attention-dropout 0
--hidden-dropout 0 --pipeline-model-parallel-size 2 --tensor-model-parallel-size 2
--sequence-parallel --use-distributed-optimizer"""


def planned(shape: str, extra: str = ""):
    """(args, model) as the plan measures it on 4 GPUs."""
    from t3s_megatron.config import add_t3s_arguments
    from t3s_megatron.megatron.fake_world.arguments import read_arguments
    from t3s_megatron.megatron.fake_world.cluster import install_fake_world
    from t3s_megatron.megatron.fake_world.stages import measure_model
    from t3s_megatron.planning.reading import pad_vocabulary

    install_fake_world()
    args = read_arguments(
        [*SHAPES[shape].split(), *REST.split(), *extra.split()], 4, add_t3s_arguments
    )
    pad_vocabulary(args, 4096)
    return args, measure_model(args, 1.0)


@pytest.mark.child
@pytest.mark.parametrize("shape", SHAPES)
def test_flops_are_those_that_megatron_counts(shape):
    from megatron.training.training import num_floating_point_operations

    from t3s_megatron.planning.work import step_flops

    args, model = planned(shape)
    ours = step_flops(model, [args.seq_length] * args.global_batch_size)
    # Megatron does not count the router.
    assert ours == pytest.approx(num_floating_point_operations(args, 8), rel=0.005)


@pytest.mark.child
def test_stand_ins_keep_less_than_the_local_layers_and_recomputation_less_than_both():
    def saved(extra):
        _, model = planned("dense", extra)
        return sum(chunk.saved for stage in model.stages for chunk in stage.chunks)

    recompute = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
    local, fused = saved("--transformer-impl local"), saved("--transformer-impl transformer_engine")
    assert saved(recompute) < fused < local


@pytest.mark.child
def test_what_megatron_refuses_is_said_in_its_words():
    from t3s_megatron.errors import T3SError

    with pytest.raises(T3SError, match="4 GPUs.*world size"):
        planned("dense", "--tensor-model-parallel-size 8")
    with pytest.raises(T3SError, match="unrecognized arguments: --no-such"):
        planned("dense", "--no-such")
