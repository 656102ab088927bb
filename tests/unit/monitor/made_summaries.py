# SPDX-License-Identifier: Apache-2.0
"""Summaries of small runs, written by hand."""

from __future__ import annotations

import json


def measurement(phase: str, step: int, accuracy: float, **more) -> dict:
    fields = {"split": "train", "temperature": 0.6, "standard_error": 0.05}
    return {"phase": phase, "step": step, "accuracy": accuracy} | fields | more


def evaluation(weights: str, accuracy: float, split="train", temperature=0.0) -> dict:
    fields = {"split": split, "temperature": temperature}
    return measurement("targeted", 4, accuracy, weights=weights, **fields)


def t3s_summary(**changed) -> dict:
    """3 profile steps with theta_b at 2, then 4 targeted steps."""
    return {
        "format": 2,
        "finished": True,
        "method": "t3s",
        "theta_b_step": 2,
        "theta_b_reason": "patience 1",
        "theta_b_evidence": None,
        "arguments": {"temperature": 0.6},
        "measurements": [
            measurement("profile", 0, 0.5),
            measurement("profile", 1, 0.375),
            measurement("profile", 2, 0.25),
            measurement("profile", 3, 0.5),
            measurement("targeted", 0, 0.5),
            measurement("targeted", 4, 0.875),
        ],
        "evaluations": [
            evaluation("theta_0", 0.5),
            evaluation("theta_targeted", 0.875),
            evaluation("theta_targeted", 0.75, split="heldout", temperature=0.6),
        ],
        "tokens": {"target_tokens": 200, "masked_share": 0.36, "anchor_share": 0.359},
        "figure_4": [],
        "phases": [
            {"phase": "profile", "first_iteration": 1, "last_iteration": 3, "seconds": 1.0},
            {"phase": "targeted", "first_iteration": 4, "last_iteration": 7, "seconds": 2.0},
        ],
        "seconds": {"run": 3.0},
        "log": [],
    } | changed


def sft_summary(**changed) -> dict:
    """4 steps of plain fine-tuning from the same student."""
    return (
        t3s_summary(
            method="sft",
            theta_b_step=None,
            theta_b_reason=None,
            tokens={},
            measurements=[measurement("profile", step, 0.5 + step / 10) for step in range(5)],
            evaluations=[evaluation("theta_0", 0.5), evaluation("theta_f", 0.625)],
            phases=[{"phase": "profile", "first_iteration": 1, "last_iteration": 4}],
        )
        | changed
    )


def write(path, summary) -> str:
    path.write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return str(path)
