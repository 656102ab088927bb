# SPDX-License-Identifier: Apache-2.0
"""Which arrangement a run's Megatron arguments ask for, and which of them do not go together."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from t3s_megatron.data.arrangement import Arrangement, TrainingRows
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.errors import T3SError

#: Megatron arguments that take every micro-batch to have the same shape: it ...
FIXED_SHAPE = {
    "tp_comm_overlap": "allocates its communication buffers for --seq-length",
    "enable_cuda_graph": "captures one shape",
    "external_cuda_graph": "captures one shape",
    "moe_pad_expert_input_to_capacity": "exchanges equal numbers of tokens",
    "rampup_batch_size": "changes which samples a step is made of",
}

#: Tokens of a rank that the blocks of 8-bit matrix multiplications (MXFP8: 32) divide evenly.
_FP8_BLOCK = 32

#: Lengths of a diffusion student's copies on CUDA: each other length of a row is compiled anew.
_FLEX_LENGTH = 1024

#: With fewer micro-batches than this for each stage, a pipeline waits more than it works.
_MICRO_BATCHES_A_STAGE = 4


def choose_arrangement(args: argparse.Namespace) -> str:
    """`--t3s-arrangement`, or what it is by default: own at `--micro-batch-size 1`, else padded.

    `args` is Megatron's validated namespace. T3SError when something in it needs another one.
    """
    kind = args.t3s_arrangement or ("own" if args.micro_batch_size == 1 else "padded")
    if kind == "padded":
        _refuse_padded_moe_losses(args)
    else:
        _refuse_fixed_shapes(kind, args)
    if args.t3s_diffusion:
        _refuse_whole_rows(kind, args)
    if kind == "packed" and args.context_parallel_size > 1:
        raise T3SError(
            "--t3s-arrangement packed does not work with --context-parallel-size > 1, which cuts "
            "up long samples: choose --t3s-arrangement own"
        )
    if kind == "packed" and _delta_nets_cross_samples(args):
        raise T3SError(
            "--t3s-arrangement packed does not work with gated delta nets on a CPU or with "
            "--deterministic-mode: Megatron's torch form of them (ssm/gated_delta_net) does not "
            "begin anew with each sample of a row. Choose --t3s-arrangement own"
        )
    at_once = args.micro_batch_size * args.data_parallel_size
    if args.global_batch_size % at_once:  # Megatron may leave samples out then
        raise T3SError(
            f"--global-batch-size {args.global_batch_size} has to be divisible by the {at_once} "
            "samples that all data-parallel ranks take at once"
        )
    multiple = _multiple(kind, args)
    if args.seq_length % multiple:
        raise T3SError(
            f"--seq-length {args.seq_length} has to be divisible by {multiple}: tensor parallelism "
            "with --sequence-parallel, context parallelism and 8-bit formats cut rows up"
        )
    return kind


def make_arrangement(args: argparse.Namespace) -> Arrangement:
    """The arrangement of a run. T3SError as `choose_arrangement`."""
    kind = choose_arrangement(args)
    stages = args.pipeline_model_parallel_size
    interleaved = (args.virtual_pipeline_model_parallel_size or 1) > 1
    group = getattr(args, "microbatch_group_size_per_vp_stage", None) or stages
    return Arrangement(
        kind,
        args.seq_length,
        multiple=_multiple(kind, args),
        ranks=args.data_parallel_size,
        micro_batch_size=args.micro_batch_size,
        stages=stages if interleaved else 1,
        group=group if interleaved else 1,
        fewest=_MICRO_BATCHES_A_STAGE * stages if stages > 1 else 1,
    )


def arrange_training(
    corpus: Corpus, seed: int, args: argparse.Namespace, samples: Sequence[int] | None = None
) -> TrainingRows:
    """Which samples each step is made of, and in which rows they stand. `samples`: corpus indices
    of those that are trained on, None for all. T3SError as `choose_arrangement`."""
    order = EpochOrder(len(corpus.samples) if samples is None else len(samples), seed)
    return TrainingRows(
        order, corpus.lengths, make_arrangement(args), args.global_batch_size, samples
    )


def _multiple(kind: str, args) -> int:
    """What the length of every row has to be divisible by."""
    multiple = 2 * args.context_parallel_size if args.context_parallel_size > 1 else 1
    if args.sequence_parallel:
        multiple *= args.tensor_model_parallel_size
    if kind != "padded" and (getattr(args, "fp8", None) or getattr(args, "fp4", None)):
        multiple *= _FP8_BLOCK
    if args.t3s_diffusion and uses_flex_attention(args):
        multiple = math.lcm(multiple, math.gcd(_FLEX_LENGTH, args.seq_length))
    return multiple


def uses_flex_attention(args: argparse.Namespace) -> bool:
    """Whether a diffusion student attends by FlexAttention, which cannot be trained on a CPU."""
    chosen = args.t3s_diffusion_attention
    return chosen == "flex" or (chosen == "auto" and args.distributed_backend != "gloo")


def has_delta_nets(args: argparse.Namespace) -> bool:
    """Whether the model has layers without keys and values, with a state that is carried on (gated
    delta nets)."""
    return getattr(args, "experimental_attention_variant", None) is not None


def _delta_nets_cross_samples(args) -> bool:
    if not has_delta_nets(args):
        return False
    return args.distributed_backend == "gloo" or getattr(args, "deterministic_mode", False)


def _refuse_whole_rows(kind: str, args) -> None:
    """What does not go with rows of two copies of a sample, cut into blocks."""
    if kind == "padded":
        raise T3SError(
            "--t3s-diffusion has rows of different lengths: use --micro-batch-size 1, and "
            "--t3s-arrangement own or packed"
        )
    if args.context_parallel_size > 1:
        raise T3SError(
            "--context-parallel-size does not work with --t3s-diffusion: it would cut blocks, and "
            "part the noisy copy of a sample from the clean one. Set it to 1"
        )
    if args.seq_length % args.t3s_block_size:
        raise T3SError(
            f"--seq-length {args.seq_length}, here the length of one copy of a sample, has to be "
            f"divisible by --t3s-block-size {args.t3s_block_size}"
        )


def _refuse_fixed_shapes(kind: str, args) -> None:
    given = f"--t3s-arrangement {kind}"
    if args.t3s_arrangement is None:
        given += " (the default at --micro-batch-size 1)"
    if args.micro_batch_size != 1:
        raise T3SError(
            f"{given} has rows of different lengths, so a micro-batch is one row: use "
            f"--micro-batch-size 1 (got {args.micro_batch_size}), or --t3s-arrangement padded"
        )
    if args.num_experts and args.moe_token_dispatcher_type == "allgather":
        raise T3SError(
            f"{given} has rows of different lengths, which the allgather dispatcher does not "
            "take: add --moe-token-dispatcher-type alltoall, or choose --t3s-arrangement padded"
        )
    if args.num_experts and "quantile_balancing" in _listed(args.moe_router_load_balancing_type):
        raise T3SError(
            f"--moe-router-load-balancing-type quantile_balancing does not work with {given}: it "
            "takes every row to have --seq-length tokens. Choose another, or --t3s-arrangement "
            "padded"
        )
    for name, why in FIXED_SHAPE.items():
        if getattr(args, name, None):
            raise T3SError(
                f"--{name.replace('_', '-')} does not work with {given}: it {why}. Drop it, or "
                "choose --t3s-arrangement padded"
            )
    if getattr(args, "cuda_graph_impl", None) not in (None, "none"):
        raise T3SError(
            f"--cuda-graph-impl {args.cuda_graph_impl} does not work with {given}: it captures "
            "one shape. Use none, or choose --t3s-arrangement padded"
        )


def _listed(value) -> list:
    """Of an argument of the router, which may be given once or once for each loss."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _refuse_padded_moe_losses(args) -> None:
    """Megatron's router losses have no mask on every pipeline stage: padding would be balanced
    like text."""
    if not args.num_experts:
        return
    losses = ["moe_z_loss_coeff"]
    if args.moe_router_load_balancing_type != "none":
        losses.append("moe_aux_loss_coeff")
    for name in losses:
        value = getattr(args, name)
        if any(_listed(value)):
            raise T3SError(
                f"--{name.replace('_', '-')} does not work with padded rows, whose padding it "
                "counts as tokens: use --micro-batch-size 1 with --t3s-arrangement own, or set it "
                "to 0"
            )
