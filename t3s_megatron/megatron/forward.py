# SPDX-License-Identifier: Apache-2.0
"""Forward step and loss of a T3S run, and what is read off the training forwards.

With `labels` given, the last pipeline stage's output is already the tensor-parallel-reduced
per-token cross-entropy, so `c_t = -output` costs nothing (Eq. 2), fused or not, and after profiling
T3S is nothing but a narrower `loss_mask` (Eq. 5). It may also hold weights: with those the loss is
sum(w_t * -c_t) over the number of tokens whose weight is above 0.

Shapes: b micro-batch size, s sequence length, cp context-parallel size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from megatron.core import mpu
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config
from megatron.training import get_args

from t3s_megatron.megatron.router_losses import RouterLosses
from t3s_megatron.megatron.uneven import count_real_tokens, packed_seq_params

#: What the model and the loss need on the device, [b, s] but for `masked_index`.
_DEVICE_KEYS = ("tokens", "labels", "loss_mask", "position_ids", "masked_index")
#: About whole rows, not about their positions: what every stage needs, and stays on the host.
_ROW_KEYS = ("sample", "lengths", "cu_seqlens", "kept_share")
#: Keeps sum / count finite in Megatron's report when no token of a batch is kept, and vanishes in
#: float32 next to any real count.
_TINY_COUNT = 1e-30


def stage_has_data(model) -> bool:
    """Whether this chunk embeds tokens or computes losses; the stages between do neither."""
    from megatron.core.utils import get_attr_wrapped_model

    return bool(
        get_attr_wrapped_model(model, "pre_process")
        or get_attr_wrapped_model(model, "post_process")
    )


def next_batch(data_iterator, model) -> dict[str, torch.Tensor]:
    """The next micro-batch, sliced for this context-parallel rank; between the ends only what it
    says about whole rows.

    Tensors of the model are on the device; `target_index` and `_ROW_KEYS` stay on the host.
    """
    batch = next(data_iterator)
    if not stage_has_data(model):
        return {key: batch[key] for key in _ROW_KEYS if key in batch}
    size = mpu.get_context_parallel_world_size()
    if size > 1:
        rank = mpu.get_context_parallel_rank()
        batch = {
            key: value if key in _ROW_KEYS else zigzag_slice(value, rank, size)
            for key, value in batch.items()
        }
    device = torch.cuda.current_device()
    moved = {key: batch[key].to(device, non_blocking=True) for key in _DEVICE_KEYS if key in batch}
    return batch | moved


def zigzag_slice(x: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """Context-parallel rank's part of x [b, s]: chunks rank and 2 * size - 1 - rank of 2 * size."""
    chunks = x.chunk(2 * size, dim=1)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]], dim=1).contiguous()


def call_model(model, batch):
    """Per-token loss [b, s / cp] on the last stage, hidden states elsewhere."""
    packed = {}
    if "cu_seqlens" in batch:
        packed["packed_seq_params"] = packed_seq_params(batch["cu_seqlens"])
    if "tokens" not in batch:
        return model(None, None, None, **packed)
    return model(
        batch["tokens"],
        batch["position_ids"],
        None,  # causal; the attention implementations build it themselves
        labels=batch["labels"],
        loss_mask=batch["loss_mask"],
        **packed,
    )


def run_schedule(
    model: list,
    forward_step: Callable,
    iterators: list,
    num_microbatches: int,
    *,
    forward_only: bool,
) -> None:
    """Megatron's own schedule over some micro-batches, outside of its training step.

    `iterators`: one for each chunk of `model`. Collective over the world.
    """
    args = get_args()
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=model,
        num_microbatches=num_microbatches,
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        decoder_seq_length=args.decoder_seq_length,
        forward_only=forward_only,
    )


class TrainingForward:
    """`forward_step` for Megatron's schedules.

    `observer(batch, per_token_loss)`, if set, sees each micro-batch on the last stage, detached.
    `weigh`, if set: from the probability of each token at the live weights, float32[b, s] and
    detached, to a factor of its loss. It changes no count: the mean is over all kept tokens.
    """

    def __init__(self):
        self.observer: Callable | None = None
        self.weigh: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._router_losses = RouterLosses()

    def __call__(self, data_iterator, model, return_schedule_plan: bool = False):
        assert not return_schedule_plan, "--overlap-moe-expert-parallel-comm is not supported"
        batch = next_batch(data_iterator, model)
        count_real_tokens(batch, model)
        if "kept_share" in batch:
            self._router_losses.weigh(get_model_config(model), float(batch["kept_share"]))
        return self.call_model(model, batch), partial(self.loss, batch)

    def call_model(self, model, batch) -> torch.Tensor:
        """Per-token loss [b, s / cp] on the last stage, hidden states elsewhere."""
        return call_model(model, batch)

    def loss(self, batch, per_token_loss):
        """(sum of kept losses, number of kept tokens, report): Megatron's per-token convention."""
        losses = per_token_loss.float()
        mask = batch["loss_mask"]
        weighted = losses
        if self.weigh is not None:
            weighted = losses * self.weigh(torch.exp(-losses.detach()))
        total = torch.sum(weighted * mask)
        # Exact: float32 counts are integers below 2**24, and a micro-batch has fewer tokens.
        count = (mask > 0).float().sum()
        if self.observer is not None:
            self.observer(batch, losses.detach())
        report = torch.stack([total.detach(), count + _TINY_COUNT])
        return total, count.to(torch.int), {"lm loss": report}
