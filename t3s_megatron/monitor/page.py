# SPDX-License-Identifier: Apache-2.0
"""`report --html`: finished runs on one page that needs no network, no script and no other file.

Its own policy forbids the browser to load or run anything, whatever stands in a trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.method.evidence import Evidence
from t3s_megatron.monitor import curve_pictures
from t3s_megatron.monitor.analyses import Analysis, analysis_sections
from t3s_megatron.monitor.comparison import Comparison
from t3s_megatron.monitor.comparison_tables import comparison_sections
from t3s_megatron.monitor.curve_pictures import accuracy_text
from t3s_megatron.monitor.markup import Markup, folded, joined, pairs, table, tag, text
from t3s_megatron.monitor.report import called
from t3s_megatron.monitor.style import STYLE
from t3s_megatron.monitor.tokens import RunTokens
from t3s_megatron.monitor.traces import token_sections

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
#: Of a long list (log lines, samples that were left out), so many are shown.
_LINES, _NAMES = 2000, 50
#: Of a measurement, what a fault took.
_FAULTS = ("timed_out", "crashed", "unfinished", "skipped", "retries")


@dataclass(frozen=True)
class ReportedRun:
    """A run on the page. `tokens`: where its stores, its data and its tokenizer were at hand;
    `why_no_tokens`: a sentence for where they were not."""

    path: str
    summary: dict
    tokens: RunTokens | None
    why_no_tokens: str = ""


def write_page(
    runs: Sequence[ReportedRun],
    path: str,
    compared: Sequence[Comparison] = (),
    analyses: Sequence[Analysis] = (),
) -> None:
    """WriteError where it cannot be written."""
    write_bytes(path, page(runs, compared, analyses).encode())


def page(
    runs: Sequence[ReportedRun],
    compared: Sequence[Comparison] = (),
    analyses: Sequence[Analysis] = (),
) -> str:
    """The whole document. `compared`: what is known of who was better; `analyses`: shown behind
    the runs."""
    names = [f"{number}. {called(run.summary)}" for number, run in enumerate(runs, start=1)]
    if len(runs) == 1:
        names = [called(runs[0].summary)]
    title = f"T3S: {', '.join(called(run.summary) for run in runs)}"
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(title)}</title><style>{STYLE}</style>"
    )
    body = [tag("h1", title), tag("p", _what_this_is(runs), class_="soft")]
    body += comparison_sections(compared)
    if len(runs) > 1:
        body += [_contents(runs, names), _together(runs, names)]
    elif runs[0].summary["evaluations"]:
        body.append(_evaluations(runs, names))
    for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        body.append(_section(run, name, f"run-{number}", len(runs)))
    body += analysis_sections(analyses)
    whole = tag("html", tag("head", Markup(head)), tag("body", tag("main", *body)), lang="en")
    return f"<!DOCTYPE html>{whole}\n"


def _what_this_is(runs: Sequence[ReportedRun]) -> str:
    versions = {run.summary.get("versions", {}).get("t3s_megatron") for run in runs} - {None}
    made = f", by t3s-megatron {', '.join(sorted(versions))}" if versions else ""
    what = "One run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{what} of training-trajectory-aware token selection in Megatron-LM{made}."


def _contents(runs: Sequence[ReportedRun], names: Sequence[str]) -> Markup:
    links = [
        tag("li", tag("a", name, href=f"#run-{number}"), f" {run.path}")
        for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]
    return tag("nav", tag("ul", *links), aria_label="Runs")


# ----------------------------------------------------------------------------------------- all runs


def _together(runs: Sequence[ReportedRun], names: Sequence[str]) -> Markup:
    summaries = [run.summary for run in runs]
    rows: list[tuple] = []
    for name, summary in zip(names, summaries, strict=True):
        tokens = summary["tokens"]
        measured = [m for m in summary["measurements"] if m["accuracy"] is not None]
        first = accuracy_text(measured[0]) if measured else "-"
        last = accuracy_text(measured[-1]) if measured else "-"
        where = f"{measured[-1]['phase']} step {measured[-1]['step']}" if measured else "-"
        rows.append(
            (
                tag("a", name, href=f"#run-{len(rows) + 1}"),
                _theta_b(summary),
                _share(tokens.get("masked_share")),
                first,
                last,
                where,
                _seconds(summary.get("seconds", {}).get("run")),
            )
        )
    titles = ("run", "theta_b", "masked", "first accuracy", "last accuracy", "at", "took")
    return tag(
        "section",
        tag("h2", "All runs"),
        table(titles, rows, "The runs on this page"),
        curve_pictures.accuracy_of_several(summaries, names),
        _evaluations(runs, names) if any(s["evaluations"] for s in summaries) else None,
    )


def _evaluations(runs: Sequence[ReportedRun], names: Sequence[str]) -> Markup:
    rows = [
        (name, e["weights"], e["split"], f"{e['temperature']:g}", accuracy_text(e), _counts(e))
        for run, name in zip(runs, names, strict=True)
        for e in run.summary["evaluations"]
    ]
    titles = ("run", "weights", "prompts", "T", "accuracy", "right of judged")
    caption = "Accuracy by weights (T = 0 is greedy, one answer a prompt)"
    return table(titles, rows, caption)


# ------------------------------------------------------------------------------------------ one run


def _section(run: ReportedRun, name: str, anchor: str, runs: int) -> Markup:
    summary = run.summary
    parts: list[object] = [tag("h2", name), tag("p", run.path, class_="soft")]
    if summary.get("finished") is False:
        parts.append(tag("p", "The run has not finished.", class_="warning"))
    parts += [_overview(summary), *_decisions(summary)]
    parts += [
        tag("h3", "Accuracy"),
        curve_pictures.accuracy_by_iteration(summary)
        or tag("p", "No accuracy was measured.", class_="soft"),
        _measurements(summary),
        curve_pictures.confidence_by_step(summary),
    ]
    if drawn := curve_pictures.figure_4(summary):
        parts += [tag("h3", "Anchors and the other tokens"), drawn]
    if drawn := curve_pictures.masked_losses(summary):
        parts += [tag("h3", "Masked tokens"), _targeting(summary), drawn]
    if run.tokens is not None:
        parts.append(token_sections(run.tokens, runs) or _no_tokens("The run has left no stores."))
    elif run.why_no_tokens:
        parts.append(_no_tokens(run.why_no_tokens))
    parts += [_faults(summary), _timings(summary), _made_with(summary), _log(summary)]
    return tag("section", *parts, id=anchor)


def _targeting(summary: dict) -> Markup | None:
    """What a diffusion student's masks hold beside the noise; None where nobody says what fell."""
    about = summary.get("targeting")
    if not about:
        return None
    shares = about["fell_share_by_tau"]
    return table(
        ("forced tokens", *(f"fell at tau {tau}" for tau in shares)),
        [(f"{about['forced_tokens']} ({_share(about['forced_share'])})",
          *map(_share, shares.values()))],
        "Share of the target tokens that are masked every time, and that fell in the selector",
    )  # fmt: skip


