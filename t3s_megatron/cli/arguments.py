# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron arguments DIR`: Megatron's arguments for the student in a Hugging Face folder (or
OWNER/NAME, on the hub).

A run with `--t3s-hf-model DIR` has them already; this is to look at them, or to use them elsewhere.
"""

from __future__ import annotations

import argparse
import shlex

from t3s_megatron.huggingface.arguments import words
from t3s_megatron.huggingface.config import read_config
from t3s_megatron.huggingface.hub import local_folder


def add_command(commands) -> None:
    """The `arguments` command of `t3s-megatron`."""
    command = commands.add_parser(
        "arguments", help="Megatron's arguments for a student's folder", description=__doc__
    )
    command.add_argument("folder", metavar="DIR")
    command.set_defaults(run=run_command)


def run_command(options: argparse.Namespace) -> int:
    """One option a line. T3SError for a folder that cannot be a student."""
    line: list[str] = []
    folder = local_folder(options.folder)
    for word in words(read_config(folder), options.folder):
        if word.startswith("--") and line:
            print(shlex.join(line))
            line = []
        line.append(word)
    print(shlex.join(line))
    return 0
