# SPDX-License-Identifier: Apache-2.0
"""The facts of a plan, out of Megatron's validated namespace and of the files it names, where those
are on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from t3s_megatron.config import T3SConfig
from t3s_megatron.data.lengths import has_delta_nets
from t3s_megatron.planning.facts import (
    Answers,
    Colocated,
    Layout,
    Samples,
    Servers,
    Storage,
    Teacher,
)
from t3s_megatron.servers.probes import PROBE_TOKENS, PROBES

#: Samples of the paper's corpora, where the data is not on this machine.
_PAPER_SAMPLES = 200
_USUAL_PROMPT = 256


def layout_of(args) -> Layout:
    """The run's parallel layout, and what one step is."""
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


def tokenizer_of(args):
    """The run's tokenizer; None where its folder is not on this machine."""
    from t3s_megatron.data.tokenizing import load_tokenizer
    from t3s_megatron.huggingface.arguments import has_tokenizer

    if args.tokenizer_model and has_tokenizer(args.tokenizer_model):
        return load_tokenizer(args.tokenizer_model)
    return None


def set_vocabulary(args, tokenizer, assumed: int, notes: list[str]) -> None:
    """`args.padded_vocab_size`, from where the run will take it: the student's folder, the
    arguments, or the tokenizer. Where those are not here, `assumed`."""
    from t3s_megatron.huggingface.architecture import fit_to_folder

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


def pad_vocabulary(args, size: int) -> None:
    """Set `padded_vocab_size` as Megatron does for a tokenizer of `size` tokens."""
    multiple = args.make_vocab_size_divisible_by * args.tensor_model_parallel_size
    args.padded_vocab_size = -(-size // multiple) * multiple


def samples_of(args, tokenizer, notes: list[str]) -> Samples:
    """The samples of --t3s-data, where they and the tokenizer are here; else the paper's number,
    as long as --seq-length allows. Adds to `notes` what is assumed."""
    sources = args.t3s_data or []
    if tokenizer is not None and sources and all(map(os.path.exists, sources)):
        from t3s_megatron.data.teachers import load_training_corpus, question

        corpus, parts = load_training_corpus(args, tokenizer)
        numbers: dict[tuple, int] = {}
        return Samples(
            counted=True,
            lengths=tuple(len(sample.tokens) for sample in corpus.samples),
            prompts=tuple(sample.prompt_length for sample in corpus.samples),
            teachers=tuple(
                Teacher(part.teacher, tuple(part.samples))
                for part in parts
                if part.teacher is not None
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


def held_out_lengths(config: T3SConfig | None, args, tokenizer, notes: list[str]) -> list[int]:
    """Lengths of the prompts that are never trained on. Adds to `notes` what is not here."""
    if config is None or not config.heldout_data:
        return []
    from t3s_megatron.data.teachers import load_heldout_corpus

    if tokenizer is None or not os.path.exists(config.heldout_data):
        notes.append(
            f"--t3s-heldout-data {config.heldout_data} is not on this machine: answers to it are "
            "not counted"
        )
        return []
    corpus = load_heldout_corpus(args, tokenizer)
    assert corpus is not None
    return [sample.prompt_length for sample in corpus.samples]


def answers_of(
    config: T3SConfig | None,
    args,
    samples: Samples,
    held_out: list[int],
    layout: Layout,
    server: Colocated | None = None,
) -> Answers | None:
    """What is generated, where the run asks for answers. `held_out`: lengths of those prompts.
    `server`: one on the training GPUs, for a run that has such."""
    if config is None or not config.needs_answers:
        return None
    # While training goes on; evaluations and held-out prompts are another matter.
    first = min(filter(None, (config.accuracy_prompts, config.profile_samples)), default=0)
    prompts = samples.asked(first)
    asked = prompts * config.accuracy_samples
    asked_in_profiles = tuple(
        len(one.samples[: first or None]) * config.accuracy_samples for one in samples.teachers
    )
    evaluated = sum(
        (samples.asked(0) + len(held_out)) * (config.report_samples if temperature > 0 else 1)
        for temperature in config.report_temperatures
    )
    longest_prompt = max([*samples.prompts, *held_out])
    limit = config.longest_answer(args.seq_length, longest_prompt)
    heldout = len(held_out[: config.accuracy_prompts or None]) * config.accuracy_samples
    heldout *= config.heldout_interval > 0
    on_a_rank = -(-max(asked, evaluated, heldout, *asked_in_profiles) // layout.data)
    return Answers(
        prompts=prompts,
        asked=asked,
        evaluated=evaluated,
        expected=min(float(limit), samples.targets / len(samples.lengths)),
        limit=limit,
        batch_size=min(config.generation_batch_size, on_a_rank),
        longest_prompt=longest_prompt,
        cached=layout.context == 1 and not has_delta_nets(args),
        servable=not config.diffusion,
        asked_in_profiles=asked_in_profiles,
        blocks=config.accuracy_blocks,
        heldout=heldout,
        heldout_interval=config.heldout_interval,
        servers=Servers(
            len(config.server_url),
            config.server_concurrency,
            config.accuracy_overlap,
            server if config.server_colocated else None,
        )
        if config.generation == "server"
        else None,
    )


def in_process_of(answers: Answers | None, layout: Layout) -> Answers | None:
    """What the live weights answer: all of it, or beside servers the probes."""
    if answers is None or answers.servers is None:
        return answers
    return replace(
        answers,
        limit=min(answers.limit, PROBE_TOKENS),
        batch_size=min(answers.batch_size, -(-PROBES // layout.data)),
    )


def unplanned(config: T3SConfig | None) -> Iterator[str]:
    """Notes on what may make a run shorter; by how much depends on its answers."""
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


def storage_of(args) -> Storage:
    """What the run writes beside its own folder."""
    return Storage(
        save_interval=args.save_interval if args.save else None,
        retain_interval=getattr(args, "save_retain_interval", None),
        keep=args.t3s_keep_checkpoints if getattr(args, "t3s", False) else None,
        saves_optimizer=not args.no_save_optim,
        # distrib_optimizer.py:1729: without the memory-efficient mode, on all ranks.
        gathers_optimizer=args.use_distributed_optimizer
        and args.dist_ckpt_optim_fully_reshardable
        and not args.distrib_optim_fully_reshardable_mem_efficient
        and not args.no_save_optim,
        export=bool(getattr(args, "t3s_hf_export", None)),
    )
