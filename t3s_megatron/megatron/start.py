# SPDX-License-Identifier: Apache-2.0
"""The beginning of every entry point: the device layer has to come before Megatron's import."""

from __future__ import annotations

import os

from t3s_megatron.megatron.device import (
    choose_device,
    install_megatron_layer,
    install_torch_layer,
)
from t3s_megatron.megatron.installation import repair_installation


def start_process(argv: list[str]) -> None:
    """Prepare this process for the device that `argv` asks for, and import Megatron.

    T3SError for an unsupported release, before anything else of it is used.
    """
    on_cpu = choose_device(argv) == "cpu"
    if on_cpu:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        install_torch_layer()
    from t3s_megatron.megatron.releases import megatron_series

    megatron_series()
    repair_installation()
    if on_cpu:
        install_megatron_layer()
