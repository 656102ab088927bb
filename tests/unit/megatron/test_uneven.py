# SPDX-License-Identifier: Apache-2.0
"""What Megatron is told of rows of different lengths, and where the telling would wait."""

from __future__ import annotations

import contextlib
import io
import types

import pytest
import torch

pytestmark = pytest.mark.child


def test_real_lengths_are_told_on_the_device():
    import megatron.training.training as training

    from t3s_megatron.megatron.uneven import count_real_tokens

    if not hasattr(training, "update_seqlen_stats_from_cu_seqlens"):
        pytest.skip("0.17 has no way to be told")
    told = []
    training.update_seqlen_stats_from_cu_seqlens = told.append
    batch = {"lengths": torch.tensor([[3, 5]], dtype=torch.int32)}
    count_real_tokens(batch, torch.nn.Identity())
    assert told[0].tolist() == [0, 3, 8]
    # A device that is not the host: a tensor left there would be copied by Megatron, who waits.
    torch.cuda.current_device = lambda: torch.device("meta")
    count_real_tokens(batch, torch.nn.Identity())
    assert told[1].device.type == "meta"


@pytest.mark.parametrize("stages", [1, 2])
def test_virtual_stages_are_warned_of(stages):
    from t3s_megatron.megatron.uneven import let_lengths_vary

    chunks = [torch.nn.Identity() for _ in range(stages)]
    for chunk in chunks:
        chunk.config = types.SimpleNamespace(variable_seq_lengths=False)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        let_lengths_vary(chunks)
    assert all(chunk.config.variable_seq_lengths for chunk in chunks)
    assert ("virtual pipeline stages" in said.getvalue()) == (stages > 1)
