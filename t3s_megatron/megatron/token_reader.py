# SPDX-License-Identifier: Apache-2.0
"""Log-probs of target tokens, read off forwards as they pass: c_t = -(per-token loss) (Eq. 2).

The last pipeline stage turns logits into tensor-parallel-reduced per-token losses anyway, fused or
not, so reading them costs a copy of [b, s] floats to the host and no second look at the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class TokenScores:
    """This rank's target tokens: numbers in the corpus's flat order, and their c_t."""

    target: np.ndarray  # int64[n]
    c: np.ndarray  # float32[n]


class TokenReader:
    """Observer of forwards; `take` hands over what was seen since the last call."""

    def __init__(self):
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, batch: dict[str, torch.Tensor], losses: torch.Tensor) -> None:
        """`losses` float32[b, s / cp], detached, of a micro-batch on the last stage."""
        # The copy is waited for in `take`, not here: no stall between micro-batches.
        self._pending.append((batch["target_index"], losses.to("cpu", non_blocking=True)))

    def take(self) -> TokenScores:
        """Empty on the stages before the last."""
        torch.cuda.synchronize()
        targets, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for target_index, losses in self._pending:
            is_target = target_index >= 0
            targets.append(target_index[is_target].numpy())
            values.append(-losses[is_target].numpy())
        self._pending.clear()
        return TokenScores(np.concatenate(targets), np.concatenate(values))
