# SPDX-License-Identifier: Apache-2.0
"""Random states through a file and back: the same numbers are drawn afterwards."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from t3s_megatron.errors import T3SError

pytestmark = pytest.mark.child


def draw() -> list:
    from megatron.core import tensor_parallel

    with tensor_parallel.get_cuda_rng_tracker().fork():
        forked = torch.rand(3).tolist()
    return [random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist(), forked]


def test_the_same_numbers_after_a_file():
    from megatron.core import tensor_parallel

    from t3s_megatron.megatron.random_state import (
        capture_rng,
        restore_rng,
        rng_from_file,
        rng_to_file,
    )

    tensor_parallel.get_cuda_rng_tracker().add("model-parallel-rng", 5)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    draw()  # leaves half a pair of normal numbers behind in python's and numpy's state
    tensors, info = rng_to_file(capture_rng())
    data, text = save(tensors), json.dumps(info)
    wanted = [draw() for _ in range(3)]
    random.seed(9), np.random.seed(9), torch.manual_seed(9), draw()
    restore_rng(rng_from_file(load(data), json.loads(text)))
    assert [draw() for _ in range(3)] == wanted


def test_a_state_that_cannot_be_saved_is_refused():
    from t3s_megatron.megatron.random_state import capture_rng, rng_to_file

    state = capture_rng() | {"tracker": {"model-parallel-rng": torch.Generator()}}
    with pytest.raises(T3SError, match="model-parallel-rng.*CUDA graphs"):
        rng_to_file(state)
