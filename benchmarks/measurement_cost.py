# SPDX-License-Identifier: Apache-2.0
"""Generation as it was planned and as it was; called by benchmarks/measurement_cost.sh.

measurement_cost.py SUMMARY rate      tokens a second of a rank, in the first measurement
measurement_cost.py SUMMARY length    tokens of an answer, in the first measurement
measurement_cost.py SUMMARY PLAN ...  a table
"""

from __future__ import annotations

import json
import pathlib
import sys

HEAD = (
    "# A measurement's cost, planned and real\n\n"
    "By `bash benchmarks/measurement_cost.sh`: the tiny example (200 prompts at every step of the "
    "profile and at every second one of the targeted phase, and evaluations at three temperatures) "
    "against `t3s-megatron plan` of the same arguments. Each cell: planned, real, planned / real."
    "\n\n"
    "The rate of generation ({rate:,.0f} tokens/s a rank) was given to both plans from the run's "
    "first measurement; the time that is worked out without one, from the memory bandwidth of a "
    "GPU, is compared with nothing here. The first plan takes answers to be as long as the "
    "teacher's responses, which is its default; the second as long as those of the first "
    "measurement ({length:.1f} tokens, `--mean-answer-tokens`).\n"
)


def main(summary_path: str, *rest: str) -> None:
    summary = json.loads(pathlib.Path(summary_path).read_text())
    first = summary["measurements"][0]
    length = first["generated_tokens"] / first["total"]
    rate = first["generated_tokens"] / first["seconds"] / summary["layout"]["data"]
    if rest == ("rate",) or rest == ("length",):
        print(rate if rest == ("rate",) else length)
        return
    print(HEAD.format(rate=rate, length=length))
    print("| | as long as the teacher's | as long as at first |")
    print("|---|---|---|")
    plans = [json.loads(pathlib.Path(path).read_text()) for path in rest]
    for name, of_plan, real in rows(summary):
        cells = [f"{of_plan(plan):,.0f}, {real:,.0f}, {of_plan(plan) / real:.2f}" for plan in plans]
        print(f"| {name} | {' | '.join(cells)} |")
    print(
        f"\nThe plan puts theta_b at step {plans[0]['expected']['theta_b_step']}; it was step "
        f"{summary['theta_b_step']}."
    )


def rows(summary: dict):
    """(what, what a plan says of it, what it was)."""
    measured, evaluated = summary["measurements"], summary["evaluations"]
    tokens = sum(one["generated_tokens"] for one in measured)
    everything = tokens + sum(one["generated_tokens"] for one in evaluated)

    def generation(key: str):
        return lambda plan: plan["work"]["generation"][0][key]

    one, count = "tokens of a measurement", len(measured)
    yield "measurements", lambda plan: plan["expected"]["measurements"], count
    yield one, lambda plan: plan["measuring"]["one"]["tokens"], tokens / count
    yield "tokens of all generation", generation("tokens"), everything
    yield "seconds of all generation", generation("seconds"), summary["seconds"]["generation"]


if __name__ == "__main__":
    main(*sys.argv[1:])
