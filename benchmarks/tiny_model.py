# SPDX-License-Identifier: Apache-2.0
"""A GPTModel of Megatron in this one process, for benchmarks that need no training loop."""

from __future__ import annotations

import types

from t3s_megatron.entry import start_process


def start(device: str) -> None:
    """Megatron on this device, and its process groups of one rank. Before any other import."""
    start_process(["benchmark", "--t3s-device", device])
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    torch.cuda.set_device(0)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)


def gpt(vocabulary: int, positions: int, dtype, **sizes):
    """A random model of Qwen3's kind with local layers (no Transformer Engine)."""
    import torch
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    torch.manual_seed(5)
    config = TransformerConfig(
        qk_layernorm=True, normalization="RMSNorm", gated_linear_unit=True,
        activation_func=torch.nn.functional.silu, add_bias_linear=False,
        masked_softmax_fusion=False, bias_dropout_fusion=False, attention_dropout=0.0,
        hidden_dropout=0.0, gradient_accumulation_fusion=False, persist_layer_norm=False,
        bf16=dtype is torch.bfloat16, params_dtype=dtype, **sizes,
    )  # fmt: skip
    layer = get_gpt_layer_local_spec(qk_layernorm=True, normalization="RMSNorm")
    # Named, since where Transformer Engine is installed Megatron takes its norm behind the last
    # layer, and that one has no float64.
    spec = TransformerBlockSubmodules([layer] * config.num_layers, WrappedTorchNorm)
    model = GPTModel(config, spec, vocabulary, positions, position_embedding_type="rope",
                     share_embeddings_and_output_weights=False)  # fmt: skip
    return model.to(device=torch.cuda.current_device(), dtype=dtype)


def context_of(model):
    """The part of a run's context that names the model."""
    return types.SimpleNamespace(model=[model], config=model.config)
