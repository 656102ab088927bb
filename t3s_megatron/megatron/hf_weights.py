# SPDX-License-Identifier: Apache-2.0
"""Weights between a Hugging Face folder and the live model, in any parallel layout.

Which tensors of a folder make up a parameter, and how it is cut, is in the tables of
`huggingface/families`. They name parameters as Megatron's local layers do; `plain_name` brings the
names of Transformer Engine's layers to that form (not run: there is no Transformer Engine without
CUDA). Every rank reads its own part of each parameter, and no rank ever holds more than one
parameter beside the model.

`load_weights` and `export_weights` are collective over the world.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import mpu
from safetensors import SafetensorError, safe_open

from t3s_megatron.errors import DataError, MismatchError, T3SError
from t3s_megatron.huggingface.architecture import family_of
from t3s_megatron.huggingface.families.family import Family
from t3s_megatron.huggingface.folder import weight_files
from t3s_megatron.huggingface.packing import WHOLE, Packing, Part
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.process import print_rank_0

#: Transformer Engine's layers hold the norm before them, and the experts of a layer are one module
#: there; `local_experts` are those of Megatron's SequentialMLP, whichever their layers.
_PLAIN = tuple(
    (re.compile(pattern + "$"), plain)
    for pattern, plain in (
        (r"self_attention\.linear_qkv\.layer_norm_(weight|bias)", r"input_layernorm.\1"),
        (r"self_attention\.in_proj\.layer_norm_(weight|bias)", r"input_layernorm.\1"),
        (r"mlp\.linear_fc1\.layer_norm_(weight|bias)", r"pre_mlp_layernorm.\1"),
        (r"linear_q_up_proj\.layer_norm_(weight|bias)", r"q_layernorm.\1"),
        (r"linear_kv_up_proj\.layer_norm_(weight|bias)", r"kv_layernorm.\1"),
        (r"mlp\.experts\.(linear_fc[12])\.(weight|bias)(\d+)", r"mlp.experts.\3.\1.\2"),
        (r"mlp\.experts\.local_experts\.(\d+\.linear_fc[12]\.\w+)", r"mlp.experts.\1"),
    )
)
_LAYER = re.compile(r"(?<=^decoder\.layers\.)\d+")
_EXPERT = re.compile(r"(?<=\.mlp\.experts\.)\d+")
_EMBEDDING, _OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
#: Not parameters; old folders hold them.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$")


def plain_name(name: str) -> str:
    """The name that a parameter of Megatron's has in the families' tables, for one of local or of
    Transformer Engine's layers; numbers of layers and experts stay as they are."""
    for pattern, plain in _PLAIN:
        name, found = pattern.subn(plain, name)
        if found:
            break
    return name


@dataclass(frozen=True)
class _Parameter:
    """One parameter (or buffer that is saved) of this rank. `name`: plain, with the layer's number
    in the model and the expert's number on this rank."""

    name: str
    tensor: torch.Tensor
    packing: Packing

    @property
    def is_expert(self) -> bool:
        return _EXPERT.search(self.name) is not None

    @property
    def part(self) -> Part:
        if self.packing.dim is None or not self.packing.is_cut(self.tensor):
            return WHOLE
        group = _tensor_group(self.is_expert)
        return Part(group.rank(), group.size())


def _tensor_group(of_experts: bool):
    if of_experts:
        return mpu.get_expert_tensor_parallel_group()
    return mpu.get_tensor_model_parallel_group()


class _LiveModel:
    """The parameters of this rank, and what the family's tables say about them."""

    def __init__(self, chunks: list, config, family: Family):
        self.config, self.family = config, family
        self.experts = 0  # on this rank
        self.parameters = [
            parameter for chunk in chunks for parameter in self._of_chunk(_unwrapped(chunk))
        ]

    def _of_chunk(self, chunk) -> Iterator[_Parameter]:
        self.experts = (chunk.config.num_moe_experts or 0) // _expert_group().size()
        numbers = [layer.layer_number - 1 for layer in chunk.decoder.layers]
        for key, tensor in chunk.state_dict(keep_vars=True).items():
            if "_extra_state" in key or tensor is None:
                continue
            name = _LAYER.sub(lambda found: str(numbers[int(found[0])]), plain_name(key))
            known = self.family.tensor(name)
            if known is None:
                raise T3SError(
                    f"the model's parameter {key} has no counterpart in Hugging Face's "
                    f"{self.family.model_type}"
                )
            yield _Parameter(name, tensor, known[0].packing)

    def expert(self, parameter: str, expert_rank: int | None = None) -> int | None:
        """The number in its layer of the expert that a parameter of this rank is of, or of
        expert-parallel rank `expert_rank`; None where it is of none."""
        found = _EXPERT.search(parameter)
        rank = _expert_group().rank() if expert_rank is None else expert_rank
        return None if found is None else rank * self.experts + int(found[0])

    def sources(self, parameter: str, reader: _Reader) -> list:
        """The tensors of a folder that a parameter of this rank is made of."""
        found = [reader.source(name) for name in self.names(parameter)]
        expert = self.expert(parameter)
        if expert is None or not self.family.stacked:
            return found
        return [_OfExpert(source, expert, self.all_experts) for source in found]

    @property
    def all_experts(self) -> int:
        """Experts of a layer."""
        return self.experts * _expert_group().size()

    def names(self, parameter: str, expert_rank: int | None = None) -> tuple[str, ...]:
        """Of the tensors of a parameter of this stage, or of expert-parallel rank `expert_rank`."""
        expert = self.expert(parameter, expert_rank)
        parameter = _EXPERT.sub(str(expert), parameter)
        if parameter == _OUTPUT and self.config.tie_word_embeddings:
            parameter = _EMBEDDING  # a copy, on the last stage
        known = self.family.tensor(parameter)
        assert known is not None
        return known[1]


