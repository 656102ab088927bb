# SPDX-License-Identifier: Apache-2.0
"""What the decoders of most families share: rows of both tables, to be put together by each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from t3s_megatron.huggingface.families.family import (
    Argument,
    Limit,
    Tensor,
    fixed,
    flag,
    same,
    unused,
)
from t3s_megatron.huggingface.packing import (
    GateUp,
    Packing,
    QueryKeyValue,
    Row,
    Vocabulary,
)

LAYER = "decoder.layers.{layer}."
FOLDER_LAYER = "model.layers.{layer}."

# ------------------------------------------------------------------------------------- arguments


def _longest(config) -> int:
    """Positions for which the model's attention is plain causal attention."""
    longest = config.max_position_embeddings
    if not getattr(config, "use_sliding_window", True):
        return longest
    return min(longest, getattr(config, "sliding_window", None) or longest)


def _positions(longest: Callable) -> Argument:
    return Argument(
        "max_position_embeddings",
        "--max-position-embeddings, which may be less,",
        wanted=longest,
        found=lambda args: args.max_position_embeddings,
        options=lambda config: {"--max-position-embeddings": longest(config)},
        written=lambda args: {"max_position_embeddings": args.max_position_embeddings},
        holds=lambda wanted, found: found <= wanted,
    )


POSITIONS = _positions(_longest)
#: Where Megatron has the model's windows.
POSITIONS_WITH_WINDOWS = _positions(lambda config: config.max_position_embeddings)


def numbers(positions: Argument) -> tuple[Argument, ...]:
    """What a decoder's size is, and how many positions it may have."""
    return (
        same("num_hidden_layers", "--num-layers"),
        same("hidden_size", "--hidden-size"),
        same("num_attention_heads", "--num-attention-heads"),
        same("rms_norm_eps", "--norm-epsilon", "layernorm_epsilon"),
        flag("tie_word_embeddings", "--untie-embeddings-and-output-weights", opposite=True),
        positions,
        same("attention_dropout", "--attention-dropout", kind=lambda share: float(share or 0)),
    )


NUMBERS = numbers(POSITIONS)


def _key_value_heads(args) -> int:
    return args.num_query_groups if args.group_query_attention else args.num_attention_heads


def _head_size(args) -> int:
    return args.kv_channels or args.hidden_size // args.num_attention_heads


#: Of grouped-query attention.
HEADS = (
    Argument(
        "num_key_value_heads",
        "--group-query-attention --num-query-groups",
        wanted=lambda config: config.num_key_value_heads,
        found=lambda args: _key_value_heads(args),
        options=lambda config: {
            "--group-query-attention": True,
            "--num-query-groups": config.num_key_value_heads,
        },
        written=lambda args: {"num_key_value_heads": _key_value_heads(args)},
    ),
    Argument(
        "head_dim",
        "--kv-channels",
        wanted=lambda config: head_size(config),
        found=lambda args: _head_size(args),
        options=lambda config: {"--kv-channels": head_size(config)},
        written=lambda args: {"head_dim": _head_size(args)},
    ),
)


def head_size(config) -> int:
    """d, also where config.json leaves it to be worked out."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rope(config) -> dict:
    return config.rope_parameters


def rope_type(config) -> str:
    return _rope(config).get("rope_type", "default")


def _rotated(config) -> float:
    """Share of a head's dimensions that are rotated."""
    return float(_rope(config).get("partial_rotary_factor", 1.0))


def _whole(number: float) -> float | int:
    """Megatron's parser takes whole numbers for a base."""
    return int(number) if float(number).is_integer() else number


ROPE_BASE = (
    Argument(
        "rope_theta",
        "--rotary-base",
        wanted=lambda config: float(_rope(config)["rope_theta"]),
        found=lambda args: args.rotary_base,
        options=lambda config: {"--rotary-base": _whole(_rope(config)["rope_theta"])},
        written=lambda args: {"rope_theta": args.rotary_base},
    ),
    unused("--rotary-interleaved"),
)
ROPE = (*ROPE_BASE, fixed("--position-embedding-type", "rope"))
NO_SCALING = (
    Argument(
        "rope_type",
        "--use-rope-scaling",
        wanted=rope_type,
        found=lambda args: "llama3" if args.use_rope_scaling else "default",
        options=lambda config: {},
        written=lambda args: {},
    ),
)
WHOLE_HEAD = (unused("--rotary-percent", 1.0),)
PART_OF_HEAD = Argument(
    "partial_rotary_factor",
    "--rotary-percent",
    wanted=lambda config: _rotated(config),
    found=lambda args: args.rotary_percent,
    options=lambda config: {"--rotary-percent": _rotated(config)},
    written=lambda args: {"partial_rotary_factor": args.rotary_percent},
)
PLAIN_ROPE = (*ROPE, *NO_SCALING, *WHOLE_HEAD)

#: Megatron's own figures for "llama3" (rotary_pos_embedding.py, `_apply_scaling`), which has no
#: arguments for them.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

