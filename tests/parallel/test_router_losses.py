# SPDX-License-Identifier: Apache-2.0
"""Router losses under a sparse loss mask: the gradient of a step against an independent model.

Both have the strength that was asked for: coefficient times their mean over the tokens of the step,
however few of them count in the loss, and with what weights (NVIDIA/Megatron-LM #1652 and #5047
tell of others).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from t3s_megatron.data.arrangement import Arrangement, TrainingRows
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.tokenizing import load_tokenizer, pad_token
from tests.support.launch import FRESH, MOE, run
from tests.support.reference import HALF, Reference, read_gradient, read_weights

GLOBAL_BATCH = 8
AUX, Z = 0.7, 0.3
ROUTER = ["--moe-router-load-balancing-type", "aux_loss", "--moe-aux-loss-coeff", AUX,
          "--moe-z-loss-coeff", Z]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    arguments: str
    processes: int = 1
    rows: str = "own"
    multiple: int = 1
    ranks: int = 1
    stages: int = 1


SETTINGS = {
    "own": Setting(""),
    "packed": Setting("--t3s-arrangement packed", rows="packed"),
    "own-tp2-sp-ep2": Setting(
        "--tensor-model-parallel-size 2 --sequence-parallel --expert-model-parallel-size 2 "
        "--expert-tensor-parallel-size 1",
        processes=2,
        multiple=2,
    ),
    "own-pp2": Setting("--pipeline-model-parallel-size 2", processes=2, stages=2),
    "own-cp2": Setting("--context-parallel-size 2", processes=2, multiple=4),
}


class RouterLossReference(Reference):
    """Collects the routers' scores; `finish_row` adds up the losses of a row, times its tokens."""

    def __init__(self, weights):
        super().__init__(weights)
        self.weighted = torch.zeros(())
        self._scores: list[torch.Tensor] = []

    def _experts(self, x, part):
        self._scores.append(x @ part("mlp.router.weight").T)
        return super()._experts(x, part)

    def finish_row(self, layers: int) -> None:
        """Of the samples since the last row; `layers` scores each, in order."""
        for layer in range(layers):
            logits = torch.cat([s[0] for s in self._scores[layer::layers]])
            tokens, experts = logits.shape
            chosen = torch.zeros_like(logits).scatter(1, logits.topk(self.top_k).indices, 1.0)
            mean = logits.softmax(-1).mean(0)
            balance = experts / self.top_k * (mean * chosen.mean(0)).sum()
            z = logits.logsumexp(-1).square().mean()
            self.weighted = self.weighted + tokens * (AUX * balance + Z * z)
        self._scores.clear()


def expected_gradient(student: str, corpus, keep: np.ndarray, pad: int, setting: Setting):
    """Of the loss of the first batch, sum of weight times loss over the number of targets that have
    a weight, and of the router losses. `keep`: float32 weights."""
    model = RouterLossReference(read_weights(student))
    layers = model.w["decoder.layers.mlp.router.weight"].shape[0]
    arrangement = Arrangement(
        setting.rows,
        48,
        multiple=setting.multiple,
        ranks=setting.ranks,
        micro_batch_size=1,
        stages=1,
        group=1,
        fewest=4 * setting.stages if setting.stages > 1 else 1,
    )
    order = EpochOrder(len(corpus.samples), seed=1234)
    step = TrainingRows(order, corpus.lengths, arrangement, GLOBAL_BATCH, None).at(0)
    loss, count = torch.zeros(()), 0
    for ranks in step.micro_batches:
        for row in (row for rows in ranks for row in rows):
            padding = row.length - sum(corpus.lengths[i] for i in row.samples)
            for i in row.samples:
                sample = corpus.samples[i]
                ids = torch.from_numpy(sample.tokens.astype(np.int64))
                behind = torch.full((padding if i == row.samples[-1] else 0,), pad)
                log_probs = model.logits(torch.cat([ids[:-1], behind])[None])[0].log_softmax(-1)
                c = log_probs[: len(ids) - 1].gather(-1, ids[1:, None])[:, 0]
                c = c[torch.from_numpy(sample.is_target[1:])]
                weights = torch.from_numpy(keep[corpus.target_slice(i)])
                loss = loss - (weights * c).sum()
                count += int((weights > 0).sum())
            model.finish_row(layers)
    (loss / count + model.weighted / step.computed_tokens).backward()
    return {k: v.grad for k, v in model.w.items() if v.grad is not None}


@pytest.mark.parametrize("name", SETTINGS)
def test_router_losses_are_as_strong_as_asked_whatever_is_masked(
    name, tmp_path, corpus, task, moe_student, data_arguments
):
    setting = SETTINGS[name]
    tokenizer = load_tokenizer(task[1])
    rng = np.random.default_rng(0)
    kept, weights = rng.random(corpus.n_targets) < 0.1, rng.uniform(0.1, 2, corpus.n_targets)
    keep = np.where(kept, weights, 0).astype(np.float32)
    selection = tmp_path / "given.safetensors"
    Selection(keep, corpus, "t3s", None).save(str(selection))
    run(
        [*data_arguments, "--load", moe_student, *FRESH, *MOE, *ROUTER, "--micro-batch-size", 1,
         "--global-batch-size", GLOBAL_BATCH, *setting.arguments.split(), "--t3s",
         "--t3s-selection-load", selection, "--t3s-targeted-accuracy-interval", 0,
         "--train-iters", 1, "--lr", 1e-3, "--adam-beta1", HALF, "--clip-grad", 1e9,
         "--dist-ckpt-optim-fully-reshardable", "--save", tmp_path, "--save-interval", 1],
        processes=setting.processes,
    )  # fmt: skip
    got = read_gradient(str(tmp_path), 1)
    wanted = expected_gradient(moe_student, corpus, keep, pad_token(tokenizer), setting)
    assert set(got) == set(wanted)
    for key, gradient in wanted.items():
        bound = 1e-5 * float(gradient.abs().max())
        assert float((got[key] - gradient).abs().max()) <= bound, key