def _no_tokens(why: str) -> Markup:
    return joined((tag("h3", "Tokens"), tag("p", why, class_="soft")))


def _overview(summary: dict) -> Markup:
    tokens, data = summary["tokens"], summary.get("data", {})
    entries: list[tuple[str, object]] = [("theta_b", _theta_b(summary))]
    entries += [(_words(key), _figure(key, value)) for key, value in tokens.items()]
    entries += [
        (_words(key), f"{value:,}")
        for key, value in data.items()
        if isinstance(value, int) and key not in tokens
    ]
    parts: list[Markup] = [pairs(entries)]
    for teacher, found in summary.get("teachers", {}).items():
        of = [(_words(k), _figure(k, v)) for k, v in (found.get("tokens") or {}).items()]
        about = [("theta_b", _theta_b(found)), ("samples", f"{found.get('samples', 0):,}"), *of]
        parts.append(folded(f"teacher {teacher}", pairs(about)))
    return joined(parts)


def _decisions(summary: dict) -> Iterator[Markup]:
    """theta_b, what decided it, how sure that is; of each teacher."""
    whose = [(None, summary), *summary.get("teachers", {}).items()]
    found = [(teacher, of) for teacher, of in whose if of.get("theta_b_reason")]
    if found:
        yield tag("h3", "What decided theta_b")
    for teacher, of in found:
        said = "" if teacher is None else f"Teacher {teacher}: "
        step = of.get("theta_b_step")
        said += "no theta_b" if step is None else f"theta_b is step {step}"
        yield tag("p", f"{said}: {of['theta_b_reason']}.", class_="decided")
        if seen := _seen_before(summary["log"], teacher, step):
            yield tag("p", f"Seen last: {seen}", class_="soft")
        if known := of.get("theta_b_evidence"):
            evidence = Evidence.from_dict(known)
            yield tag("p", f"Evidence: {evidence.describe()}.")
            for warning in evidence.warnings():
                yield tag("p", f"Warning: {warning}.", class_="warning")


def _seen_before(log: Sequence[str], teacher: str | None, step: int | None) -> str | None:
    """What a detector said last before theta_b was fixed; None where no detector has decided."""
    whose = "" if teacher is None else f"teacher {teacher}: "
    said = f"{whose}theta_b is step {step} "
    at = next((number for number, line in enumerate(log) if line.startswith(said)), 0)
    return log[at - 1] if at and log[at - 1].startswith(f"{whose}step ") else None


def _measurements(summary: dict) -> Markup | None:
    if not summary["measurements"]:
        return None
    forwards = any(m.get("forwards") for m in summary["measurements"])
    rows = [
        (
            f"{m['phase']} {m.get('teacher') or ''}".strip(),
            m["step"],
            accuracy_text(m),
            _counts(m),
            _of_total(m, "truncated"),
            _of_total(m, "unparseable"),
            ", ".join(f"{m[key]} {_words(key)}" for key in _FAULTS if m.get(key)) or "-",
            f"{m['generated_tokens'] / m['total']:.1f}" if m.get("total") else "-",
            *((_per_forward(m),) if forwards else ()),
            _seconds(m.get("seconds")),
        )
        for m in summary["measurements"]
    ]
    titles = ("phase", "step", "accuracy", "right of judged", "truncated", "unparseable",
              "faults", "tokens an answer", *(("tokens a forward",) if forwards else ()),
              "took")  # fmt: skip
    temperature = summary["arguments"].get("temperature")
    caption = f"Accuracy on training prompts at T = {temperature:g}" if temperature else "Accuracy"
    return folded("All measurements", table(titles, rows, caption))


