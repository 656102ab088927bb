# SPDX-License-Identifier: Apache-2.0
"""Which part of which global tensor each main parameter and buffer of this rank is.

Megatron's own sharded state dict knows it (what its checkpoints are resharded by); here it becomes
`Piece`s, so that weights kept on the host can be saved once and taken up in another layout.
"""

from __future__ import annotations

import hashlib
import json

import torch
from megatron.core import mpu
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.utils import unwrap_model

from t3s_megatron.data.pieces import Piece
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.layout import gather_over_world
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.weights import inner_optimizers, main_parameters, model_buffers


def weight_pieces(context: CallbackContext) -> dict[str, list[Piece] | None]:
    """Pieces of each tensor of a `WeightSnapshot` of this rank, flattened, by its name there.

    None for a buffer that is in no checkpoint (constants, counters that each step resets).
    T3SError for a parameter that is in none: Megatron could not resume it either.
    """
    sharded = _sharded_by_tensor(context.model)
    ranges = _model_ranges(context.optimizer)
    found: dict[str, list[Piece] | None] = {}
    for i, main in enumerate(main_parameters(context.optimizer)):
        parameter, first, last = ranges[id(main)]
        entry = sharded.get(id(parameter))
        if entry is None:
            raise T3SError(
                f"a trained parameter of shape {list(parameter.shape)} is not in Megatron's "
                "sharded state dict, so no checkpoint of this run could be resumed"
            )
        found[f"parameter.{i}"] = _pieces(entry, parameter, first, last)
    for i, buffer in enumerate(model_buffers(context)):
        entry = sharded.get(id(buffer))
        found[f"buffer.{i}"] = entry and _pieces(entry, buffer, 0, buffer.numel())
    return found


def cut(pieces: dict[str, list[Piece] | None]) -> str:
    """Eight hexadecimal digits, the same on every rank: how the weights of a run are cut up.

    Collective over the world. In two launches with the same cut, each rank holds the same elements
    in the same places.
    """
    mine = json.dumps(to_json(pieces))
    everyone = gather_over_world(hashlib.sha256(mine.encode()).hexdigest())
    return hashlib.sha256("".join(everyone).encode()).hexdigest()[:8]


def to_json(pieces: dict[str, list[Piece] | None]) -> dict[str, list | None]:
    return {name: some and [one.to_list() for one in some] for name, some in pieces.items()}


def _sharded_by_tensor(model: list) -> dict[int, ShardedTensor | ShardedTensorFactory]:
    # As Megatron describes them when it writes a checkpoint: experts on an axis of one tensor.
    metadata = {
        "singleton_local_shards": False,
        "dp_cp_group": mpu.get_data_parallel_group(with_context_parallel=True),
    }
    found = {}
    for chunk in unwrap_model(model):
        for one in nested_values(chunk.sharded_state_dict(metadata=metadata)):
            if isinstance(one, (ShardedTensor, ShardedTensorFactory)):
                found[id(one.data)] = one
    return found


def _model_ranges(optimizer) -> dict[int, tuple[torch.Tensor, int, int]]:
    """By id of a main parameter: the model's parameter, and which flat range of it this is."""
    found = {}
    for one in inner_optimizers(optimizer):
        groups = [group["params"] for group in one.optimizer.param_groups]
        if hasattr(one, "model_param_group_index_map"):  # distributed optimizer
            for parameter, (group, place) in one.model_param_group_index_map.items():
                held = one._get_model_param_range_map(parameter)["param"]
                found[id(groups[group][place])] = (parameter, held.start, held.end)
            continue
        for main in (main for group in groups for main in group):
            found[id(main)] = (main, 0, main.numel())
        # bf16: float32 copies stand in the inner optimizer's groups.
        if hasattr(one, "fp32_from_float16_groups"):
            copies = zip(one.float16_groups, one.fp32_from_float16_groups, strict=True)
            for models, mains in copies:
                for parameter, main in zip(models, mains, strict=True):
                    found[id(main)] = (parameter, 0, main.numel())
    return found


def _pieces(
    entry: ShardedTensor | ShardedTensorFactory, tensor: torch.Tensor, first: int, last: int
) -> list[Piece]:
    """Of the flat range [first, last) of `tensor`."""
    if isinstance(entry, ShardedTensor):
        return [_piece(entry, first, last, place=0)]
    # A factory cuts the tensor up (gate and up projections): let it cut up the element numbers.
    numbers = torch.arange(tensor.numel()).view(tensor.shape)
    built = entry.build_fn(entry.key, numbers, entry.replica_id, None)
    pieces = []
    for part in built.values() if isinstance(built, dict) else built:
        flat = part.data.reshape(-1)
        begin = int(flat[0])
        if not torch.equal(flat, torch.arange(begin, begin + flat.numel())):
            raise T3SError(f"{entry.key}: its parts are not contiguous in memory")
        inside = max(first, begin), min(last, begin + flat.numel())
        if inside[0] < inside[1]:
            pieces.append(
                _piece(part, inside[0] - begin, inside[1] - begin, place=inside[0] - first)
            )
    return pieces


def _piece(part: ShardedTensor, first: int, last: int, place: int) -> Piece:
    # Axes that only exist in the global tensor (layer or expert number) have length one here.
    shape = (1,) * part.prepend_axis_num + tuple(part.local_shape)
    return Piece(
        part.key,
        tuple(map(int, part.global_shape)),
        tuple(map(int, part.global_offset)),
        tuple(map(int, shape)),
        first,
        last,
        place,
    )
