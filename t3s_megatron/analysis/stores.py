# SPDX-License-Identifier: Apache-2.0
"""Analyses of the files that one run has left: its log-probs at theta_0 and theta_b, its summary,
and for the tokens themselves its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from t3s_megatron.analysis.groups import require_both
from t3s_megatron.analysis.overlap import separation
from t3s_megatron.data.run_folder import Scores
from t3s_megatron.errors import T3SError
from t3s_megatron.method.selection import anchors, delta_c
from t3s_megatron.method.selection_figures import TENTHS, shares_by, tenths
from t3s_megatron.monitor.analyses import Analysis, Bars, Cell, Lines, Ranking, Table
from t3s_megatron.monitor.tokens import RunTokens, token_changes, token_text

#: Thresholds of `shares`, in nats.
TAUS = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_BINS = 50
#: Tokens of the vocabulary in a cloud, as in the paper; how often one has to occur, or less often.
_CLOUD, _OFTEN_ENOUGH = 100, (10, 3, 1)


def _joined(scores: Sequence[Scores], source: str) -> tuple[np.ndarray, np.ndarray]:
    """c(theta_0) and c(theta_b) of all teachers' tokens, float32[n] each. T3SError where one of
    them was not scored."""
    if any(of.c_0 is None or of.c_b is None for of in scores):
        raise T3SError(
            f"{source}: log-probs at theta_0 and at theta_b are needed, and one of them is not "
            "there: take the folder of a run with a profile"
        )
    return (
        np.concatenate([of.c_0 for of in scores if of.c_0 is not None]),
        np.concatenate([of.c_b for of in scores if of.c_b is not None]),
    )


def confidence_drops(scores: Sequence[Scores], source: str, tau: float) -> Analysis:
    """Table 2, at theta_b: the share of tokens whose log-prob is below theta_0's."""
    rows: list[list[Cell]] = []
    by_place = {}
    for of in (*scores, None) if len(scores) > 1 else scores:
        some = scores if of is None else [of]
        name = "all" if of is None or of.teacher is None else of.teacher
        c_0, c_b = _joined(some, source)
        delta = delta_c(c_b, c_0)
        fell = delta < 0
        place = tenths(np.concatenate([part.sizes for part in some]))
        by_place[name] = shares_by(place, fell, TENTHS)
        rows.append([name, len(delta), float(fell.mean()), float((delta > 0).mean()),
                     float((delta == 0).mean()), float(delta.mean(dtype=np.float64))])  # fmt: skip
    columns = ["teacher", "tokens", "fell", "rose", "equal", "mean delta_c"]
    steps = {of.teacher or "all": of.step for of in scores}
    figures = {
        "steps": steps,
        "teachers": {str(row[0]): dict(zip(columns[1:], row[1:], strict=True)) for row in rows},
        "fell_by_tenth": by_place,
    }
    lines = {
        name: [(float(i + 1), share) for i, share in enumerate(shares) if share is not None]
        for name, shares in by_place.items()
    }
    return Analysis(
        "drops",
        "Tokens below theta_0 at theta_b (Table 2)",
        source,
        figures,
        [Table("Share of target tokens whose log-prob fell", columns, rows)],
        [Lines("Share that fell, by tenth of the response", "tenth", "share", lines)],
        ["The paper's Table 2 is of the final checkpoint of a long training: `trajectory` has the "
         "share at every checkpoint."],
    )  # fmt: skip


def base_confidence(scores: Sequence[Scores], source: str, tau: float) -> Analysis:
    """Figure 12: whether theta_0's confidence alone tells anchors and the others apart."""
    c_0, c_b = _joined(scores, source)
    is_anchor = anchors(delta_c(c_b, c_0), tau)
    require_both(is_anchor)
    signals = {"probability at theta_0": np.exp(c_0)}
    if all(of.entropy is not None for of in scores):
        entropy = [of.entropy for of in scores if of.entropy is not None]
        signals["entropy at theta_0"] = np.concatenate(entropy)
    found, charts = {}, []
    for name, values in signals.items():
        found[name] = asdict(separation(values[is_anchor], values[~is_anchor], _BINS))
        top = 1.0 if "probability" in name else float(max(values.max(), 1e-6))
        edges = np.linspace(0, top, _BINS + 1)
        counts = {
            group: np.histogram(values[which].astype(np.float64), edges)[0].tolist()
            for group, which in (("anchors", is_anchor), ("others", ~is_anchor))
        }
        title = f"{name[:1].upper()}{name[1:]} of anchors and of the others"
        charts.append(Bars(title, name, edges.tolist(), counts))
    columns = ["signal", "AUC", "best threshold", "shared area", "mean anchors", "mean others"]
    rows = [[name, *values.values()] for name, values in found.items()]
    share = float(is_anchor.mean())
    return Analysis(
        "base-confidence",
        "Base confidence of anchors and of the others (Figure 12)",
        source,
        {"tau": tau, "anchor_share": share, "signals": found},
        [Table("How well one number at theta_0 tells the groups apart", columns, rows)],
        list(charts),
        ["AUC: probability that a random anchor has the higher value; 0.5 is no separation. Best "
         "threshold: its balanced accuracy, 0.5 is chance. Shared area of the histograms: 1 is "
         "no separation."],
    )  # fmt: skip


