# SPDX-License-Identifier: Apache-2.0
"""Forward step and loss of a block-diffusion student: cross-entropy over all masked tokens, given
what their blocks leave visible and the clean blocks before them (Eq. 10). No weight by the rate of
the noise, under which a forced token, masked every time, would count for more than it should."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from t3s_megatron.megatron.block_attention import NoisyCleanParams
from t3s_megatron.megatron.forward import TrainingForward


class DiffusionForward(TrainingForward):
    """`forward_step` for rows of `diffusion.rows`; `block_size` as they were made with."""

    def __init__(self, block_size: int):
        super().__init__()
        self.block_size = block_size

    def call_model(self, model, batch) -> torch.Tensor:
        """Losses of the masked positions [1, k] on the last stage, hidden states elsewhere."""
        params = NoisyCleanParams.of(batch["cu_seqlens"][0], self.block_size)
        if "tokens" not in batch:
            return model(None, None, None, packed_seq_params=params)
        return model(
            batch["tokens"],
            None,  # rotary embedding counts by segment
            None,
            labels=batch["labels"],
            packed_seq_params=params,
            output_processor=masked_losses,
            output_processor_context=batch["masked_index"],
        )


def masked_losses(
    hidden_states,
    output_layer,
    output_weight,
    labels,
    context,
    compute_language_model_loss,
    scale_logits,
    **_unused,
) -> torch.Tensor:
    """`output_processor` of GPTModel.forward: cross-entropy [1, k] at the positions `context`
    int64[k] of the row, and the logits of no other.

    `hidden_states` [t, 1, d], with sequence parallelism this rank's part of t.
    """
    parallel = output_layer.sequence_parallel
    if parallel:
        # The gradient that comes back is summed over the ranks already, by the output layer: the
        # default would sum it once more.
        hidden_states = gather_from_sequence_parallel_region(
            hidden_states, tensor_parallel_output_grad=False
        )
        output_layer.sequence_parallel = False
    try:
        chosen = hidden_states.index_select(0, context)
        logits, _ = output_layer(chosen, weight=output_weight)
    finally:
        output_layer.sequence_parallel = parallel
    return compute_language_model_loss(labels.index_select(1, context), scale_logits(logits))
