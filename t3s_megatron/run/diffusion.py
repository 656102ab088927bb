# SPDX-License-Identifier: Apache-2.0
"""A run of a student that learns by block diffusion: one phase, no profile and no way back.

Which tokens are forced into its mask was known before it began (`diffusion.targeting`), so of the
phases of a T3S run only the targeted one is left, with its measurements, its state on disk and its
summary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from t3s_megatron.diffusion.targeting import warning_about_share
from t3s_megatron.megatron.block_attention import require_block_attention
from t3s_megatron.megatron.block_decoding import generating_by_blocks
from t3s_megatron.megatron.generation import Generated
from t3s_megatron.megatron.meter import StepTokens, masked_figures
from t3s_megatron.megatron.noisy_batches import NoisyRowMaker
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.run.t3s import T3SRun


class DiffusionRun(T3SRun):
    """A run of `--t3s --t3s-diffusion`."""

    @property
    def kind(self) -> str:
        return f"diffusion-{self.config.method}"

    def _answer(self) -> Callable[..., list[Generated]]:
        mask_token = self.inputs.mask_token
        assert mask_token is not None
        return generating_by_blocks(
            self.config.block_size, mask_token, self.config.decode_threshold
        )

    def begin(self, context: CallbackContext) -> None:
        require_block_attention(context.model)
        self._say_what_is_forced()
        super().begin(context)

    def _say_what_is_forced(self) -> None:
        targeting = self.inputs.targeting
        assert targeting is not None
        if targeting.delta is None:
            return
        self.journal.note(None, targeting=targeting.about)
        self.journal.fallen(targeting.delta, targeting.about["fell_share_by_tau"])
        self.journal.say(
            f"{targeting.about['forced_tokens']} of {len(targeting.forced)} target tokens "
            f"({targeting.about['forced_share']:.1%}) are masked every time"
        )
        if warning := warning_about_share(
            targeting.about["fell_share"], self.config.drop_threshold
        ):
            self.journal.say(f"WARNING: {warning}")

    def _report_step(self, tokens: StepTokens, iteration: int) -> None:
        targeting, corpus = self.inputs.targeting, self.inputs.corpus
        assert targeting is not None and isinstance(self.rows, NoisyRowMaker)
        sets = {"forced": targeting.forced, "fell": targeting.fell}
        known = {name: of_set for name, of_set in sets.items() if of_set is not None}
        figures = masked_figures(tokens, known)
        if not figures:
            return
        rows = self.step_rows()
        samples = np.array(rows.samples)
        targets = int((corpus.offsets[samples + 1] - corpus.offsets[samples]).sum())
        self.journal.step(int(figures["masked"]), rows, self.machine.phase)
        shares = {
            "mask_rate": self.rows.mask_rate(rows),
            "masked_share": figures["masked"] / targets,
            "forced_share": figures["masked_forced"] / targets,  # all of them are masked
            "forced_of_masked": figures["masked_forced"] / max(1, figures["masked"]),
        }
        self.journal.masked(tokens.step, figures | shares)
