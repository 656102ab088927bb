# SPDX-License-Identifier: Apache-2.0
"""What families with experts share: rows of both tables, to be put together by each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from t3s_megatron.huggingface.families.decoder import in_layer
from t3s_megatron.huggingface.families.family import Argument, Options, Tensor, unused
from t3s_megatron.huggingface.packing import GateUp, Row

#: Not the model's, and left to whoever asks. No auxiliary loss: what is learned is the per-token
#: loss and nothing else. The dispatcher takes uneven numbers of tokens. Which experts are chosen is
#: sensitive to rounding.
UNLESS_ASKED: Options = {
    "--moe-router-load-balancing-type": "none",
    "--moe-token-dispatcher-type": "alltoall",
    "--moe-router-dtype": "fp32",
}


def layers(sparse: Callable[[object], Sequence[bool]]) -> Argument:
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


def dense_width(sparse: Callable[[object], Sequence[bool]]) -> Argument:
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
