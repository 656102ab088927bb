# SPDX-License-Identifier: Apache-2.0
"""gpt-oss: a sink for each head, a window in every other layer, clamped experts with biases, YaRN.

Released in MXFP4, which is refused: what transformers saves of it in bfloat16 is the folder. All
experts of a layer are one tensor there, input features first, gate and up in turns. Megatron's
figures: `is_layer_window_attention` (1: window), `quick_gelu` (1.702), `glu` of transformer/mlp.py.
"""

from __future__ import annotations

from collections.abc import Callable

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import (
    Argument,
    Family,
    Limit,
    fixed,
    same,
    unused,
)
from t3s_megatron.huggingface.packing import Column, GateUpInTurns, Transposed


def _windowed(config) -> list[int]:
    return [int(kind == "sliding_attention") for kind in config.layer_types]


def _pattern(args) -> list[int]:
    frequency = args.window_attn_skip_freq
    if isinstance(frequency, list):
        return frequency
    return [int(frequency is None or number % frequency != 0) for number in _numbers(args)]


def _numbers(args) -> range:
    return range(1, args.num_layers + 1)


_WINDOWS = (
    Argument(
        "sliding_window, itself one of the positions",
        "--window-size",
        wanted=lambda config: (config.sliding_window - 1, 0),
        found=lambda args: args.window_size,
        options=lambda config: {"--window-size": (config.sliding_window - 1, 0)},
        written=lambda args: {},
    ),
    Argument(
        "layer_types",
        "--window-attn-skip-freq",
        wanted=_windowed,
        found=_pattern,
        options=lambda config: {"--window-attn-skip-freq": _windowed(config)},
        written=lambda args: {},
    ),
)


def _yarn(name: str, option: str, default: float, dest: str | None = None) -> Argument:
    """A figure of YaRN, of which Megatron takes None for its default."""
    dest = dest or option.lstrip("-").replace("-", "_")

    def wanted(config) -> float:
        return float(config.rope_parameters.get(name, default))

    def found(args) -> float:
        figure = getattr(args, dest, None)
        return default if figure is None else figure

    return Argument(
        f"rope_parameters.{name}",
        option,
        wanted=wanted,
        found=found,
        options=lambda config: {option: wanted(config)},
        written=lambda args: {},
    )


def _figure(name: str, default) -> Callable:
    return lambda config: config.rope_parameters.get(name, default)


_YARN = (
    fixed("--position-embedding-type", "yarn"),
    _yarn("factor", "--rotary-scaling-factor", 1.0),
    _yarn("beta_fast", "--yarn-beta-fast", 32.0),
    _yarn("beta_slow", "--yarn-beta-slow", 1.0),
    Argument(
        "rope_parameters.original_max_position_embeddings",
        "--yarn-original-max-position-embeddings",
        wanted=lambda config: config.rope_parameters["original_max_position_embeddings"],
        found=lambda args: getattr(args, "yarn_original_max_position_embeddings", None) or 4096,
        options=lambda config: {
            "--yarn-original-max-position-embeddings": config.rope_parameters[
                "original_max_position_embeddings"
            ]
        },
        written=lambda args: {},
    ),
    Argument(
        "rope_parameters.truncate",
        "the opposite of --no-yarn-correction-range-round-to-int",
        wanted=lambda config: bool(_figure("truncate", True)(config)),
        found=lambda args: getattr(args, "yarn_correction_range_round_to_int", None) is not False,
        options=lambda config: {
            "--no-yarn-correction-range-round-to-int": not _figure("truncate", True)(config)
        },
        written=lambda args: {},
    ),
    # Megatron's defaults, which make transformers' attention factor of the scaling factor.
    unused("--mscale", 1.0),
    unused("--mscale-all-dim", 0.0),
    *decoder.WHOLE_HEAD,
)

_CLAMPED_EXPERTS = (
    fixed("--quick-geglu", True),
    fixed("--glu-linear-offset", 1.0),
    same("swiglu_limit", "--activation-func-clamp-value", kind=float),
    unused("--swiglu"),
    # Biases of attention, router and experts alike.
    Argument(
        "architecture: biases",
        "the opposite of --disable-bias-linear",
        wanted=lambda config: True,
        found=lambda args: args.add_bias_linear,
        options=lambda config: {},
        written=lambda args: {},
    ),
)

GPT_OSS = Family(
    "gpt_oss",
    arguments=(
        *decoder.numbers(decoder.POSITIONS_WITH_WINDOWS),
        *decoder.HEADS,
        *decoder.ROPE_BASE,
        *_YARN,
        *decoder.PRE_NORM,
        *decoder.NO_MLA,
        unused("--qk-layernorm"),
        fixed("--softmax-type", "learnable"),
        *_WINDOWS,
        *_CLAMPED_EXPERTS,
        *experts.in_every_layer("num_local_experts", "intermediate_size"),
        *experts.NO_SHARED_EXPERT,
        *experts.PLAIN_EXPERTS,
    ),
    tensors=(
        *decoder.DECODER,
        *decoder.QKV_BIAS,
        decoder.in_layer("self_attention.linear_proj.bias", "self_attn.o_proj.bias"),
        decoder.in_layer(
            "self_attention.core_attention.softmax_offset", "self_attn.sinks", Column()
        ),
        decoder.in_layer("mlp.router.weight", "mlp.router.weight"),
        decoder.in_layer("mlp.router.bias", "mlp.router.bias"),
        *(
            decoder.in_layer(f"mlp.experts.{{expert}}.{megatron}", f"mlp.experts.{name}", packing)
            for megatron, name, packing in (
                ("linear_fc1.weight", "gate_up_proj", GateUpInTurns()),
                ("linear_fc1.bias", "gate_up_proj_bias", GateUpInTurns()),
                ("linear_fc2.weight", "down_proj", Transposed()),
                ("linear_fc2.bias", "down_proj_bias", None),
            )
        ),
    ),
    stacked=True,
    limits=(
        decoder.ACTIVATION,
        Limit("rope_type", decoder.rope_type, ("yarn",)),
        *(
            Limit(f"rope_parameters.{name}", _figure(name, None), (None,))
            for name in ("attention_factor", "mscale", "mscale_all_dim")
        ),
        Limit("swiglu_alpha", lambda config: getattr(config, "swiglu_alpha", 1.702), (1.702,)),
        Limit("attention_bias", lambda config: bool(config.attention_bias), (True,)),
    ),
    unless_asked=decoder.UNLESS_ASKED
    | experts.UNLESS_ASKED
    | {
        # Megatron's biases of experts are of experts that are not cut.
        "--expert-tensor-parallel-size": 1,
        # Without YaRN's factor, and not for grouped experts with biases.
        "--no-rope-fusion": True,
        "--no-bias-dropout-fusion": True,
    },
)
