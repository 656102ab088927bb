# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron report FILES`: tables, a picture and a page of finished runs."""

from __future__ import annotations

import argparse
import json
import os

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.analyses import read_analysis
from t3s_megatron.monitor.comparison import FORMAT, as_text, of_runs, read_comparisons
from t3s_megatron.monitor.page import ReportedRun, write_page
from t3s_megatron.monitor.report import draw, read_summary, tables
from t3s_megatron.monitor.tokens import read_tokens


def add_command(commands) -> None:
    """The `report` command of `t3s-megatron`."""
    report = commands.add_parser("report", help="tables, a picture and a page of finished runs")
    report.add_argument(
        "summaries",
        nargs="+",
        metavar="[NAME=]FILE",
        help="t3s/summary.json files; NAME is shown instead of the run's method",
    )
    report.add_argument("--picture", help="write accuracy and phases to this .png")
    report.add_argument("--html", help="write all that is known to this page (docs/report.md)")
    report.add_argument("--json", help="write the comparison of several runs to this file")
    report.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        help="evaluation.json files of `t3s-megatron evaluate`, shown beside the runs",
    )
    report.add_argument(
        "--analysis",
        nargs="+",
        default=[],
        help=".json files of `t3s-megatron analyse`, shown on the page",
    )
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
    paths, names = zip(*map(_named, args.summaries), strict=True)
    summaries = [read_summary(path, name) for path, name in zip(paths, names, strict=True)]
    evaluated = [found for path in args.evaluation for found in read_comparisons(path)]
    if bool(args.data) != bool(args.tokenizer_model):
        raise T3SError("--data and --tokenizer-model go together: tokens are shown with both")
    if args.data and not args.html:
        raise T3SError("--data is for a page: give --html FILE too")
    if args.analysis and not args.html:
        raise T3SError("--analysis is for a page: give --html FILE too")
    analyses = [read_analysis(path) for path in args.analysis]
    print(tables(summaries))
    compared = [*of_runs(summaries), *evaluated]
    if compared:
        print(f"\n{as_text(compared)}")
    if args.json:
        content = {"format": FORMAT, "comparisons": [found.to_dict() for found in compared]}
        write_bytes(args.json, json.dumps(content, indent=1, allow_nan=False).encode())
        print(f"\ncomparison: {args.json}")
    if args.picture:
        draw(summaries, args.picture)
        print(f"\npicture: {args.picture}")
    if args.html:
        write_page(_reported(args, list(paths), summaries), args.html, compared, analyses)
        print(f"\npage: {args.html}")
    return 0


def _named(given: str) -> tuple[str, str | None]:
    """(path, name) of "NAME=PATH"; a path may have a = in it."""
    name, sign, path = given.partition("=")
    named = bool(sign) and bool(name) and os.sep not in name and not os.path.exists(given)
    return (path, name) if named else (given, None)


def _reported(
    args: argparse.Namespace, paths: list[str], summaries: list[dict]
) -> list[ReportedRun]:
    if not args.data:
        why = "Give --data and --tokenizer-model to see single tokens."
        return [ReportedRun(p, s, None, why) for p, s in zip(paths, summaries, strict=True)]
    tokenizer = load_tokenizer(args.tokenizer_model)
    runs = []
    for path, summary in zip(paths, summaries, strict=True):
        folder = os.path.dirname(os.path.abspath(path))
        tokens = read_tokens(summary, folder, tuple(args.data), tokenizer, args.seq_length)
        runs.append(ReportedRun(path, summary, tokens))
    return runs
