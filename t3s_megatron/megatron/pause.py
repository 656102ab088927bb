# SPDX-License-Identifier: Apache-2.0
"""Leave training for passes of our own, and come back to exactly where it was.

Scoring, generation and what is analysed run between two training steps. Nothing of them may be felt
by the training that follows: modes, hooks, random state, timers and MoE counters are put back, and
the tests compare the losses of a run with and without such a pause bit for bit.
"""

from __future__ import annotations

import contextlib

import megatron.training.training as training
import torch
from megatron.core.rerun_state_machine import RerunMode, get_rerun_state_machine
from megatron.training import get_args

from t3s_megatron.megatron.random_state import capture_rng, restore_rng
from t3s_megatron.megatron.releases import clear_moe_metrics
from t3s_megatron.megatron.seam import CallbackContext


@contextlib.contextmanager
def beside_training(context: CallbackContext):
    """Passes over `context.model` in its own modes, without what training does at a step: its
    timers, the gather of parameters, the search for faults. Everything restored on leaving.

    Collective over all ranks when parameters are gathered lazily.
    """
    rng = capture_rng()
    rerun = get_rerun_state_machine()
    rerun_mode = rerun.get_mode()
    config = context.config
    timers, param_sync = config.timers, config.param_sync_func
    hooks_on = bool(getattr(context.model[0], "remove_forward_pre_hook_handles", None))
    if hooks_on:  # asking twice raises KeyError
        training.disable_forward_pre_hook(context.model)
    elif training.should_disable_forward_pre_hook(get_args()):
        # Before the first hooked step the overlapped gather of the last update has not started.
        for chunk in context.model:
            chunk.start_param_sync(force_sync=True)
    try:
        rerun.set_mode(RerunMode.DISABLED)
        config.timers = config.param_sync_func = None
        yield
    finally:
        config.timers, config.param_sync_func = timers, param_sync
        rerun.set_mode(rerun_mode)
        if get_args().num_experts is not None:
            clear_moe_metrics()
        if hooks_on:
            training.enable_forward_pre_hook(context.model)
        restore_rng(rng)


@contextlib.contextmanager
def training_paused(context: CallbackContext):
    """Evaluation mode without gradients over `context.model`; everything restored on leaving.
    Collective as `beside_training`."""
    config = context.config
    with beside_training(context):
        modes = [(module, module.training) for chunk in context.model for module in chunk.modules()]
        grad_sync, config.grad_sync_func = config.grad_sync_func, None
        try:
            for chunk in context.model:
                chunk.eval()
            with torch.no_grad():
                yield
        finally:
            config.grad_sync_func = grad_sync
            for module, mode in modes:
                module.training = mode
