# SPDX-License-Identifier: Apache-2.0
"""What a reshardable checkpoint holds of the optimizer, parameter by parameter, where buckets of
the gradient buffer end in padding."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.child(processes=2)

FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": False,
}


def saved_parameters(repaired: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By name of the parameter: (what is saved of it as the optimizer's, itself)."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, distrib_optimizer, get_megatron_optimizer
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.optimizer_state import save_states_with_their_parameters

    kind = distrib_optimizer.DistributedOptimizer
    if repaired:
        save_states_with_their_parameters(distrib_optimizer)
    else:
        cut = kind.sharded_param_state_fully_reshardable
        kind.sharded_param_state_fully_reshardable = getattr(cut, "__wrapped__", cut)
    make_parallel()
    model = tiny_gpt(params_dtype=torch.bfloat16, bf16=True)
    buckets = DistributedDataParallelConfig(
        use_distributed_optimizer=True, overlap_grad_reduce=True, bucket_size=1000
    )
    model = DistributedDataParallel(model.config, buckets, model)
    ends = [bucket.numel_unpadded % 128 for bucket in model.buffers[0].buckets]
    assert len(ends) > 3 and any(ends[:-1]), "buckets are padded"
    optimizer = get_megatron_optimizer(
        OptimizerConfig(optimizer="adam", lr=1e-3, bf16=True, params_dtype=torch.bfloat16,
                        use_distributed_optimizer=True),
        [model],
    )  # fmt: skip
    of_model = model.sharded_state_dict()
    optimizer.sharded_state_dict(of_model, is_loading=True, metadata=FORMAT)  # makes its moments
    state = optimizer.sharded_state_dict(of_model, is_loading=False, metadata=FORMAT)
    names = {parameter: name for name, parameter in model.named_parameters()}
    (buffer,) = model.buffers
    numbered = zip(buffer.param_index_map, state["param_state"].values(), strict=True)
    return {names[own]: (tensors["param"].data, own.float()) for own, tensors in numbered}


def wrong(repaired: bool) -> list[str]:
    found = saved_parameters(repaired)
    assert len(found) > 5
    return [name for name, (saved, own) in found.items() if not torch.equal(saved, own)]


def test_each_parameter_is_saved_with_its_own_numbers():
    assert not wrong(repaired=True)


def test_megatron_saves_others():
    """When this fails, Megatron does it right, and the repair can go."""
    assert wrong(repaired=False)
