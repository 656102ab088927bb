# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron plan [options] -- <arguments of the run>`: what a run needs, before it is started.

Parses and validates the arguments with Megatron's own code at the run's world size, on one CPU,
builds and measures each distinct pipeline stage without allocating it, and says what fits and how
long it takes. Exit status 0: it fits; 3: it does not; 2: an error.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from dataclasses import replace

from t3s_megatron.accuracy.verifiers import entry
from t3s_megatron.config import T3SConfig, add_t3s_arguments
from t3s_megatron.data.lengths import make_arrangement
from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.arguments import take_from_folder
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.planning.advice import advice
from t3s_megatron.planning.facts import Colocated, Layout
from t3s_megatron.planning.measurements import Costs, measuring
from t3s_megatron.planning.memory import GpuMemory, disk, gpu_memory, host_memory
from t3s_megatron.planning.reading import (
    answers_of,
    held_out_lengths,
    in_process_of,
    layout_of,
    samples_of,
    set_vocabulary,
    storage_of,
    tokenizer_of,
    unplanned,
)
from t3s_megatron.planning.report import PlannedRun, text
from t3s_megatron.planning.walk import Walk
from t3s_megatron.planning.work import (
    Speed,
    Work,
    computed_lengths,
)

GIB = 2**30
DOES_NOT_FIT = 3

_QWEN3_VOCABULARY = 151_936


def add_command(commands) -> None:
    """The `plan` command of `t3s-megatron`."""
    command = commands.add_parser(
        "plan",
        help="what a run will need: memory, disk, steps, tokens, time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="t3s-megatron plan [options] -- <arguments of the run>",
    )
    add = command.add_argument
    add("--world-size", type=int, help="GPUs of the run (default: WORLD_SIZE)")
    add("--gpus-per-node", type=int, default=8)
    add("--gpu-memory-gib", type=float, default=80.0)
    add(
        "--reserve-gib",
        type=float,
        default=6.0,
        help="for the CUDA context, NCCL, workspaces and fragmentation, which are not measured",
    )
    add(
        "--expert-load",
        type=float,
        default=1.25,
        help="tokens of the busiest expert-parallel rank, 1 for its even share",
    )
    add(
        "--vocabulary",
        type=int,
        default=_QWEN3_VOCABULARY,
        help="rows of the embedding where neither the arguments nor a folder that is here say it "
        "(default: Qwen3's)",
    )
    add("--mfu", type=float, default=0.35, help="model FLOPs utilisation the times rest on")
    add("--peak-tflops", type=float, default=989.0, help="of one GPU (default: H100 SXM, bf16)")
    add("--memory-bandwidth-tbs", type=float, default=3.35, help="of one GPU, in TB/s")
    add(
        "--generation-rate",
        type=float,
        metavar="TOKENS_S",
        help="tokens a second that a data-parallel rank, or a server, generates, where you have "
        "measured it "
        "(default: worked out from the memory bandwidth, a lower bound of the time)",
    )
    add(
        "--mean-answer-tokens",
        type=float,
        metavar="N",
        help="length of an answer of the student (default: the mean of the teacher's responses)",
    )
    add(
        "--export-bandwidth-gbs",
        type=float,
        default=2.0,
        help="at which all ranks together write the weights for a server, in GB/s",
    )
    add(
        "--host-ms-a-layer",
        type=float,
        default=1.3,
        metavar="MS",
        help="that Python takes to launch a layer of a decoding step of live generation",
    )
    add(
        "--server-gpus",
        type=int,
        metavar="N",
        help="GPUs of a server, where it is on those that train (default: those of a tensor-"
        "parallel group)",
    )
    add(
        "--server-memory",
        type=float,
        metavar="SHARE",
        help="share of such a GPU that it has while it is awake: vLLM's --gpu-memory-utilization "
        "(default: what training leaves)",
    )
    add(
        "--server-reserve-gib",
        type=float,
        default=3.0,
        help="of that, CUDA context, NCCL, graphs and workspaces, which it keeps while it sleeps",
    )
    add("--json", metavar="FILE", help="write every figure to this file too")
    add("arguments", nargs=argparse.REMAINDER, help="after --: what pretrain is given")
    command.set_defaults(run=run_command)  # fmt: skip


def run_command(options: argparse.Namespace) -> int:
    """T3SError for a run that cannot be planned."""
    argv = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Transformer Engine and Apex are missing, mostly
        planned = make_plan(argv, options)
    print(text(planned))
    if options.json:
        try:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(planned.to_dict(), file, indent=1)
        except OSError as error:
            raise T3SError(f"--json {options.json}: {error}") from None
    return 0 if planned.fits else DOES_NOT_FIT


