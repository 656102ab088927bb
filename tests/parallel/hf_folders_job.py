# SPDX-License-Identifier: Apache-2.0
"""Several Hugging Face folders through the live model of one layout: read, run, written again.

The command line has the layout and nothing of the models. CASES=FILE names a JSON list of
{"folder", "out", "arguments"}; into each `out` goes the exported folder, and beside it `out`.pt
with the logits of TOKENS, the losses of the tokens that follow, the greedy answers to PROMPTS, and
the number of entries of which a gradient's norm is. `out`-gradients is a folder too: instead of
each weight the gradient of the mean of those losses.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import torch

TOKENS = torch.arange(2 * 32).view(2, 32) * 37 % 23
LABELS = TOKENS.roll(-1, 1)
PROMPTS = [[3, 5, 7, 11, 2], [9, 8, 6, 4]]
ANSWER = 8


def main() -> None:
    from t3s_megatron.entry import start_process

    start_process(sys.argv)
    from megatron.training import get_args
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.global_vars import set_args
    from megatron.training.initialize import initialize_megatron
    from megatron.training.training import get_model

    from t3s_megatron.megatron.hf_folders import HuggingFaceFolders
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.releases import parse_arguments
    from t3s_megatron.megatron.vocabulary import leave_out_padding
    from t3s_megatron.plugin import T3S

    with open(os.environ["CASES"]) as file:
        cases = json.load(file)
    # Megatron checks gradients inside its own training step only.
    layout = [*sys.argv, "--no-check-for-nan-in-loss-and-grad"]
    for number, case in enumerate(cases):
        folders = ["--t3s-hf-model", case["folder"], "--t3s-hf-export", case["out"]]
        sys.argv = [*layout, *folders, *case["arguments"]]
        if number == 0:
            parse_arguments(T3S().add_arguments, {})
            initialize_megatron()
        else:
            args = parse_args(T3S().add_arguments)
            validate_args(args)
            set_args(args)
        args = get_args()
        folders = HuggingFaceFolders(args)
        model = get_model(model_provider)
        folders.load(model)
        leave_out_padding(model, args)  # as a run does
        found = {
            "logits": forward(model, args),
            "losses": forward(model, args, LABELS),
            "answers": answers(model, args),
        }
        folders.export(model, 0)
        become_gradients(model, args)
        found["counted"] = counted(model)
        if found["logits"] is not None:
            torch.save(found, case["out"] + ".pt")
        folders.export_to += "-gradients"
        folders.export(model, 0)
    torch.distributed.barrier()


def scheduled(model: list, args, step, **kind) -> list:
    """What Megatron's schedule of the layout makes of `step` over TOKENS."""
    from megatron.core.pipeline_parallel import get_forward_backward_func

    many = len(model) > 1
    return get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=[None] * len(model) if many else None,
        model=model if many else model[0],
        num_microbatches=args.pipeline_model_parallel_size,
        seq_length=TOKENS.shape[1],
        micro_batch_size=TOKENS.shape[0],
        **kind,
    )


@torch.no_grad()
def forward(model: list, args, labels: torch.Tensor | None = None) -> torch.Tensor | None:
    """float32 [b, s, padded vocabulary] of TOKENS on one rank, None on the others; with `labels`
    their losses [b, s]."""
    from megatron.core import mpu
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    positions = torch.arange(TOKENS.shape[1]).expand_as(TOKENS).contiguous()

    def collect(output, loss_or_data, non_loss_data=False):
        if labels is not None:
            return output
        return gather_from_tensor_model_parallel_region(output)

    def step(data_iterator, chunk):
        output = chunk(TOKENS, positions, None, labels=labels)
        return output, partial(collect, output)

    for chunk in model:
        chunk.eval()
    logits = scheduled(model, args, step, forward_only=True, collect_non_loss_data=True)
    speaks = (
        mpu.is_pipeline_last_stage(ignore_virtual=True)
        and mpu.get_tensor_model_parallel_rank() == 0
        and mpu.get_data_parallel_rank() == 0
    )
    return logits[0] if speaks else None


def become_gradients(model: list, args) -> None:
    """Every parameter becomes its gradient, as it is when the optimizer takes its step."""
    from megatron.core.distributed import finalize_model_grads
    from megatron.core.utils import get_model_config

    positions = torch.arange(TOKENS.shape[1]).expand_as(TOKENS).contiguous()
    get_model_config(model[0]).finalize_model_grads_func = finalize_model_grads

    def total(losses):
        return losses.sum(), torch.tensor(losses.numel(), dtype=torch.int), {}

    def step(data_iterator, chunk):
        return chunk(TOKENS, positions, None, labels=LABELS), total

    for chunk in model:
        chunk.train()
        chunk.zero_grad_buffer()
    scheduled(model, args, step, forward_only=False)
    for chunk in model:
        for name, parameter in chunk.named_parameters():
            parameter.data.copy_(parameter.main_grad)
            if name.endswith(".out_norm.weight"):  # a folder has it as a difference from zero
                parameter.data -= 1


def counted(model: list) -> int:
    """Entries of the gradient that go into its norm, on all ranks together."""
    from megatron.core import mpu
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    groups = {
        True: mpu.get_model_parallel_group(),
        False: mpu.get_expert_tensor_model_pipeline_parallel_group(),
    }
    tensor_groups = mpu.get_tensor_model_parallel_group(), mpu.get_expert_tensor_parallel_group()
    entries = {common: torch.zeros((), dtype=torch.long) for common in groups}
    for parameter in (parameter for chunk in model for parameter in chunk.parameters()):
        counts = param_is_not_tensor_parallel_duplicate(parameter, *tensor_groups)
        if counts and param_is_not_shared(parameter):
            entries[getattr(parameter, "allreduce", True)] += parameter.numel()
    for common, group in groups.items():
        torch.distributed.all_reduce(entries[common], group=group)
    return sum(entry.item() for entry in entries.values())


def answers(model: list, args) -> list[list[int]]:
    """Greedy, with the key-value cache; the end token never ends one."""
    from megatron.core.utils import get_model_config

    from t3s_megatron.megatron.generation import Sampling, generate
    from t3s_megatron.megatron.seam import CallbackContext

    context = CallbackContext(model, None, None, get_model_config(model[0]), None)
    sampling = Sampling(0, ANSWER, end_token=-1, seed=0, vocab_size=23, batch_size=2)
    return [answer.tokens for answer in generate(context, PROMPTS, sampling)]


if __name__ == "__main__":
    main()
