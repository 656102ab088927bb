# SPDX-License-Identifier: Apache-2.0
"""Arguments of a student that learns by block diffusion, and which do not go together."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.diffusion.forced import FORCED
from t3s_megatron.errors import T3SError
from t3s_megatron.options import argument_name, option, options_of


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """How the student is noised, and whose falling tokens are forced into its mask."""

    diffusion: bool = option(
        False,
        "the student learns by block diffusion: masked tokens of a block from the block and the "
        "clean blocks before it. With --t3s the mask also has the tokens that fell in the run of "
        "--t3s-selector; without it, plain block-diffusion fine-tuning",
    )
    block_size: int = option(32, "tokens of a block, counted from a sample's beginning", at_least=1)
    mask_token: str | None = option(
        None, "what stands for a masked token: its text or id (default: the tokenizer's)"
    )
    mask_rate: tuple[float, ...] = option(
        (0.3, 0.8),
        "LOW HIGH: every time a sample is drawn, its tokens are masked at a rate between them",
        at_least=0,
        at_most=1,
        needed=True,
    )
    selector: str | None = option(
        None,
        "t3s/ folder of an autoregressive run on the same samples (--t3s-stop-after selection "
        "ends one there): the log-probs in it say which tokens fell",
        free=True,
    )
    selector_tokenizer: str | None = option(
        None,
        "folder of the tokenizer of that run, where it is another one: its tokens are matched by "
        "their text",
        free=True,
    )
    drop_threshold: float = option(
        0.2, "tau of Eq. 8: a token fell when delta_c < -tau", at_least=0
    )
    decode_threshold: float = option(
        0.95,
        "answers: every masked token of a block that is more probable than this is set at once, "
        "else the most probable one",
        above=0,
        at_most=1,
    )
    diffusion_attention: str = option(
        "auto",
        "flex: FlexAttention, which skips what a block does not see; sdpa: torch's attention with "
        "a dense mask, whose memory is quadratic (auto: flex on CUDA, else sdpa)",
        choices=("auto", "flex", "sdpa"),
        free=True,
    )

    def check_diffusion(self, method: str | None) -> None:
        """T3SError for arguments of a diffusion student that do not go together. `method`: that of
        a T3S run, None without one."""
        if not self.diffusion:
            self._refuse_without_diffusion()
            return
        rate = self.mask_rate
        if len(rate) != 2 or rate[0] > rate[1] or not rate[1]:
            raise T3SError(
                f"--t3s-mask-rate {' '.join(map(str, rate))}: give two numbers, the lowest rate "
                "and the highest, which is more than 0"
            )
        if self.selector_tokenizer and not self.selector:
            raise T3SError(
                "--t3s-selector-tokenizer without --t3s-selector: give the run that it belongs to, "
                "or drop it"
            )
        if method is None:
            if self.selector:
                raise T3SError("--t3s-selector needs --t3s: add it, or drop the selector")
            return
        if method not in FORCED:
            raise T3SError(
                f"--t3s-method {method} has no meaning with --t3s-diffusion: choose one of "
                f"{', '.join(FORCED)}"
            )
        if FORCED[method].needs_selector and not self.selector:
            raise T3SError(
                f"--t3s-method {method} with --t3s-diffusion takes the tokens that fell from the "
                "run of an autoregressive student: give its t3s/ folder as --t3s-selector, or "
                "choose --t3s-method sft"
            )

    def _refuse_without_diffusion(self) -> None:
        for declared, _ in options_of(DiffusionOptions):
            if getattr(self, declared.name) != declared.default:
                raise T3SError(
                    f"{argument_name(declared.name)} has no meaning without --t3s-diffusion: add "
                    "it, or drop the argument"
                )