class _OfExpert:
    """What one expert has of a tensor of the folder whose first dimension counts the experts."""

    def __init__(self, source, expert: int, experts: int):
        self._source, self._expert, self._experts = source, expert, experts

    def get_shape(self) -> list[int]:
        """Without the first dimension, where that counts the experts."""
        experts, *shape = self._source.get_shape()
        return shape if experts == self._experts else [experts, *shape]

    def __getitem__(self, index) -> torch.Tensor:
        return self._source[self._expert][index]


def _unwrapped(chunk):
    while hasattr(chunk, "module"):  # DDP, Float16Module
        chunk = chunk.module
    return chunk


def _expert_group():
    return mpu.get_expert_model_parallel_group()


# ------------------------------------------------------------------------------------------- load


@torch.no_grad()
def load_weights(model: list, config, folder: str, rows: int) -> None:
    """Overwrite the parameters of `model` (its chunks, wrapped or not) with those of `folder`.

    Converts to each parameter's dtype. Rows of padding in the vocabulary become zero. An optimizer
    that keeps copies has to be told afterwards (`reload_model_params`).
    MismatchError when the tensors of the folder, by name or shape, are not those of the model;
    DataError for files that are missing or damaged.
    """
    family = family_of(config, folder)
    live = _LiveModel(model, config, family)
    _check_rows(live, folder, rows)
    reader = _Reader(folder)
    layout.together(reader.open)
    needed = {name for p in live.parameters for name in live.names(p.name)}
    found = set(reader.files)
    ahead = {name for name in found if family.is_ahead(name, config.num_hidden_layers)}
    if ahead:
        print_rank_0(
            f"[t3s] {folder}: {len(ahead)} tensors of its layers for multi-token prediction "
            "are left out: they are not trained, and not in what is exported"
        )
    found -= ahead
    check_names(_over_the_model(needed), folder, found, config.tie_word_embeddings)
    layout.together(lambda: _check_shapes(live, reader))
    layout.together(lambda: _read(live, reader))


def _read(live: _LiveModel, reader: _Reader) -> None:
    for parameter in live.parameters:
        sources = live.sources(parameter.name, reader)
        shape = tuple(parameter.tensor.shape)
        try:
            found = parameter.packing.read(sources, shape, parameter.part, live.config)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{reader.folder}: {parameter.name} cannot be read ({error})"
            ) from error
        parameter.tensor.copy_(found)


def _check_rows(live: _LiveModel, folder: str, rows: int) -> None:
    for parameter in live.parameters:
        found = parameter.tensor.shape[0] * parameter.part.size
        if parameter.name == _EMBEDDING and found != rows:
            raise MismatchError(
                f"the model's embedding has {found} rows, and {rows} are wanted for the "
                f"{live.config.vocab_size} of {folder}: build it with args.padded_vocab_size after "
                "T3S.attach(provider, forward_step, args)"
            )


def _check_shapes(live: _LiveModel, reader: _Reader) -> None:
    """MismatchError for tensors that are no parts of their parameter."""
    for parameter in live.parameters:
        names = live.names(parameter.name)
        shapes = [tuple(source.get_shape()) for source in live.sources(parameter.name, reader)]
        shape, part = tuple(parameter.tensor.shape), parameter.part
        if not parameter.packing.fits(shapes, shape, part.size, live.config):
            found = ", ".join(
                f"{name} {list(shape)} in {reader.files[name]}"
                for name, shape in zip(names, shapes, strict=True)
            )
            raise MismatchError(
                f"{reader.folder}: tensors of another shape than config.json says: {found}; "
                f"{parameter.name} of the model is {list(shape)} on each of {part.size} ranks"
            )


