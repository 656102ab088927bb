# SPDX-License-Identifier: Apache-2.0
"""What families with experts share: rows of both tables, to be put together by each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from t3s_megatron.huggingface.families.decoder import gated, in_layer
from t3s_megatron.huggingface.families.family import (
    Argument,
    Limit,
    Options,
    Tensor,
    fixed,
    same,
    unused,
)
from t3s_megatron.huggingface.packing import GateUp, Row

#: Not the model's, and left to whoever asks. No auxiliary loss: what is learned is the per-token
#: loss and nothing else. The dispatcher takes uneven numbers of tokens. Which experts are chosen is
#: sensitive to rounding.
UNLESS_ASKED: Options = {
    "--moe-router-load-balancing-type": "none",
    "--moe-token-dispatcher-type": "alltoall",
    "--moe-router-dtype": "fp32",
}


def layers(sparse: Callable[[Any], Sequence[bool]]) -> Argument:
    """Which layers have experts."""

    def wanted(config) -> list[int]:
        return [int(flag) for flag in sparse(config)]

    def options(config) -> Options:
        pattern = wanted(config)
        return {} if all(pattern) else {"--moe-layer-freq": pattern}

    return Argument(
        "layers with experts",
        "--moe-layer-freq",
        wanted=wanted,
        found=_pattern,
        options=options,
        written=lambda args: {},
    )


def _pattern(args) -> list[int]:
    frequency = args.moe_layer_freq
    if isinstance(frequency, int):
        return [int(i % frequency == 0) for i in range(args.num_layers)]
    return list(frequency)


def width(said: str) -> Argument:
    """Of one expert."""
    return Argument(
        said,
        "--moe-ffn-hidden-size",
        wanted=lambda config: getattr(config, said),
        found=lambda args: args.moe_ffn_hidden_size or args.ffn_hidden_size,
        options=lambda config: {"--moe-ffn-hidden-size": getattr(config, said)},
        written=lambda args: {said: args.moe_ffn_hidden_size or args.ffn_hidden_size},
    )


def dense_width(sparse: Callable[[Any], Sequence[bool]]) -> Argument:
    """Of the layers without experts; any, where there are none."""
    return Argument(
        "intermediate_size",
        "--ffn-hidden-size",
        wanted=lambda config: None if all(sparse(config)) else config.intermediate_size,
        found=lambda args: args.ffn_hidden_size,
        options=lambda config: {"--ffn-hidden-size": config.intermediate_size},
        written=lambda args: {"intermediate_size": args.ffn_hidden_size},
        holds=lambda wanted, found: wanted in (None, found),
    )


#: Of a router that takes the softmax and chooses its best.
SOFTMAX_ROUTER = (
    unused("--moe-router-score-function", "softmax"),
    unused("--moe-router-topk-scaling-factor", None),
    unused("--moe-router-enable-expert-bias"),
    unused("--moe-router-num-groups", None),
    unused("--moe-router-group-topk", None),
)


def in_every_layer(count: str, of_width: str) -> tuple[Argument, ...]:
    """Experts in every layer, `count` and width by those fields, behind a softmax over the chosen
    ones."""
    return (
        same(count, "--num-experts"),
        same("num_experts_per_tok", "--moe-router-topk"),
        width(of_width),
        layers(lambda config: [True] * config.num_hidden_layers),
        unused("--moe-router-pre-softmax"),
        *SOFTMAX_ROUTER,
    )


def _every_so_many(config) -> list[bool]:
    """Which layers have experts, as Qwen's config.json says it."""
    return [
        layer not in (config.mlp_only_layers or ())
        and (layer + 1) % config.decoder_sparse_step == 0
        for layer in range(config.num_hidden_layers)
    ]


#: Those of Qwen2-MoE and Qwen3-MoE, without a shared one. Softmax over the chosen experts alone is
#: softmax over all, normalised again.
QWENS = (
    same("num_experts", "--num-experts"),
    same("num_experts_per_tok", "--moe-router-topk"),
    width("moe_intermediate_size"),
    dense_width(_every_so_many),
    layers(_every_so_many),
    Argument(
        "norm_topk_prob",
        "the opposite of --moe-router-pre-softmax",
        wanted=lambda config: config.norm_topk_prob,
        found=lambda args: not args.moe_router_pre_softmax,
        options=lambda config: {"--moe-router-pre-softmax": not config.norm_topk_prob},
        written=lambda args: {"norm_topk_prob": not args.moe_router_pre_softmax},
    ),
    *SOFTMAX_ROUTER,
)

