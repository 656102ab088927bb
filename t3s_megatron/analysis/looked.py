# SPDX-License-Identifier: Apache-2.0
"""Analyses of trajectories that were looked at on their way: one at a time, or four against one
another."""

from __future__ import annotations

from collections.abc import Sequence

from t3s_megatron.analysis.groups import SUBSETS
from t3s_megatron.analysis.records import Seen
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.analyses import Analysis, Lines, Table

_BOTH = ("anchors", "others")


def _line(records: Sequence[dict], value) -> list[tuple[float, float]]:
    """By step, without those where it is not known."""
    found = [(float(record["step"]), value(record)) for record in records]
    return [(step, known) for step, known in found if known is not None]


def confidence(seen: Seen) -> Analysis:
    """Figures 4a, 4b and Table 2 at every step that was looked at: exact, over the whole corpus."""
    rows, records = [], seen.records
    for record in records:
        groups = record["groups"]
        fell = [groups[name]["below"] * groups[name]["tokens"] for name in _BOTH
                if groups[name]["tokens"]]  # fmt: skip
        total = sum(groups[name]["tokens"] for name in _BOTH)
        rows.append([
            str(record["step"]), sum(fell) / total,
            *(groups[name][what] for what in ("delta", "probability", "loss") for name in _BOTH),
        ])  # fmt: skip
    columns = ["step", "fell", "delta anchors", "delta others", "prob anchors", "prob others",
               "loss anchors", "loss others"]  # fmt: skip
    charts = [
        Lines(f"{title} by step", "step", title, {
            name: _line(records, lambda r, n=name, w=what: r["groups"][n][w])
            for name in (_BOTH if what != "loss" else (*_BOTH, *SUBSETS))
        })
        for what, title in (("delta", "mean delta_c (nats)"),
                            ("probability", "mean change of probability"), ("loss", "mean loss"))
    ]  # fmt: skip
    charts.append(
        Lines("Share of tokens below theta_0", "step", "share",
              {"all": [(float(row[0]), row[1]) for row in rows if row[1] is not None]})
    )  # fmt: skip
    return Analysis(
        "confidence",
        "Anchors and the others along a trajectory (Figure 4, Table 2)",
        seen.source,
        {"records": [{"step": r["step"], "groups": r["groups"]} for r in records],
         "fell": {row[0]: row[1] for row in rows}},
        [Table("By step: share below theta_0; changes since theta_0; losses", columns, rows)],
        list(charts),
    )  # fmt: skip


def gradients(seen: Seen) -> Analysis:
    """Figure 6: norm ratio and cosine of the gradients of both groups."""
    records = seen.with_("gradients")
    keys = ("norm_anchors", "norm_others", "ratio", "share_ratio", "cosine")
    rows = [[str(r["step"]), *(r["gradients"][key] for key in keys)] for r in records]
    ratios = {
        "of mean losses": _line(records, lambda r: r["gradients"]["ratio"]),
        "of what each puts into the gradient": _line(
            records, lambda r: r["gradients"]["share_ratio"]
        ),
    }
    cosine = {"cosine": _line(records, lambda r: r["gradients"]["cosine"])}
    return Analysis(
        "gradients",
        "Gradients of anchors and of the others (Figure 6)",
        seen.source,
        {"samples": seen.about["samples"],
         "records": [{"step": r["step"]} | r["gradients"] for r in records]},
        [Table("Over all parameters", ["step", *(key.replace("_", " ") for key in keys)], rows)],
        [Lines("Norm of the anchors' gradient over that of the others'", "step", "ratio", ratios),
         Lines("Cosine of the two gradients", "step", "cosine", cosine)],
        ["ratio: of the gradients of the two mean losses. share ratio: of the two sums, which is "
         "what each group puts into the gradient of all tokens; the paper does not say which of "
         "the two its Figure 6 shows."],
    )  # fmt: skip


