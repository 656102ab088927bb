# SPDX-License-Identifier: Apache-2.0
"""theta_0's checkpoint: which one Megatron will load, and whether it is the model of the command.

Megatron compares three numbers of a checkpoint's arguments with the command's, and drops tensors
that the model has no place for. Everything that says what weights mean is compared here before the
model is built, and the names of the tensors once it is there.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.utils import unwrap_model
from megatron.training import checkpointing
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.megatron.arguments import given
from t3s_megatron.megatron.layout import data_and_context_group, gather_over_world
from t3s_megatron.megatron.seam import Callback, CallbackContext

#: Names in Megatron's namespace that say what the weights of a model mean.
_MEANING = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "group_query_attention",
    "num_query_groups", "kv_channels", "normalization", "layernorm_epsilon",
    "layernorm_zero_centered_gamma", "qk_layernorm", "qk_l2_norm", "attention_output_gate",
    "softmax_type", "window_size", "window_attn_skip_freq", "add_bias_linear", "add_qkv_bias",
    "apply_residual_connection_post_layernorm", "swiglu", "squared_relu", "quick_geglu",
    "openai_gelu", "onnx_safe", "glu_linear_offset", "activation_func_clamp_value",
    "position_embedding_type", "rotary_base", "rotary_percent", "rotary_interleaved",
    "rotary_seq_len_interpolation_factor", "use_rope_scaling", "rope_scaling_factor",
    "rotary_scaling_factor", "mscale", "mscale_all_dim", "no_rope_freq",
    "yarn_original_max_position_embeddings", "yarn_beta_fast", "yarn_beta_slow", "mrope_section",
    "untie_embeddings_and_output_weights", "num_experts", "moe_ffn_hidden_size", "moe_layer_freq",
    "moe_router_topk", "moe_router_pre_softmax", "moe_router_score_function",
    "moe_router_topk_scaling_factor", "moe_router_enable_expert_bias", "moe_router_num_groups",
    "moe_router_group_topk", "moe_shared_expert_intermediate_size", "moe_shared_expert_gate",
    "moe_latent_size", "moe_apply_probs_on_input", "multi_latent_attention", "q_lora_rank",
    "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim",
    "experimental_attention_variant", "linear_attention_freq", "hybrid_layer_pattern", "use_mup",
    "heterogeneous_layers_config_encoded_json", "mtp_num_layers",
)  # fmt: skip

_EMBEDDING = "embedding.word_embeddings.weight"


@dataclass(frozen=True)
class Source:
    """A checkpoint: `argument` of the command, its `folder`, and the `path` of the iteration."""

    argument: str
    folder: str
    path: str

    @property
    def name(self) -> str:
        """Of the argument, in Megatron's namespace."""
        return self.argument.lstrip("-").replace("-", "_")


def tracked_iteration(folder: str | None) -> int | None:
    """The iteration that Megatron would load from `folder` now; None for none, or a release."""
    try:
        with open(os.path.join(folder or "", "latest_checkpointed_iteration.txt")) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def loaded_iteration(args) -> int | None:
    """The iteration of a training run that Megatron goes on from; None when it starts at 0."""
    tracked = tracked_iteration(args.load)
    if tracked is None or args.finetune:
        return None
    return args.ckpt_step or tracked


def take_vocabulary(args, argument: str, tokens: int) -> None:
    """`args.vocab_size` becomes what the checkpoint of `argument` ("load" or
    "pretrained_checkpoint") says, where nobody else has said how many rows of the vocabulary are
    the model's, the tokenizer's `tokens` among them."""
    rows = _rows_of(args, argument)
    if args.vocab_size is None and rows is not None and rows >= tokens:
        args.vocab_size = rows


def keep_vocabulary(args) -> None:
    """`args.vocab_size` is that of the run in --load, which goes on. MismatchError when the command
    says another."""
    rows = _rows_of(args, "load")
    if args.vocab_size not in (None, rows):
        raise MismatchError(
            f"--load {args.load}: the run there has --vocab-size {rows}, this command "
            f"{args.vocab_size}: give what it was started with"
        )
    args.vocab_size = rows


