# SPDX-License-Identifier: Apache-2.0
"""A pretrain script in which one sample's numbers go wrong, in the real model and loop.

POISON_SAMPLE=I   index of the sample in the corpus
POISON=loss       its per-token losses are NaN, and so its gradients
POISON=gradient   its losses are right, and their gradients infinite
POISON=theta_b    its losses are NaN only where theta_b is scored; theta_0 likewise
POISON_EXITS=DIR  each rank leaves its exit status in DIR/RANK
"""

from __future__ import annotations

import os
import signal
from functools import partial

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer


def poison(what: str, sample: int) -> None:
    import torch

    from t3s_megatron.megatron import forward, scoring
    from t3s_megatron.run.selector import Selector

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx, losses, rows):
            ctx.save_for_backward(rows)
            return losses.clone()

        @staticmethod
        def backward(ctx, gradient):
            (rows,) = ctx.saved_tensors
            return torch.where(rows[:, None], float("inf"), gradient), None

    clean = forward.call_model

    def poisoned(broken, model, batch):
        output = clean(model, batch)
        if "labels" not in batch or output.shape != batch["labels"].shape:
            return output  # not the last stage
        return broken(output, (batch["sample"] == sample).any(dim=1))

    def _split(losses, rows):
        return zip(losses.split(1), rows.tolist(), strict=True)

    def nan(losses, rows):
        if not rows.any():
            return losses  # 0 * NaN is NaN: not even a mask may touch the other rows
        return torch.cat([one * float("nan") if bad else one for one, bad in _split(losses, rows)])

    if what in ("loss", "gradient"):
        broken = nan if what == "loss" else Infinite.apply
        forward.call_model = partial(poisoned, broken)
        return
    original = Selector._score

    def score(selector, context, part, tag, step):
        scoring.call_model = partial(poisoned, nan) if tag == what else clean
        return original(selector, context, part, tag, step)

    Selector._score = score


def main() -> None:
    exits = os.environ.get("POISON_EXITS")
    if exits:  # torchrun sends it to the others when one rank has ended: here each ends by itself
        signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        run_poisoned()
    except SystemExit as ended:
        if exits:
            with open(os.path.join(exits, os.environ["RANK"]), "w") as file:
                file.write(str(ended.code))
        raise


def run_poisoned() -> None:
    install_torch_layer()
    from t3s_megatron import pretrain

    install_megatron_layer()
    poison(os.environ["POISON"], int(os.environ["POISON_SAMPLE"]))
    pretrain.main()


if __name__ == "__main__":
    main()
