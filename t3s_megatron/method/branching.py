# SPDX-License-Identifier: Apache-2.0
"""When plain fine-tuning can go on from a run's profile: its steps are those of plain fine-tuning
in any case, its measurements only where a run asks for nothing that concerns profiles alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Options under which a profile is not measured as plain fine-tuning is: the value that is none of
#: that, and what another one does.
_OTHERWISE = {
    "simple": (False, "--t3s-simple measures nothing in its profile"),
    "signal": ("accuracy", "--t3s-signal has scored between its measurements"),
    "accuracy_overlap": (0, "--t3s-accuracy-overlap trains ahead of its measurements"),
    "profile_samples": (0, "--t3s-profile-samples trains on some of the samples"),
    "accuracy_blocks": (1, "--t3s-accuracy-blocks ends measurements early"),
    "stop_after": (None, "--t3s-stop-after ends with the selection"),
}


def unlike_plain_fine_tuning(asked: Mapping[str, Any]) -> str | None:
    """What a profile does that plain fine-tuning does not, in words; None: nothing. `asked`: the
    fields of the run's `MethodOptions`."""
    for name, (value, what) in _OTHERWISE.items():
        if asked[name] != value:
            return what
    return None
