# SPDX-License-Identifier: Apache-2.0
"""Copies of the weights on the host: theta_0 and the candidate theta_b; and what is made of them.

What is copied is what training updates: the optimizer's float32 main parameters, each rank its own
shard, plus the model's buffers (MoE expert bias, ...). Model parameters are derived from them the
way the optimizer itself derives them after a step, so a restored state is bit-exact whatever the
parameter dtype.
"""

from __future__ import annotations

import torch
from megatron.training import get_args

from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.megatron.device import is_cpu_layer_active
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.method.residual import residual_transfer
from t3s_megatron.planning.pinned import pack


def inner_optimizers(optimizer) -> list:
    """Megatron's optimizers that hold parameters, out of a possible chain (dense, experts)."""
    chain = getattr(optimizer, "chained_optimizers", [optimizer])
    return [one for one in chain if getattr(one, "optimizer", None) is not None]


def main_parameters(optimizer) -> list[torch.Tensor]:
    """float32 main parameters of this rank, in a fixed order.

    The inner optimizer's groups hold exactly those: float32 copies under bf16, shards of them under
    the distributed optimizer, the model's own parameters under plain float32.
    """
    found = [
        parameter
        for one in inner_optimizers(optimizer)
        for group in one.optimizer.param_groups
        for parameter in group["params"]
    ]
    wrong = {p.dtype for p in found if p.dtype != torch.float32}
    if wrong:
        raise T3SError(f"main parameters must be float32 to be snapshot exactly, found {wrong}")
    return found


class WeightSnapshot:
    """Main parameters and buffers of this rank on the host. Costs 4 bytes a main parameter, rounded
    up as `planning.pinned` has it."""

    def __init__(self, context: CallbackContext):
        parameters, buffers = main_parameters(context.optimizer), model_buffers(context)
        copies = host_tensors([*parameters, *buffers], pin=not is_cpu_layer_active())
        self.parameters, self.buffers = copies[: len(parameters)], copies[len(parameters) :]
        self._copy(context)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name, for a file; `load` takes them back."""
        named = {f"parameter.{i}": t for i, t in enumerate(self.parameters)}
        return named | {f"buffer.{i}": t for i, t in enumerate(self.buffers)}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Overwrite with what `tensors` returned on this rank, in any shape. What is not there
        stays as it is.

        MismatchError when it was another model or layout.
        """
        for key, kept in self.tensors().items():
            if key not in tensors:
                continue
            if tensors[key].numel() != kept.numel():
                raise MismatchError(
                    f"the saved weights of this rank have {tensors[key].numel()} elements of "
                    f"{key} and its model has {kept.numel()}: it is another model"
                )
            kept.view(-1).copy_(tensors[key].view(-1))

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.parameters, *self.buffers))

    def copy_from(self, context: CallbackContext) -> None:
        """Overwrite with the live weights, reusing the host memory."""
        self._copy(context)

    @torch.no_grad()
    def _copy(self, context: CallbackContext) -> None:
        for kept, live in zip(self.parameters, main_parameters(context.optimizer), strict=True):
            kept.copy_(live.detach(), non_blocking=True)
        for kept, live in zip(self.buffers, model_buffers(context), strict=True):
            kept.copy_(live, non_blocking=True)
        torch.cuda.synchronize()

    @torch.no_grad()
    def restore(self, context: CallbackContext) -> None:
        """Make these the live weights. Collective over the data-parallel group."""
        for kept, live in zip(self.parameters, main_parameters(context.optimizer), strict=True):
            live.data.copy_(kept, non_blocking=True)
        for kept, live in zip(self.buffers, model_buffers(context), strict=True):
            live.copy_(kept, non_blocking=True)
        publish_main_parameters(context)


@torch.no_grad()
def publish_main_parameters(context: CallbackContext) -> None:
    """Model parameters := main parameters, as at the end of an optimizer step. Collective."""
    for one in inner_optimizers(context.optimizer):
        copy = getattr(one, "_copy_main_params_to_model_params", None)
        if copy is not None:  # float32 without a distributed optimizer trains the model's own
            copy()
    if get_args().use_distributed_optimizer:
        # No gather is in flight between two steps, so this one is of the new shards.
        for chunk in context.model:
            chunk.start_param_sync(force_sync=True)
    torch.cuda.synchronize()


@torch.no_grad()
def transfer_residual(
    context: CallbackContext, theta_0: WeightSnapshot, theta_b: WeightSnapshot
) -> None:
    """Live weights theta_f := theta_0 + (theta_f - theta_b), float32, each rank its own shard.

    Buffers (MoE expert bias) stay those of theta_f: they are running statistics, not a sum of
    updates. Collective over the data-parallel group.
    """
    live = main_parameters(context.optimizer)
    for kept_0, theta_f, kept_b in zip(theta_0.parameters, live, theta_b.parameters, strict=True):
        device = theta_f.device
        result = residual_transfer(kept_0.to(device), theta_f.data, kept_b.to(device))
        theta_f.data.copy_(result)
    publish_main_parameters(context)


def model_buffers(context: CallbackContext) -> list[torch.Tensor]:
    """Of this rank's chunks, in a fixed order."""
    # Not `chunk.buffers()`: Megatron's DDP has a list of that name.
    return [buffer for chunk in context.model for _, buffer in chunk.named_buffers()]


def host_tensors(like: list[torch.Tensor], *, pin: bool) -> list[torch.Tensor]:
    """Uninitialised tensors on the host of these shapes and dtypes, cut out of few large pieces.

    torch rounds every pinned allocation up to a power of two (CachingHostAllocator.h), which costs
    a third where each tensor has its own. `pin`: for copies that do not wait.
    """
    pieces, places = pack([_bytes(tensor) for tensor in like])
    memory = [torch.empty(size, dtype=torch.uint8, pin_memory=pin) for size in pieces]
    return [
        memory[piece][start : start + _bytes(tensor)].view(tensor.dtype).view(tensor.shape)
        for tensor, (piece, start) in zip(like, places, strict=True)
    ]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def free_host_memory() -> None:
    """Give the pinned memory of snapshots that are gone back to the host: torch keeps it for the
    next one, and there is none."""
    if not is_cpu_layer_active():
        torch._C._host_emptyCache()