def make_plan(argv: list[str], options: argparse.Namespace) -> PlannedRun:
    """`argv`: the run's arguments; `options`: of the command. Changes torch in this process."""
    world_size = _check(options)
    _become_a_planner()
    from t3s_megatron.megatron.fake_world.arguments import read_arguments
    from t3s_megatron.megatron.fake_world.stages import measure_model
    from t3s_megatron.megatron.releases import megatron_version

    args = read_arguments(
        argv, world_size, lambda parser: take_from_folder(add_t3s_arguments(parser), argv)
    )
    config = T3SConfig.from_args(args) if args.t3s else None
    if config is not None and config.needs_answers:
        entry(config.verifier)  # of a name that is none
    if not args.train_iters:
        raise T3SError("--train-iters is missing: the plan counts steps")
    tokenizer = tokenizer_of(args)
    notes: list[str] = []
    set_vocabulary(args, tokenizer, options.vocabulary, notes)
    samples = samples_of(args, tokenizer, notes)
    teachers = tuple(one.name for one in samples.teachers)
    if config is not None:
        config = config.for_teachers(teachers, args)
    layout = layout_of(args)
    held_out = held_out_lengths(config, args, tokenizer, notes)
    limit, reserve = round(options.gpu_memory_gib * GIB), round(options.reserve_gib * GIB)
    model = measure_model(args, options.expert_load)
    server = _server(options, layout, limit, gpu_memory(layout, model, None, reserve))
    answers = answers_of(config, args, samples, held_out, layout, server)
    in_process = in_process_of(answers, layout)
    if answers is not None and options.mean_answer_tokens is not None:
        answers = replace(answers, expected=min(options.mean_answer_tokens, answers.limit))
    asked = config or _plain(args.train_iters)
    colocated = None if answers is None else answers.colocated
    gpus = gpu_memory(layout, model, in_process, reserve, colocated)
    speed = Speed(
        options.peak_tflops * 1e12,
        options.mfu,
        options.memory_bandwidth_tbs * 1e12,
        options.generation_rate,
        options.export_bandwidth_gbs * 1e9,
        options.host_ms_a_layer * 1e-3,
    )
    lengths = computed_lengths(make_arrangement(args), samples)
    of_teachers = tuple(one.samples for one in samples.teachers)
    share = samples.share_of_profiles(0 if config is None else config.profile_samples)
    costs = Costs(layout, model, lengths, answers, speed, of_teachers, server, share)
    expected, longest = costs.walks(asked)
    worst = max(gpus, key=lambda gpu: gpu.total)
    per_node = min(options.gpus_per_node, world_size)
    if args.num_experts:
        notes.append(
            f"experts: the busiest rank is taken to get {options.expert_load:g} of its even share "
            "(--expert-load); routing decides"
        )
    notes += unplanned(config)
    if args.t3s_diffusion and answers is not None:
        notes.append(
            "answers of a diffusion student are planned as if every step set one token, an upper "
            "bound of their time; how many are set at once depends on the answers"
        )
    if in_process is not None and not in_process.cached:
        notes.append(
            "with context parallelism, and with gated delta nets, there is no key-value cache: "
            "every token computes its whole sequence"
        )
    return PlannedRun(
        release=megatron_version(),
        layout=layout,
        gpus_per_node=per_node,
        model=model,
        samples=samples,
        answers=answers,
        gpus=gpus,
        gpu_limit=limit,
        host=host_memory(model, storage_of(args), longest, per_node, colocated),
        disk=disk(model, storage_of(args), longest, samples, answers),
        expected=expected,
        longest=longest,
        work=_work(costs, expected, longest),
        measuring=measuring(asked, costs),
        speed=speed,
        notes=notes,
        advice=[]
        if worst.total <= limit
        else advice(layout, model, worst, limit, per_node, in_process),
    )


def _check(options: argparse.Namespace) -> int:
    world_size = options.world_size or int(os.environ.get("WORLD_SIZE", "0"))
    if world_size < 1:
        raise T3SError("how many GPUs? Give --world-size (before the --), or set WORLD_SIZE")
    positive = ("gpus_per_node", "gpu_memory_gib", "expert_load", "mfu", "peak_tflops",
                "vocabulary", "memory_bandwidth_tbs", "generation_rate", "mean_answer_tokens",
                "export_bandwidth_gbs", "host_ms_a_layer", "server_gpus", "server_memory",
                "server_reserve_gib")  # fmt: skip
    for name in positive:
        if getattr(options, name) is not None and not getattr(options, name) > 0:
            raise T3SError(f"--{name.replace('_', '-')} has to be above 0")
    if not options.arguments:
        raise T3SError("the arguments of the run are missing: t3s-megatron plan -- <arguments>")
    return world_size


def _server(
    options: argparse.Namespace, layout: Layout, limit: int, gpus: list[GpuMemory]
) -> Colocated:
    """One on GPUs that train, asleep meanwhile; its memory is stated, or what they leave."""
    memory = limit - max(gpu.resident for gpu in gpus)
    if options.server_memory is not None:
        memory = round(options.server_memory * limit)
    gpus_of_one = options.server_gpus or layout.tensor
    return Colocated(gpus_of_one, memory, round(options.server_reserve_gib * GIB))


def _become_a_planner() -> None:
    from t3s_megatron.entry import start_process

    start_process(["--t3s-device", "cpu"])
    from t3s_megatron.megatron.fake_world.cluster import install_fake_world

    install_fake_world()


def _plain(budget: int) -> MethodOptions:
    """Training without --t3s: one phase, nothing measured."""
    return MethodOptions(
        method="sft",
        budget=budget,
        profile_iters=budget,
        accuracy_interval=0,
        targeted_accuracy_interval=0,
    )


def _work(costs: Costs, expected: Walk, longest: Walk) -> dict[str, tuple[Work, Work]]:
    """By part of the run: (expected, at most)."""
    likely, most = costs.of(expected), costs.of(longest, longest=True)
    return {name: (likely[name], work) for name, work in most.items() if work.seconds}
