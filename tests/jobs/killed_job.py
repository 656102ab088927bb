# SPDX-License-Identifier: Apache-2.0
"""A pretrain script that something happens to at a named point, once.

KILL_AT=POINT      which point; nothing happens without it
KILL_MARK=FILE     FILE.RANK is made when it happens: the same job started again goes through
KILL_RANK=R        only to this rank; default: to every rank
KILL_BY=WHAT       SIGKILL, as when a machine dies (default; torchrun then ends the other ranks);
                   SIGTERM, as from a scheduler;
                   full-disk: from then on no file can grow beyond KILL_SIZE bytes;
                   rmtree: the folder KILL_FOLDER goes away
KILL_AGENT=1       and the torchrun above it, a moment before, as when a whole node dies
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable

from t3s_megatron.entry import start_process


def strike() -> None:
    rank = os.environ["RANK"]
    mark = f"{os.environ['KILL_MARK']}.{rank}"
    if os.environ.get("KILL_RANK", rank) != rank or os.path.exists(mark):
        return
    open(mark, "w").close()
    what = os.environ.get("KILL_BY", "SIGKILL")
    if what == "full-disk":
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["KILL_SIZE"]), most))
    elif what == "rmtree":
        shutil.rmtree(os.environ["KILL_FOLDER"])
    else:
        if os.environ.get("KILL_AGENT"):
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.Signals[what])


def always(*args, **kwargs) -> bool:
    return True


def before(owner, name: str, when: Callable = always) -> None:
    """Strike when `owner.name` is called and `when` holds for its arguments."""
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if when(*args, **kwargs):
            strike()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner, name: str, when: Callable = always) -> None:
    """Strike when `owner.name` has returned."""
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
        result = original(*args, **kwargs)
        if when(*args, **kwargs):
            strike()
        return result

    setattr(owner, name, wrapped)


def on_call(number: int) -> Callable:
    calls = []

    def when(*args, **kwargs) -> bool:
        calls.append(1)
        return len(calls) == number

    return when


def arm(point: str) -> None:
    import megatron.training.checkpointing as checkpointing

    import t3s_megatron.megatron.rewind as rewind
    import t3s_megatron.run.selector as selector
    from t3s_megatron.data import durable
    from t3s_megatron.data.run_state import StateFolder
    from t3s_megatron.megatron import generation
    from t3s_megatron.megatron.weights import WeightSnapshot
    from t3s_megatron.method.phases import Phase
    from t3s_megatron.run.t3s import T3SRun

    def at(phase, step):
        return lambda self, *_: self.machine.phase is phase and self.machine.phase_step == step

    def armed_after_saves(number):
        """What Megatron does once our state of the `number`-th checkpoint is committed."""

        original, due = StateFolder.commit, on_call(number)

        def wrapped(*args, **kwargs):
            original(*args, **kwargs)
            if due():
                before(checkpointing, "get_checkpoint_tracker_filename")

        StateFolder.commit = wrapped

    points = {
        "before the first save": lambda: before(T3SRun, "on_train_step_end", at(Phase.PROFILE, 1)),
        "in the profile": lambda: before(T3SRun, "on_train_step_end", at(Phase.PROFILE, 3)),
        "in the second profile": lambda: before(
            T3SRun,
            "on_train_step_end",
            lambda self, _: (self.machine.number, self.machine.phase_step) == (1, 2),
        ),
        "while a candidate is copied": lambda: after(WeightSnapshot, "copy_from"),
        "during generation": lambda: before(generation.Decoder, "_choose", on_call(70)),
        "with measurements in flight": lambda: before(
            T3SRun, "on_train_step_end", lambda self, _: self.machine.live_step == 4
        ),
        "between the minimum and its confirmation": lambda: before(
            T3SRun, "on_train_step_start", lambda self, _: self.machine.profile.finder.waited == 1
        ),
        "while theta_b is scored": lambda: before(selector, "score_corpus"),
        "while theta_0 is scored": lambda: before(selector, "score_corpus", on_call(2)),
        "while a store is written": lambda: before(
            durable, "sync_path", lambda path: "c_theta_b.safetensors.tmp" in path
        ),
        "between scoring and rewind": lambda: before(T3SRun, "_rewind"),
        "in the middle of the rewind": lambda: before(rewind, "clear_optimizer_state"),
        "between rewind and selection": lambda: before(T3SRun, "_select"),
        "at the first targeted step": lambda: before(
            T3SRun, "on_train_step_end", at(Phase.TARGETED, 0)
        ),
        "in targeted training": lambda: before(T3SRun, "on_train_step_end", at(Phase.TARGETED, 3)),
        "while our state is written": lambda: before(StateFolder, "commit", on_call(2)),
        "between our commit and Megatron's tracker": lambda: armed_after_saves(2),
        "while the residual transfer is saved": lambda: before(
            T3SRun, "on_checkpoint_save", lambda self, _: self.machine.phase is Phase.DONE
        ),
    }
    points[point]()


def main() -> None:
    start_process(sys.argv)
    from t3s_megatron import pretrain

    if os.environ.get("KILL_AT"):
        arm(os.environ["KILL_AT"])
    pretrain.main()


if __name__ == "__main__":
    main()
