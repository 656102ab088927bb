# SPDX-License-Identifier: Apache-2.0
"""Gated delta nets on a CPU: Megatron's own layer in the form it has for deterministic runs, with
the local layers' linear parts.

Megatron asks for flash-linear-attention when the layer is made (ssm/gated_delta_net/common.py:141)
and for Transformer Engine when it is specified (experimental_attention_variant_module_specs.py:
442). Of the first, its deterministic form needs one function of a line; nothing of the second.
Megatron 0.19 alone. Not for training at length.
"""

from __future__ import annotations

import copy

import torch
from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
    get_linear_attention_pattern,
)
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_layer_specs
from megatron.core.ssm.gated_delta_net import GatedDeltaNet, GatedDeltaNetSubmodules, common
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset


def _l2norm(x: torch.Tensor) -> torch.Tensor:
    """What Megatron takes of flash-linear-attention's `l2norm` (modules/l2norm.py)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class TorchDeltaNet(GatedDeltaNet):
    """Megatron's, by torch alone, whatever is installed."""

    def __init__(self, config, *args, **kwargs):
        common.HAVE_FLA, common.l2norm = True, _l2norm
        config = copy.copy(config)
        object.__setattr__(config, "deterministic_mode", True)
        super().__init__(config, *args, **kwargs)


def local_delta_net_layers(config, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The layers of a stage as local ones: what `get_gpt_decoder_block_spec` makes of them, with a
    delta net in the place of the attention where the pattern has one."""
    plain = copy.copy(config)
    object.__setattr__(plain, "experimental_attention_variant", None)
    layers = get_gpt_decoder_layer_specs(plain, False, config.normalization)
    specs = getattr(layers, "layer_specs", layers)
    pattern = get_linear_attention_pattern(config)
    return TransformerBlockSubmodules(
        layer_specs=[
            _with_delta_net(specs[i]) if pattern[i] else specs[i] for i in _layers(config, vp_stage)
        ],
        layer_norm=WrappedTorchNorm,
    )


def _layers(config, vp_stage: int | None) -> list[int]:
    """Numbers of this stage's layers in the model, as Megatron's own builders count them."""
    layout = config.pipeline_model_parallel_layout
    if layout is not None:
        return layout.get_layer_id_list(layer_type=LayerType.decoder, vp_stage=vp_stage)
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    return list(range(first, first + get_num_layers_to_build(config, vp_stage=vp_stage)))


def _with_delta_net(spec: ModuleSpec) -> ModuleSpec:
    spec = copy.deepcopy(spec)
    spec.submodules.self_attention = ModuleSpec(
        module=TorchDeltaNet,
        submodules=GatedDeltaNetSubmodules(
            in_proj=ColumnParallelLinear, out_norm=WrappedTorchNorm, out_proj=RowParallelLinear
        ),
    )
    return spec
