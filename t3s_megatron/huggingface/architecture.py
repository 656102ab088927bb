# SPDX-License-Identifier: Apache-2.0
"""Is the model of a Hugging Face folder the one that Megatron's arguments describe?

Every figure that changes what the weights mean is compared before any weight is read, and all
differences are named at once. The same table, read backwards, is the config.json of a model that
has no folder to take it from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.huggingface.folder import read_config

MODEL_TYPES = ("qwen3", "qwen3_moe")


@dataclass(frozen=True)
class Difference:
    """One field of config.json and the Megatron argument that should say the same."""

    field: str
    wanted: object
    argument: str
    found: object

    def __str__(self) -> str:
        return f"{self.field} is {self.wanted}, but {self.argument} is {self.found}"


def check(config, args, where: str) -> None:
    """Compare a transformers config with Megatron's namespace.

    MismatchError that names every difference; T3SError for an architecture that is not supported.
    """
    if config.model_type not in MODEL_TYPES:
        raise T3SError(
            f"{where}: model_type {config.model_type} is not supported: "
            f"{' and '.join(MODEL_TYPES)} are"
        )
    different = differences(config, args)
    if different:
        lines = "".join(f"\n  {one}" for one in different)
        raise MismatchError(
            f"{where} is not the model that the arguments describe:{lines}\n"
            "Change the arguments, or give the folder that they describe."
        )


def differences(config, args) -> list[Difference]:
    return [one for one in _comparisons(config, args) if not _same(one.wanted, one.found)]


def _same(wanted, found) -> bool:
    if isinstance(wanted, float) and isinstance(found, float | int):
        return math.isclose(wanted, found, rel_tol=1e-9)
    return wanted == found


def _comparisons(config, args) -> Iterator[Difference]:
    yield Difference("num_hidden_layers", config.num_hidden_layers, "--num-layers", args.num_layers)
    yield Difference("hidden_size", config.hidden_size, "--hidden-size", args.hidden_size)
    heads = args.num_attention_heads
    yield Difference(
        "num_attention_heads", config.num_attention_heads, "--num-attention-heads", heads
    )
    groups = args.num_query_groups if args.group_query_attention else heads
    yield Difference(
        "num_key_value_heads",
        config.num_key_value_heads,
        "--group-query-attention --num-query-groups",
        groups,
    )
    head_size = args.kv_channels or args.hidden_size // heads
    yield Difference("head_dim", config.head_dim, "--kv-channels", head_size)
    yield Difference("rms_norm_eps", config.rms_norm_eps, "--norm-epsilon", args.layernorm_epsilon)
    rope = config.rope_parameters
    yield Difference("rope_theta", float(rope["rope_theta"]), "--rotary-base", args.rotary_base)
    scaling = "llama3" if args.use_rope_scaling else "default"
    yield Difference(
        "rope_scaling type", rope.get("rope_type", "default"), "--use-rope-scaling", scaling
    )
    tied = not args.untie_embeddings_and_output_weights
    yield Difference(
        "tie_word_embeddings",
        config.tie_word_embeddings,
        "the opposite of --untie-embeddings-and-output-weights",
        tied,
    )
    trained, longest = config.max_position_embeddings, args.max_position_embeddings
    yield Difference(
        "max_position_embeddings",
        trained,
        "--max-position-embeddings, which may be less,",
        trained if longest <= trained else longest,
    )
    yield Difference(
        "hidden_act", config.hidden_act, "--swiglu", "silu" if args.swiglu else "not given"
    )
    yield Difference("use_sliding_window", bool(config.use_sliding_window), "--window-size",
                     args.window_size is not None)  # fmt: skip
    biased = bool(args.add_qkv_bias or args.add_bias_linear)
    yield Difference(
        "attention_bias", config.attention_bias, "the opposite of --disable-bias-linear", biased
    )
    yield from _of_every_qwen3(args)
    if config.model_type == "qwen3_moe":
        yield from _of_experts(config, args)
    else:
        ffn = args.ffn_hidden_size
        yield Difference("intermediate_size", config.intermediate_size, "--ffn-hidden-size", ffn)
        yield Difference("model_type qwen3: num_experts", None, "--num-experts", args.num_experts)


def _of_every_qwen3(args) -> Iterator[Difference]:
    """What config.json does not say, because it is part of the architecture."""
    every = (
        ("normalization", "RMSNorm", args.normalization),
        ("qk_layernorm", True, args.qk_layernorm),
        ("position_embedding_type", "rope", args.position_embedding_type),
        ("rotary_percent", 1.0, args.rotary_percent),
        ("rotary_interleaved", False, args.rotary_interleaved),
        ("apply_layernorm_1p", False, getattr(args, "apply_layernorm_1p", False)),
        ("attention_output_gate", False, getattr(args, "attention_output_gate", False)),
        ("multi_latent_attention", False, args.multi_latent_attention),
        ("mtp_num_layers", None, args.mtp_num_layers),
    )
    for name, wanted, found in every:
        argument = "--" + name.replace("_", "-")
        yield Difference(f"architecture Qwen3: {name}", wanted, argument, found)


def _of_experts(config, args) -> Iterator[Difference]:
    yield Difference("num_experts", config.num_experts, "--num-experts", args.num_experts)
    yield Difference(
        "num_experts_per_tok",
        config.num_experts_per_tok,
        "--moe-router-topk",
        args.moe_router_topk,
    )
    width = args.moe_ffn_hidden_size or args.ffn_hidden_size
    yield Difference(
        "moe_intermediate_size", config.moe_intermediate_size, "--moe-ffn-hidden-size", width
    )
    # Softmax over the chosen experts alone is softmax over all, normalised again.
    yield Difference(
        "norm_topk_prob",
        config.norm_topk_prob,
        "the opposite of --moe-router-pre-softmax",
        not args.moe_router_pre_softmax,
    )
    dense = sorted(set(config.mlp_only_layers or ())) or config.decoder_sparse_step != 1
    yield Difference(
        "layers without experts (mlp_only_layers, decoder_sparse_step)",
        bool(dense),
        "what is supported",
        False,
    )
    frequency = args.moe_layer_freq
    everywhere = frequency == 1 or (isinstance(frequency, list) and all(frequency))
    yield Difference("experts in every layer", True, "--moe-layer-freq", everywhere or frequency)
    every = (
        ("moe_router_score_function", "softmax", args.moe_router_score_function),
        ("moe_router_topk_scaling_factor", None, args.moe_router_topk_scaling_factor),
        ("moe_router_enable_expert_bias", False, args.moe_router_enable_expert_bias),
        (
            "moe_shared_expert_intermediate_size",
            None,
            args.moe_shared_expert_intermediate_size,
        ),
    )
    for name, wanted, found in every:
        argument = "--" + name.replace("_", "-")
        yield Difference(f"architecture Qwen3-MoE: {name}", wanted, argument, found)


def fit_to_folder(args, folder: str):
    """The transformers config of the `--t3s-hf-model` folder; `args.padded_vocab_size` becomes what
    it says. Raises as `read_config` and `check`."""
    config = read_config(folder)
    args.padded_vocab_size = vocabulary_rows(config, args.tensor_model_parallel_size)
    check(config, args, f"--t3s-hf-model {folder}")
    return config


def vocabulary_rows(config, tensor_parallel: int) -> int:
    """Rows of the embedding in Megatron: those of the folder, and no more than it takes to divide
    them over the tensor-parallel ranks.

    Megatron would pad what the tokenizer knows (151,669 tokens for Qwen3) instead of what the
    folder has (151,936 rows).
    """
    return math.ceil(config.vocab_size / tensor_parallel) * tensor_parallel


def config_from_arguments(args, tokenizer) -> dict:
    """config.json of the model that Megatron's arguments describe: of a student that never was a
    Hugging Face folder. `check` says whether transformers has such a model."""
    moe = bool(args.num_experts)
    config = {
        "architectures": ["Qwen3MoeForCausalLM" if moe else "Qwen3ForCausalLM"],
        "model_type": "qwen3_moe" if moe else "qwen3",
        "num_hidden_layers": args.num_layers,
        "hidden_size": args.hidden_size,
        "intermediate_size": args.ffn_hidden_size,
        "num_attention_heads": args.num_attention_heads,
        "num_key_value_heads": args.num_query_groups
        if args.group_query_attention
        else args.num_attention_heads,
        "head_dim": args.kv_channels,
        "rms_norm_eps": args.layernorm_epsilon,
        "rope_theta": args.rotary_base,
        "tie_word_embeddings": not args.untie_embeddings_and_output_weights,
        # Megatron 0.17 decides on padding later than this is first asked.
        "vocab_size": args.padded_vocab_size or len(tokenizer),
        "max_position_embeddings": args.max_position_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if moe:
        config |= {
            "num_experts": args.num_experts,
            "num_experts_per_tok": args.moe_router_topk,
            "moe_intermediate_size": args.moe_ffn_hidden_size or args.ffn_hidden_size,
            "norm_topk_prob": not args.moe_router_pre_softmax,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return config
