# SPDX-License-Identifier: Apache-2.0
"""Random tiny students of every family, made and saved by transformers."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 23  # not a multiple of 2

_SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    initializer_range=0.1,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
_WIDE_HEADS = dict(head_dim=32)  # not hidden_size / num_attention_heads
_EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)

#: What differs from _SHAPE in config.json.
STUDENTS: dict[str, dict] = {
    "qwen3": dict(model_type="qwen3", **_WIDE_HEADS, rope_theta=1e6),
    "qwen3-tied": dict(model_type="qwen3", **_WIDE_HEADS, tie_word_embeddings=True),
    "qwen3_moe": dict(
        model_type="qwen3_moe",
        **_WIDE_HEADS,
        **_EXPERTS,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
    ),
}

WITH_EXPERTS = [name for name, config in STUDENTS.items() if "num_experts_per_tok" in config]


def save_student(name: str, folder: str, *, shard_size: str = "5GB", seed: int = 0) -> str:
    """The folder of a random student; neither norms are ones nor biases zeros."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**_SHAPE | STUDENTS[name])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if "norm" in key:
                tensor.uniform_(0.5, 1.5)
            elif "bias" in key:
                tensor.uniform_(-0.3, 0.3)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder


@torch.no_grad()
def greedy(folder: str, prompt: list[int], tokens: int) -> list[int]:
    """What transformers answers, each token from the whole sequence."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    sequence = torch.tensor([prompt])
    for _ in range(tokens):
        chosen = model(sequence, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        sequence = torch.cat((sequence, chosen), dim=1)
    return sequence[0, len(prompt) :].tolist()
