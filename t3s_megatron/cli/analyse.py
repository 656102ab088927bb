# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron analyse NAME FOLDER ...`: the paper's analyses (docs/analyses.md). Each prints its
tables; --to DIR also writes NAME.json and, with matplotlib, NAME.png.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from t3s_megatron.analysis import looked, stores
from t3s_megatron.analysis.groups import SUBSETS
from t3s_megatron.analysis.groups import subsets as labels_of
from t3s_megatron.analysis.records import read_trajectory
from t3s_megatron.analysis.sketches import gradient_sketches
from t3s_megatron.analysis.sweep import selector_sweep
from t3s_megatron.cli.reselecting import reselect
from t3s_megatron.data.durable import check_folder
from t3s_megatron.data.run_folder import Scores, read_scores
from t3s_megatron.data.selection_file import save_selection, selection_info
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import T3SError
from t3s_megatron.method.selection_counts import selection_counts
from t3s_megatron.monitor.analyses import Analysis, as_text, write_analysis
from t3s_megatron.monitor.analysis_pictures import draw_analysis
from t3s_megatron.monitor.report import read_summary
from t3s_megatron.monitor.tokens import read_tokens


@dataclass(frozen=True)
class _Kind:
    """`of`: what FOLDER is; `make`: from the options to the analysis."""

    of: str
    help: str
    make: Callable[[argparse.Namespace], Analysis]


def _one(options: argparse.Namespace) -> str:
    if len(options.folders) != 1:
        raise T3SError(f"{options.name} is of one folder, and {len(options.folders)} are given")
    return options.folders[0]


def _summary(folder: str) -> dict:
    return read_summary(os.path.join(folder, "summary.json"))


def _tau(options: argparse.Namespace, folder: str) -> float:
    """As given, or the run's own."""
    if options.tau is not None:
        return options.tau
    path = os.path.join(folder, "summary.json")
    if not os.path.exists(path):
        return 0.0
    return float(read_summary(path)["arguments"].get("anchor_threshold", 0.0))


def _of_stores(make: Callable[[list[Scores], str, float], Analysis]) -> Callable:
    def made(options: argparse.Namespace) -> Analysis:
        folder = _one(options)
        return make(read_scores(folder), folder, _tau(options, folder))

    return made


def _clouds(options: argparse.Namespace) -> Analysis:
    folder = _one(options)
    if not (options.data and options.tokenizer_model):
        raise T3SError("clouds are of tokens: give the run's --data and --tokenizer-model")
    tokenizer = load_tokenizer(options.tokenizer_model)
    run = read_tokens(_summary(folder), folder, tuple(options.data), tokenizer, options.seq_length)
    return stores.token_clouds(run, folder)


def _sweep(options: argparse.Namespace) -> Analysis:
    return selector_sweep([_summary(folder) for folder in options.folders], options.folders)


#: Every NAME of the command.
ANALYSES = {
    "drops": _Kind("T3S_DIR", "share of tokens below theta_0 at theta_b (Table 2)",
                   _of_stores(stores.confidence_drops)),
    "base-confidence": _Kind("T3S_DIR", "overlap of the groups' base confidence (Figure 12)",
                             _of_stores(stores.base_confidence)),
    "shares": _Kind("T3S_DIR", "anchor share by threshold", _of_stores(stores.shares)),
    "clouds": _Kind("T3S_DIR", "tokens with the largest rise and fall (Figure 3)", _clouds),
    "trends": _Kind("T3S_DIR", "delta_c and loss of both groups by training step (Figure 4)",
                    lambda options: stores.trends(_summary(_one(options)), _one(options))),
    "confidence": _Kind("TRAJECTORY", "the same over the whole corpus (Figure 4, Table 2)",
                        lambda options: looked.confidence(read_trajectory(_one(options)))),
    "gradients": _Kind("TRAJECTORY", "norm ratio and cosine of both groups' gradients (Figure 6)",
                       lambda options: looked.gradients(read_trajectory(_one(options)))),
    "one-step": _Kind("TRAJECTORY", "one step on one group alone (Figure 5)",
                      lambda options: looked.one_step(read_trajectory(_one(options)))),
    "sketches": _Kind("TRAJECTORY", "gradients of single tokens, and their overlap (Figure 11)",
                      lambda options: gradient_sketches(read_trajectory(_one(options)))),
    "transfer": _Kind("TRAJECTORY ...", "losses of four subsets after training on each (Table 6)",
                      lambda options: looked.loss_transfer(
                          [read_trajectory(folder) for folder in options.folders])),
    "sweep": _Kind("T3S_DIR ...", "accuracy by the step that selects (Table 8)", _sweep),
}  # fmt: skip


def add_command(commands) -> None:
    """The `analyse` command of `t3s-megatron`."""
    command = commands.add_parser(
        "analyse",
        help="the paper's analyses of anchors and the other tokens",
        description=f"{__doc__}\n{_listed()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("name", metavar="NAME", choices=(*ANALYSES, "subsets"), help="see above")
    add("folders", metavar="FOLDER", nargs="+", help="a run's t3s/, or --analyse-output")
    add("--to", metavar="DIR", help="write NAME.json and NAME.png there")
    add("--tau", type=float, help="threshold of Eq. 4 (default: the run's)")
    add("--data", nargs="+", help="of clouds: as --t3s-data")
    add("--tokenizer-model", metavar="DIR", help="of clouds: as in the run")
    add("--seq-length", type=int, help="of clouds: needed where the run dropped or cut samples")
    command.set_defaults(run=run_command)


def _listed() -> str:
    rows = [(name, kind.of, kind.help) for name, kind in ANALYSES.items()]
    rows.append(("subsets", "T3S_DIR", "write the four selections of `transfer` to --to DIR"))
    return "\n".join(f"{name:<16} {of:<15} {text}" for name, of, text in rows)


def run_command(options: argparse.Namespace) -> int:
    """T3SError for folders that do not have what the analysis reads."""
    if options.name == "subsets":
        return _write_subsets(options)
    analysis = ANALYSES[options.name].make(options)
    print(as_text(analysis))
    if options.to:
        check_folder(options.to)
        path = os.path.join(options.to, analysis.name)
        write_analysis(analysis, f"{path}.json")
        print(f"\nfigures: {path}.json")
        if analysis.charts:
            try:
                draw_analysis(analysis, f"{path}.png")
                print(f"picture: {path}.png")
            except T3SError as error:  # everything else is there
                print(f"no picture: {error}", file=sys.stderr)
    return 0


def _write_subsets(options: argparse.Namespace) -> int:
    folder = _one(options)
    if not options.to:
        raise T3SError("subsets writes selections: give --to DIR")
    check_folder(options.to)
    scores, tau = read_scores(folder), _tau(options, folder)
    found = reselect(scores, "t3s", tau=tau)  # T3SError where a store is missing
    label_of: dict[str, np.ndarray] = {}
    for of in scores:
        assert of.c_0 is not None and of.c_b is not None
        pieces = np.split(labels_of(of.c_b, of.c_0, tau), np.cumsum(of.sizes)[:-1])
        label_of |= dict(zip(of.uids, pieces, strict=True))
    labels = [label_of[uid] for uid in found.keys["uids"]]
    for number, name in enumerate(SUBSETS):
        parts = [label == number for label in labels]
        counts = selection_counts(np.concatenate(parts), None)
        info = selection_info(name, found.theta_b_step, counts, scores[0].model)
        path = os.path.join(options.to, f"{name}.safetensors")
        save_selection(path, parts, found.keys, info)
        print(f"{path}: {counts['kept']} of {counts['target_tokens']} target tokens kept")
    return 0