def _rows_of(args, argument: str) -> int | None:
    try:
        path = checkpointing.get_load_checkpoint_path_by_args(args, argument)
        saved = dist_checkpointing.load_common_state_dict(path).get("args")
    except (CheckpointingException, OSError):  # OSError: of another format, without .metadata
        return args.vocab_size
    return getattr(saved, "vocab_size", None)


def find_student(args, *, required: bool) -> Source | None:
    """The checkpoint that a new run starts from, which describes the same model as the command.

    None where the script may have weights of its own. T3SError when there is none where the command
    says or, with `required`, nowhere; MismatchError when it is another model's.
    """
    source = _source(args, required)
    if source is not None:
        _check_meaning(source, args)
    return source


def _source(args, required: bool) -> Source | None:
    if checkpointing.checkpoint_exists(args.load):
        argument, folder = "--load", args.load
    elif args.pretrained_checkpoint is not None:
        argument, folder = "--pretrained-checkpoint", args.pretrained_checkpoint
        if not checkpointing.checkpoint_exists(folder):
            raise T3SError(f"{argument} {folder}: {_what_is_there(folder)}")
    elif not required:
        return None
    else:
        why = "neither --load nor --pretrained-checkpoint nor --t3s-hf-model is given"
        if args.load is not None:
            why = f"--load {args.load}: {_what_is_there(args.load)}"
        raise T3SError(
            f"no student: {why}. Megatron would train random numbers. Give the student as "
            "--pretrained-checkpoint FOLDER or as --t3s-hf-model FOLDER"
        )
    path = checkpointing.get_load_checkpoint_path_by_args(
        args, "load" if argument == "--load" else "pretrained_checkpoint"
    )
    if args.ckpt_step and not os.path.isdir(path):
        there = sorted(name for name in os.listdir(folder) if name.startswith("iter_"))
        raise T3SError(
            f"--ckpt-step {args.ckpt_step}: {path} is not there; {argument} has "
            f"{', '.join(there) or 'no iterations'}"
        )
    return Source(argument, folder, path)


def _what_is_there(folder: str) -> str:
    """Why Megatron finds no checkpoint in `folder`."""
    if not os.path.exists(folder):
        return "no such folder"
    there = os.path.isdir(folder) and os.listdir(folder)
    if there and "config.json" in there:
        return "a Hugging Face folder, which is given as --t3s-hf-model"
    if there and ("metadata.json" in there or ".metadata" in there or "common.pt" in there):
        return f"one iteration of a checkpoint: give the folder above it, {os.path.dirname(folder)}"
    return "no Megatron checkpoint in it (latest_checkpointed_iteration.txt is not there)"


def _check_meaning(source: Source, args) -> None:
    """MismatchError, with every difference, when the checkpoint's own arguments describe another
    model than the command; T3SError when Megatron would not read it. Nothing when it holds none, or
    is of a format that keeps them with the weights."""
    try:
        saved = dist_checkpointing.load_common_state_dict(source.path).get("args")
        shapes = _tensor_shapes(source.path)
    except (CheckpointingException, OSError):  # OSError: of another format, without .metadata
        return
    if getattr(args, "ckpt_format", "torch_dist") == "torch" and not args.auto_detect_ckpt_format:
        raise T3SError(
            f"{source.argument} {source.folder} is a distributed checkpoint, which Megatron does "
            "not read with --ckpt-format torch: drop that argument, or convert the checkpoint"
        )
    lines = [] if saved is None else list(_differences(saved, args))
    rows = shapes.get(_EMBEDDING, (None,))[0]
    if rows is not None and args.padded_vocab_size not in (None, rows):
        lines.append(_vocabulary(rows, args))
    if lines:
        raise MismatchError(
            f"{source.argument} {source.folder} is not the model that the arguments describe:"
            + "".join(f"\n  {line}" for line in lines)
            + "\nChange the arguments, or give the checkpoint that they describe."
        )


