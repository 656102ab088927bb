# SPDX-License-Identifier: Apache-2.0
"""Arguments about the method: each with its default, bounds and help."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from t3s_megatron.method.selection import METHODS
from t3s_megatron.options import FILLED_IN, option

#: What says which step of the profile is theta_b, unless --t3s-simple does.
SIGNALS = ("accuracy", "confidence", "both")


def _methods_help() -> str:
    """Methods in their order; neighbours that do the same are named together."""
    return "; ".join(
        f"{', '.join(method.name for method in alike)}: {what}"
        for what, alike in groupby(METHODS.values(), key=lambda method: method.help)
    )


@dataclass(frozen=True, kw_only=True)
class MethodArguments:
    """The phases of a run as a person asks for them; `method.options` says what follows."""

    method: str = option("t3s", _methods_help(), choices=tuple(METHODS))
    signal: str = option(
        "accuracy",
        "what says which step is theta_b. accuracy: the lowest training accuracy; confidence: the "
        "turn of the falling tokens, for which nothing is generated or verified; both: the lowest "
        "accuracy, and the falling tokens say when --t3s-accuracy-interval-coarse ends",
        choices=SIGNALS,
    )
    simple: bool = option(
        False, "T3S-simple: step --t3s-simple-step is theta_b, and nothing has to be generated"
    )
    simple_step: int = option(10, "the step that T3S-simple takes as theta_b", at_least=1)
    mask_share: float | None = option(
        None,
        "share of target tokens that a masking baseline masks (default: as t3s); with tail-sft the "
        "share of each step's samples that do not count",
        above=0,
        below=1,
    )
    soft_temperature: float | None = option(
        None, "T of t3s-soft in nats: the smaller, the nearer it is to t3s", above=0
    )
    min_probability: float | None = option(
        None, "of profit (its authors: 0.1), compared with each step's own", above=0, below=1
    )
    reference: tuple[str, ...] = option(
        (),
        "of rho: log-probs of these samples by a reference with the same tokenizer, the "
        "c_theta_0.safetensors of a run of it (with several teachers one file each)",
        free=True,
    )
    anchor_threshold: float = option(0.0, "tau: a token is an anchor when delta_c > tau (Eq. 4)")
    selection_save: str | None = option(None, "also write the selection to this file", free=True)
    selection_load: str | None = option(
        None,
        "skip profiling and train with this selection (made by any model, same tokenizer)",
        free=True,
    )
    stop_after: str | None = option(
        None,
        "selection: end the run once the selection and its log-probs are written, at theta_0",
        choices=("selection",),
    )
    patience: int = option(
        8,
        "measurements without a new minimum after which the minimum is confirmed as theta_b",
        at_least=1,
    )
    min_delta: float = option(0.0, "a new minimum has to be lower by more than this", at_least=0)
    confirm_level: float = option(
        0.0,
        "also confirm the minimum when a later accuracy is above it by a paired test at this level "
        "(0: patience only)",
        at_least=0,
        below=1,
    )
    shock_level: float = option(
        0.0,
        "the fall below step 0 has to be significant by a paired test at this level (0: any fall)",
        at_least=0,
        below=1,
    )
    accuracy_interval: int = option(
        1, "measure training accuracy every this many steps", at_least=0
    )
    accuracy_overlap: int = option(
        0,
        "with --t3s-generation server: train on while up to this many measurements are in flight; "
        "the weights of each are kept on the host until its outcome is known",
        at_least=0,
    )
    targeted_accuracy_interval: int = option(
        FILLED_IN,
        "the same in the targeted phase (default: --t3s-accuracy-interval; 0: only its end)",
        at_least=0,
    )
    accuracy_interval_coarse: int = option(
        0,
        "measure every this many steps until accuracy has fallen below step 0, or --t3s-signal "
        "both says that the bottleneck is near (0: no such time)",
        at_least=0,
    )
    accuracy_blocks: int = option(
        1,
        "ask the prompts of a measurement in this many blocks, and end it after the one that shows "
        "that it is no new minimum",
        at_least=1,
    )
    accuracy_stop_level: float = option(
        0.0,
        "a block may also show that by a paired test at this level (0: only where it is certain)",
        at_least=0,
        below=1,
    )
    profile_iters: int = option(
        FILLED_IN,
        "upper bound of a profile in steps (default: --train-iters, with several teachers divided "
        "by their number)",
        at_least=1,
    )
    profile_samples: int = option(
        0,
        "what a profile trains on, is measured on and has its confidence watched on: N samples of "
        "each teacher, drawn by --t3s-seed (0: all); scoring and targeted training take all. For "
        "corpora so large that a profile would see few of the prompts that it is measured on: as "
        "many as are measured, or a few times as many",
        at_least=0,
    )
    no_shock: str = option(
        "simple",
        "when accuracy never falls below step 0: go on as T3S-simple, go on as SFT, or stop",
        choices=("simple", "sft", "stop"),
    )