def check_names(wanted: set[str], folder: str, found: set[str], tied: bool) -> None:
    """MismatchError unless the folder has every tensor that the model needs and no other."""
    found = {name for name in found if not _IGNORED.search(name)}
    if tied:  # a second copy of the embedding, in some folders
        found.discard("lm_head.weight")
    for what, names in (
        ("lacks", wanted - found),
        ("has, and the model does not,", found - wanted),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise MismatchError(
                f"{folder}: it {what} {len(names)} tensors: {some}"
                f"{', ...' if len(names) > 3 else ''}"
            )


def _over_the_model(names: set[str]) -> set[str]:
    """The union over pipeline stages and expert-parallel ranks."""
    for group in (mpu.get_pipeline_model_parallel_group(), _expert_group()):
        parts: list[Any] = [None] * group.size()
        dist.all_gather_object(parts, names, group=group)
        names = set().union(*parts)
    return names


class _Reader:
    """The tensors of a folder by name. Files are opened once."""

    def __init__(self, folder: str):
        self.folder = folder
        self.files: dict[str, str] = {}
        self._open: dict[str, Any] = {}

    def open(self) -> None:
        self.files = weight_files(self.folder)

    def source(self, name: str):
        """A tensor of which only what is indexed is read."""
        file = self.files[name]
        if file not in self._open:
            self._open[file] = safe_open(f"{self.folder}/{file}", framework="pt", device="cpu")
        return self._open[file].get_slice(name)


# ----------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class _Described:
    """What the ranks of another stage have to know of a parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    packing: Packing
    is_cut: bool


@torch.no_grad()
def export_weights(model: list, config) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, whole tensor) of every parameter, each name once.

    Every rank has to exhaust it; each is given every tensor, one at a time, on its device, and no
    rank may keep one: it may be a view of the live weights.
    """
    live = _LiveModel(model, config, family_of(config, "the export"))
    stages = mpu.get_pipeline_model_parallel_group()
    described: list[Any] = [None] * stages.size()
    mine = [
        _Described(p.name, tuple(p.tensor.shape), p.tensor.dtype, p.packing, p.part.size > 1)
        for p in live.parameters
    ]
    dist.all_gather_object(described, mine, group=stages)
    seen: set[str] = set()
    stacks = _Stacks(live.all_experts)
    for stage, parameters in enumerate(described):
        for i, parameter in enumerate(parameters):
            if parameter.name == _OUTPUT and config.tie_word_embeddings:
                continue  # the last stage's own copy of the embedding
            own = live.parameters[i].tensor if stage == stages.rank() else None
            local = _from_stage(own, parameter, stages, stage)
            for name, expert, part in _whole(local, parameter, live):
                tensor: torch.Tensor | None = part
                if expert is not None and live.family.stacked:
                    tensor = stacks.put(name, expert, part)
                if tensor is None:
                    continue
                if name in seen:
                    raise T3SError(f"two parameters of the model became {name}: please report this")
                seen.add(name)
                yield name, tensor


class _Stacks:
    """Tensors of the folder that hold all experts of a layer, made of one expert's at a time."""

    def __init__(self, experts: int):
        self.experts = experts
        self._made: dict[str, torch.Tensor] = {}
        self._there: dict[str, int] = {}

    def put(self, name: str, expert: int, part: torch.Tensor) -> torch.Tensor | None:
        """The whole tensor when this was the last part of it."""
        if name not in self._made:
            self._made[name] = part.new_empty(self.experts, *part.shape)
            self._there[name] = 0
        self._made[name][expert] = part
        self._there[name] += 1
        return self._made.pop(name) if self._there[name] == self.experts else None


def _from_stage(own: torch.Tensor | None, parameter: _Described, stages, stage) -> torch.Tensor:
    if own is None:
        device = torch.cuda.current_device()
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    else:
        tensor = own.detach().contiguous()
    if stages.size() > 1:
        dist.broadcast(tensor, dist.get_global_rank(stages, stage), group=stages)
    return tensor


def _whole(
    local: torch.Tensor, parameter: _Described, live: _LiveModel
) -> Iterator[tuple[str, int | None, torch.Tensor]]:
    """The folder's tensors of what every rank of a stage has a part of: (name, number of the expert
    or None, tensor)."""
    of_expert = _EXPERT.search(parameter.name) is not None
    experts = _gathered(local, _expert_group()) if of_expert else [local]
    for rank, tensor in enumerate(experts):
        group = _tensor_group(of_expert)
        parts = _gathered(tensor, group) if parameter.is_cut else [tensor]
        names = live.names(parameter.name, rank)
        expert = live.expert(parameter.name, rank)
        for name, whole in zip(names, parameter.packing.unpack(parts, live.config), strict=True):
            yield name, expert, whole


def _gathered(tensor: torch.Tensor, group) -> list[torch.Tensor]:
    if group.size() == 1:
        return [tensor]
    parts = [torch.empty_like(tensor) for _ in range(group.size())]
    dist.all_gather(parts, tensor, group=group)
    return parts
