# SPDX-License-Identifier: Apache-2.0
"""Jobs that are broken off and started again, and what "the same in the end" means for them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field

import torch

from tests.support.reference import latest, read_tensors

SCHEDULE = "--train-iters 5 --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()
T3S = ["--t3s", "--t3s-max-new-tokens", 16, "--t3s-temperature", 1, "--t3s-patience", 2,
       "--t3s-profile-iters", 6, "--t3s-simple-step", 2]  # fmt: skip


TWO = ["--bf16", "--attention-softmax-in-fp32", "--use-distributed-optimizer",
       "--overlap-grad-reduce", "--overlap-param-gather", "--t3s-keep-checkpoints", 2]  # fmt: skip
#: Of 24 answers a test shows little: levels at which it shows something.
BLOCKS = ["--t3s-accuracy-blocks", 3, "--t3s-accuracy-stop-level", 0.9, "--t3s-confirm-level", 0.6]
#: Watched beside accuracy, which is measured at the same steps as without it.
BOTH = ["--t3s-signal", "both", "--t3s-accuracy-interval-coarse", 1]
PACKED = ["--micro-batch-size", 1, "--t3s-arrangement", "packed"]


@dataclass(frozen=True)
class Setting:
    processes: int
    arguments: list = field(default_factory=list)
    kill_rank: str | None = None


SETTINGS = {
    "one": Setting(1, ["--attention-dropout", 0.1, "--hidden-dropout", 0.1]),
    "two": Setting(2, TWO, kill_rank="1"),
    "blocks": Setting(2, [*TWO, *BLOCKS, *BOTH], kill_rank="1"),
    "confidence": Setting(
        1,
        [*PACKED, "--t3s-signal", "confidence", "--t3s-targeted-accuracy-interval", 1,
         "--t3s-profile-samples", 16,
         "--t3s-method", "t3s-soft", "--t3s-soft-temperature", 0.5],
    ),
    "rrt": Setting(1, ["--t3s-method", "rrt"]),
    "sft": Setting(
        1, ["--attention-dropout", 0.1, "--hidden-dropout", 0.1, "--t3s-method", "sft"]
    ),
}  # fmt: skip


def job_arguments(setting: str, folder, data_arguments: list, student: str) -> list:
    return [
        *data_arguments, *SCHEDULE, *SETTINGS[setting].arguments, *T3S,
        "--save", folder, "--load", folder, "--pretrained-checkpoint", student,
        "--save-interval", 2, "--dist-ckpt-optim-fully-reshardable",
    ]  # fmt: skip


def errors_of(job) -> str:
    return "\n".join(line for line in job.output.splitlines() if "t3s-megatron: error:" in line)


def assert_same(reference: str, folder: str) -> None:
    wanted, got = read_tensors(reference), read_tensors(folder)
    assert latest(folder)[-12:] == latest(reference)[-12:]
    assert wanted.keys() == got.keys()
    assert any(key.startswith("optimizer.") for key in wanted)
    for key, tensor in wanted.items():
        assert torch.equal(tensor, got[key]), key
    names = [n for n in os.listdir(f"{reference}/t3s") if n.endswith(".safetensors")]
    for name in names:
        with open(f"{reference}/t3s/{name}", "rb") as a, open(f"{folder}/t3s/{name}", "rb") as b:
            assert a.read() == b.read(), name
    assert summary_of(folder) == summary_of(reference)


def summary_of(folder: str) -> dict:
    """Without what may differ: seconds and the folder's name."""
    with open(f"{folder}/t3s/summary.json") as file:
        summary = json.load(file)
    del summary["seconds"]
    for inside in ("dir", "server_weights"):
        del summary["arguments"][inside]
    for one in (*summary["measurements"], *summary["heldout"], *summary["phases"]):
        del one["seconds"]
    summary["log"] = [re.sub(r"[\d.]+ s\b", "", line) for line in summary["log"]]
    return summary


def last_of_profile(folder: str) -> int:
    """The last saved iteration, saved every second one, from which plain fine-tuning can go on."""
    profile = min(summary_of(folder)["phases"][0]["last_iteration"], 4)
    return profile - profile % 2