def _per_forward(measured: dict) -> str:
    known = measured.get("tokens_per_forward")
    return "-" if known is None else f"{known:.2f}"


def _faults(summary: dict) -> Markup:
    measured = [*summary["measurements"], *summary["evaluations"]]
    entries = [(f"answers {_words(key)}", sum(m.get(key, 0) for m in measured)) for key in _FAULTS]
    entries += [
        ("void measurements", sum(bool(m.get("void")) for m in measured)),
        ("samples left out", len(summary.get("skipped_samples", []))),
        ("steps that changed nothing", summary.get("empty_steps", 0)),
        ("gold answers that cannot be read", len(summary.get("unusable_gold", []))),
    ]
    parts: list[object] = [tag("h3", "Faults"), pairs(entries)]
    skipped = [f"{s['id']}: {s['what']}" for s in summary.get("skipped_samples", [])]
    for title, names in (
        ("Samples that were left out", skipped),
        ("Gold answers that cannot be read", summary.get("unusable_gold", [])),
    ):
        if names:
            parts.append(folded(title, tag("div", _first(names, _NAMES), class_="log")))
    parts += [tag("p", line, class_="warning") for line in _other_warnings(summary)]
    return joined(parts)


def _other_warnings(summary: dict) -> list[str]:
    """Those of the log that are not about how sure theta_b is."""
    found = [summary, *summary.get("teachers", {}).values()]
    known = [Evidence.from_dict(e) for of in found if (e := of.get("theta_b_evidence"))]
    shown = {warning for evidence in known for warning in evidence.warnings()}
    lines = [line for line in summary["log"] if "WARNING: " in line]
    return [line for line in lines if line.partition("WARNING: ")[2] not in shown]


def _timings(summary: dict) -> Markup:
    seconds = summary.get("seconds", {})
    whole = seconds.get("run") or 0
    rows: list[tuple[str, str, str]] = [
        (_words(what), _seconds(spent), f"{spent / whole:.1%}" if whole else "-")
        for what, spent in seconds.items()
    ]
    for phase in summary["phases"]:
        name = f"phase {phase['phase']} {phase.get('teacher') or ''}".strip()
        span = f", iterations {phase['first_iteration']} to {phase['last_iteration']}"
        spent = phase.get("seconds")
        part = f"{spent / whole:.1%}" if whole and spent is not None else "-"
        rows.append((name + span, _seconds(spent), part))
    return joined((tag("h3", "Timings"), table(("what", "took", "of the run"), rows, "Wall time")))


def _made_with(summary: dict) -> Markup:
    parts: list[Markup] = [tag("h3", "What it was made with")]
    names = ("versions", "layout", "model", "seeds", "fingerprints", "arrangement", "selection",
             "noise")  # fmt: skip
    for name in names:
        if isinstance(known := summary.get(name), dict):
            parts.append(
                folded(_words(name), pairs((_words(k), _plain(v)) for k, v in known.items()))
            )
    rows = [
        (f"--t3s-{key.replace('_', '-')}", _plain(value))
        for key, value in summary["arguments"].items()
    ]
    arguments = table(("argument", "value"), rows, "Every argument of the run")
    return joined((*parts, folded("arguments", arguments)))


def _log(summary: dict) -> Markup | None:
    lines = summary["log"]
    if not lines:
        return None
    shown = tag("div", _first(lines, _LINES), class_="log")
    return folded(f"log ({len(lines)} lines)", shown)


# -------------------------------------------------------------------------------------------- words


def _first(lines: Sequence[str], most: int) -> str:
    left = len(lines) - most
    return "\n".join(lines[:most]) + (f"\n[... {left:,} more ...]" if left > 0 else "")


def _theta_b(found: dict) -> str:
    step = found.get("theta_b_step")
    if step is not None:
        return f"step {step}"
    steps = [
        f"{teacher}: step {of['theta_b_step']}"
        for teacher, of in found.get("teachers", {}).items()
        if of.get("theta_b_step") is not None
    ]
    return ", ".join(steps) or "none"


def _counts(measurement: dict) -> str:
    if "total" not in measurement:
        return "-"
    faults = ("timed_out", "crashed", "unfinished", "skipped")
    judged = measurement["total"] - sum(measurement[key] for key in faults)
    return f"{measurement['correct']} of {judged}"


def _of_total(measurement: dict, key: str) -> str:
    if not measurement.get("total"):
        return "-"
    return f"{measurement[key]} ({measurement[key] / measurement['total']:.0%})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _figure(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if key.endswith("share") else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else _plain(value)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(key: str) -> str:
    return key.replace("_", " ")
