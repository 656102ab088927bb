# SPDX-License-Identifier: Apache-2.0
"""`--t3s-generation server` against a real `transformers serve` on this CPU."""

from __future__ import annotations

import json

import pytest

from tests.support.launch import run
from tests.support.reference import read_tensors
from tests.support.resumable import SCHEDULE, errors_of
from tests.support.servers import free_port, transformers_serve

#: Answers of a fixed seed are the live model's only where nothing is drawn.
GREEDY = ["--t3s", "--t3s-max-new-tokens", 16, "--t3s-temperature", 0, "--t3s-patience", 2,
          "--t3s-profile-iters", 5, "--t3s-simple-step", 2]  # fmt: skip
SERVED = ["--t3s-generation", "server"]


@pytest.fixture(scope="session")
def server():
    with transformers_serve() as url:
        yield url


@pytest.fixture(scope="module")
def start(student, data_arguments):
    def arguments(folder, *extra) -> list:
        return [*data_arguments, *SCHEDULE, *GREEDY, "--save", folder, "--load", folder,
                "--pretrained-checkpoint", student, "--save-interval", 100, *extra]  # fmt: skip

    return arguments


def measurements(folder) -> list[dict]:
    with open(f"{folder}/t3s/summary.json") as file:
        found = json.load(file)["measurements"]
    return [{k: v for k, v in one.items() if k != "seconds"} for one in found]


def test_a_server_and_the_live_weights_measure_the_same(tmp_path, start, server):
    """Greedily, in float32: every count of every step, and so theta_b, selection and weights."""
    live, served = tmp_path / "live", tmp_path / "served"
    run(start(live), processes=2)
    job = run(start(served, *SERVED, "--t3s-server-url", server), processes=2)
    assert measurements(served) == measurements(live)
    for name in ("selection", "c_theta_0", "c_theta_b"):
        files = [folder / "t3s" / f"{name}.safetensors" for folder in (live, served)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    wanted, got = read_tensors(str(live)), read_tensors(str(served))
    assert all((wanted[key] == got[key]).all() for key in wanted)
    print(job.said)


def test_a_server_that_is_not_there_ends_the_job_before_it_trains(tmp_path, start):
    url = f"http://localhost:{free_port()}"
    job = run(start(tmp_path, *SERVED, "--t3s-server-url", url), processes=2, expect=1)
    assert f"no server is of use: {url}/health" in errors_of(job)
    assert "iteration        1/" not in job.output
