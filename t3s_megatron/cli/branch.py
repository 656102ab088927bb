# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron branch FROM TO`: plain fine-tuning that goes on from the profile of a run.

A profile is plain fine-tuning up to theta_b and a little beyond: its steps, and the accuracies that
were measured at them, are the first ones of `--t3s-method sft` with the same other arguments. This
makes TO, a folder for --save that such a run goes on from, out of the last checkpoint of FROM's
profile. The weights are not copied: TO links to the checkpoint in FROM.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil

from t3s_megatron.data.durable import check_folder, write_bytes
from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.errors import T3SError
from t3s_megatron.method.branching import unlike_plain_fine_tuning

_TRACKER = "latest_checkpointed_iteration.txt"


def add_command(commands) -> None:
    """The `branch` command of `t3s-megatron`."""
    command = commands.add_parser(
        "branch",
        help="plain fine-tuning that goes on from the profile of a run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("source", metavar="FROM", help="--save of a run that has had a profile")
    add("target", metavar="TO", help="--save and --load of the run with --t3s-method sft")
    add("--t3s-dir", help="of the run in FROM (default: t3s/ inside FROM)")
    add("--to-t3s-dir", help="of the new run (default: t3s/ inside TO)")
    command.set_defaults(run=run_command)


def run_command(args: argparse.Namespace) -> int:
    """T3SError where there is nothing to branch off, saying what to do instead."""
    source = StateFolder(os.path.join(args.t3s_dir or os.path.join(args.source, "t3s"), "state"))
    folder = args.to_t3s_dir or os.path.join(args.target, "t3s")
    for path in (folder, args.target):
        if os.path.exists(os.path.join(path, _TRACKER)) or os.path.exists(f"{path}/state"):
            raise T3SError(f"{path}: a run is there already; go on with it, or name another folder")
    iteration, state = _last_of_profile(source, args.source)
    _check(state, source.folder)
    made = _as_sft(state, iteration, source.folder)
    target = StateFolder(os.path.join(folder, "state"))
    check_folder(target.folder)
    check_folder(args.target)
    name = f"iter_{iteration:07d}"
    for path in glob.glob(os.path.join(glob.escape(source.folder), name, "rank-*.safetensors")):
        os.makedirs(os.path.join(target.folder, name), exist_ok=True)
        shutil.copyfile(path, os.path.join(target.folder, name, os.path.basename(path)))
    target.commit(iteration, made)
    os.symlink(
        os.path.relpath(os.path.join(args.source, name), args.target),
        os.path.join(args.target, name),
    )
    # Last: from here on Megatron finds a checkpoint there.
    write_bytes(os.path.join(args.target, _TRACKER), str(iteration).encode())
    print(f"{args.target}: plain fine-tuning goes on from step {iteration} of {args.source}")
    return 0


def _last_of_profile(states: StateFolder, save: str) -> tuple[int, dict]:
    for iteration in reversed(states.iterations()):
        state = states.read(iteration)
        machine = state["machine"]
        # The last step that a profile may have is measured for that reason alone.
        bound = min(machine["asked"]["profile_iters"], machine["asked"]["budget"])
        in_profile = machine["phase"] == "profile" and not machine["offset"]
        if not in_profile or machine["phase_step"] >= bound:
            continue
        if not os.path.isdir(os.path.join(save, f"iter_{iteration:07d}")):
            raise T3SError(
                f"{save}: the checkpoint of iteration {iteration}, the last of the profile, has "
                "gone; train from the start"
            )
        return iteration, state
    raise T3SError(
        f"{states.folder}: no state of a profile. Its run has saved no checkpoint in it "
        "(--save-interval), or has none; train from the start"
    )


def _check(state: dict, folder: str) -> None:
    asked = state["machine"]["asked"]
    if len(state["machine"]["profiles"]) > 1:
        raise T3SError(f"{folder}: each of several teachers has a profile of its own; train anew")
    if asked["method"] == "sft":
        raise T3SError(f"{folder}: is of plain fine-tuning already; go on with it")
    if what := unlike_plain_fine_tuning(asked):
        raise T3SError(
            f"{folder}: {what}, which plain fine-tuning does not: train it from the start"
        )


def _as_sft(state: dict, iteration: int, folder: str) -> dict:
    """The state that plain fine-tuning has after the same steps."""
    machine, summary = state["machine"], state["summary"]
    (profile,) = machine["profiles"]
    profile |= {"candidate_step": None, "theta_b_step": None, "theta_b_reason": None}
    machine["asked"]["method"] = "sft"
    machine["_pending"] = []  # the profile may have ended here; this goes on
    state["identity"]["--t3s-method"] = "sft"
    summary |= {"method": "sft", "theta_b_step": None, "theta_b_reason": None}
    summary["theta_b_evidence"] = None
    summary["log"].append(f"steps 1 to {iteration} are those of the profile in {folder}")
    weights = ("theta_0-", "candidate-")
    state["checksums"] = [
        {name: checksum for name, checksum in of_rank.items() if not name.startswith(weights)}
        for of_rank in state["checksums"]
    ]
    return {name: value for name, value in state.items() if name not in ("format", "iteration")}
