# SPDX-License-Identifier: Apache-2.0
"""Sizes of the public Qwen3 models: config.json at huggingface.co/Qwen/Qwen3-8B, Qwen3-32B and
Qwen3-235B-A22B."""

from __future__ import annotations

SHARED = dict(
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
    rms_norm_eps=1e-6,
    rope_theta=1000000,
    hidden_act="silu",
    attention_bias=False,
    tie_word_embeddings=False,
    use_sliding_window=False,
)
MODELS = {
    "Qwen3-8B": dict(
        model_type="qwen3",
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "Qwen3-32B": dict(
        model_type="qwen3",
        hidden_size=5120,
        intermediate_size=25600,
        num_hidden_layers=64,
        num_attention_heads=64,
        num_key_value_heads=8,
    ),
    "Qwen3-235B-A22B": dict(
        model_type="qwen3_moe",
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=94,
        num_attention_heads=64,
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=1536,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
}