def shares(scores: Sequence[Scores], source: str, tau: float) -> Analysis:
    """How many tokens are anchors, by threshold: what a dead band would leave unmasked."""
    c_0, c_b = _joined(scores, source)
    delta = delta_c(c_b, c_0)
    taus = sorted({*TAUS, tau})
    rows = [
        [one, float((delta > np.float32(one)).mean()), float((np.abs(delta) <= one).mean())]
        for one in taus
    ]
    columns = ["tau (nats)", "share above tau", "share within +-tau"]
    return Analysis(
        "shares",
        "Anchor share by threshold (Eq. 4)",
        source,
        {"tokens": len(delta), "by_tau": [dict(zip(columns, row, strict=True)) for row in rows]},
        [Table("Anchors by threshold", columns, [[f"{row[0]:g}", *row[1:]] for row in rows])],
        [Lines("Share of tokens by threshold", "tau (nats)", "share", {
            "above tau: anchors": [(row[0], row[1]) for row in rows],
            "within +-tau": [(row[0], row[2]) for row in rows],
        })],
    )  # fmt: skip


def token_clouds(run: RunTokens, source: str) -> Analysis:
    """Figure 3 as a ranking: the tokens of the vocabulary with the largest mean rise and fall."""
    changes: list = []
    least = 1
    for least in _OFTEN_ENOUGH:
        changes = token_changes(run, least)
        if len(changes) >= 2 * _CLOUD or least == 1:
            break
    if not changes:
        raise T3SError(f"{source}: log-probs at theta_0 and at theta_b are needed, and not there")
    rose = [change for change in changes if change.mean_delta > 0][:_CLOUD]
    fell = [change for change in reversed(changes) if change.mean_delta < 0][:_CLOUD]
    figures = {
        name: [
            asdict(change) | {"text": token_text(run.tokenizer, change.token)} for change in some
        ]
        for name, some in (("rose", rose), ("fell", fell))
    }
    tables, values = [], []
    for name, found in figures.items():
        rows = [[repr(f["text"]), f["occurrences"], f["mean_delta"], f["masked_share"]]
                for f in found]  # fmt: skip
        columns = ["token", "occurrences", "mean delta_c", "masked"]
        tables.append(Table(f"Tokens that {name} most", columns, rows))
        values.append([(f["text"], f["mean_delta"]) for f in found])
    return Analysis(
        "clouds",
        "Tokens with the largest change at theta_b (Figure 3)",
        source,
        figures,
        tables,
        [Ranking("Mean delta_c by token", "nats", [*values[0], *values[1][::-1]])],
        [f"Of tokens that occur {least} times or more. The paper does not say how occurrences are "
         "put together; this is their mean."],
    )  # fmt: skip


def trends(summary: dict, source: str) -> Analysis:
    """Figures 4a and 4b as the training steps saw them: each step's own batch, so noisier than a
    trajectory that scores the whole corpus."""
    entries = summary.get("figure_4", [])
    if not entries:
        raise T3SError(
            f"{source}: the run has written down no steps of Figure 4; it has none without theta_b"
        )
    charts, rows = [], []
    for phase, title in (("profile", "full objective (Figure 4a)"),
                         ("targeted", "selection applied (Figure 4b)")):  # fmt: skip
        found = [entry for entry in entries if entry["phase"] == phase]
        for what, unit in (("delta", "mean delta_c (nats)"), ("loss", "loss")):
            series = {}
            for group in ("anchor", "other"):
                points = [(float(e["step"]), e[f"{what}_{group}"]) for e in found]
                series[f"{group}s"] = [(x, y) for x, y in points if y is not None and y == y]
            if found:
                charts.append(Lines(f"{unit} by step, {title}", "step", unit, series))
        rows += [[f"{phase} {e['step']}", *(_known(e[key]) for key in _TRENDS)] for e in found]
    return Analysis(
        "trends",
        "Anchors and the others by step (Figures 4a, 4b)",
        source,
        {"figure_4": [{k: _known(v) for k, v in entry.items()} for entry in entries]},
        [Table("By step; the forward of step k sees the weights after k - 1 updates",
               ["step", *_TRENDS], rows)],
        list(charts),
    )  # fmt: skip


_TRENDS = ("delta_anchor", "delta_other", "loss_anchor", "loss_other")


def _known(value):
    """None for a NaN: a group that a batch had nothing of."""
    return None if isinstance(value, float) and value != value else value
