# SPDX-License-Identifier: Apache-2.0
"""A pretrain script in which one sample's numbers go wrong, in the real model and loop.

POISON_SAMPLE=I   index of the sample in the corpus
POISON=loss       its per-token losses are NaN, and so its gradients
POISON=gradient   its losses are right, and their gradients infinite
POISON=score      its losses are NaN where nothing is learned: in the scoring passes
"""

from __future__ import annotations

import os

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer


def poison(what: str, sample: int) -> None:
    import torch

    from t3s_megatron.megatron import forward, scoring

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx, losses, rows):
            ctx.save_for_backward(rows)
            return losses.clone()

        @staticmethod
        def backward(ctx, gradient):
            (rows,) = ctx.saved_tensors
            return torch.where(rows[:, None], float("inf"), gradient), None

    def wrap(module, broken):
        original = module.call_model

        def call_model(model, batch):
            output = original(model, batch)
            if batch is None or output.shape != batch["labels"].shape:
                return output  # not the last stage
            return broken(output, (batch["sample"] == sample).any(dim=1))

        module.call_model = call_model

    def _split(losses, rows):
        return zip(losses.split(1), rows.tolist(), strict=True)

    def nan(losses, rows):
        if not rows.any():
            return losses  # 0 * NaN is NaN: not even a mask may touch the other rows
        return torch.cat([one * float("nan") if bad else one for one, bad in _split(losses, rows)])

    if what == "score":
        wrap(scoring, nan)
    else:
        wrap(forward, nan if what == "loss" else Infinite.apply)


def main() -> None:
    install_torch_layer()
    from t3s_megatron import pretrain

    install_megatron_layer()
    poison(os.environ["POISON"], int(os.environ["POISON_SAMPLE"]))
    pretrain.main()


if __name__ == "__main__":
    main()
