# SPDX-License-Identifier: Apache-2.0
"""Copies of the weights on the host: cut out of few pieces, and given back."""

from __future__ import annotations

import torch

from t3s_megatron.megatron import weights


def test_tensors_of_every_kind_have_memory_of_their_own():
    like = [
        torch.arange(12, dtype=torch.float32).view(3, 4),
        torch.tensor(3.5, dtype=torch.float64),
        torch.tensor([True, False, True]),
        torch.zeros(0),
        torch.arange(7, dtype=torch.int64),
        torch.randn(5, 2).bfloat16(),
    ]
    made = weights.host_tensors(like, pin=False)
    for copy, tensor in zip(made, like, strict=True):
        assert (copy.shape, copy.dtype, copy.is_contiguous()) == (tensor.shape, tensor.dtype, True)
        copy.copy_(tensor)
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(made, like, strict=True))
    assert len({copy.untyped_storage().data_ptr() for copy in made if copy.numel()}) == 1


def test_pinned_memory_is_asked_for_in_powers_of_two(monkeypatch):
    asked, empty = [], torch.empty

    def spy(size, *, pin_memory, **how):
        asked.append((size, pin_memory))
        return empty(size, **how)

    monkeypatch.setattr(torch, "empty", spy)
    weights.host_tensors([torch.zeros(1000) for _ in range(33)], pin=True)
    assert asked == [(2**18, True)]  # 33 tensors of 4,000 bytes, each at a multiple of 256


def test_what_is_freed_goes_back_to_the_host(monkeypatch):
    # pytest's own process has no CPU layer.
    called = []
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: called.append(1), raising=False)
    weights.free_host_memory()
    assert called == [1]
