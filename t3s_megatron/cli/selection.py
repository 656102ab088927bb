# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron selection`: look at selections, take them elsewhere, bring your own
(docs/selections.md).

show         how much is masked, and where
diff         how two selections differ
sweep        the masked share, or weight, for several thresholds, from a run's log-probs
from-stores  the selection of another method or threshold, from a run's log-probs
export       tokens, mask or weights, and log-probs as rows, for other programs
import       a mask or weights of your own, checked against the tokens, as a selection
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable

import numpy as np

from t3s_megatron.cli.reselecting import reselect
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.run_folder import SELECTION, Scores, files_of, read_scores
from t3s_megatron.data.selected import read_selected
from t3s_megatron.data.selection_file import Selection, save_selection, selection_info
from t3s_megatron.data.selection_rows import (
    checked_ending,
    read_keep,
    selection_rows,
    write_rows,
)
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.teachers import Part, load_training_records, parts_of
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import T3SError
from t3s_megatron.method.selection import METHODS
from t3s_megatron.method.selection_counts import selection_counts
from t3s_megatron.method.selection_figures import TENTHS, difference, shares_by, tenths
from t3s_megatron.monitor.report import read_summary
from t3s_megatron.options import LARGEST

_SELECTING = [method.name for method in METHODS.values() if method.selects]


