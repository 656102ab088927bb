# SPDX-License-Identifier: Apache-2.0
"""Arguments of a model are built, or refused by name: none is dropped.

Sources of the cases: NVIDIA/Megatron-LM #6305, #681, #1589, #1989, alibaba/ROLL #287 (arguments
that change nothing), #1297, #1138 (raw tracebacks).
"""

from __future__ import annotations

import sys
from argparse import Namespace

import pytest

BASE = dict(transformer_impl="local", qk_l2_norm=False, pipeline_model_parallel_size=1)
REFUSED = {
    "hybrid_layer_pattern": ("M*M*", "--hybrid-layer-pattern is not supported"),
    "experimental_attention_variant": ("dsa", "--experimental-attention-variant dsa is not"),
    "heterogeneous_layers_config_path": ("x.json", "--heterogeneous-layers-config-path"),
    "mtp_num_layers": (1, "--mtp-num-layers is not supported"),
    "decoder_last_pipeline_num_layers": (2, "--decoder-last-.* 2: there is one pipeline stage"),
    "qk_l2_norm": (True, "--qk-l2-norm does nothing in --transformer-impl local"),
}


@pytest.mark.child
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_is_refused(name):
    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.model import check_model_arguments

    check_model_arguments(Namespace(**BASE))
    value, reason = REFUSED[name]
    with pytest.raises(T3SError, match=reason):
        check_model_arguments(Namespace(**BASE | {name: value}))


@pytest.mark.child
def test_experts_with_biases_are_not_cut():
    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.model import check_model_arguments

    experts = BASE | dict(num_experts=4, expert_tensor_parallel_size=2)
    check_model_arguments(Namespace(**experts, add_bias_linear=False))
    with pytest.raises(T3SError, match="--expert-tensor-parallel-size 2: Megatron does not cut"):
        check_model_arguments(Namespace(**experts, add_bias_linear=True))


SINKS = {
    "--attention-backend flash": dict(attention_backend="flash"),
    "--deterministic-mode": dict(deterministic_mode=True),
    "give --cp-comm-type a2a": dict(context_parallel_size=2),
    "--t3s-arrangement packed .* found 2.11.0": dict(t3s_arrangement="packed"),
}


@pytest.mark.child
@pytest.mark.parametrize("reason", SINKS)
def test_where_no_kernel_has_sinks(reason):
    from megatron.core.transformer.enums import AttnBackend
    from packaging.version import Version

    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.model import check_sinks

    given = BASE | dict(
        transformer_impl="transformer_engine", softmax_type="learnable", attention_backend="fused",
        deterministic_mode=False, context_parallel_size=1, cp_comm_type=["p2p"],
    )  # fmt: skip

    def check(**more):
        arguments = Namespace(**given | more)
        arguments.attention_backend = AttnBackend[arguments.attention_backend]
        check_sinks(arguments, Version("2.11.0"))

    check()
    check(context_parallel_size=2, cp_comm_type=["a2a"])
    check(**SINKS[reason] | dict(softmax_type="vanilla"))
    check(**SINKS[reason] | dict(transformer_impl="local"))
    with pytest.raises(T3SError, match=reason):
        check(**SINKS[reason])


DELTA_NET = dict(
    experimental_attention_variant="gated_delta_net",
    transformer_impl="transformer_engine",
    tensor_model_parallel_size=2,
    context_parallel_size=2,
    sequence_parallel=True,
    linear_num_key_heads=4,
    linear_num_value_heads=8,
)


@pytest.mark.child
def test_gated_delta_nets():
    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.model import check_model_arguments

    check_model_arguments(Namespace(**BASE | DELTA_NET))
    for changed, reason in (
        (dict(sequence_parallel=False), "only with --sequence-parallel"),
        (dict(linear_num_key_heads=2), "--linear-num-key-heads 2 has to be divisible by the 4"),
    ):
        with pytest.raises(T3SError, match=reason):
            check_model_arguments(Namespace(**BASE | DELTA_NET | changed))


TINY = """--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16
--max-position-embeddings 16 --micro-batch-size 1 --global-batch-size 1 --train-iters 1 --lr 1e-3
--position-embedding-type rope --transformer-impl local --no-rope-fusion --vocab-size 32
--no-persist-layer-norm --no-gradient-accumulation-fusion --no-masked-softmax-fusion
--tokenizer-type NullTokenizer --make-vocab-size-divisible-by 1 --distributed-backend gloo"""


def build(line: str = ""):
    """The model of one process that the entry point builds for these arguments."""
    import torch
    from megatron.core import parallel_state, tensor_parallel
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.global_vars import set_args

    from t3s_megatron.megatron.model import model_provider

    sys.argv = ["pretrain", *TINY.split(), *line.split()]
    args = parse_args()
    validate_args(args, {})
    args.padded_vocab_size = 32
    set_args(args)
    torch.distributed.init_process_group("fake", store=_store(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    return model_provider()


def _store():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    return FakeStore()


@pytest.mark.child
@pytest.mark.filterwarnings("ignore")
def test_positions_are_stretched_as_asked():
    import torch

    model = build("--rotary-seq-len-interpolation-factor 4")
    assert model.rotary_pos_emb.seq_len_interpolation_factor == 4
    angles = model.rotary_pos_emb(16)[:, 0, 0, 0]
    assert torch.allclose(angles, torch.arange(16) / 4)


@pytest.mark.child
@pytest.mark.filterwarnings("ignore")
def test_the_factor_of_a_scaled_rope_is_the_one_that_was_given():
    factors = []
    from t3s_megatron.megatron import model as module

    class Recorder(module.GPTModel):
        def __init__(self, **given):
            factors.append(given["rope_scaling_factor"])
            super().__init__(**given)

    module.GPTModel = Recorder
    build("--use-rope-scaling --rope-scaling-factor 32")
    assert factors == [32]


@pytest.mark.child
@pytest.mark.filterwarnings("ignore")
def test_latent_attention_is_built():
    model = build("--multi-latent-attention --q-lora-rank 16 --kv-lora-rank 16")
    assert any("linear_kv_up_proj" in name for name, _ in model.named_parameters())


RAW = {
    "an assertion without a word": ("--save /x", r"Megatron refuses.*save_interval"),
    "a file of arguments": ("--yaml-cfg c.yaml", "--yaml-cfg is not supported"),
    "a tokenizer": ("--tokenizer-type HuggingFaceTokenizer", "Megatron refuses.*okenizer"),
}


@pytest.mark.child
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", RAW)
def test_what_megatron_refuses_is_one_error(case):
    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.releases import parse_arguments

    line, reason = RAW[case]
    sys.argv = ["pretrain", *TINY.split(), *line.split()]
    with pytest.raises(T3SError, match=reason):
        parse_arguments(lambda parser: parser, {})
