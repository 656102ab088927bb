# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron report FILES`: tables, a picture and a page of finished runs."""

from __future__ import annotations

import argparse
import os

from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.page import ReportedRun, write_page
from t3s_megatron.monitor.report import draw, read_summary, tables
from t3s_megatron.monitor.tokens import read_tokens


def add_command(commands) -> None:
    """The `report` command of `t3s-megatron`."""
    report = commands.add_parser("report", help="tables, a picture and a page of finished runs")
    report.add_argument("summaries", nargs="+", help="t3s/summary.json files")
    report.add_argument("--picture", help="write accuracy and phases to this .png")
    report.add_argument("--html", help="write all that is known to this page (docs/report.md)")
    report.add_argument(
        "--data",
        nargs="+",
        help="the runs' --t3s-data, to show single tokens on the page, from the stores and the "
        "selection beside each summary",
    )
    report.add_argument("--tokenizer-model", help="the runs' --tokenizer-model, with --data")
    report.add_argument(
        "--seq-length", type=int, help="of the runs, needed where they dropped or cut long samples"
    )
    report.set_defaults(run=run_command)


def run_command(args: argparse.Namespace) -> int:
    """T3SError for a file that is no summary, and for data that are not the runs'."""
    summaries = [read_summary(path) for path in args.summaries]
    if bool(args.data) != bool(args.tokenizer_model):
        raise T3SError("--data and --tokenizer-model go together: tokens are shown with both")
    if args.data and not args.html:
        raise T3SError("--data is for a page: give --html FILE too")
    print(tables(summaries))
    if args.picture:
        draw(summaries, args.picture)
        print(f"\npicture: {args.picture}")
    if args.html:
        write_page(_reported(args, summaries), args.html)
        print(f"\npage: {args.html}")
    return 0


def _reported(args: argparse.Namespace, summaries: list[dict]) -> list[ReportedRun]:
    if not args.data:
        why = "Give --data and --tokenizer-model to see single tokens."
        return [
            ReportedRun(p, s, None, why) for p, s in zip(args.summaries, summaries, strict=True)
        ]
    tokenizer = load_tokenizer(args.tokenizer_model)
    runs = []
    for path, summary in zip(args.summaries, summaries, strict=True):
        folder = os.path.dirname(os.path.abspath(path))
        tokens = read_tokens(summary, folder, tuple(args.data), tokenizer, args.seq_length)
        runs.append(ReportedRun(path, summary, tokens))
    return runs
