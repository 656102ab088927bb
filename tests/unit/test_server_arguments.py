# SPDX-License-Identifier: Apache-2.0
"""Arguments of `--t3s-generation server`: what they default to, and what cannot work."""

from __future__ import annotations

import pytest

from t3s_megatron.errors import T3SError
from t3s_megatron.method.overlap import OverlappingPhases
from tests.support.arguments import config

SERVER = "--t3s-generation server --t3s-server-url http://a:8000"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--t3s-generation server", "needs --t3s-server-url"),
        ("--t3s-server-url http://a:8000", "--t3s-server-url without --t3s-generation server"),
        ("--t3s-generation server --t3s-server-url a:8000", "a:8000 is no URL of a server"),
        (f"{SERVER} --t3s-server-reload command", "go together"),
        (f"{SERVER} --t3s-server-reload-command true", "go together"),
        ("--t3s-accuracy-overlap 1", "--t3s-accuracy-overlap needs --t3s-generation server"),
        (f"{SERVER} --t3s-accuracy-overlap 1 --t3s-accuracy-blocks 4", "does not go with"),
        (
            f"{SERVER} --t3s-accuracy-overlap 1 --t3s-accuracy-interval-coarse 4",
            "does not go with",
        ),
        (f"{SERVER} --t3s-accuracy-overlap 1 --t3s-signal confidence", "nothing to overlap"),
        (f"{SERVER} --t3s-accuracy-overlap 1 --t3s-simple", "nothing to overlap"),
        (f"{SERVER} --t3s-accuracy-overlap -1", "must not be negative"),
        (f"{SERVER} --t3s-server-concurrency 0", "must be at least 1"),
        (f"{SERVER} --t3s-server-timeout 0", "must be more than 0"),
        (f"{SERVER} --t3s-server-agreement 1.5", "must be at most 1"),
        (f"{SERVER} --t3s-server-retries -1", "must not be negative"),
        ("--t3s-server-colocated", "without --t3s-generation server"),
        (f"{SERVER} --t3s-server-colocated", "reload model cannot be put to sleep .* vllm can"),
        (
            f"{SERVER} --t3s-server-colocated --t3s-server-reload sglang",
            "sglang cannot be put to sleep",
        ),
        (
            f"{SERVER} --t3s-server-colocated --t3s-server-reload vllm --t3s-accuracy-overlap 1",
            "--t3s-accuracy-overlap does not go with --t3s-server-colocated",
        ),
    ],
)
def test_what_cannot_work_is_refused(line, said):
    with pytest.raises(T3SError, match=said):
        config(line)


def test_where_the_profile_is_not_measured_targeted_training_can_overlap():
    for signal in ("--t3s-signal confidence", "--t3s-simple"):
        line = f"{SERVER} --t3s-accuracy-overlap 1 {signal} --t3s-targeted-accuracy-interval 2"
        OverlappingPhases(config(line), 1)


def test_what_is_filled_in():
    made = config(f"{SERVER} http://b:8000")
    assert made.server_url == ("http://a:8000", "http://b:8000")
    assert made.server_weights == f"{made.dir}/weights"
    assert made.server_concurrency == 1, "transformers serve keeps to its seeds at one"
    assert config(f"{SERVER} --t3s-server-reload vllm").server_concurrency == 64
    assert (
        config(f"{SERVER} --t3s-server-reload vllm --t3s-server-concurrency 3").server_concurrency
        == 3
    )