def _differences(saved, args):
    unused = _unused(args)
    for name in _MEANING:
        if name in unused or not hasattr(saved, name):
            continue  # an older release did not have it
        theirs, mine = given(saved, name), given(args, name)
        if mine is not None and theirs is not None and not _same(theirs[1], mine[1]):
            yield f"{mine[0]} is {theirs[1]} in the checkpoint, here {mine[1]}"


def _unused(args) -> set[str]:
    """Arguments whose value means nothing beside the others."""
    unused = set()
    if not args.group_query_attention:
        unused.add("num_query_groups")
    if not args.use_rope_scaling:
        unused.add("rope_scaling_factor")
    if not args.num_experts:
        unused |= {name for name in _MEANING if name.startswith("moe_")}
    elif args.moe_layer_freq == 1:
        unused.add("ffn_hidden_size")
    if not args.multi_latent_attention:
        unused |= {"q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim",
                   "v_head_dim"}  # fmt: skip
        if args.position_embedding_type != "yarn":
            unused |= {"rotary_scaling_factor", "mscale", "mscale_all_dim"}
    if args.position_embedding_type in ("none", "learned_absolute"):
        unused |= {name for name in _MEANING if name.startswith("rotary_")}
    return unused


def _same(a: object, b: object) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def _vocabulary(rows: int, args) -> str:
    """The checkpoint has other rows of embedding than the model would get."""
    tensor, here = args.tensor_model_parallel_size, args.padded_vocab_size
    what = f"the vocabulary has {rows} rows in the checkpoint, here {here}"
    if here < rows:
        return f"{what}: fewer. Give the tokenizer that it was made with"
    added = f"{what}: the {here - rows} rows that padding adds are untrained and would take part"
    if rows % tensor:
        return (
            f"{added}. --tensor-model-parallel-size {tensor} does not divide them: choose another"
        )
    return f"{added}. Add --make-vocab-size-divisible-by {rows // tensor}"


def _tensor_shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Global shapes of a checkpoint's tensors, by name."""
    # Not Megatron's load_tensors_metadata: it makes a tensor of each entry, out of properties that
    # torch.empty does not take all of (`strides`, torch 2.15).
    entries = FileSystemReader(path).read_metadata().state_dict_metadata.items()
    return {
        name: tuple(entry.size)
        for name, entry in entries
        if isinstance(entry, TensorStorageMetadata)
    }


#: What a checkpoint holds beside the model.
_BESIDE_THE_MODEL = ("optimizer.", "rng_state", "rerun_state")


class StudentTensors(Callback):
    """A callback of the seam: before the first step of a new run, every tensor of its student's
    checkpoint has a place in the model. Megatron drops those that have none."""

    def __init__(self, source: Source):
        self.source = source

    def on_train_start(self, context: CallbackContext) -> None:
        """MismatchError on every rank. Collective over the world."""
        try:
            saved = _tensor_shapes(self.source.path)
            content = dist_checkpointing.load_content_metadata(self.source.path) or {}
        except (CheckpointingException, OSError):  # OSError: of another format, without .metadata
            return
        content["dp_cp_group"] = data_and_context_group()
        mine = {
            tensor.key
            for chunk in unwrap_model(context.model)
            for tensor in nested_values(chunk.sharded_state_dict(metadata=content))
            if hasattr(tensor, "key")
        }
        known = set().union(*gather_over_world(mine))
        dropped = [n for n in saved if n not in known and not n.startswith(_BESIDE_THE_MODEL)]
        if dropped:
            raise MismatchError(
                f"{self.source.argument} {self.source.folder}: the model has no place for "
                f"{len(dropped)} of its tensors ({', '.join(sorted(dropped)[:5])}, ...), so it is "
                "not this model's checkpoint: change the arguments, or give another one"
            )
