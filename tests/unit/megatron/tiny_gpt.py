# SPDX-License-Identifier: Apache-2.0
"""A random GPTModel in a child process (conftest.py), and what the package's room of Megatron asks
of the run around it."""

from __future__ import annotations

import types

import torch

VOCABULARY = 32


def make_parallel(**sizes) -> None:
    """Megatron's groups over the processes of the child, one by default."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    parallel_state.initialize_model_parallel(**sizes)
    model_parallel_cuda_manual_seed(1)


def tiny_gpt(change_spec=None, **changed):
    """Two layers of Qwen3's kind; the same weights wherever it is made. `change_spec` is given the
    layers before the model is made."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    torch.manual_seed(5)
    settings = {
        "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_query_groups": 2,
        "ffn_hidden_size": 48, "qk_layernorm": True, "normalization": "RMSNorm",
        "gated_linear_unit": True, "activation_func": torch.nn.functional.silu,
        "add_bias_linear": False, "use_cpu_initialization": True, "init_method_std": 0.3,
        "masked_softmax_fusion": False, "bias_dropout_fusion": False, "attention_dropout": 0.0,
        "hidden_dropout": 0.0, "gradient_accumulation_fusion": False,
    }  # fmt: skip
    config = TransformerConfig(**settings | changed)
    spec = get_gpt_layer_local_spec(qk_layernorm=True, normalization="RMSNorm")
    if change_spec is not None:
        change_spec(spec)
    model = GPTModel(config, spec, VOCABULARY, 256, position_embedding_type="rope",
                     share_embeddings_and_output_weights=False)  # fmt: skip
    return model.to(config.params_dtype).eval()


def context_of(model):
    """The part of `CallbackContext` that names the model."""
    return types.SimpleNamespace(model=[model], config=model.config)
