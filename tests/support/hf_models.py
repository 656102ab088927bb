# SPDX-License-Identifier: Apache-2.0
"""Random tiny Qwen3 and Qwen3-MoE models, made and saved by transformers."""

from __future__ import annotations

import os
import tempfile

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.support import families

SHAPE = families.SHAPE | families.WIDE_HEADS | dict(rope_theta=1000000.0, attention_bias=False)
EXPERTS = families.EXPERTS | dict(norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])

#: The same in Megatron's words, after tests.support.launch.MODEL, which they overrule.
ARGUMENTS = """
--kv-channels 32 --norm-epsilon 1e-6 --rotary-base 1000000 --max-position-embeddings 64
--ffn-hidden-size 128
""".split()
MOE_ARGUMENTS = """
--num-experts 4 --moe-router-topk 2 --moe-ffn-hidden-size 32
--moe-token-dispatcher-type alltoall --moe-router-load-balancing-type none
""".split()


def save_model(
    folder: str,
    *,
    vocab_size: int,
    tied: bool = False,
    moe: bool = False,
    shard_size: str = "5GB",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changed,
) -> str:
    """A folder of a random model; norms are not all ones."""
    torch.manual_seed(seed)
    shape = SHAPE | dict(vocab_size=vocab_size, tie_word_embeddings=tied) | changed
    if moe:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **EXPERTS))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


@torch.no_grad()
def logits_of(folder: str, tokens: torch.Tensor) -> torch.Tensor:
    """float32 [b, s, vocab_size] of what transformers loads from `folder`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()(tokens).logits


def gradients_of(
    folder: str, tokens: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """By the folder's names: the gradient of the mean loss of `labels` [b, s] given `tokens`, in
    what transformers loads from `folder`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    logits = model.train()(tokens).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    nothing = torch.full((), torch.nan)
    with torch.no_grad(), tempfile.TemporaryDirectory() as written:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(nothing if tensor.grad is None else tensor.grad)
        model.save_pretrained(written)  # which knows the folder's names of experts
        found = read_tensors(written)
    return {name: tensor for name, tensor in found.items() if not tensor.isnan().any()}


def read_tensors(folder: str) -> dict[str, torch.Tensor]:
    """Every tensor of a folder's safetensors files."""
    names = sorted(os.listdir(folder))
    found = {}
    for name in filter(lambda name: name.endswith(".safetensors"), names):
        found |= load_file(os.path.join(folder, name))
    return found
