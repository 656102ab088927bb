# SPDX-License-Identifier: Apache-2.0
"""How long training waits for measurements that servers make.

The exports are no part of it: training waits for each of them as well, and for the whole of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from t3s_megatron.method.phases import ActionKind
from t3s_megatron.planning.walk import Event


def waited(
    events: Iterable[Event],
    step: Callable[[int | None], float],
    measurement: Callable[[int | None], float],
    export: float,
) -> float:
    """Seconds. `step`, `measurement`: of one in the profile of this number (None: after them);
    `export`: of one.

    The servers make one measurement after the other, in the order in which they were begun, and
    what is thrown away ends at once.
    """
    now = free = waits = 0.0  # free: when the servers have made all that was begun
    in_flight: deque[float] = deque()
    for event in events:
        if event.kind is None:
            now += step(event.profile)
        elif event.kind is ActionKind.DISCARD:
            in_flight.clear()
            free = now
        else:
            now += export * event.exports
            if event.kind is not ActionKind.COLLECT:
                free = max(free, now) + measurement(event.profile)
                in_flight.append(free)
            if event.kind is not ActionKind.BEGIN_MEASUREMENT:
                ends = max(now, in_flight.popleft())
                waits += ends - now
                now = ends
    return waits
