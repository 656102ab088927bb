# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron`: make the training data, look at students, plan a run, watch it, look at finished
ones, at their selections and tokens, and say which student is better."""

from __future__ import annotations

import argparse
import sys

from t3s_megatron.cli import (
    analyse,
    arguments,
    branch,
    evaluate,
    plan,
    prepare,
    report,
    selection,
    watch,
)
from t3s_megatron.errors import T3SError


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="t3s-megatron", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (report, watch, evaluate, analyse, selection, branch, plan, arguments, prepare):
        command.add_command(commands)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except T3SError as error:
        print(f"t3s-megatron: error: {error}", file=sys.stderr)
        return 2
