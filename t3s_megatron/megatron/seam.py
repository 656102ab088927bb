# SPDX-License-Identifier: Apache-2.0
"""The callback seam: events of Megatron's coming native callback system, raised in 0.17 to 0.19.

Megatron-LM merged `Callback` and `CallbackManager` after 0.19 (Megatron-LM #5610). A T3S run is
written as such a callback. Where the release lacks the system, this seam raises the same events by
wrapping the functions that `megatron.training.training` looks up as module globals:

    train            -> on_train_start, on_train_end
    train_step       -> on_train_step_start, on_train_step_end
    training_log     -> on_log
    save_checkpoint  -> on_checkpoint_save, before anything is written (Megatron-Bridge's name)

`install` checks each function against the signature recorded for the release, changes nothing when
called twice, and `remove` puts the originals back. `calls` counts how often each
wrapped function really ran: a run asserts in its first step that Megatron went through the seam.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from torch.distributed.checkpoint.api import CheckpointException

from t3s_megatron.errors import T3SError, WriteError
from t3s_megatron.megatron.releases import (
    SIGNATURES,
    check_signature,
    megatron_series,
    megatron_version,
)


@dataclass
class CallbackContext:
    """What an event may look at. `model` is the list of chunks (virtual pipeline stages).

    `iteration` is Megatron's count of finished steps when the event is raised. `result` is
    `train_step`'s return value and only set in `on_train_step_end`. `num_microbatches`, when set
    in `on_train_step_start`, is what the step has on every rank instead of Megatron's own count.
    """

    model: list
    optimizer: Any
    opt_param_scheduler: Any
    config: Any
    data_iterator: Any
    iteration: int = 0
    result: tuple | None = None
    num_microbatches: int | None = None

    def begin_step(self, iteration: int) -> None:
        self.iteration = iteration
        self.result = self.num_microbatches = None


class Callback(Protocol):
    """Subset of Megatron's native callback events that T3S uses. A subclass leaves out what it does
    not need."""

    def on_train_start(self, context: CallbackContext) -> None:
        return None

    def on_train_step_start(self, context: CallbackContext) -> None:
        return None

    def on_train_step_end(self, context: CallbackContext) -> None:
        return None

    def on_log(self, context: CallbackContext) -> None:
        return None

    def on_checkpoint_save(self, context: CallbackContext) -> None:
        return None

    def on_train_end(self, context: CallbackContext) -> None:
        return None


class Events:
    """The events of one process, raised for callbacks in their order, and counted.

    `calls`: by the function of Megatron that an event stands for. A subclass says where the events
    come from: `install` and `remove` them, `silent` tells why one of them did not come.
    """

    kind: str
    silent: str

    def __init__(self, *callbacks: Callback):
        self.callbacks = callbacks
        self.calls = {name: 0 for name in SIGNATURES[megatron_series()]}

    def assert_called(self, *names: str) -> None:
        """Raise T3SError when Megatron has not gone through one of these functions."""
        silent = [name for name in names if not self.calls[name]]
        if silent:
            why = self.silent.format(functions=", ".join(silent))
            raise T3SError(f"{why}. The run would not have been T3S.")

    def _raise(self, event: str, context: CallbackContext) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(context)


def _with_micro_batches(schedule: Callable, count: int) -> Callable:
    """`schedule` (a forward-backward function) over `count` micro-batches, whatever it is told."""

    @functools.wraps(schedule)
    def run(**kwargs):
        return schedule(**kwargs | {"num_microbatches": count})

    return run


class Seam(Events):
    """Raises the events from wrapped functions."""

    kind = "callback seam"
    silent = (
        "Megatron ran a training step without calling {functions} through the seam: something "
        "rebound it after installation"
    )

    def __init__(self, *callbacks: Callback):
        super().__init__(*callbacks)
        self._originals: dict[str, Any] = {}
        self._context: CallbackContext | None = None

    @property
    def installed(self) -> bool:
        return bool(self._originals)

    def install(self) -> Seam:
        """Wrap. Raises T3SError when a target is missing, changed, or wrapped by another seam."""
        import megatron.training.training as training

        if self.installed:
            return self
        for name in self.calls:
            target = getattr(training, name, None)
            if target is None:
                raise T3SError(
                    f"megatron.training.training.{name} does not exist in megatron-core "
                    f"{megatron_version()}: the release was changed"
                )
            if getattr(target, "_t3s_seam", None) is not None:
                raise T3SError(f"another T3S run has already wrapped {name}: remove it first")
            check_signature(name, target)
        for name in self.calls:
            original = getattr(training, name)
            wrapper = functools.wraps(original)(getattr(self, f"_{name}")(original))
            wrapper.__dict__["_t3s_seam"] = self
            self._originals[name] = original
            setattr(training, name, wrapper)
        return self

    def remove(self) -> None:
        """Put Megatron's own functions back. Does nothing when not installed."""
        import megatron.training.training as training

        for name, original in self._originals.items():
            if getattr(getattr(training, name), "_t3s_seam", None) is self:
                setattr(training, name, original)
        self._originals.clear()

    # ------------------------------------------------------------------------- wrapped functions

    def _train(self, original):
        signature = inspect.signature(original)

        def train(*args, **kwargs):
            self.calls["train"] += 1
            given = signature.bind(*args, **kwargs).arguments
            self._context = CallbackContext(
                model=given["model"],
                optimizer=given["optimizer"],
                opt_param_scheduler=given["opt_param_scheduler"],
                config=given["config"],
                data_iterator=given["train_data_iterator"],
            )
            self._raise("on_train_start", self._context)
            result = original(*args, **kwargs)
            self._context.iteration = result[0]
            self._raise("on_train_end", self._context)
            return result

        return train

    def _train_step(self, original):
        signature = inspect.signature(original)

        def train_step(*args, **kwargs):
            self.calls["train_step"] += 1
            context = self._inside_train()
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments
            context.begin_step(given["iteration"])
            self._raise("on_train_step_start", context)
            if context.num_microbatches is not None:
                given["forward_backward_func"] = _with_micro_batches(
                    given["forward_backward_func"], context.num_microbatches
                )
            context.result = original(*bound.args, **bound.kwargs)
            context.iteration = given["iteration"] + 1
            self._raise("on_train_step_end", context)
            return context.result

        return train_step

    def _inside_train(self) -> CallbackContext:
        """The context that `train` made. T3SError when Megatron did not go through it."""
        if self._context is None:
            self.assert_called("train")
        assert self._context is not None
        return self._context

    def _save_checkpoint(self, original):
        signature = inspect.signature(original)

        def save_checkpoint(*args, **kwargs):
            self.calls["save_checkpoint"] += 1
            iteration = signature.bind(*args, **kwargs).arguments["iteration"]
            context = self._inside_train()
            context.iteration = iteration
            self._raise("on_checkpoint_save", context)
            try:
                return original(*args, **kwargs)
            except SAVE_FAILURES as error:
                tell_failed_save(error, iteration)

        return save_checkpoint

    def _training_log(self, original):
        def training_log(*args, **kwargs):
            self.calls["training_log"] += 1
            result = original(*args, **kwargs)
            self._raise("on_log", self._inside_train())
            return result

        return training_log


# ----------------------------------------------------------------------- a checkpoint that failed

#: What saving ends with on a full or read-only disk. The second is no Exception.
SAVE_FAILURES = (OSError, CheckpointException)


def tell_failed_save(error: BaseException, iteration: int) -> NoReturn:
    """Raise a WriteError for one of SAVE_FAILURES, or `error` itself on a rank that does not know
    the reason: Megatron gathers the reasons of all ranks on one, which tells them."""
    if isinstance(error, CheckpointException) and not error.failures:
        raise error
    raise write_error(error, f"its checkpoint of iteration {iteration}") from error


def write_error(error: BaseException, which: str = "its checkpoint") -> WriteError:
    reason = str(error).strip().splitlines()[-1]
    return WriteError(
        f"Megatron could not write {which} ({reason}). Make room, or make the --save folder "
        "writable, and start the same command again: it goes on from its last checkpoint"
    )