def add_command(commands) -> None:
    """The `selection` command of `t3s-megatron`."""
    command = commands.add_parser(
        "selection",
        help="look at selections, take them elsewhere, bring your own",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = command.add_subparsers(dest="step", required=True)
    what = "a run's folder (t3s/), a selection.safetensors, or rows that `export` wrote"

    show = steps.add_parser("show", help="how much is masked, and where")
    show.add_argument("selection", help=what)
    _add_data(show, required=False)
    show.set_defaults(run=_show)

    diff = steps.add_parser("diff", help="how two selections of the same samples differ")
    diff.add_argument("a", metavar="A", help=what)
    diff.add_argument("b", metavar="B", help=what)
    _add_data(diff, required=False)
    diff.set_defaults(run=_diff)

    sweep = steps.add_parser("sweep", help="the masked share, or weight, for several thresholds")
    _add_folder(sweep)
    sweep.add_argument("--tau", type=_number, nargs="+", required=True, help="thresholds of Eq. 4")
    sweep.add_argument(
        "--soft-temperature", type=_positive, metavar="T", help="of t3s-soft: also its mean weight"
    )
    sweep.set_defaults(run=_sweep)

    again = steps.add_parser(
        "from-stores", help="the selection of another method or threshold, without a run"
    )
    _add_folder(again)
    add = again.add_argument
    add("--method", choices=_SELECTING, default="t3s", help="as --t3s-method (default: t3s)")
    add("--tau", type=_number, default=0.0, help="as --t3s-anchor-threshold (default: 0)")
    add("--share", type=_share, help="as --t3s-mask-share (default: as many as t3s)")
    add("--seed", type=_whole, help="as --t3s-seed (default: that of the run)")
    add("--soft-temperature", type=_positive, help="as --t3s-soft-temperature")
    add("--reference", nargs="+", default=[], metavar="FILE", help="as --t3s-reference")
    add("--to", required=True, metavar="FILE", help="selection.safetensors, for a run")
    again.set_defaults(run=_from_stores)

    export = steps.add_parser("export", help="tokens, mask or weights, and log-probs as rows")
    _add_folder(export)
    export.add_argument(
        "--selection", metavar="FILE", help="another one than the run's own (default: that)"
    )
    export.add_argument("--to", required=True, metavar="FILE", help=".parquet or .jsonl")
    _add_data(export, required=True)
    export.set_defaults(run=_export)

    own = steps.add_parser("import", help="a mask or weights of your own as a selection")
    own.add_argument(
        "rows", metavar="FILE", help=".parquet or .jsonl: id, input_ids, and mask or weight"
    )
    own.add_argument("--to", required=True, metavar="FILE", help="selection.safetensors")
    _add_data(own, required=True)
    own.set_defaults(run=_import)


def _add_folder(command) -> None:
    command.add_argument("folder", metavar="T3S_DIR", help="what --t3s-dir named in a run")


def _add_data(command, required: bool) -> None:
    """The samples as the run had them; its folder knows all but the first two and the length."""
    add = command.add_argument
    add("--data", nargs="+", required=required, help="as --t3s-data")
    add("--tokenizer-model", required=required, metavar="DIR", help="as in the run")
    add("--seq-length", type=_length, help="as in the run; needed where it dropped or cut samples")
    add("--split", help="as --t3s-data-split")
    add("--prompt-format", choices=("chat", "raw"), help="as --t3s-prompt-format")
    add("--overlong", choices=("error", "drop", "truncate"), help="as --t3s-overlong")
    add("--ignore-fields", nargs="+", help="as --t3s-ignore-fields")


def _bounded(kind: type, fits: Callable, what: str) -> Callable[[str], float]:
    """A type of argparse: what `kind` makes of the text and `fits` is true of. `what` has to be."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not fits(value):
            raise argparse.ArgumentTypeError(f"{text}: has to be {what}")
        return value

    return read


_number = _bounded(float, lambda value: True, "a finite number")
_positive = _bounded(float, lambda value: value > 0, "a number above 0")
_share = _bounded(float, lambda value: 0 <= value <= 1, "a share, from 0 to 1")
_whole = _bounded(int, lambda value: 0 <= value <= LARGEST, f"a whole number, 0 to {LARGEST}")
_length = _bounded(int, lambda value: value > 0, "a whole number above 0")


# ------------------------------------------------------------------------------------- what is read


def _asked(folder: str | None) -> dict:
    """The arguments of the run that made a folder; empty where it has left none."""
    path = os.path.join(folder or "", "summary.json")
    return read_summary(path)["arguments"] if folder and os.path.exists(path) else {}


def _samples(options: argparse.Namespace, folder: str | None = None) -> tuple[Corpus, list[Part]]:
    """The samples that `options` name, by what they say or else the run of `folder` did."""
    defaults = {"data_split": "train", "prompt_format": "chat", "overlong": "error"}
    asked = defaults | {"ignore_fields": []} | _asked(folder)
    overlong = options.overlong or asked["overlong"]
    if overlong != "error" and options.seq_length is None:
        raise T3SError(
            f"samples that are too long were treated as --t3s-overlong {overlong} says: give "
            "--seq-length, as in the run"
        )
    records = load_training_records(
        tuple(options.data),
        split=options.split or asked["data_split"],
        ignored=options.ignore_fields or asked["ignore_fields"],
    )
    corpus = Corpus.build(
        records,
        load_tokenizer(options.tokenizer_model),
        seq_length=sys.maxsize - 1 if options.seq_length is None else options.seq_length,
        prompt_format=options.prompt_format or asked["prompt_format"],
        overlong=overlong,
    )
    return corpus, parts_of(corpus, records)


def _corpus_if_given(options: argparse.Namespace, path: str) -> Corpus | None:
    if not options.data:
        others = ("tokenizer_model", "seq_length", "split", "prompt_format", "overlong",
                  "ignore_fields")  # fmt: skip
        idle = next((name for name in others if getattr(options, name) is not None), None)
        if idle is not None:
            raise T3SError(f"--{idle.replace('_', '-')} says nothing without --data: give both")
        return None
    if not options.tokenizer_model:
        raise T3SError("--data needs --tokenizer-model, to know its tokens")
    return _samples(options, path if os.path.isdir(path) else os.path.dirname(path))[0]


def _log_probs(folder: str, tag: str, corpus: Corpus, parts: list[Part]) -> np.ndarray | None:
    """float32[n_target_tokens], NaN where a teacher's were not scored; None if none were."""
    c = np.full(corpus.n_targets, np.nan, dtype=np.float32)
    for part in parts:
        path = part.path(folder, f"c_{tag}")
        if os.path.exists(path):
            c[part.targets] = LogProbStore.load(path, part.corpus).c
    return None if np.isnan(c).all() else c


def _check_target(to: str, read: Iterable[str], ending: str | None = None) -> None:
    """T3SError when the result would take the place of what it is made of, or of another file of
    the run, or is not called as such a file is."""
    if ending is not None and not to.lower().endswith(ending):
        raise T3SError(f"--to {to}: has to end in {ending}, as a selection does")
    for path in read:
        if os.path.realpath(path) == os.path.realpath(to):
            raise T3SError(f"--to {to}: is one of the files that are read; give another name")


# ------------------------------------------------------------------------------------- what is said


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _print_tenths(what: str, shares: list[float | None]) -> None:
    print(f"{what}, by tenth of the response:")
    print("  " + "  ".join(f"{_percent(share):>7}" for share in shares))


def _print_weights(weights: np.ndarray) -> None:
    if not weights.size:
        return
    low, median, high = np.quantile(weights, (0, 0.5, 1))
    mean = weights.mean(dtype=np.float64)
    print(f"weights        {low:g} to {high:g}, median {median:g}, mean {mean:.4g} (of the kept)")


def _show(options: argparse.Namespace) -> int:
    found = read_selected(options.selection, _corpus_if_given(options, options.selection))
    masked = found.keep <= 0
    print(f"samples        {len(found.uids)}")
    print(f"target tokens  {masked.size}")
    print(f"kept           {int((~masked).sum())}")
    print(f"masked         {int(masked.sum())} ({_percent(float(masked.mean()))})")
    if found.keep.dtype != np.bool_:
        _print_weights(found.keep[~masked])
    _print_tenths("masked", shares_by(tenths(found.sizes), masked, TENTHS))
    names = list(dict.fromkeys(found.teachers))
    if len(names) > 1:
        number = {name: i for i, name in enumerate(names)}
        whose = np.repeat([number[name] for name in found.teachers], found.sizes)
        for name, share in zip(names, shares_by(whose, masked, len(names)), strict=True):
            print(f"masked of teacher {name}: {_percent(share)}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    a = read_selected(options.a, _corpus_if_given(options, options.a))
    b = read_selected(options.b, _corpus_if_given(options, options.b), alike=a)
    keep_b = b.in_order_of(a, (options.b, options.a))
    found = difference(a.keep > 0, keep_b > 0, a.sizes)
    print(f"target tokens         {found.tokens}")
    print(f"differ                {_percent(found.share)}")
    jaccard = "- (nothing is masked)" if found.jaccard is None else f"{found.jaccard:.4f}"
    print(f"Jaccard of the masked {jaccard}")
    print(f"masked by A alone     {found.only_a}")
    print(f"masked by B alone     {found.only_b}")
    _print_tenths("differ", found.by_tenth)
    if np.float32 in (a.keep.dtype, keep_b.dtype):
        apart = np.abs(a.keep.astype(np.float64) - keep_b)
        print(f"weights differ        by {apart.mean():.4g} on average, {apart.max():.4g} at most")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    scores, soft = read_scores(options.folder), options.soft_temperature
    names = [of.teacher for of in scores] if len(scores) > 1 else []
    weight = "" if soft is None else "  mean weight"
    print(f"tau         masked     share  ties{weight}" + "".join(f"  {name}" for name in names))
    for tau in options.tau:
        found = reselect(scores, "t3s", tau=tau)
        line = f"{tau:<10g} {found.counts['masked']:>7} {_percent(found.counts['masked_share']):>9}"
        line += f" {found.counts['ties']:>5}"
        if soft is not None:
            weights = reselect(scores, "t3s-soft", tau=tau, temperature=soft).by_teacher
            line += f"  {np.concatenate(weights).mean(dtype=np.float64):>11.4f}"
        shares = [_percent(float((~kept).mean())) for kept in found.by_teacher] if names else []
        print(line + "".join(f"  {share}" for share in shares))
    return 0


def _from_stores(options: argparse.Namespace) -> int:
    _check_target(options.to, [*files_of(options.folder), *options.reference], ".safetensors")
    scores = read_scores(options.folder)
    seed = _asked(options.folder).get("seed") if options.seed is None else options.seed
    _check_method(options)
    if seed is None and not METHODS[options.method].needs:  # it draws
        raise T3SError(
            f"{options.folder}: no summary.json to take the seed of the run from: give --seed"
        )
    found = reselect(
        scores, options.method, tau=options.tau, share=options.share, seed=seed or 0,
        temperature=options.soft_temperature, reference=options.reference,
        order=_order(options.folder, scores),
    )  # fmt: skip
    info = selection_info(options.method, found.theta_b_step, found.counts, scores[0].model)
    save_selection(options.to, found.parts, found.keys, info)
    _say_saved(found.counts, options.to)
    return 0


def _check_method(options: argparse.Namespace) -> None:
    """T3SError for an argument that the method needs, or does not know."""
    method = METHODS[options.method]
    if options.share is not None and not method.baseline:
        raise T3SError(f"--share has no meaning with --method {method.name}: drop it")
    for name in ("reference", "soft_temperature"):
        argument, given = f"--{name.replace('_', '-')}", bool(getattr(options, name))
        if given and not method.takes(name):
            raise T3SError(f"{argument} has no meaning with --method {method.name}: drop it")
        if not given and method.takes(name):
            raise T3SError(f"--method {method.name} needs {argument}")


def _order(folder: str, scores: list[Scores]) -> list[str] | None:
    """The samples as the run has them, where several teachers' may be mixed."""
    path = os.path.join(folder, SELECTION)
    if len(scores) == 1 or not os.path.exists(path):
        return None
    return list(read_selected(path).uids)


def _say_saved(counts: dict, path: str) -> None:
    mean = counts.get("mean_weight")
    weights = "" if mean is None else f", the others have a mean weight of {mean:.4g}"
    print(
        f"{path}: {counts['masked']} of {counts['target_tokens']} target tokens masked "
        f"({_percent(counts['masked_share'])}){weights}"
    )


def _export(options: argparse.Namespace) -> int:
    checked_ending(options.to)
    path = options.selection or os.path.join(options.folder, SELECTION)
    _check_target(options.to, [*options.data, path])
    corpus, parts = _samples(options, options.folder)
    selection = Selection.load(path, corpus)
    c_0, c_b = (_log_probs(options.folder, tag, corpus, parts) for tag in ("theta_0", "theta_b"))
    write_rows(options.to, selection_rows(corpus, selection.keep, c_0, c_b))
    kept = np.count_nonzero(selection.keep)
    print(f"{options.to}: {len(corpus.samples)} samples, {kept} tokens kept")
    return 0


def _import(options: argparse.Namespace) -> int:
    _check_target(options.to, [options.rows], ".safetensors")
    corpus, _ = _samples(options)
    keep = read_keep(options.rows, corpus)
    counts = selection_counts(keep, None)
    Selection(keep, corpus, "imported", None, counts).save(options.to)
    _say_saved(counts, options.to)
    return 0
