# SPDX-License-Identifier: Apache-2.0
"""Megatron's router losses (auxiliary and z loss), as strong as was asked for whatever is masked.

With `--calculate-per-token-loss` Megatron multiplies a micro-batch's router losses by all of its
tokens (moe/router.py:604-634), and divides every gradient of the step by the tokens that count
(finalize_model_grads.py). Without a mask the two cancel. With one, a loss of coefficient c acts
with c * all / kept: twice as strong with half of the tokens masked, 50 times with 98 %. Multiplying
c by the step's kept / all leaves the mean over the step's tokens, with coefficient c.
"""

from __future__ import annotations

#: Read from the configuration at each forward. Several load-balancing losses have a list of them.
_COEFFICIENTS = ("moe_aux_loss_coeff", "moe_z_loss_coeff")


class RouterLosses:
    """The coefficients of one run's model."""

    def __init__(self):
        self._asked: dict[str, float | list[float] | None] | None = None

    def weigh(self, config, kept_share: float) -> None:
        """Set the coefficients in `config` for forwards of a step that keeps this share of all its
        tokens, prompts and padding included, for the loss. The same on every rank.

        A step that keeps nothing is not taken at all: it may have any coefficients but 0, by which
        Megatron divides what it logs.
        """
        if self._asked is None:
            self._asked = {name: getattr(config, name, None) for name in _COEFFICIENTS}
        for name, asked in self._asked.items():
            if asked:
                setattr(config, name, _times(asked, kept_share or 1.0))


def _times(asked: float | list[float], share: float) -> float | list[float]:
    if isinstance(asked, list | tuple):
        return [one * share for one in asked]
    return asked * share
