# SPDX-License-Identifier: Apache-2.0
"""Between the gradients of a step and the optimizer: numbers that must not be learned from.

Megatron's own check (`--check-for-nan-in-loss-and-grad`) ends one rank with the number of a
gradient bucket. Here every rank learns of it, before the optimizer has changed anything, and the
samples are named. The gradients are looked at through their norm, which Megatron has computed by
then and which is finite exactly when they are, as long as their squares are: a step costs one
all-reduce of three numbers, and a pass over the gradients only where an optimizer computes no norm.
The replay that finds the sample of a bad gradient runs only when there is one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import mpu
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.training import get_args

from t3s_megatron.data.kept_bits import n_kept_of
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.forward import TrainingForward, run_schedule
from t3s_megatron.megatron.layout import gather_over_world
from t3s_megatron.megatron.meter import TokenMeter
from t3s_megatron.megatron.random_state import capture_rng, restore_rng
from t3s_megatron.megatron.rewind import training_batches
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.weights import model_buffers

#: What Megatron's optimizers return for a step that they did not take: (updated, norm, zeros).
_NOT_TAKEN = (False, None, None)
#: Methods of Megatron's optimizers that return the norm of the gradients, before they are clipped:
#: a chain of optimizers calls the first, a single one the second.
_NORMS = ("get_grad_norm", "clip_grad_norm")


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with a step on any rank. `bad_samples`: corpus indices, of this rank alone."""

    bad_loss: bool
    bad_gradient: bool
    any_kept: bool
    bad_samples: set[int]

    @property
    def is_right(self) -> bool:
        return self.any_kept and not self.bad_loss and not self.bad_gradient


