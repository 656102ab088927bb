# SPDX-License-Identifier: Apache-2.0
"""The same student in plain PyTorch, one process, no Megatron: what layouts are compared with.

Reads the weights of a `torch_dist` checkpoint with torch.distributed.checkpoint.
Shapes: B batch, S positions, D hidden, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

#: Adam's beta1 in the runs whose gradient is read: exp_avg after one step is exactly half of it.
HALF = 0.5
_MOMENT = "optimizer.state.exp_avg."


def latest(folder: str) -> str:
    with open(os.path.join(folder, "latest_checkpointed_iteration.txt")) as file:
        return os.path.join(folder, f"iter_{int(file.read()):07d}")


def read_tensors(folder: str, iteration: int | None = None) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint in `folder` (the latest), whole; layers stacked in dim 0."""
    where = latest(folder) if iteration is None else f"{folder}/iter_{iteration:07d}"
    reader = dcp.FileSystemReader(where)
    state = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def read_weights(folder: str, iteration: int | None = None) -> dict[str, torch.Tensor]:
    """The model's tensors; see `read_tensors`."""
    tensors = read_tensors(folder, iteration)
    return {k: v for k, v in tensors.items() if not k.startswith("optimizer.")}


def read_gradient(folder: str, iteration: int) -> dict[str, torch.Tensor]:
    """The gradient of a step from fresh moments, out of Adam's first one: `--adam-beta1` has to be
    HALF, the optimizer saved with `--dist-ckpt-optim-fully-reshardable`."""
    return {
        key.removeprefix(_MOMENT): value / (1 - HALF)
        for key, value in read_tensors(folder, iteration).items()
        if key.startswith(_MOMENT)
    }


class Reference:
    """Forward and loss over `read_weights`; heads and groups as the tests' model has them."""

    def __init__(self, weights: dict[str, torch.Tensor], heads=4, groups=2, eps=1e-5, top_k=2):
        self.w = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in weights.items()}
        self.heads, self.groups, self.eps, self.top_k = heads, groups, eps, top_k

    def logits(self, tokens_BS: torch.Tensor, visible_SS: torch.Tensor | None = None):
        """`visible_SS` bool: which keys a query sees; None: those up to its own."""
        w, S = self.w, tokens_BS.shape[1]
        if visible_SS is None:
            visible_SS = torch.ones(S, S, dtype=torch.bool).tril()
        x = w["embedding.word_embeddings.weight"][tokens_BS]
        for layer in range(w["decoder.layers.self_attention.linear_qkv.weight"].shape[0]):
            x = x + self._attention(x, layer, visible_SS)
            x = x + self._mlp(x, layer)
        x = self._norm(x, w["decoder.final_layernorm.weight"])
        return x @ w["output_layer.weight"].T

    def log_probs(self, tokens: np.ndarray) -> torch.Tensor:
        """log p(tokens[i] | tokens[:i]) for i >= 1, float32[L - 1]."""
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        logits = self.logits(ids[:, :-1])
        return torch.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None])[0, :, 0]

    def target_log_probs(self, samples) -> np.ndarray:
        """c_t of every target of a corpus's samples, float32[n_target_tokens]."""
        with torch.no_grad():
            parts = [self.log_probs(s.tokens).numpy()[s.is_target[1:]] for s in samples]
        return np.concatenate(parts)

    def greedy(self, prompt: list[int], end: int, limit: int) -> list[int]:
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(limit):
                chosen = int(self.logits(torch.tensor([tokens]))[0, -1].argmax())
                if chosen == end:
                    break
                tokens.append(chosen)
        return tokens[len(prompt) :]

    def _norm(self, x, weight):
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _attention(self, x, layer, visible):
        prefix = "decoder.layers.self_attention."
        part = lambda name: self.w[prefix + name][layer]  # noqa: E731
        B, S, D = x.shape
        H, G = self.heads, self.groups
        x = self._norm(x, part("linear_qkv.layer_norm_weight"))
        qkv = (x @ part("linear_qkv.weight").T).view(B, S, G, H // G + 2, -1)
        K = qkv.shape[-1]
        q = self._norm(qkv[..., : H // G, :].reshape(B, S, H, K), part("q_layernorm.weight"))
        k = self._norm(qkv[..., H // G, :], part("k_layernorm.weight"))
        v = qkv[..., H // G + 1, :]
        q, k = self._rotate(q), self._rotate(k)
        k, v = (t.repeat_interleave(H // G, dim=2) for t in (k, v))
        scores = torch.einsum("bshk,bthk->bhst", q, k) / K**0.5
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        out = torch.einsum("bhst,bthk->bshk", weights, v).reshape(B, S, D)
        return out @ part("linear_proj.weight").T

    @staticmethod
    def _rotate(x):
        S, K = x.shape[1], x.shape[-1]
        frequency = 1.0 / (10000 ** (torch.arange(0, K, 2).float() / K))
        angle = torch.outer(torch.arange(S).float(), frequency)
        cos, sin = (f(torch.cat([angle, angle], -1))[None, :, None] for f in (torch.cos, torch.sin))
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def _mlp(self, x, layer):
        part = lambda name: self.w["decoder.layers." + name][layer]  # noqa: E731
        if "decoder.layers.mlp.router.weight" in self.w:
            return self._experts(self._norm(x, part("mlp.linear_fc1.layer_norm_weight")), part)
        x = self._norm(x, part("mlp.linear_fc1.layer_norm_weight"))
        return _swiglu(x, part("mlp.linear_fc1.weight"), part("mlp.linear_fc2.weight"))

    def _experts(self, x, part):
        """Softmax after the top-k, as Megatron's default router."""
        scores, chosen = (x @ part("mlp.router.weight").T).topk(self.top_k, dim=-1)
        gates = scores.softmax(-1)
        fc1, fc2 = (part(f"mlp.experts.experts.linear_fc{i}.weight") for i in (1, 2))
        out = torch.zeros_like(x)
        for expert in range(fc1.shape[0]):
            gate = torch.where(chosen == expert, gates, 0.0).sum(-1, keepdim=True)
            out = out + gate * _swiglu(x, fc1[expert], fc2[expert])
        return out


def _swiglu(x, fc1, fc2):
    gate, up = (x @ fc1.T).chunk(2, -1)
    return (F.silu(gate) * up) @ fc2.T
