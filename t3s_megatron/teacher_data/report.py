# SPDX-License-Identifier: Apache-2.0
"""What became of every sample and prompt, as JSON and as tables for a person."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from t3s_megatron.data.thinking import has_tags
from t3s_megatron.teacher_data.filtering import Dropped, Fate, Result
from t3s_megatron.teacher_data.traces import Trace

#: Upper ends of the pass rates' histogram; the first and the last are exact.
_RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_LISTED = 10


def make_report(
    results: Sequence[Result], length: Callable[[Trace], int | None], unit: str, **settings
) -> dict[str, Any]:
    """`length`: of a trace in `unit`, None where it is not known; `settings` are written first."""
    return {
        **settings,
        "length_unit": unit,
        "teachers": {
            teacher: _of_teacher([r for r in results if _name(r) == teacher], length)
            for teacher in sorted({_name(r) for r in results})
        },
        "dropped": [
            {
                "id": r.asked.uid,
                "teacher": _name(r),
                "why": str(r.dropped),
                "where": r.asked.places[0],
                **({"gold": sorted(r.asked.answers.values())} if len(r.asked.answers) > 1 else {}),
            }
            for r in results
            if r.dropped is not None
        ],
        "first_fault": _first_fault(results),
        "prompts": [
            {
                "id": r.asked.uid,
                "teacher": _name(r),
                "samples": len(r.fates),
                "correct": r.n_correct,
                "kept": None if r.kept is None else r.kept.where,
            }
            for r in results
        ],
    }


def _name(result: Result) -> str:
    return result.asked.teacher or "(no name)"


def _of_teacher(results: Sequence[Result], length: Callable[[Trace], int | None]) -> dict[str, Any]:
    fates = Counter(fate for r in results for fate in r.fates)
    dropped = Counter(r.dropped for r in results)
    by_fate: dict[str, list[Trace]] = {"kept": [r.kept for r in results if r.kept is not None]}
    for wanted in (Fate.CORRECT, Fate.WRONG, Fate.TRUNCATED):
        by_fate[wanted] = [
            trace
            for r in results
            for trace, fate in zip(r.asked.traces, r.fates, strict=True)
            if fate is wanted
        ]
    return {
        "prompts": len(results),
        "kept": len(by_fate["kept"]),
        "dropped": {str(why): dropped[why] for why in Dropped},
        # Several ids or spellings of one prompt, which were put together.
        "merged_ids": sum(max(0, len(r.asked.uids) - 1) for r in results),
        "merged_spellings": sum(len(r.asked.spellings) - 1 for r in results),
        "samples": sum(fates.values()),
        "samples_by_fate": {str(fate): fates[fate] for fate in Fate},
        "samples_with_thinking": sum(
            has_tags(trace.response) for r in results for trace in r.asked.traces
        ),
        "pass_rates": _pass_rates([r.n_correct / len(r.fates) for r in results]),
        "lengths": {
            name: found for name, traces in by_fate.items() if (found := _lengths(traces, length))
        },
    }


def _pass_rates(rates: Sequence[float]) -> dict[str, int]:
    """Prompts by the share of their samples that is correct."""
    counts = {"0": sum(rate == 0 for rate in rates)}
    for low, high in zip(_RATES, _RATES[1:], strict=False):
        ends = high == 1
        name = f"{low:g} to {high:g}" + (", not all" if ends else "")
        counts[name] = sum(low < rate <= high and not (ends and rate == 1) for rate in rates)
    counts["1"] = sum(rate == 1 for rate in rates)
    return counts


def _lengths(
    traces: Sequence[Trace], length: Callable[[Trace], int | None]
) -> dict[str, float] | None:
    known = sorted(n for n in map(length, traces) if n is not None)
    if not known:
        return None
    return {
        "mean": round(statistics.fmean(known), 1),
        "median": statistics.median(known),
        "p90": known[min(len(known) - 1, int(0.9 * len(known)))],
        "longest": known[-1],
        "of": len(known),
    }


def _first_fault(results: Sequence[Result]) -> str | None:
    for r in results:
        for trace, fault in zip(r.asked.traces, r.faults, strict=True):
            if fault is not None:
                return f"{trace.where}: {fault.strip().splitlines()[-1]}"
    return None


def to_json(report: dict[str, Any]) -> bytes:
    return (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()


def text(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = []
    for teacher, found in report["teachers"].items():
        share = found["kept"] / found["prompts"]
        lines.append(f"{teacher}: kept {found['kept']} of {found['prompts']} prompts ({share:.1%})")
        fates = {k: n for k, n in found["samples_by_fate"].items() if n}
        lines += _table(f"  {found['samples']} samples", fates, found["samples"])
        without = found["samples"] - found["samples_with_thinking"]
        if without:
            lines.append(
                f"  {without} of {found['samples']} samples have no thinking in <think> tags: if "
                f"{teacher} thinks, its thoughts are learned as answers. Start its server with a "
                "reasoning parser; --require-thinking leaves such samples out"
            )
        dropped = {k: n for k, n in found["dropped"].items() if n}
        if dropped:
            lines += _table("  dropped prompts", dropped, found["prompts"])
        rates = {k: n for k, n in found["pass_rates"].items() if n}
        lines += _table("  prompts by pass rate", rates, found["prompts"])
        for name in ("merged_ids", "merged_spellings"):
            if found[name]:
                lines.append(f"  {name.replace('_', ' ')}: {found[name]}")
        if found["lengths"]:
            lines.append(f"  length ({report['length_unit']})")
            columns = ("mean", "median", "p90", "longest", "of")
            lines.append("    " + " " * 10 + "".join(f"{c:>10}" for c in columns))
            for name, row in found["lengths"].items():
                lines.append(f"    {name:<10}" + "".join(f"{row[c]:>10g}" for c in columns))
    listed = report["dropped"][:_MOST_LISTED]
    lines += [f"dropped {one['id']} ({one['where']}): {one['why']}" for one in listed]
    if len(report["dropped"]) > len(listed):
        lines.append(f"... and {len(report['dropped']) - len(listed)} more, all in the report")
    if report["first_fault"]:
        lines.append(f"first fault of the verifier: {report['first_fault']}")
    return "\n".join(lines)


def _table(title: str, counts: dict[str, int], total: int) -> list[str]:
    wide = max(map(len, counts))
    rows = [f"    {name:<{wide}} {n:>7} {n / total:>7.1%}" for name, n in counts.items()]
    return [title, *rows]