class StepGuard:
    """Wraps `optimizer.step` of one run, and the update inside it, which waits for the verdict.

    A step whose losses or gradients are not all finite is handed to `non_finite(what, samples)`,
    with what was not finite ("loss" or "gradient") and the corpus indices of the samples in the
    micro-batches at fault, the same on every rank; if it returns, the step is left out. So is a
    step in which no token of the whole batch is kept: Adam would move the weights by its momentum
    and weight decay all the same. `nothing_kept()` is told. A step left out changes nothing: no
    weight, moment, learning rate or expert bias.
    """

    def __init__(
        self,
        context: CallbackContext,
        rows: RowMaker,
        forward: TrainingForward,
        meter: TokenMeter,
        *,
        non_finite: Callable[[str, list[int]], None],
        nothing_kept: Callable[[], None],
    ):
        self.context = context
        self.rows = rows
        self.forward = forward
        self.meter = meter
        self.non_finite = non_finite
        self.nothing_kept = nothing_kept
        self._norms: list[torch.Tensor | float] = []
        self._verdict: _Verdict | None = None
        self.install()
        for chunk in context.model:  # Megatron's check would end one rank before we can look
            chunk.ddp_config.check_for_nan_in_grad = False

    def install(self) -> None:
        """Stand between the gradients and the optimizer, as from the beginning."""
        optimizer = self.context.optimizer
        self._optimizer_step = optimizer.step
        self._update = optimizer.step_with_ready_grads
        optimizer.step = self._step
        optimizer.step_with_ready_grads = self._update_if_right
        for name in _NORMS:
            setattr(optimizer, name, self._noting(getattr(optimizer, name)))

    def remove(self) -> None:
        """Leave Megatron's optimizer as it was."""
        for name in ("step", "step_with_ready_grads", *_NORMS):
            delattr(self.context.optimizer, name)

    def before_step(self) -> None:
        """Call at the start of every training step."""
        # Megatron updates expert biases with the gradients, before the optimizer's step. Small.
        self._buffers = [buffer.clone() for buffer in model_buffers(self.context)]

    def _step(self):
        self._forget()
        result = self._optimizer_step()
        # Megatron may have left the step out by itself (--grad-norm-skip-threshold).
        verdict = self._verdict or self._judge()
        if verdict.is_right:
            return result
        if verdict.bad_loss:
            everywhere = set().union(*gather_over_world(verdict.bad_samples))
            self.meter.drop_from_step(everywhere, self.rows.corpus)
            self.non_finite("loss", sorted(everywhere))
        elif verdict.bad_gradient:
            self.non_finite("gradient", self._find_bad_gradient())
        else:
            self.nothing_kept()
        self._restore_buffers()
        return _NOT_TAKEN

    def _forget(self) -> None:
        self._norms, self._verdict = [], None

    def _update_if_right(self) -> bool:
        """In the place of the optimizer's update, before which the norm has been computed."""
        self._verdict = self._judge()
        return self._update() if self._verdict.is_right else False

    def _judge(self) -> _Verdict:
        """Collective over the world; the same verdict on every rank but for `bad_samples`."""
        tokens = self.meter.read_step()
        bad_samples: set[int] = set()
        finite = np.isfinite(tokens.c)
        if not finite.all():
            bad = self.rows.corpus.sample_index(tokens.target[~finite])
            bad_samples.update(bad.tolist())
        kept = n_kept_of(self.rows.keep, tokens.target)
        flags = torch.tensor(
            [bool(bad_samples), False, kept > 0],
            dtype=torch.int32,
            device=torch.cuda.current_device(),
        )
        if not self._norms:
            flags[1] = not self._gradients_are_finite()
        for norm in self._norms:
            # With Transformer Engine a tensor on the device: nothing is waited for.
            flags[1] |= ~torch.isfinite(torch.as_tensor(norm, device=flags.device)).all()
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        bad_loss, bad_gradient, any_kept = map(bool, flags.tolist())
        return _Verdict(bad_loss, bad_gradient, any_kept, bad_samples)

    def _noting(self, norm: Callable) -> Callable:
        """`norm`, a method of the optimizer, whose results are noted."""

        @functools.wraps(norm)
        def noted(*args, **kwargs):
            found = norm(*args, **kwargs)
            if found is not None:
                self._norms.append(found)
            return found

        return noted

    def _gradients_are_finite(self) -> bool:
        """Of this rank's gradient buffers, one pass without a copy."""
        ends = [
            torch.stack(torch.aminmax(buffer.grad_data))
            for chunk in self.context.model
            for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)
            if buffer.grad_data.numel()
        ]
        return not ends or bool(torch.stack([end.float() for end in ends]).isfinite().all())

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        for buffer, kept in zip(model_buffers(self.context), self._buffers, strict=True):
            buffer.copy_(kept)

    def _find_bad_gradient(self) -> list[int]:
        """Run the step's micro-batches again one by one; the samples of those at fault.

        With virtual pipeline stages a group of micro-batches at a time, and with expert
        parallelism all ranks that exchange tokens: as narrow as the schedule allows.
        """
        context = self.context
        virtual = mpu.get_virtual_pipeline_model_parallel_world_size() or 1
        together = mpu.get_pipeline_model_parallel_world_size() if virtual > 1 else 1
        iterators = training_batches(context.data_iterator)
        for batches in iterators:
            batches.reset(get_args().consumed_train_samples)
        count = context.num_microbatches or get_num_microbatches()
        rank = mpu.get_data_parallel_rank()
        at_fault: set[int] = set()
        looked_at: set[int] = set()
        with self._replaying() as seen:
            for _ in range(0, count, together):
                seen.clear()
                for chunk in context.model:
                    chunk.zero_grad_buffer()
                with self._no_sync():
                    run_schedule(
                        context.model, self.forward, iterators, together, forward_only=False
                    )
                mine = (rank, self._gradients_are_finite(), sorted(seen))
                everyone = gather_over_world(mine)
                bad_ranks = {rank for rank, finite, _ in everyone if not finite}
                at_fault.update(*(samples for rank, _, samples in everyone if rank in bad_ranks))
                looked_at.update(*(samples for _, _, samples in everyone))
        return sorted(at_fault or looked_at)  # none alone: their sum is

    @contextlib.contextmanager
    def _replaying(self):
        """Micro-batches run by themselves; yields the set of sample indices that were seen."""
        config, rng, observer = self.context.config, capture_rng(), self.forward.observer
        names = ("no_sync_func", "grad_sync_func", "param_sync_func", "finalize_model_grads_func")
        kept = {name: getattr(config, name) for name in names}
        seen: set[int] = set()

        def note(batch, losses) -> None:
            target_index = batch["target_index"]
            targets = target_index[target_index >= 0].numpy()
            seen.update(self.rows.corpus.sample_index(targets).tolist())

        try:
            for name in names:
                setattr(config, name, None)
            self.forward.observer = note
            yield seen
        finally:
            for name, value in kept.items():
                setattr(config, name, value)
            self.forward.observer = observer
            restore_rng(rng)

    @contextlib.contextmanager
    def _no_sync(self):
        """Gradients stay on the rank where they arise.

        Enter it after `zero_grad_buffer`, which takes the next micro-batch for the step's last one:
        with --overlap-grad-reduce its gradients would be reduced.
        """
        with contextlib.ExitStack() as stack:
            for chunk in self.context.model:
                stack.enter_context(chunk.no_sync())
            yield
