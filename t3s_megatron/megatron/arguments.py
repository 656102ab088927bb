# SPDX-License-Identifier: Apache-2.0
"""Megatron's arguments as a person gives them, and which of them change the numbers of a run.

What may differ between a run and its continuation is listed: groups of Megatron's own parser, and
names. Everything else has to be equal, so that an argument that nobody has thought of is compared.
Arguments that a script adds itself are its own business.
"""

from __future__ import annotations

import argparse
import functools
import re

#: Groups of Megatron's parser in which nothing changes a number of a T3S run.
_FREE_GROUPS = (
    "profiling", "checkpointing", "distributed init", "validation", "autoresume", "biencoder",
    "vision", "logging", "Logits Distillation", "straggler", "workload inspector", "inference",
    "one logger", "In-process restart", "ft_package", "rerun engine", "msc", "fault injector",
    "data and dataloader", "tokenizer", "rl", "sft",
)  # fmt: skip

#: In a free group all the same. (`student.keep_vocabulary` compares --vocab-size.)
_FIXED = ("seq_length", "padded_vocab_size")

#: In the other groups: how ranks share the work, how a step is computed (to rounding), what is
#: printed, and when a job leaves.
_FREE_NAMES = re.compile(
    r"parallel|pipeline|virtual|world_size|_gtp_|overlap|comm_backend|tp_comm|use_ring_exchange"
    r"|recompute|checkpoint_activations|saved_activations|offload|delay_wgrad|delta_offload|defer_embedding_wgrad"
    r"|wgrad_deferral|cuda_graph|dispatcher|fusion|fused|grouped_gemm|single_grouped|deepep"
    r"|hybridep|ncclep|paged_stash|a2a_comm|kernel_backend|attention_backend|flash|nccl|symmetric_ar"
    r"|transformer_impl|use_te_|kitchen_attention_backend|persist_layer_norm|op_fuser"
    r"|cpu_initialization|perform_initialization|init_model_with_meta|manual_gc|empty_unused_memory"
    r"|_interval$|exit_|log|check_for|rejected_tracker|dump_|pin_cpu|prefill|cache_mla"
    r"|opt_param_scheduler|dataloader_type|make_vocab_size|decrease_batch_size|inference"
    r"|deterministic_mode|batch_invariant|per_layer_logging|ep_overlap|mlp_chunks"
    r"|max_seqlen_per_dp|microbatch_group|account_for|gradient_reduce|align_|config_logger"
    r"|precision_config_file|megatron_fsdp|^batch_size$|^warmup$|deprecated"
    r"|tensor_size|inflight"
)


@functools.cache
def _parser() -> argparse.ArgumentParser:
    from megatron.training.arguments import add_megatron_arguments

    return add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))


@functools.cache
def _options() -> dict[str, tuple[str, argparse.Action]]:
    """Of Megatron's parser: (title of its group, what reads it), by name in the namespace."""
    found: dict[str, tuple[str, argparse.Action]] = {}
    for group in _parser()._action_groups:
        for action in group._group_actions:
            if action.option_strings:  # of two spellings, the first
                found.setdefault(action.dest, (group.title or "", action))
    return found


def given(args, name: str) -> tuple[str, object] | None:
    """(the argument as it is written, its value) of a name in the namespace; JSON-able, of a switch
    "given" or "not given". None where this release or this run has no such argument."""
    if name not in _options() or not hasattr(args, name):
        return None
    _, action = _options()[name]
    value = getattr(args, name)
    written = max(action.option_strings, key=lambda option: option.startswith("--"))
    if isinstance(action, argparse._StoreTrueAction):
        return written, "given" if value else "not given"
    if isinstance(action, argparse._StoreFalseAction):
        return written, "not given" if value else "given"
    return written, _plain(value)


def number_arguments(args) -> dict[str, object]:
    """The arguments that change numbers, as they are written, with their values (JSON-able).

    `args`: Megatron's validated namespace, before training has changed it.
    """
    found: dict[str, object] = {}
    for name, (group, _) in _options().items():
        free = group in _FREE_GROUPS or _FREE_NAMES.search(name)
        if (not free or name in _FIXED) and (pair := given(args, name)) is not None:
            found[pair[0]] = pair[1]
    return found


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)
