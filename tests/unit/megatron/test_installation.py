# SPDX-License-Identifier: Apache-2.0
"""What a run on CUDA asks of its installation: pytest's own process has no CPU layer, and neither
Transformer Engine nor Apex."""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util

import pytest

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.installation import check_installation


def arguments(**changed) -> argparse.Namespace:
    return argparse.Namespace(
        **{
            "transformer_impl": "local",
            "gradient_accumulation_fusion": False,
            "use_distributed_optimizer": False,
            "optimizer": "adam",
            "save": "/runs/one",
        }
        | changed
    )


@pytest.fixture
def installed(monkeypatch):
    """installed(name, ...): these modules are there as well."""
    find = importlib.util.find_spec

    def there(*names: str) -> None:
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: (
                importlib.machinery.ModuleSpec(name, None) if name in names else find(name)
            ),
        )

    return there


REFUSED = {
    "a kernel of Apex's": (
        {"gradient_accumulation_fusion": True},
        "fused_weight_gradient_mlp_cuda.* add --no-gradient-accumulation-fusion",
    ),
    "Transformer Engine": (
        {"transformer_impl": "transformer_engine"},
        "Transformer Engine is not installed",
    ),
    "a checkpoint that cannot be loaded": (
        {"use_distributed_optimizer": True},
        "checkpoints that it cannot load again",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_is_refused_by_name(case):
    changed, wanted = REFUSED[case]
    with pytest.raises(T3SError, match=wanted):
        check_installation(arguments(**changed))


def test_what_is_there_is_used(installed):
    installed("fused_weight_gradient_mlp_cuda", "transformer_engine")
    check_installation(
        arguments(gradient_accumulation_fusion=True, transformer_impl="transformer_engine")
    )


@pytest.mark.parametrize(
    "changed", [{"save": None}, {"optimizer": "sgd"}, {"use_distributed_optimizer": False}]
)
def test_only_what_will_be_loaded_again_needs_a_fused_adam(changed):
    check_installation(arguments(**{"use_distributed_optimizer": True} | changed))


def test_a_conversion_has_no_optimizer():
    check_installation(arguments(use_distributed_optimizer=True), trains=False)


@pytest.mark.child
def test_a_cpu_needs_none_of_it():
    check_installation(
        arguments(
            gradient_accumulation_fusion=True,
            transformer_impl="transformer_engine",
            use_distributed_optimizer=True,
        )
    )
