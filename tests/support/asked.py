# SPDX-License-Identifier: Apache-2.0
"""What runs of tests are asked to do, as far as the method is concerned."""

from __future__ import annotations

from t3s_megatron.method.options import MethodOptions


def asked(method: str = "t3s", **changed) -> MethodOptions:
    """A run of 50 steps whose every step is measured, with a patience of 5, but for what is
    `changed`."""
    of_run = {"budget": 50, "profile_iters": 50, "targeted_accuracy_interval": 1, "patience": 5}
    return MethodOptions(method=method, **of_run | changed)


class Evaluated(MethodOptions):
    """A run with answers at its end that are asked for by something else than its phases."""

    needs_answers = True
