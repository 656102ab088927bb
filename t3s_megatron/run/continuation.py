# SPDX-License-Identifier: Apache-2.0
"""A command recognises the run that is in its folders: it goes on from it as that very run, or it
is told that it would not.

Reads files only, before the model is built, so that it speaks before Megatron's own checks of a
checkpoint do.
"""

from __future__ import annotations

import os

from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.megatron.student import loaded_iteration, tracked_iteration
from t3s_megatron.run.identity import identity
from t3s_megatron.run.inputs import Inputs


def check_continuation(inputs: Inputs, args) -> None:
    """`args`: Megatron's namespace, validated.

    T3SError or MismatchError for a command that would start over a run that is there, go on from it
    as another run, or leave one that could not be gone on from.
    """
    if args.save and args.no_save_optim:
        raise T3SError(
            "--no-save-optim does not work with --t3s and --save: no run could go on from such a "
            "checkpoint. Drop it; --t3s-hf-export writes the weights alone"
        )
    states = StateFolder(os.path.join(inputs.config.dir, "state"))
    iteration = loaded_iteration(args)
    if iteration is None:
        _check_new_run(args, states)
        return
    if args.no_load_optim:
        raise T3SError(_loses("--no-load-optim", args.load, "the optimizer's moments and schedule"))
    if args.no_load_rng and (args.hidden_dropout or args.attention_dropout):
        raise T3SError(
            _loses("--no-load-rng", args.load, "the random state that dropout draws from")
        )
    check_identity(states, states.read(iteration)["identity"], inputs, args)


def check_identity(states: StateFolder, saved: dict, inputs: Inputs, args) -> None:
    """MismatchError, with every difference, when the state of a run was saved by another one."""
    mine = identity(inputs)
    different = [
        f"{what} {expected}, this one has {mine.get(what)}{_hint(what, expected, args)}"
        for what, expected in saved.items()
        if mine.get(what) != expected
    ]
    if different:
        raise MismatchError(
            f"{states.folder}: the saved run has {'; '.join(different)}. Go on with what it was "
            "started with, or start another run in another --save (and --t3s-dir, if that is given)"
        )


def _check_new_run(args, states: StateFolder) -> None:
    tracked = tracked_iteration(args.save)
    if tracked is None:  # also: a run that died before its first checkpoint
        return
    mine = tracked in states.iterations()
    what = "is of a T3S run" if mine else "is of another run"
    if args.finetune and args.load:
        why = f"--finetune starts a new run from the weights of --load {args.load}"
    elif args.load:
        why = f"--load {args.load} has no checkpoint of it"
    else:
        why = "--load is not given"
    go_on = f"to go on, give --load {args.save} without --finetune; " if mine else ""
    raise T3SError(
        f"--save {args.save}: the checkpoint of iteration {tracked} there {what}, and this command "
        f"would write over it: {why}. {go_on[:1].upper()}{go_on[1:]}"
        f"{'to' if mine else 'To'} start a new run, give another --save"
    )


def _loses(argument: str, load: str, what: str) -> str:
    return (
        f"{argument} does not work with --load {load}: the run there would go on without {what}, "
        "and end with other weights. Drop it"
    )


def _hint(what: str, expected: object, args) -> str:
    """What to do about a value that no argument names."""
    tensor = args.tensor_model_parallel_size
    if what == "--padded-vocab-size" and isinstance(expected, int) and expected % tensor == 0:
        return f" (add --make-vocab-size-divisible-by {expected // tensor})"
    return ""
