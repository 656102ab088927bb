# SPDX-License-Identifier: Apache-2.0
"""Which folders of a run may not contain one another.

Two of them are not only added to: an export replaces the whole of its folder, and what a run's
state does not know is removed from `state/`. Links are resolved, so that no other name hides one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from t3s_megatron.errors import T3SError

#: Arguments with a folder or file that a run writes, and with those that it reads.
_WRITTEN = ("save", "tensorboard_dir", "wandb_save_dir", "t3s_dir", "t3s_server_weights",
            "t3s_data_cache", "t3s_selection_save")  # fmt: skip
_READ = ("load", "pretrained_checkpoint", "t3s_data", "t3s_heldout_data", "tokenizer_model",
         "t3s_hf_model", "t3s_selection_load", "t3s_reference", "t3s_selector",
         "t3s_selector_tokenizer")  # fmt: skip


def check_places(args) -> None:
    """T3SError when the export of a run, or its state, and another of its places overlap.

    `args`: Megatron's namespace.
    """
    others = list(_places(args))
    if export := getattr(args, "t3s_hf_export", None):
        for argument, path in others:
            if _contains(export, path) or _contains(path, export):
                raise T3SError(
                    f"--t3s-hf-export {export} and {argument} {path} {_relation(export, path)}. An "
                    "export replaces its folder as a whole, whatever is in it: give it a folder of "
                    "its own, beside the other"
                )
        others.append(("--t3s-hf-export", export))
    folder = args.t3s_dir or (args.save and os.path.join(args.save, "t3s"))
    if folder:
        state = os.path.join(folder, "state")
        for argument, path in others:
            if _contains(state, path):
                raise T3SError(
                    f"{argument} {path} lies in {state}, where a run keeps its state and removes "
                    "what is not of it: give another place"
                )


def _places(args) -> Iterator[tuple[str, str]]:
    """(argument, path), each; of what is read only what is here, since a name may be a hub's."""
    for name in (*_WRITTEN, *_READ):
        value = getattr(args, name, None)
        for path in value if isinstance(value, list | tuple) else [value]:
            if path and (name in _WRITTEN or os.path.exists(path)):
                yield "--" + name.replace("_", "-"), path


def _contains(outer: str, inner: str) -> bool:
    outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return os.path.commonpath([outer, inner]) == outer


def _relation(a: str, b: str) -> str:
    if _contains(a, b):
        return "are the same place" if _contains(b, a) else "overlap: the second is in the first"
    return "overlap: the first is in the second"
