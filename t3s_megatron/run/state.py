# SPDX-License-Identifier: Apache-2.0
"""Everything of a T3S run that survives a kill, on one rank; `persistence` saves and restores it.

What is not here can be made anew from the arguments and the data, or is Megatron's to save: the
live weights, optimizer, schedule, sample counter and random state. What the run has said is in its
journal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.meter import StepTokens, TokenGroups
from t3s_megatron.megatron.rewind import StartingPoint
from t3s_megatron.megatron.weights import WeightSnapshot
from t3s_megatron.method.phases import PhaseMachine
from t3s_megatron.run.in_flight import Flight


@dataclass
class RunState:
    """`rows`: with the samples that are left out of them, and which tokens the loss keeps.

    `theta_0`, `candidate`: kept as long as there is a way back to them. `weights_in_flight`: those
    of steps whose measurement is in flight, by step of the phase; `flights`: the measurements
    themselves, oldest first.

    `history`: tokens of each training step of the profile under way, on last-stage ranks.
    `c_0`, `c_b` and `entropy` (at theta_0, where the method reads it): float32[n_target_tokens of
    the teacher] by teacher, on the root rank only.
    `groups`: anchors and the others, of all target tokens; None before the selection is made.
    """

    machine: PhaseMachine
    rows: RowMaker
    theta_0: StartingPoint | None = None
    candidate: WeightSnapshot | None = None
    weights_in_flight: dict[int, WeightSnapshot] = field(default_factory=dict)
    flights: list[Flight] = field(default_factory=list)
    history: list[StepTokens] = field(default_factory=list)
    c_0: dict[str | None, np.ndarray] = field(default_factory=dict)
    c_b: dict[str | None, np.ndarray] = field(default_factory=dict)
    entropy: dict[str | None, np.ndarray] = field(default_factory=dict)
    groups: TokenGroups | None = None
