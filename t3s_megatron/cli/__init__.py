# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron`: make the training data, plan a run, and look at students and finished runs."""

from __future__ import annotations

import argparse
import sys

from t3s_megatron.cli import arguments, plan
from t3s_megatron.cli import prepare as teacher_data
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.report import draw, read_summary, tables


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="t3s-megatron", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="tables and a picture of finished runs")
    report.add_argument("summaries", nargs="+", help="t3s/summary.json files")
    report.add_argument("--picture", help="write accuracy and phases to this .png")
    report.set_defaults(run=_report)
    plan.add_command(commands)
    arguments.add_command(commands)
    teacher_data.add_command(commands)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except T3SError as error:
        print(f"t3s-megatron: error: {error}", file=sys.stderr)
        return 2


def _report(args: argparse.Namespace) -> int:
    summaries = [read_summary(path) for path in args.summaries]
    print(tables(summaries))
    if args.picture:
        draw(summaries, args.picture)
        print(f"\npicture: {args.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
