# SPDX-License-Identifier: Apache-2.0
"""The model provider of `python -m t3s_megatron.pretrain`: a GPTModel from Megatron's arguments.

A run with its own pretrain script keeps its own provider; this one covers what Megatron's
`pretrain_gpt.py` builds (dense and MoE, Transformer Engine or local layers, `--spec`), and refuses
by name what it does not build.
"""

from __future__ import annotations

import copy
import re

from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from megatron.core.transformer.spec_utils import import_module
from megatron.core.utils import get_te_version
from megatron.training import get_args
from megatron.training.arguments import core_transformer_config_from_args
from packaging.version import Version

from t3s_megatron.data.lengths import choose_arrangement, has_delta_nets
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.arguments import given
from t3s_megatron.megatron.block_attention import use_block_attention
from t3s_megatron.megatron.device import is_cpu_layer_active
from t3s_megatron.megatron.releases import layer_spec, megatron_series, megatron_version
from t3s_megatron.megatron.uneven import let_lengths_vary

#: Of local layers, and of Transformer Engine's, where the experts are one module.
_EXPERT_BIAS = re.compile(r"\.mlp\.experts\..*bias\d*$")
#: Arguments whose models this provider does not build: it ...
_NOT_BUILT = {
    "hybrid_layer_pattern": "makes a hybrid model of other layers",
    "hybrid_override_pattern": "makes a hybrid model of other layers",
    "is_hybrid_model": "makes a hybrid model of other layers",
    "heterogeneous_layers_config_path": "gives every layer a shape of its own",
    "heterogeneous_layers_config_encoded_json": "gives every layer a shape of its own",
    "mtp_num_layers": "adds layers and losses beside the model's own",
    "modelopt_enabled": "replaces layers by ModelOpt's",
    "export_kd_teacher_load": "trains against a teacher's logits",
    "use_legacy_models": "makes a model of Megatron's old kind",
}


def check_model_arguments(args) -> None:
    """T3SError for arguments of a model that `model_provider` does not build, which would train
    another one without a word."""
    for name, why in _NOT_BUILT.items():
        if getattr(args, name, None):
            known = given(args, name)
            argument = known[0] if known else "--" + name.replace("_", "-")
            raise T3SError(
                f"{argument} is not supported: it {why}. Drop it, or train it "
                "from a pretrain script of your own, with the plugin"
            )
    _check_delta_nets(args)
    for name in ("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"):
        if args.pipeline_model_parallel_size == 1 and getattr(args, name, None) is not None:
            raise T3SError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: there is one pipeline stage, "
                "which has all layers. Drop it, or give --pipeline-model-parallel-size"
            )
    cut = getattr(args, "expert_tensor_parallel_size", None) or 1
    if getattr(args, "num_experts", None) and args.add_bias_linear and cut > 1:
        raise T3SError(
            f"--expert-tensor-parallel-size {cut}: Megatron does not "
            "cut experts with biases. Give 1, and spread them: --expert-model-parallel-size"
        )
    check_sinks(args, get_te_version())
    local = args.transformer_impl == "local"
    if getattr(args, "multi_latent_attention", False) and local and not is_cpu_layer_active():
        raise T3SError(
            "--multi-latent-attention with --transformer-impl local: Megatron's local attention "
            "has keys and values of one width. Use --transformer-impl transformer_engine"
        )
    if getattr(args, "qk_l2_norm", False) and local:
        raise T3SError(
            "--qk-l2-norm does nothing in --transformer-impl local: drop it, or use "
            "--transformer-impl transformer_engine"
        )


