# SPDX-License-Identifier: Apache-2.0
"""What Megatron has to be told when rows differ in length or hold several samples.

Nothing in Megatron's schedules carries this from stage to stage: every stage reads the micro-batch
and says it for itself. A middle stage that is not told of packed rows attends over all of them,
without an error (Megatron-Bridge #3926).
"""

from __future__ import annotations

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import get_model_config, unwrap_model
from megatron.training import print_rank_0

from t3s_megatron.megatron.releases import tell_lengths


def let_lengths_vary(model: list) -> None:
    """Have the pipeline exchange shapes with its activations. `model`: chunks of this rank.

    There is no argument for it, and the validator clears the one in the namespace
    (arguments.py:1232); the schedules look at the configuration at each step.

    With virtual stages a warning is printed: each exchange of shapes synchronises the device
    (p2p_communication.py:211-264), so that nothing of their overlap is left.
    """
    for chunk in model:
        get_model_config(chunk).variable_seq_lengths = True
    if len(model) > 1:
        print_rank_0(
            "[t3s] virtual pipeline stages with rows of different lengths: no exchange between "
            "stages overlaps with computation, and this was never run over NCCL. Without virtual "
            "stages, or with --t3s-arrangement padded, it is as usual"
        )


def packed_seq_params(cu_seqlens: torch.Tensor) -> PackedSeqParams:
    """For attention and rotary embedding. `cu_seqlens` int32[1, n + 1] of one row, on the host."""
    (boundaries,) = cu_seqlens
    longest = int((boundaries[1:] - boundaries[:-1]).max())
    boundaries = boundaries.to(torch.cuda.current_device(), non_blocking=True)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=boundaries,
        cu_seqlens_kv=boundaries,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def count_real_tokens(batch: dict[str, torch.Tensor], model) -> None:
    """Tell Megatron's FLOPs figure the lengths of a micro-batch, which it otherwise takes to be
    `--seq-length`."""
    # Every rank tells each micro-batch once: the first virtual stage, not the others.
    if "lengths" not in batch or getattr(unwrap_model(model), "vp_stage", None):
        return
    # On the device before Megatron asks for it there: its own copy of a tensor on the host waits
    # for everything that is queued, at every micro-batch.
    lengths = batch["lengths"].to(torch.cuda.current_device(), non_blocking=True)
    ends = lengths.flatten().cumsum(0)
    tell_lengths(torch.cat([ends.new_zeros(1), ends]))