LLAMA3_ROPE = (
    *ROPE,
    *WHOLE_HEAD,
    Argument(
        "rope_type",
        "--use-rope-scaling",
        wanted=rope_type,
        found=lambda args: "llama3" if args.use_rope_scaling else "default",
        options=lambda config: {"--use-rope-scaling": rope_type(config) == "llama3"},
        written=lambda args: {},
    ),
    Argument(
        "rope_parameters.factor",
        "--rope-scaling-factor",
        wanted=lambda config: float(_rope(config).get("factor", 8.0)),
        found=lambda args: args.rope_scaling_factor if args.use_rope_scaling else 8.0,
        options=lambda config: (
            {"--rope-scaling-factor": float(_rope(config)["factor"])}
            if rope_type(config) == "llama3"
            else {}
        ),
        written=lambda args: (
            {
                "rope_parameters": LLAMA3
                | {
                    "rope_type": "llama3",
                    "rope_theta": args.rotary_base,
                    "factor": args.rope_scaling_factor,
                }
            }
            if args.use_rope_scaling
            else {}
        ),
    ),
)

#: Of every decoder here, all pre-norm.
PRE_NORM = (
    fixed("--normalization", "RMSNorm"),
    unused("--apply-layernorm-1p", False, "layernorm_zero_centered_gamma"),
    unused("--apply-residual-connection-post-layernorm"),
    unused("--attention-output-gate"),
    unused("--experimental-attention-variant", None),
    unused("--qk-l2-norm"),
    unused("--no-rope-freq", None),
    unused("--mtp-num-layers", None),
)
#: The rest of one without biases, windows or sinks.
SHAPE = (
    *PRE_NORM,
    Argument(
        "hidden_act",
        "--swiglu",
        wanted=lambda config: config.hidden_act,
        found=lambda args: "silu" if args.swiglu else "not given",
        options=lambda config: {"--swiglu": True},
        written=lambda args: {"hidden_act": "silu"},
    ),
    Argument(
        "architecture: no biases",
        "the opposite of --disable-bias-linear",
        wanted=lambda config: False,
        found=lambda args: args.add_bias_linear,
        options=lambda config: {"--disable-bias-linear": True},
        written=lambda args: {},
    ),
    unused("--softmax-type", "vanilla"),
    unused("--window-size", None),
    unused("--glu-linear-offset", 0.0),
    unused("--activation-func-clamp-value", None),
    unused("--quick-geglu"),
)
NO_MLA = (unused("--multi-latent-attention"),)
NO_QKV_BIAS = (unused("--add-qkv-bias"),)
DENSE = (
    same("intermediate_size", "--ffn-hidden-size"),
    unused("--num-experts", None),
)


def _figure(name: str, value: float, config) -> float:
    return _rope(config).get(name, value)


ACTIVATION = Limit("hidden_act", lambda config: config.hidden_act, ("silu",))
DEFAULT_ROPE = Limit("rope_type", rope_type, ("default",))
ROPE_OR_LLAMA3 = Limit("rope_type", rope_type, ("default", "llama3"))
LLAMA3_FIGURES = tuple(
    Limit(f"rope_parameters.{name}", partial(_figure, name, value), (value,))
    for name, value in LLAMA3.items()
)
NO_ATTENTION_BIAS = Limit(
    "attention_bias", lambda config: bool(getattr(config, "attention_bias", False)), (False,)
)
NO_WINDOW = Limit(
    "use_sliding_window",
    lambda config: bool(getattr(config, "use_sliding_window", False)),
    (False,),
)

#: Not the model's, and left to whoever asks: dropout that no released model was made with.
UNLESS_ASKED = {"--hidden-dropout": 0.0}

# --------------------------------------------------------------------------------------- tensors


def in_layer(megatron: str, names: tuple[str, ...] | str, packing: Packing | None = None) -> Tensor:
    """A parameter of every layer, by the ends of its names."""
    names = (names,) if isinstance(names, str) else names
    return Tensor(
        LAYER + megatron, tuple(FOLDER_LAYER + name for name in names), packing or Packing()
    )


ENDS = (
    Tensor("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Vocabulary()),
    Tensor("decoder.final_layernorm.weight", ("model.norm.weight",), Packing()),
    Tensor("output_layer.weight", ("lm_head.weight",), Vocabulary()),
)
NORMS = (
    in_layer("input_layernorm.weight", "input_layernorm.weight"),
    in_layer("pre_mlp_layernorm.weight", "post_attention_layernorm.weight"),
)
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION = (
    in_layer(
        "self_attention.linear_qkv.weight", tuple(f"{n}.weight" for n in _QKV), QueryKeyValue()
    ),
    in_layer("self_attention.linear_proj.weight", "self_attn.o_proj.weight", Row()),
)
QKV_BIAS = (
    in_layer("self_attention.linear_qkv.bias", tuple(f"{n}.bias" for n in _QKV), QueryKeyValue()),
)
QK_NORM = (
    in_layer("self_attention.q_layernorm.weight", "self_attn.q_norm.weight"),
    in_layer("self_attention.k_layernorm.weight", "self_attn.k_norm.weight"),
)


def gated(megatron: str, names: str, gate="gate_proj", up="up_proj", down="down_proj"):
    """The two linear layers of a gated feed-forward block: gate and up as one."""
    return (
        in_layer(
            f"{megatron}.linear_fc1.weight",
            (f"{names}.{gate}.weight", f"{names}.{up}.weight"),
            GateUp(),
        ),
        in_layer(f"{megatron}.linear_fc2.weight", f"{names}.{down}.weight", Row()),
    )


MLP = gated("mlp", "mlp")
DECODER = (*ENDS, *NORMS, *ATTENTION)
