# SPDX-License-Identifier: Apache-2.0
"""A measurement asked in blocks, so that it can end when its answer is known.

The order is a shuffle of the prompts that is fixed for the run: every block of every measurement is
the same choice of prompts, so blocks of different steps are paired, and a data file that is sorted
by difficulty does not make the first block say something else than the whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from t3s_megatron.method.outcome import Outcome

#: Given the outcome so far and how often it is asked in one measurement: why the measurement need
#: not go on, or None. See `PhaseMachine.settles`.
Settles = Callable[[Outcome, int], str | None]


def in_blocks(prompts: int, samples: int, blocks: int, seed: int) -> list[list[int]]:
    """Numbers of the answers of each block, `samples` to a prompt; sizes differ by one prompt at
    the most. An answer's number, and so its seed, is what it is without blocks. ValueError for
    fewer than one block."""
    if blocks < 1:
        raise ValueError("a measurement has at least one block")
    # Philox is stable over numpy releases; argsort, because Generator.permutation may change.
    order = np.argsort(np.random.Philox(key=seed).random_raw(prompts), kind="stable")
    parts = np.array_split(order, min(blocks, prompts))
    return [
        [int(prompt) * samples + k for prompt in sorted(part) for k in range(samples)]
        for part in parts
    ]
