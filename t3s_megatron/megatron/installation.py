# SPDX-License-Identifier: Apache-2.0
"""What an installation from wheels lacks: gone around where Megatron would end the process for
nothing, and refused by name where a run on CUDA could not start, or could not be resumed.

Megatron is imported inside the functions: the device layer has to come first. File and line numbers
are megatron-core 0.19.2.
"""

from __future__ import annotations

import argparse
import importlib.util

from t3s_megatron.data.lengths import has_delta_nets
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.device import is_cpu_layer_active
from t3s_megatron.megatron.optimizer_state import save_states_with_their_parameters
from t3s_megatron.megatron.releases import (
    load_optimizer_without_gradient,
    use_shipped_dataset_helpers,
)


def repair_installation() -> None:
    """On every device, after `import megatron` and before it is initialised. Idempotent."""
    import megatron.core.optimizer.distrib_optimizer as distributed

    use_shipped_dataset_helpers()
    load_optimizer_without_gradient(distributed)
    save_states_with_their_parameters(distributed)


def check_installation(args: argparse.Namespace, *, trains: bool = True) -> None:
    """T3SError for what `args` ask for on CUDA and this Python does not have.

    `args`: Megatron's validated namespace; call it before the model is built. `trains`: whether
    there will be an optimizer.
    """
    if is_cpu_layer_active():
        return
    if args.transformer_impl == "transformer_engine" and not _has("transformer_engine"):
        raise T3SError(
            "--transformer-impl transformer_engine: Transformer Engine is not installed. Install "
            "it (pip install --no-build-isolation 't3s-megatron[gpu]'), or use "
            "--transformer-impl local"
        )
    if has_delta_nets(args) and not _has("fla"):
        raise T3SError(
            f"--experimental-attention-variant {args.experimental_attention_variant} needs "
            "flash-linear-attention, which is not installed: pip install flash-linear-attention"
        )
    # tensor_parallel/layers.py:49 and :1070; of Apex, and the output layer is Megatron's own with
    # Transformer Engine too.
    if args.gradient_accumulation_fusion and not _has("fused_weight_gradient_mlp_cuda"):
        raise T3SError(
            "gradient accumulation fusion, which is on by default, needs NVIDIA Apex built with "
            "--cpp_ext --cuda_ext (its module fused_weight_gradient_mlp_cuda), and that is not "
            "installed: add --no-gradient-accumulation-fusion"
        )
    if trains and args.use_distributed_optimizer and args.save and args.optimizer == "adam":
        _require_fused_adam()


def _require_fused_adam() -> None:
    # Without it Megatron takes torch's AdamW, whose `step` is state of each parameter, and the
    # distributed optimizer cannot load that again (distrib_optimizer.py:837-840).
    import megatron.core.optimizer.distrib_optimizer as distributed

    if not distributed.HAVE_APEX_OR_TE:
        raise T3SError(
            "--use-distributed-optimizer with neither Transformer Engine nor Apex: Megatron would "
            "save checkpoints that it cannot load again. Install one of them, or drop "
            "--use-distributed-optimizer"
        )


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
