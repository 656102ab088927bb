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
from collections.abc import Iterator
from dataclasses import replace

from t3s_megatron.config import T3SConfig
from t3s_megatron.data.lengths import make_arrangement
from t3s_megatron.errors import T3SError
from t3s_megatron.method.phases import Plan
from t3s_megatron.planning.advice import advice
from t3s_megatron.planning.facts import Answers, Layout, Samples, Servers, Storage, Teacher
from t3s_megatron.planning.measurements import Costs, measuring
from t3s_megatron.planning.memory import disk, gpu_memory, host_memory
from t3s_megatron.planning.report import PlannedRun, text
from t3s_megatron.planning.walk import Walk
from t3s_megatron.planning.work import (
    Speed,
    Work,
    computed_lengths,
)
from t3s_megatron.servers.probes import PROBE_TOKENS, PROBES

GIB = 2**30
DOES_NOT_FIT = 3

#: Samples of the paper's corpora, where the data is not on this machine.
_PAPER_SAMPLES = 200
_USUAL_PROMPT = 256
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

    args = read_arguments(argv, world_size)
    config = T3SConfig.from_args(args) if args.t3s else None
    if not args.train_iters:
        raise T3SError("--train-iters is missing: the plan counts steps")
    tokenizer = _tokenizer(args)
    notes: list[str] = []
    _set_vocabulary(args, tokenizer, options.vocabulary, notes)
    samples = _samples(args, tokenizer, notes)
    teachers = tuple(one.name for one in samples.teachers)
    if config is not None:
        config = config.for_teachers(len(teachers), args)
    layout = _layout(args)
    answers = _answers(config, args, samples, _held_out(config, args, tokenizer, notes), layout)
    in_process = _in_process(answers, layout)
    if answers is not None and options.mean_answer_tokens is not None:
        answers = replace(answers, expected=min(options.mean_answer_tokens, answers.limit))
    plan = config.plan(args.train_iters, teachers) if config else _plain(args.train_iters)
    plan.validate()
    model = measure_model(args, options.expert_load)
    gpus = gpu_memory(layout, model, in_process, round(options.reserve_gib * GIB))
    speed = Speed(
        options.peak_tflops * 1e12,
        options.mfu,
        options.memory_bandwidth_tbs * 1e12,
        options.generation_rate,
        options.export_bandwidth_gbs * 1e9,
    )
    lengths = computed_lengths(make_arrangement(args), samples)
    scores = config is not None and config.scoring != "inline"
    of_teachers = tuple(one.samples for one in samples.teachers)
    costs = Costs(layout, model, lengths, answers, scores, speed, of_teachers)
    expected, longest = costs.walks(plan)
    limit = round(options.gpu_memory_gib * GIB)
    worst = max(gpus, key=lambda gpu: gpu.total)
    per_node = min(options.gpus_per_node, world_size)
    if args.num_experts:
        notes.append(
            f"experts: the busiest rank is taken to get {options.expert_load:g} of its even share "
            "(--expert-load); routing decides"
        )
    notes += _unplanned(config)
    if in_process is not None and not in_process.cached:
        notes.append(
            "with context parallelism there is no key-value cache: every token computes its whole "
            "sequence"
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
        host=host_memory(model, longest, per_node),
        disk=disk(model, _storage(args), longest, samples, answers),
        expected=expected,
        longest=longest,
        work=_work(costs, expected, longest),
        measuring=measuring(plan, costs),
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
                "export_bandwidth_gbs")  # fmt: skip
    for name in positive:
        if getattr(options, name) is not None and not getattr(options, name) > 0:
            raise T3SError(f"--{name.replace('_', '-')} has to be above 0")
    if not options.arguments:
        raise T3SError("the arguments of the run are missing: t3s-megatron plan -- <arguments>")
    return world_size


def _become_a_planner() -> None:
    from t3s_megatron.megatron.start import start_process

    start_process(["--t3s-device", "cpu"])
    from t3s_megatron.megatron.fake_world.cluster import install_fake_world

    install_fake_world()