def one_step(seen: Seen) -> Analysis:
    """Figure 5: what a step on one group alone does to the losses of both."""
    records = seen.with_("one_step")
    rows = []
    for record in records:
        found = record["one_step"]
        rows.append([str(record["step"]), found["loss"]["anchors"], found["loss"]["others"],
                     *(found["change"][trained][group] for trained in ("anchors", "others", "all")
                       for group in _BOTH)])  # fmt: skip
    columns = ["step", "loss anchors", "loss others", *(
        f"{trained} -> {group}" for trained in ("anchors", "others", "all") for group in _BOTH
    )]  # fmt: skip
    change = {
        f"after a step on {trained}": _line(
            records, lambda r, t=trained: r["one_step"]["change"][t]["others"]
        )
        for trained in ("anchors", "others", "all")
    }
    loss = {"anchors": _line(records, lambda r: r["one_step"]["loss"]["anchors"])}
    return Analysis(
        "one-step",
        "One step on one group alone (Figure 5)",
        seen.source,
        {"samples": seen.about["samples"],
         "records": [{"step": r["step"]} | r["one_step"] for r in records]},
        [Table("Losses before, and their changes by one step on a -> of b", columns, rows)],
        [Lines("Change of the others' loss", "step", "change of loss", change),
         Lines("Loss of the anchors before the step", "step", "loss", loss)],
        ["A step of the run's own optimizer with its learning rate and moments of that time: the "
         "moments carry the steps before it, whatever the step itself is of. So compare the three "
         "columns with one another; at step 0 there are no moments yet."],
    )  # fmt: skip


def loss_transfer(runs: Sequence[Seen]) -> Analysis:
    """Table 6: four trajectories, each trained on one subset of Appendix L alone. They have to be
    given in the order of SUBSETS."""
    if len(runs) != len(SUBSETS):
        raise T3SError(
            f"{len(runs)} trajectories: give four, trained on {', '.join(SUBSETS)} in this order "
            "(`t3s-megatron analyse subsets` writes their selections)"
        )
    for what, of in (("data", "other samples"), ("groups_of", "the groups of another run")):
        if len({run.about[what] for run in runs}) > 1:
            raise T3SError(f"{runs[0].path} and the others: {of}; they have to be of one setting")
    if len({run.records[-1]["step"] for run in runs}) > 1:
        raise T3SError(f"{runs[0].path} and the others: trained for different numbers of steps")
    percent, losses = {}, {"theta_0": _losses(runs[0].records[0])}
    for name, run in zip(SUBSETS, runs, strict=True):
        if run.about["trained_on"] is None:
            raise T3SError(f"{run.path}: trained on all tokens, and not on {name} alone")
        before, losses[name] = _losses(run.records[0]), _losses(run.records[-1])
        percent[name] = {other: _percent(before[other], losses[name][other]) for other in SUBSETS}
    return Analysis(
        "transfer",
        "Loss transfer between subsets (Table 6)",
        ", ".join(run.path for run in runs),
        {"steps": runs[0].records[-1]["step"], "percent": percent, "loss": losses},
        [Table("Change of mean loss in percent: trained on (row), measured on (column)",
               ["trained on", *SUBSETS], _rows(percent)),
         Table("Mean loss in nats, at theta_0 and after training: the same",
               ["trained on", *SUBSETS], _rows(losses))],
        [],
        ["Below 0: learned. Hard is the half of a group with the lower log-prob at theta_0."],
    )  # fmt: skip


def _losses(record: dict) -> dict[str, float | None]:
    """The mean loss of each subset, in nats."""
    return {name: record["groups"][name]["loss"] for name in SUBSETS}


def _rows(matrix: dict[str, dict[str, float | None]]) -> list[list]:
    return [[name, *values.values()] for name, values in matrix.items()]


def _percent(before: float | None, after: float | None) -> float | None:
    if not before or after is None:
        return None
    return 100 * (after - before) / before
