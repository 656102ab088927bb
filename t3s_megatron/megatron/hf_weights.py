# SPDX-License-Identifier: Apache-2.0
"""Weights between a Hugging Face folder and the live model, in any parallel layout.

mbridge does the work: it knows which Hugging Face tensors make up a Megatron parameter and how
those are cut over tensor, pipeline, virtual and expert parallel ranks. It knows parameters by the
names that Transformer Engine's layers give them, so `NamedLikeTransformerEngine` shows it local
layers under those names. Models built of Transformer Engine layers pass through unchanged (not
run: there is no Transformer Engine without CUDA).

Every function here is collective over the world.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import mpu
from safetensors import safe_open

from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.huggingface.folder import weight_files
from t3s_megatron.megatron import layout

_LOCAL_EXPERT = re.compile(r"\.mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])\.(weight|bias)$")
_LOCAL_NORM = re.compile(
    r"(decoder\.layers\.\d+\.)(input_layernorm|pre_mlp_layernorm)\.(weight|bias)$"
)
_EMBEDDING = "model.embed_tokens.weight"
#: Not parameters; old folders hold them.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$")


def require_mbridge() -> None:
    """T3SError that says what to install. mbridge imports Megatron: the CPU layer comes first."""
    try:
        import mbridge  # noqa: F401
    except ImportError as error:
        raise T3SError(
            "--t3s-hf-model and --t3s-hf-export need mbridge: pip install "
            f"'t3s-megatron[huggingface]' ({error})"
        ) from error


def transformer_engine_name(name: str, has_experts: bool) -> str:
    """The name that a parameter of the local layers has in Transformer Engine's layers.

    There a norm is part of the linear layer after it, and the experts of a layer are one module;
    the norm before a router, which is no such layer, stands alone in both.
    """
    name = _LOCAL_EXPERT.sub(r".mlp.experts.\2.\g<3>\1", name)
    norm = _LOCAL_NORM.match(name)
    if norm is None:
        return name
    layer, which, kind = norm.groups()
    if which == "input_layernorm":
        return f"{layer}self_attention.linear_qkv.layer_norm_{kind}"
    return name if has_experts else f"{layer}mlp.linear_fc1.layer_norm_{kind}"


class NamedLikeTransformerEngine:
    """One model chunk, unwrapped, as mbridge reads it: parameters by Transformer Engine's names."""

    def __init__(self, chunk):
        while hasattr(chunk, "module"):  # DDP, Float16Module
            chunk = chunk.module
        self.module = chunk
        self.config = chunk.config
        self.decoder = chunk.decoder
        self._sharded_experts = mpu.get_expert_tensor_parallel_world_size() > 1

    def _name(self, name: str) -> str:
        return transformer_engine_name(name, has_experts=self.config.num_moe_experts is not None)

    def state_dict(self) -> dict[str, torch.Tensor]:
        everything = self.module.state_dict()
        return {self._name(k): v for k, v in everything.items() if "_extra_state" not in k}

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.module.named_parameters():
            if ".mlp.experts." in name and not self._sharded_experts:
                # Local experts are marked as tensor-parallel although none is cut; a detached
                # tensor has lost the mark.
                parameter = parameter.detach()
            yield self._name(name), parameter


def _bridge(hf_config, megatron_config, rows: int | None):
    """mbridge's bridge for a model that exists already. `rows`: of the embedding in Megatron."""
    require_mbridge()
    from mbridge.models.qwen3 import Qwen3Bridge
    from mbridge.models.qwen3moe import Qwen3MoEBridge

    base: Any = {"qwen3": Qwen3Bridge, "qwen3_moe": Qwen3MoEBridge}[hf_config.model_type]

    class LiveBridge(base):
        def _build_config(self):
            return megatron_config  # mbridge's own guess would differ in what was asked for

        def _adjust_mapping_for_shared_weights(self):
            # mbridge writes into the class, and every later model of the process would be tied.
            self._DIRECT_MAPPING: dict[str, str] = dict(base._DIRECT_MAPPING)
            if hf_config.tie_word_embeddings:
                self._DIRECT_MAPPING["output_layer.weight"] = _EMBEDDING

    bridge = LiveBridge(hf_config, dtype=None)  # each parameter keeps its own dtype
    bridge.make_vocab_size_divisible_by = 1
    bridge.vocab_size, bridge.padded_vocab_size = hf_config.vocab_size, rows
    return bridge


