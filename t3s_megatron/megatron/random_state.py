# SPDX-License-Identifier: Apache-2.0
"""Every random state that a training step can draw from: python, numpy, torch, CUDA, Megatron's."""

from __future__ import annotations

import random

import numpy as np
import torch
from megatron.core import tensor_parallel

from t3s_megatron.errors import T3SError


def capture_rng() -> dict:
    """Every random state a training step can draw from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        # The tracker hands out its own tensors, which later steps overwrite in place on CUDA.
        "tracker": {
            name: state.clone() if torch.is_tensor(state) else state
            for name, state in tensor_parallel.get_cuda_rng_tracker().get_states().items()
        },
    }


def restore_rng(state: dict) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state(state["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(
        {
            name: value.clone() if torch.is_tensor(value) else value
            for name, value in state["tracker"].items()
        }
    )


def rng_to_file(state: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """A captured state as (tensors, JSON-able rest)."""
    tensors = {"rng.torch": state["torch"], "rng.cuda": state["cuda"]}
    for name, value in state["tracker"].items():
        if not torch.is_tensor(value):
            raise T3SError(
                f"the random state {name!r} is a {type(value).__name__}, as CUDA graphs need it, "
                "and cannot be saved with a T3S run: train without --cuda-graph-impl"
            )
        tensors[f"rng.tracker.{name}"] = value
    algorithm, keys, *rest = state["numpy"]
    version, internal, gauss = state["python"]
    tensors["rng.numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.uint32).astype(np.int64))
    return tensors, {
        "python": [version, list(internal), gauss],
        "numpy": [algorithm, *rest],
        "tracker": list(state["tracker"]),
    }


def rng_from_file(tensors: dict[str, torch.Tensor], info: dict) -> dict:
    """What `rng_to_file` was given."""
    version, internal, gauss = info["python"]
    algorithm, *rest = info["numpy"]
    return {
        "python": (version, tuple(internal), gauss),
        "numpy": (algorithm, tensors["rng.numpy"].numpy().astype(np.uint32), *rest),
        "torch": tensors["rng.torch"],
        "cuda": tensors["rng.cuda"],
        "tracker": {name: tensors[f"rng.tracker.{name}"] for name in info["tracker"]},
    }
