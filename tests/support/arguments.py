# SPDX-License-Identifier: Apache-2.0
"""Command lines of T3S runs as Megatron's parser hands them on, without Megatron."""

from __future__ import annotations

import argparse

from t3s_megatron.config import T3SConfig, add_t3s_arguments

#: What the plugin reads of Megatron's own arguments, for a run that can work.
MEGATRON = {
    "save": "/runs/one",
    "seed": 1234,
    "train_iters": 50,
    "calculate_per_token_loss": True,
    "tokenizer_type": "HuggingFaceTokenizer",
    "tokenizer_model": "/tokenizer",
    "fp16": False,
    "seq_length": 48,
    "max_position_embeddings": 64,
    "vocab_size": None,
    "padded_vocab_size": None,
    "micro_batch_size": 1,
    "global_batch_size": 8,
    "data_parallel_size": 1,
    "tensor_model_parallel_size": 1,
    "sequence_parallel": False,
    "pipeline_model_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "context_parallel_size": 1,
    "num_experts": None,
    "moe_token_dispatcher_type": "allgather",
    "moe_router_load_balancing_type": "aux_loss",
    "moe_aux_loss_coeff": 0.0,
    "moe_z_loss_coeff": None,
}


def parser() -> argparse.ArgumentParser:
    return add_t3s_arguments(argparse.ArgumentParser(allow_abbrev=False))


def namespace(line: str = "", **megatron) -> argparse.Namespace:
    """`line`: --t3s arguments after `--t3s --t3s-data d.jsonl`; the last of a repeated one wins."""
    args = parser().parse_args(["--t3s", "--t3s-data", "d.jsonl", *line.split()])
    vars(args).update(MEGATRON | megatron)
    return args


def config(line: str = "", **megatron) -> T3SConfig:
    return T3SConfig.from_args(namespace(line, **megatron))