def _check_layout() -> None:
    expert, tensor = (
        mpu.get_expert_tensor_parallel_world_size(),
        mpu.get_tensor_model_parallel_world_size(),
    )
    if expert not in (1, tensor):
        raise T3SError(
            f"--expert-tensor-parallel-size {expert} with --tensor-model-parallel-size {tensor}: "
            "mbridge converts experts that are cut as the other layers are, or not at all; "
            "choose 1"
        )


def _folder_names(bridge, views) -> list[list[str]]:
    """Hugging Face names of each parameter of this rank. T3SError for one that has none."""
    found = []
    for view in views:
        for name in bridge._weight_name_mapping_mcore_local_to_global(view).values():
            try:
                found.append(bridge._weight_name_mapping_mcore_to_hf(name))
            except NotImplementedError:
                raise T3SError(
                    f"the model's parameter {name} has no counterpart in Hugging Face's "
                    f"{bridge.hf_config.model_type}"
                ) from None
    return found


def _over_the_model(names: set[str]) -> set[str]:
    """The union over pipeline stages and expert-parallel ranks."""
    for group in (mpu.get_pipeline_model_parallel_group(), mpu.get_expert_model_parallel_group()):
        parts: list[Any] = [None] * group.size()
        dist.all_gather_object(parts, names, group=group)
        names = set().union(*parts)
    return names


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


@torch.no_grad()
def load_weights(model: list, hf_config, folder: str, rows: int) -> None:
    """Overwrite the parameters of `model` (its chunks, wrapped or not) with those of `folder`.

    Converts to each parameter's dtype. Rows of padding in the vocabulary become zero. An optimizer
    that keeps copies has to be told afterwards (`reload_model_params`).
    MismatchError when the tensors of the folder are not those of the model; DataError for files
    that are missing or damaged.
    """
    _check_layout()
    views = [NamedLikeTransformerEngine(chunk) for chunk in model]
    bridge = _bridge(hf_config, views[0].config, rows)
    embedding = views[0].state_dict().get("embedding.word_embeddings.weight")
    if embedding is not None and embedding.shape[0] * bridge.mpu.tp_size != rows:
        raise MismatchError(
            f"the model's embedding has {embedding.shape[0] * bridge.mpu.tp_size} rows, and "
            f"{rows} are wanted for the {hf_config.vocab_size} of {folder}: build it with "
            "args.padded_vocab_size after T3S.attach(provider, forward_step, args)"
        )
    needed = {name for names in _folder_names(bridge, views) for name in names}
    files: dict[str, str] = {}
    layout.together(lambda: files.update(weight_files(folder)))
    check_names(_over_the_model(needed), folder, set(files), hf_config.tie_word_embeddings)
    bridge._get_safetensor_io = lambda path: _FolderReader(path, files)
    bridge.load_weights(views, folder, memory_efficient=True)  # one parameter at a time


class _FolderReader:
    """What mbridge asks of a folder: one tensor by name. Files are opened once."""

    def __init__(self, folder: str, files: dict[str, str]):
        self.folder, self.files = folder, files
        self._open: dict[str, Any] = {}

    def load_one_hf_weight(self, name: str) -> torch.Tensor:
        file = self.files[name]
        if file not in self._open:
            self._open[file] = safe_open(f"{self.folder}/{file}", framework="pt", device="cpu")
        return self._open[file].get_tensor(name)


@torch.no_grad()
def export_weights(model: list, hf_config, rows: int) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, whole tensor) of every parameter, each name once.

    Every rank has to exhaust it; each is given every tensor, one at a time, on its device, and no
    rank may keep one: it may be a view of the live weights.
    """
    _check_layout()
    views = [NamedLikeTransformerEngine(chunk) for chunk in model]
    bridge = _bridge(hf_config, views[0].config, rows)
    _folder_names(bridge, views)
    seen = set()
    for name, tensor in bridge.export_weights(views):
        if name in seen and name == _EMBEDDING and hf_config.tie_word_embeddings:
            continue  # the last stage has its own copy
        if name in seen:
            raise T3SError(f"two parameters of the model became {name}: please report this")
        seen.add(name)
        yield name, tensor
