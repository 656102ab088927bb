# SPDX-License-Identifier: Apache-2.0
"""The whole job on every supported Megatron release, with the seam of run time and with `patches/`.

`tests/run.sh` puts the releases that are not the default one into .venv/releases/VERSION, without
dependencies; each shadows the default on PYTHONPATH. The patched source shadows both.
"""

from __future__ import annotations

import json
import os
from itertools import batched
from pathlib import Path

import pytest

from t3s_megatron.megatron.releases import TESTED_RELEASES
from tests.parallel.probed_job import PROBE_STEPS
from tests.support.launch import ROOT, Job, run
from tests.support.patches import SITE_PACKAGES, apply, copy_sources

DEFAULT = "0.19.2"
PACKED = "1-packed"
#: Packed rows and rows of their own length; padded ones are in test_hf_run.py.
LAYOUTS = {
    PACKED: (1, ["--micro-batch-size", 1, "--t3s-arrangement", "packed"]),
    "pp2-vpp2-own": (
        2,
        ["--pipeline-model-parallel-size", 2, "--num-layers-per-virtual-pipeline-stage", 1,
         "--micro-batch-size", 1],
    ),
}  # fmt: skip


class Done:
    """One whole probed job, made once: its output and what it left in `out`."""

    def __init__(self, folder: str):
        self.job, self.out = Job.read(folder), Path(folder)
        self.summary = json.loads((self.out / "t3s/summary.json").read_text())
        self.losses = json.loads((self.out / "losses.json").read_text())


def site_packages(release: str) -> str:
    """The folder that holds this release."""
    if release == DEFAULT:
        return SITE_PACKAGES
    folder = os.path.join(ROOT, ".venv", "releases", release)
    assert os.path.isdir(folder), f"megatron-core {release} is missing: use bash tests/run.sh"
    return folder


@pytest.fixture(scope="session")
def job(once, data_arguments):
    """job(release, layout): one short T3S run, made once. `source`: a patched tree."""

    def run_once(release: str, layout: str, source: str | None = None) -> Done:
        processes, extra = LAYOUTS[layout]
        schedule = ["--train-iters", PROBE_STEPS + 1, "--lr", 1e-3, "--min-lr", 1e-4]
        # A student that can nothing has no accuracy that could fall.
        t3s = ["--t3s", "--t3s-simple", "--t3s-simple-step", PROBE_STEPS,
               "--t3s-targeted-accuracy-interval", 1, "--t3s-max-new-tokens", 8]  # fmt: skip
        path = [source, site_packages(release), ROOT]

        def make(out: str) -> None:
            done = run(
                [*data_arguments, *schedule, *extra, *t3s, "--save", out, "--save-interval", 4],
                processes=processes,
                module="tests.parallel.probed_job",
                environment={
                    "PYTHONPATH": os.pathsep.join(filter(None, path)),
                    "LOSS_FILE": f"{out}/losses.json",
                    "PROBE_FILE": f"{out}/probe.json",
                    # There `pretrain` parses, so a user's script has no arguments to hand over yet.
                    "ATTACH_WITHOUT_ARGUMENTS": "1" if release.startswith("0.17") else "",
                },
            )
            done.write(out)

        return Done(once(f"release-{release}-{layout}{'-patched' if source else ''}", make))

    return run_once


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("release", [r for r in TESTED_RELEASES if r != DEFAULT])
def test_the_whole_job_with_an_exact_rewind(release, layout, job):
    whole = job(release, layout)
    assert whole.summary["versions"]["megatron_core"] == release
    assert whole.summary["finished"] and whole.summary["theta_b_step"] == PROBE_STEPS
    assert 0 < whole.summary["tokens"]["masked"] < whole.summary["tokens"]["target_tokens"]
    assert "callback seam: train 1x, train_step 1x, training_log 1x" in whole.job.output
    assert whole.summary["arrangement"]["kind"] == layout.split("-")[-1]

    # With an empty mask the targeted phase repeats the profile's steps; with its own it does not.
    profile, again, masked = batched(whole.losses, PROBE_STEPS)
    assert again == profile and masked[0] != profile[0]


@pytest.mark.parametrize("release", TESTED_RELEASES)
def test_patched_source_gives_the_same_run_with_nothing_wrapped(release, job, tmp_path):
    copy_sources(site_packages(release), tmp_path)
    assert apply(tmp_path) == f"{tmp_path}: Megatron {release}, patched"
    patched, plain = job(release, PACKED, str(tmp_path)), job(release, PACKED)

    training = "megatron/training/training.py"
    assert f"training from {tmp_path}/{training}, wrapped: none" in patched.job.output
    assert f"{site_packages(release)}/{training}, wrapped: save_checkpoint," in plain.job.output
    assert "callback seam in its patched source: train 1x, train_step 1x" in patched.job.output

    assert patched.losses == plain.losses
    for file in ("selection", "c_theta_0", "c_theta_b"):
        name = f"t3s/{file}.safetensors"
        assert (patched.out / name).read_bytes() == (plain.out / name).read_bytes()
    assert saves(patched.out) == saves(plain.out) == [f"iter_{n:07d}" for n in (4, 7)]


def saves(folder: Path) -> list[str]:
    """Checkpoints that a committed state of the run belongs to."""
    have = sorted(path.name for path in folder.glob("iter_*"))
    committed = [name for name in have if (folder / "t3s/state" / name / "state.json").exists()]
    assert committed == have
    return have