def check_sinks(args, transformer_engine: Version) -> None:
    """T3SError for arguments with which no kernel of that Transformer Engine's has attention sinks
    (attention/dot_product_attention/utils.py, `get_attention_backend`). Version 0.0 is none, where
    a run is planned without it."""
    softmax = getattr(args, "softmax_type", "vanilla")
    if softmax == "vanilla" or args.transformer_impl != "transformer_engine":
        return
    backend = args.attention_backend.name
    if backend == "flash":
        raise T3SError(
            f"--attention-backend flash: FlashAttention has no --softmax-type {softmax}. Give fused"
        )
    if backend == "fused" and args.deterministic_mode:
        raise T3SError(
            f"--deterministic-mode: the gradient of cuDNN's --softmax-type {softmax} is not. Give "
            "--attention-backend unfused with it"
        )
    if args.context_parallel_size > 1 and set(args.cp_comm_type) != {"a2a"}:
        raise T3SError(
            f"--context-parallel-size {args.context_parallel_size} with --softmax-type {softmax}: "
            "give --cp-comm-type a2a, the only one with it"
        )
    release = transformer_engine.release[:2]
    if getattr(args, "t3s_arrangement", None) == "packed" and (0, 0) < release < (2, 12):
        raise T3SError(
            f"--t3s-arrangement packed with --softmax-type {softmax} needs Transformer Engine "
            f"2.12, found {transformer_engine}. Choose own"
        )


def _check_delta_nets(args) -> None:
    """T3SError for layers of another attention that are not built, or not trained rightly."""
    if not has_delta_nets(args):
        return
    variant = args.experimental_attention_variant
    given = f"--experimental-attention-variant {variant}"
    if variant != "gated_delta_net":
        raise T3SError(
            f"{given} is not supported: gated_delta_net is. Drop it, or train it from a pretrain "
            "script of your own, with the plugin"
        )
    if megatron_series() != "0.19":
        raise T3SError(f"{given} needs megatron-core 0.19, found {megatron_version()}")
    if args.transformer_impl != "transformer_engine" and not is_cpu_layer_active():
        raise T3SError(
            f"{given} with --transformer-impl {args.transformer_impl}: on CUDA Megatron builds "
            "these layers of Transformer Engine's alone. Use --transformer-impl transformer_engine"
        )
    # The norm of each head's output is on every rank, and finalize_model_grads.py:451 adds its
    # gradients up over the ranks only with sequence parallelism: its copies would drift apart.
    if args.tensor_model_parallel_size > 1 and not args.sequence_parallel:
        raise T3SError(
            f"{given} with --tensor-model-parallel-size {args.tensor_model_parallel_size}: "
            "Megatron adds up the gradients of its norms only with --sequence-parallel. Add it"
        )
    ranks = args.tensor_model_parallel_size * args.context_parallel_size
    for name in ("linear_num_key_heads", "linear_num_value_heads"):
        if getattr(args, name) % ranks:
            raise T3SError(
                f"--{name.replace('_', '-')} {getattr(args, name)} has to be divisible by the "
                f"{ranks} tensor- and context-parallel ranks that share the heads: lower "
                "--tensor-model-parallel-size or --context-parallel-size"
            )


def model_provider(
    pre_process=True, post_process=True, vp_stage=None, config=None, pg_collection=None
):
    """One pipeline stage of the student. Signature as Megatron 0.17 to 0.19 call it."""
    args = get_args()
    config = config or core_transformer_config_from_args(args)
    spec = _layer_spec(args, config, vp_stage) if args.spec is None else import_module(args.spec)
    # A script may use this provider without the plugin's samples.
    arrangement = choose_arrangement(args) if getattr(args, "t3s_data", None) else "padded"
    if args.multi_latent_attention and args.q_lora_rank is None and args.spec is None:
        for layer in _layers(spec):
            layer.submodules.self_attention.module = UnnormedQueries
    if getattr(args, "t3s_diffusion", False):
        use_block_attention(spec, args)
    elif is_cpu_layer_active():
        _use_cpu_attention(spec, args, arrangement)
    model = GPTModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        fp16_lm_cross_entropy=args.fp16_lm_cross_entropy,
        parallel_output=True,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        rope_scaling=args.use_rope_scaling,
        # Megatron's own builder leaves it at 8 whatever is asked for (Megatron-LM #6305).
        rope_scaling_factor=args.rope_scaling_factor,
        seq_len_interpolation_factor=args.rotary_seq_len_interpolation_factor,
        vp_stage=vp_stage,
        pg_collection=pg_collection,
    )
    _mark_reductions(model)
    _let_biases_be_added(model)
    if arrangement != "padded":
        let_lengths_vary([model])
    return model


