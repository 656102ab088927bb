# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron report FILES`: tables and a picture of finished runs."""

from __future__ import annotations

import argparse

from t3s_megatron.monitor.report import draw, read_summary, tables


def add_command(commands) -> None:
    """The `report` command of `t3s-megatron`."""
    report = commands.add_parser("report", help="tables and a picture of finished runs")
    report.add_argument("summaries", nargs="+", help="t3s/summary.json files")
    report.add_argument("--picture", help="write accuracy and phases to this .png")
    report.set_defaults(run=run_command)


def run_command(args: argparse.Namespace) -> int:
    """T3SError for a file that is no summary."""
    summaries = [read_summary(path) for path in args.summaries]
    print(tables(summaries))
    if args.picture:
        draw(summaries, args.picture)
        print(f"\npicture: {args.picture}")
    return 0
