# SPDX-License-Identifier: Apache-2.0
"""Where Megatron's source raises the events itself, since `patches/apply.sh` was run on it.

The patch adds `megatron.training.callbacks` with a `callback_manager` (the names of Megatron-LM
#5610) and the calls of its `fire` in `megatron.training.training`. Then nothing is wrapped at run
time: the run is registered there.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.releases import megatron_series, megatron_version
from t3s_megatron.megatron.seam import (
    SAVE_FAILURES,
    Callback,
    CallbackContext,
    Events,
    Seam,
    tell_failed_save,
)

#: Version of the patch: T3S_SEAM in the module that it adds.
PATCH = 2


def install_seam(*callbacks: Callback) -> Seam | SourceSeam:
    """Raise Megatron's events for `callbacks`: from its source where that is patched, else by
    wrapping its functions. T3SError as `Seam.install` and `SourceSeam.install`."""
    if is_patched():
        return SourceSeam(*callbacks).install()
    return Seam(*callbacks).install()


def is_patched() -> bool:
    """Whether the source has our patch. T3SError when it is one for another t3s_megatron."""
    megatron_series()  # an unsupported release is refused by name
    if importlib.util.find_spec("megatron.training.callbacks") is None:
        return False
    found = getattr(_callbacks(), "T3S_SEAM", None)
    if found not in (None, PATCH):
        raise T3SError(
            f"Megatron's source ({_callbacks().__file__}) has version {found} of T3S's patch, this "
            f"release of t3s_megatron needs version {PATCH}: take it out with the `patches/apply.sh"
            " --reverse` of the release that put it in, and apply this one's"
        )
    return found == PATCH


class SourceSeam(Events):
    """Hands on the events of Megatron's patched source."""

    kind = "callback seam in its patched source"
    silent = (
        "Megatron's patched source ran a training step without an event of {functions}: something "
        "replaced that function"
    )

    @property
    def installed(self) -> bool:
        return self in _callbacks().callback_manager.callbacks

    def install(self) -> SourceSeam:
        """Register. T3SError when the patch is incomplete or another run is registered."""
        training: Any = importlib.import_module("megatron.training.training")
        manager = _callbacks().callback_manager
        if self.installed:
            return self
        if not hasattr(training, "callback_manager") or training.callback_manager is not manager:
            raise T3SError(
                f"{training.__file__} of megatron-core {megatron_version()} does not have T3S's "
                "patch, although megatron/training/callbacks.py beside it is there: remove that "
                "file, or restore both and run patches/apply.sh again"
            )
        if any(isinstance(other, SourceSeam) for other in manager.callbacks):
            raise T3SError("another T3S run is registered with Megatron: remove it first")
        manager.add(self)
        return self

    def remove(self) -> None:
        """Does nothing when not installed."""
        if self.installed:
            _callbacks().callback_manager.remove(self)

    # --------------------------------------------------------------------- Megatron's own events

    def on_train_start(self, context: CallbackContext) -> None:
        self.calls["train"] += 1
        self._raise("on_train_start", context)

    def on_train_step_start(self, context: CallbackContext) -> None:
        self.calls["train_step"] += 1
        self._raise("on_train_step_start", context)

    def on_train_step_end(self, context: CallbackContext) -> None:
        self._raise("on_train_step_end", context)

    def on_log(self, context: CallbackContext) -> None:
        self.calls["training_log"] += 1
        self._raise("on_log", context)

    def on_checkpoint_save(self, context: CallbackContext) -> None:
        self.calls["save_checkpoint"] += 1
        self._raise("on_checkpoint_save", context)

    def on_checkpoint_failure(self, context: CallbackContext, error: BaseException) -> None:
        """WriteError for what a full disk and its like are to Megatron; else nothing."""
        if isinstance(error, SAVE_FAILURES):
            tell_failed_save(error, context.iteration)

    def on_train_end(self, context: CallbackContext) -> None:
        self._raise("on_train_end", context)


def _callbacks() -> Any:
    return importlib.import_module("megatron.training.callbacks")