def _mark_reductions(model) -> None:
    """What Megatron 0.19 says wrongly of two kinds of parameters, read over ranks of tensor
    parallelism.

    With sequence parallelism, the gradient of an expert's bias is summed over them as a norm's is
    (layers.py, `RowParallelLinear`), although these ranks have different experts, or have been
    summed as data-parallel ones. A sink is cut over them like its head, and the gradient norm does
    not know it (dot_product_attention.py).
    """
    for name, parameter in model.named_parameters():
        if _EXPERT_BIAS.search(name):
            parameter.sequence_parallel = False
        elif name.endswith(".core_attention.softmax_offset"):
            parameter.tensor_model_parallel = True
            parameter.partition_dim, parameter.partition_stride = 0, 1


def _let_biases_be_added(model) -> None:
    """Megatron 0.19's local experts add their second bias in place to what was reduced over the
    ranks that cut an expert; over one rank that is a view, which torch refuses (mlp.py,
    `_ReduceFromModelParallelRegion`). There is nothing to reduce then."""
    for module in model.modules():
        if isinstance(module, RowParallelLinear) and module.is_expert and module.bias is not None:
            module.explicit_expert_comm = True


def _layer_spec(args, config, vp_stage):
    if has_delta_nets(args) and is_cpu_layer_active():
        from t3s_megatron.megatron.cpu_delta_net import local_delta_net_layers

        return local_delta_net_layers(config, vp_stage)
    return layer_spec(args, config, vp_stage)


def _use_cpu_attention(spec, args, arrangement: str) -> None:
    """Where Megatron's own attention for local layers cannot do it."""
    from t3s_megatron.megatron.cpu_attention import (
        ContextParallelAttention,
        LatentAttention,
        PackedAttention,
    )

    plain = not args.window_size and getattr(args, "softmax_type", "vanilla") == "vanilla"
    if args.multi_latent_attention:
        if args.context_parallel_size > 1:
            raise T3SError("--context-parallel-size with latent attention does not run on a CPU")
        if not plain:
            raise T3SError("latent attention with --window-size or --softmax-type is not built")
        attention: type = LatentAttention
    elif args.context_parallel_size > 1:
        if not plain:
            raise T3SError(
                "--context-parallel-size with --window-size or --softmax-type does not run on a CPU"
            )
        attention = ContextParallelAttention
    elif arrangement == "packed":
        attention = PackedAttention
    else:
        return
    for layer in _layers(spec):
        inside = layer.submodules.self_attention.submodules
        if hasattr(inside, "core_attention"):
            inside.core_attention = attention


def _layers(spec) -> list:
    """Specs of the layers: a block with experts lists them."""
    return getattr(spec, "layer_specs", None) or [spec]


class UnnormedQueries(MLASelfAttention):
    """Latent attention with queries straight from the hidden state, as Moonlight has them. Megatron
    0.19 puts a norm before such queries where there is one before the keys and values
    (mla_qk_norm_config.py); 0.17 and 0.18 do not, and never call this method."""

    def _resolve_qk_norm_config(self, submodules):
        from megatron.core.transformer.mla_qk_norm_config import QKNormConfigResolver

        lowered = copy.copy(self.config)
        object.__setattr__(lowered, "q_lora_rank", 1)
        found = QKNormConfigResolver(lowered, submodules).resolve()
        return found | {
            "linear_q_proj": submodules.linear_q_proj,
            "linear_q_up_proj": IdentityOp,
            "q_layernorm": IdentityOp,
        }