def _layout(args) -> Layout:
    return Layout(
        world_size=args.world_size,
        tensor=args.tensor_model_parallel_size,
        pipeline=args.pipeline_model_parallel_size,
        virtual=args.virtual_pipeline_model_parallel_size or 1,
        context=args.context_parallel_size,
        expert=args.expert_model_parallel_size,
        expert_tensor=args.expert_tensor_parallel_size or 1,
        data=args.data_parallel_size,
        global_batch_size=args.global_batch_size,
        micro_batch_size=args.micro_batch_size,
        seq_length=args.seq_length,
        sequence_parallel=args.sequence_parallel,
        distributed_optimizer=args.use_distributed_optimizer,
        recompute=args.recompute_granularity,
    )


def _tokenizer(args):
    """None where its folder is not on this machine."""
    from t3s_megatron.run.inputs import load_tokenizer

    if args.tokenizer_model and os.path.isdir(args.tokenizer_model):
        return load_tokenizer(args.tokenizer_model)
    return None


def _set_vocabulary(args, tokenizer, assumed: int, notes: list[str]) -> None:
    """`args.padded_vocab_size`, from where the run will take it: the student's folder, the
    arguments, or the tokenizer. Where those are not here, `assumed`."""
    from t3s_megatron.huggingface.architecture import fit_to_folder
    from t3s_megatron.megatron.fake_world.arguments import pad_vocabulary

    folder, tensor = args.t3s_hf_model, args.tensor_model_parallel_size
    if folder is not None and os.path.isdir(folder):
        fit_to_folder(args, folder)
        return
    if folder is not None:
        notes.append(f"{folder} is not on this machine: that it fits the arguments is not checked")
    if args.padded_vocab_size is not None:
        return
    size = args.vocab_size if tokenizer is None else len(tokenizer)
    if size is None:
        size = assumed
        notes.append(f"a vocabulary of {size:,} is assumed (--vocabulary, before the --)")
    if folder is None:
        pad_vocabulary(args, size)
    else:  # the folder's rows, and no more than what tensor parallelism needs
        args.padded_vocab_size = -(-size // tensor) * tensor


def _samples(args, tokenizer, notes: list[str]) -> Samples:
    """Of the data, where it and the tokenizer are here; else as long as --seq-length allows."""
    sources = args.t3s_data or []
    if tokenizer is not None and sources and all(map(os.path.exists, sources)):
        from t3s_megatron.data.teachers import question
        from t3s_megatron.run.inputs import load_training_corpus

        corpus, parts = load_training_corpus(args, tokenizer)
        numbers: dict[tuple, int] = {}
        return Samples(
            counted=True,
            lengths=tuple(len(sample.tokens) for sample in corpus.samples),
            prompts=tuple(sample.prompt_length for sample in corpus.samples),
            teachers=tuple(
                Teacher(part.teacher, part.samples) for part in parts if part.teacher is not None
            ),
            questions=tuple(
                numbers.setdefault(question(sample), len(numbers)) for sample in corpus.samples
            ),
        )
    return _assumed_samples(args, tokenizer, sources, notes)


def _assumed_samples(args, tokenizer, sources: list[str], notes: list[str]) -> Samples:
    """Each of several sources is taken for a teacher's, over the same prompts."""
    from t3s_megatron.data.teachers import datasets_of, named_after

    sources = list(datasets_of(sources))
    missing = "--t3s-data" if tokenizer is not None else "--tokenizer-model"
    notes.append(
        f"{missing} is not on this machine: {_PAPER_SAMPLES} samples of --seq-length "
        f"{args.seq_length} are assumed{' for each source' if len(sources) > 1 else ''}, with "
        f"prompts of {_USUAL_PROMPT}. Plan where data and tokenizer are, to have them counted"
    )
    prompt, n = min(_USUAL_PROMPT, args.seq_length // 2), _PAPER_SAMPLES
    count = n * max(1, len(sources))
    teachers = [
        Teacher(named_after(source), tuple(range(k * n, (k + 1) * n)))
        for k, source in enumerate(sources)
    ]
    return Samples(
        counted=False,
        lengths=(args.seq_length,) * count,
        prompts=(prompt,) * count,
        teachers=tuple(teachers) if len(teachers) > 1 else (),
        questions=tuple(i % n for i in range(count)),
    )


def _corpus(args, tokenizer, path: str | None, split: str):
    """None where it or the tokenizer is not on this machine. T3SError for data with errors."""
    from t3s_megatron.data.records import load_records
    from t3s_megatron.run.inputs import build_corpus

    if tokenizer is None or path is None or not os.path.exists(path):
        return None
    how = dict(prompt_format=args.t3s_prompt_format, overlong=args.t3s_overlong)
    records = load_records(path, split=split, ignored=args.t3s_ignore_fields)
    return build_corpus(records, args, tokenizer, **how)


def _held_out(config, args, tokenizer, notes: list[str]) -> list[int]:
    """Lengths of the prompts that are asked in evaluations only."""
    if config is None or not (config.heldout_data and config.report_temperatures):
        return []
    corpus = _corpus(args, tokenizer, config.heldout_data, config.heldout_data_split)
    if corpus is None:
        notes.append(
            f"--t3s-heldout-data {config.heldout_data} is not on this machine: answers to it are "
            "not counted"
        )
        return []
    return [sample.prompt_length for sample in corpus.samples]


def _answers(config, args, samples: Samples, held_out: list[int], layout: Layout) -> Answers | None:
    if config is None or not config.needs_answers:
        return None
    prompts = samples.asked(config.accuracy_prompts)
    asked = prompts * config.accuracy_samples
    asked_in_profiles = tuple(
        len(one.samples[: config.accuracy_prompts or None]) * config.accuracy_samples
        for one in samples.teachers
    )
    evaluated = sum(
        (samples.asked(0) + len(held_out)) * (config.report_samples if temperature > 0 else 1)
        for temperature in config.report_temperatures
    )
    longest_prompt = max([*samples.prompts, *held_out])
    limit = config.max_new_tokens or args.seq_length + 1 - longest_prompt
    on_a_rank = -(-max(asked, evaluated, *asked_in_profiles) // layout.data)
    return Answers(
        prompts=prompts,
        asked=asked,
        evaluated=evaluated,
        expected=min(float(limit), samples.targets / len(samples.lengths)),
        limit=limit,
        batch_size=min(config.generation_batch_size, on_a_rank),
        longest_prompt=longest_prompt,
        cached=layout.context == 1,
        asked_in_profiles=asked_in_profiles,
        blocks=config.accuracy_blocks,
        servers=Servers(len(config.server_url), config.server_concurrency, config.accuracy_overlap)
        if config.generation == "server"
        else None,
    )


def _in_process(answers: Answers | None, layout: Layout) -> Answers | None:
    """What the live weights answer: beside servers, the probes."""
    if answers is None or answers.servers is None:
        return answers
    return replace(
        answers,
        limit=min(answers.limit, PROBE_TOKENS),
        batch_size=min(answers.batch_size, -(-PROBES // layout.data)),
    )


def _unplanned(config: T3SConfig | None) -> Iterator[str]:
    """What may make a run shorter, by how much depends on its answers."""
    if config is None or not config.measures_profile or not config.detects:
        return
    if config.accuracy_blocks > 1:
        yield (
            "--t3s-accuracy-blocks: every measurement is planned with all of its answers, an upper "
            "bound; which of them end early depends on the answers"
        )
    if config.confirm_level:
        yield (
            "--t3s-confirm-level: every profile is planned up to --t3s-patience, an upper bound; a "
            "test that confirms theta_b sooner depends on the answers"
        )


def _storage(args) -> Storage:
    return Storage(
        save_interval=args.save_interval if args.save else None,
        retain_interval=getattr(args, "save_retain_interval", None),
        saves_optimizer=not args.no_save_optim,
        export=bool(getattr(args, "t3s_hf_export", None)),
    )


def _plain(budget: int) -> Plan:
    """Training without --t3s: one phase, nothing measured."""
    return Plan(method="sft", budget=budget, profile_iters=budget, accuracy_interval=0,
                measure_final=False)  # fmt: skip


def _work(costs: Costs, expected: Walk, longest: Walk) -> dict[str, tuple[Work, Work]]:
    """By part of the run: (expected, at most)."""
    likely, most = costs.of(expected), costs.of(longest, longest=True)
    return {name: (likely[name], work) for name, work in most.items() if work.seconds}