NO_SHARED_EXPERT = (unused("--moe-shared-expert-intermediate-size", None),)
#: What no family here has.
PLAIN_EXPERTS = (unused("--moe-latent-size", None), unused("--moe-apply-probs-on-input"))

ROUTER = (in_layer("mlp.router.weight", "mlp.gate.weight"),)


def experts(
    names: str = "mlp.experts.{expert}", gate="gate_proj", up="up_proj", down="down_proj"
) -> tuple[Tensor, ...]:
    """The two linear layers of each expert."""
    return (
        in_layer(
            "mlp.experts.{expert}.linear_fc1.weight",
            (f"{names}.{gate}.weight", f"{names}.{up}.weight"),
            GateUp(),
        ),
        in_layer("mlp.experts.{expert}.linear_fc2.weight", f"{names}.{down}.weight", Row()),
    )


# --------------------------------------------- sigmoid routers: DeepSeek-V3's, and those after it


def first_dense(config) -> list[bool]:
    """Which layers have experts: all but the first `first_k_dense_replace`."""
    return [i >= config.first_k_dense_replace for i in range(config.num_hidden_layers)]


def _groups(said: str, option: str) -> Argument:
    """Of experts, of which only the best are looked at; one group is none."""

    def wanted(config):
        return getattr(config, said) if (config.n_group or 1) > 1 else None

    dest = option.lstrip("-").replace("-", "_")
    return Argument(
        said,
        option,
        wanted=wanted,
        found=lambda args: getattr(args, dest) if (args.moe_router_num_groups or 1) > 1 else None,
        options=lambda config: {option: wanted(config)},
        written=lambda args: {},
    )


def _shared(said: str) -> Argument:
    """The shared experts, which are one of their widths together. `said`: how many."""

    def wanted(config) -> int:
        return config.moe_intermediate_size * getattr(config, said)

    return Argument(
        f"{said} x moe_intermediate_size",
        "--moe-shared-expert-intermediate-size",
        wanted=wanted,
        found=lambda args: args.moe_shared_expert_intermediate_size,
        options=lambda config: {"--moe-shared-expert-intermediate-size": wanted(config)},
        written=lambda args: {},
    )


def chosen_by_bias(shared: str = "n_shared_experts") -> tuple[Argument, ...]:
    """The bias decides which experts are chosen, and their scores without it how much each counts.
    `shared`: the field with the number of shared experts."""
    return (
        same("num_experts_per_tok", "--moe-router-topk"),
        width("moe_intermediate_size"),
        dense_width(first_dense),
        layers(first_dense),
        fixed("--moe-router-score-function", "sigmoid"),
        fixed("--moe-router-enable-expert-bias", True),
        same("routed_scaling_factor", "--moe-router-topk-scaling-factor", kind=float),
        _groups("n_group", "--moe-router-num-groups"),
        _groups("topk_group", "--moe-router-group-topk"),
        _shared(shared),
        unused("--moe-shared-expert-gate"),
        *PLAIN_EXPERTS,
    )


def _best_of_a_group(config) -> int:
    """How many of a group's experts Megatron adds up to the group's score (moe_utils.py,
    `group_limited_topk`); Hugging Face's code always takes 2."""
    return config.num_experts_per_tok // config.topk_group if (config.n_group or 1) > 1 else 2


CHOSEN_BY_BIAS_LIMITS = (
    # Megatron always brings the scores of the chosen to a sum of one, where there are several.
    Limit("norm_topk_prob", lambda config: bool(config.norm_topk_prob), (True,)),
    Limit("num_experts_per_tok > 1", lambda config: config.num_experts_per_tok > 1, (True,)),
    Limit("num_experts_per_tok / topk_group", _best_of_a_group, (2,)),
)
#: Megatron moves the bias at every step by default; in the folder's own training it is long done.
BIAS_STAYS: Options = {"--moe-router-bias-update-rate": 0.0}

CORRECTION_BIAS = (in_layer("mlp.router.expert_bias", "mlp.gate.e_score_correction_bias"),)
SHARED = gated("mlp.shared_experts", "mlp.shared_experts")
