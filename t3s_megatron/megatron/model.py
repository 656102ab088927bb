# SPDX-License-Identifier: Apache-2.0
"""The model provider of `python -m t3s_megatron.pretrain`: a GPTModel from Megatron's arguments.

A run with its own pretrain script keeps its own provider; this one covers what Megatron's
`pretrain_gpt.py` builds (dense and MoE, Transformer Engine or local layers, `--spec`).
"""

from __future__ import annotations

from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_decoder_block_spec,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import import_module
from megatron.training import get_args
from megatron.training.arguments import core_transformer_config_from_args

from t3s_megatron.data.lengths import choose_arrangement
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.device import is_cpu_layer_active
from t3s_megatron.megatron.uneven import let_lengths_vary


def model_provider(
    pre_process=True, post_process=True, vp_stage=None, config=None, pg_collection=None
):
    """One pipeline stage of the student. Signature as Megatron 0.17 to 0.19 call it."""
    args = get_args()
    config = config or core_transformer_config_from_args(args)
    spec = _layer_spec(args, config, vp_stage)
    # A script may use this provider without the plugin's samples.
    arrangement = choose_arrangement(args) if getattr(args, "t3s_data", None) else "padded"
    if is_cpu_layer_active():
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
        rope_scaling_factor=args.rope_scaling_factor,
        vp_stage=vp_stage,
        pg_collection=pg_collection,
    )
    if arrangement != "padded":
        let_lengths_vary([model])
    return model


def _layer_spec(args, config, vp_stage):
    if args.spec is not None:
        return import_module(args.spec)
    use_te = args.transformer_impl == "transformer_engine"
    if args.num_experts:
        return get_gpt_decoder_block_spec(
            config,
            use_transformer_engine=use_te,
            normalization=args.normalization,
            vp_stage=vp_stage,
        )
    if use_te:
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    return get_gpt_layer_local_spec(
        qk_layernorm=config.qk_layernorm, normalization=config.normalization
    )


def _use_cpu_attention(spec, args, arrangement: str) -> None:
    """Where Megatron's own attention for local layers cannot do it."""
    from t3s_megatron.megatron.cpu_attention import (
        ContextParallelAttention,
        LatentAttention,
        PackedAttention,
    )

    if args.multi_latent_attention:
        if args.context_parallel_size > 1:
            raise T3SError("--context-parallel-size with latent attention does not run on a CPU")
        attention: type = LatentAttention
    elif args.context_parallel_size > 1:
        attention = ContextParallelAttention
    elif arrangement == "packed":
        attention = PackedAttention
    else:
        return
    layers = getattr(spec, "layer_specs", None) or [spec]  # a MoE block lists its layers
    for layer in layers:
        layer.submodules.self_attention.submodules.core_attention = attention
