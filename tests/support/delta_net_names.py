# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of a tiny Qwen3-Next's parameters in Megatron's layers of Transformer Engine.

    python -m tests.support.delta_net_names          writes delta_net_names.json beside this file

in a Python that has transformer-engine[pytorch], flash-linear-attention and megatron-core 0.19;
neither a GPU nor the CPU layer of this project is needed, the model is on the meta device.
Recorded with Transformer Engine 2.20.2, flash-linear-attention 0.6.0, megatron-core 0.19.2.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

FILE = os.path.join(os.path.dirname(__file__), "delta_net_names.json")

#: config.json of the model, as far as its shapes go.
CONFIG = dict(
    model_type="qwen3_next",
    vocab_size=24,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=64,
    linear_key_head_dim=8,
    linear_value_head_dim=12,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=48,
)
_RUNTIME = """--seq-length 64 --micro-batch-size 1 --global-batch-size 1 --bf16 --moe-grouped-gemm
--transformer-impl transformer_engine --no-gradient-accumulation-fusion""".split()


def build() -> dict[str, list[int]]:
    """Shapes by name, as Megatron builds the model from the arguments of its folder."""
    import torch
    from megatron.core import mpu
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.global_vars import set_args

    from t3s_megatron.config import add_t3s_arguments
    from t3s_megatron.huggingface.arguments import take_from_folder
    from t3s_megatron.megatron.model import check_model_arguments, model_provider

    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    # Both ask for a device before they make a module, and use none on the meta device.
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_capability = lambda *args, **kwargs: (9, 0)
    torch.cuda.Stream = lambda *args, **kwargs: None
    torch.cuda.current_device = lambda: torch.device("meta")
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/config.json", "w") as file:
            json.dump(CONFIG, file)
        line = [*_RUNTIME, "--t3s-hf-model", folder]
        sys.argv = ["pretrain", *line]
        args = parse_args(lambda parser: take_from_folder(add_t3s_arguments(parser), line))
        args.padded_vocab_size = CONFIG["vocab_size"]
        args.perform_initialization = False
        args.init_model_with_meta_device = True
        validate_args(args, {})
        check_model_arguments(args)
        set_args(args)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        mpu.initialize_model_parallel()
        with torch.device("meta"):
            state = model_provider().state_dict(keep_vars=True)
    return {
        name: list(tensor.shape)
        for name, tensor in state.items()
        if tensor is not None and "_extra_state" not in name
    }


if __name__ == "__main__":
    with open(FILE, "w") as file:
        json.dump(build(), file, indent=0)
        file.write("\n")
