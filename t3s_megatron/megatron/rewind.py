# SPDX-License-Identifier: Apache-2.0
"""Back to theta_0 inside a running `train()`: weights, optimizer, schedule, data order, RNG.

Bit-exact: the steps after a rewind equal those of a fresh run from theta_0. Megatron's iteration
is a local variable of `train()` and never goes back; instead `args.train_iters` grows by the steps
already done, so TensorBoard and checkpoint names stay monotonic.
"""

from __future__ import annotations

import torch
from megatron.training import get_args

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.batches import TrainingBatches
from t3s_megatron.megatron.random_state import (
    capture_rng,
    restore_rng,
    rng_from_file,
    rng_to_file,
)
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.weights import WeightSnapshot, inner_optimizers


class StartingPoint:
    """Everything of step 0 that a rewind needs. Take it before the first step, on every rank.

    Raises T3SError when the optimizer already carries moments: theta_0 is a student that has not
    been trained by this optimizer, and its state is restored by clearing it.
    """

    def __init__(self, context: CallbackContext):
        refuse_warm_optimizer(context.optimizer)
        self._take(context)

    def _take(self, context: CallbackContext) -> None:
        self.weights = WeightSnapshot(context)
        self.consumed_train_samples = get_args().consumed_train_samples
        self.schedule_steps = context.opt_param_scheduler.num_steps
        self.rng = capture_rng()

    def to_file(self) -> tuple[dict[str, torch.Tensor], dict]:
        """(tensors, JSON-able rest)."""
        tensors, rng = rng_to_file(self.rng)
        info = {
            "consumed_train_samples": self.consumed_train_samples,
            "schedule_steps": self.schedule_steps,
            "rng": rng,
        }
        return self.weights.tensors() | tensors, info

    @classmethod
    def from_file(
        cls, context: CallbackContext, weights: dict, info: dict, random: dict | None
    ) -> StartingPoint:
        """What `to_file` gave. MismatchError for another model or layout.

        `weights` and `info`: its two parts. `random`: the first part as this very rank wrote it;
        None in another layout, where a rewind restores the random state of now.
        """
        self = cls.__new__(cls)  # the live optimizer is warm: the run is in the middle
        self._take(context)
        self.weights.load(weights)
        self.consumed_train_samples = info["consumed_train_samples"]
        self.schedule_steps = info["schedule_steps"]
        if random is not None:
            self.rng = rng_from_file(random, info["rng"])
        return self

    def rewind(self, context: CallbackContext) -> None:
        """Collective over all ranks; call between two training steps."""
        self.weights.restore(context)
        clear_optimizer_state(context.optimizer)
        restart_schedule(context.opt_param_scheduler, self.schedule_steps)
        get_args().consumed_train_samples = self.consumed_train_samples
        for batches in training_batches(context.data_iterator):
            batches.reset(self.consumed_train_samples)
        restore_rng(self.rng)  # last: nothing above may draw from it afterwards


def restart_schedule(scheduler, steps: int) -> None:
    """Learning rates and weight decays of all groups of parameters as after so many `steps`, in
    samples, of Megatron's scheduler."""
    scheduler.num_steps = steps  # load_state_dict() would add instead
    scheduler.step(increment=0)


def training_batches(data_iterator) -> list[TrainingBatches]:
    """The `TrainingBatches` under Megatron's replay wrapper, one for each virtual stage."""
    wrappers = data_iterator if isinstance(data_iterator, list) else [data_iterator]
    found = []
    for wrapper in wrappers:
        if wrapper is None:
            continue
        wrapper.advance()  # drop micro-batches kept for a replay of the previous step
        found.append(wrapper.iterable)
    return found


def refuse_warm_optimizer(optimizer) -> None:
    for one in inner_optimizers(optimizer):
        for state in one.optimizer.state.values():
            moments = [v for v in state.values() if torch.is_tensor(v) and v.numel() > 1]
            if any(bool(m.any()) for m in moments):
                raise T3SError(
                    "the optimizer already holds moments of earlier training. T3S starts from a "
                    "student with a new optimizer: add --finetune (or --no-load-optim)."
                )


@torch.no_grad()
def clear_optimizer_state(optimizer) -> None:
    """Zero every moment and step count in place, as before the first step."""
    for one in inner_optimizers(optimizer):
        for state in one.optimizer.state.values():
            for key, value in state.items():
                # FusedAdam may keep main parameters in its state; they are weights, not moments.
                if torch.is_tensor(value) and key != "master_param":
                    value.zero_()
        for group in one.optimizer.param_groups:
            step = group.get("step")
            if torch.is_tensor(step):
                step.zero_()
            elif step is not None:
                group["step"] = 0
