# SPDX-License-Identifier: Apache-2.0
"""The whole job on the other supported Megatron releases, from overlay installs beside the default.

`tests/run.sh` puts each release into .venv/releases/VERSION; it shadows the default on PYTHONPATH.
"""

from __future__ import annotations

import json
import os

import pytest

from t3s_megatron.megatron.releases import TESTED_RELEASES
from tests.support.launch import ROOT, run

STEPS = 3
DEFAULT = "0.19.2"
#: Also every arrangement: padded, packed, own.
LAYOUTS = {
    "1": (1, []),
    "1-packed": (1, ["--micro-batch-size", 1, "--t3s-arrangement", "packed"]),
    "pp2-vpp2-own": (
        2,
        ["--pipeline-model-parallel-size", 2, "--num-layers-per-virtual-pipeline-stage", 1,
         "--micro-batch-size", 1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("release", [r for r in TESTED_RELEASES if r != DEFAULT])
def test_the_whole_job_with_an_exact_rewind(release, layout, tmp_path, data_arguments):
    folder = os.path.join(ROOT, ".venv", "releases", release)
    assert os.path.isdir(folder), f"megatron-core {release} is missing: use bash tests/run.sh"
    processes, extra = LAYOUTS[layout]
    schedule = ["--train-iters", STEPS, "--lr", 1e-3, "--min-lr", 1e-4]
    t3s = ["--t3s", "--t3s-profile-iters", 2, "--t3s-simple-step", 1, "--t3s-max-new-tokens", 8]

    def job(name, *more):
        out = tmp_path / name
        done = run(
            [*data_arguments, *schedule, *extra, *t3s, "--t3s-dir", out, *more],
            processes=processes,
            module="tests.parallel.probed_job",
            environment={
                "PYTHONPATH": f"{folder}:{ROOT}",
                "LOSS_FILE": str(tmp_path / f"{name}.json"),
                # There `pretrain` parses, so a user's script has no arguments to hand over yet.
                "ATTACH_WITHOUT_ARGUMENTS": "1" if release.startswith("0.17") else "",
            },
        )
        losses = json.loads((tmp_path / f"{name}.json").read_text())
        return done, json.loads((out / "summary.json").read_text()), losses

    done, summary, losses = job("whole")
    assert summary["versions"]["megatron_core"] == release
    assert summary["finished"] and summary["theta_b_step"] == 1
    assert 0 < summary["tokens"]["masked"] < summary["tokens"]["target_tokens"]
    assert "callback seam: train 1x, train_step 1x, training_log 1x" in done.output
    assert len(losses) == 2 + STEPS and losses[2] != losses[0]
    kind = layout.split("-")[-1] if "-" in layout else "padded"
    assert summary["arrangement"]["kind"] == kind

    # Nothing rises by 1e9: an empty mask, so the targeted phase repeats the profile's steps.
    _, _, again = job("empty mask", "--t3s-anchor-threshold", 1e9)
    assert again[:2] == losses[:2] and again[2:4] == again[:2]
