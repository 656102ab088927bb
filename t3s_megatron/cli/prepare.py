# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron prepare`: the paper's training data, in three steps (docs/teacher_data.md).

prompts   the prompts and gold answers of BOBA-200 or S1K-200, out of the published file
generate  several answers of a teacher to each, through an OpenAI-compatible server
filter    one verified answer to each prompt: what --t3s-data reads
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

from t3s_megatron.accuracy.pool import Limits, VerifierPool
from t3s_megatron.data.durable import check_folder, sha256_file, write_bytes
from t3s_megatron.errors import DataError, T3SError
from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Dialect
from t3s_megatron.teacher_data.filtering import training_row, verify_and_choose
from t3s_megatron.teacher_data.generating import Generated, Sampling, generate
from t3s_megatron.teacher_data.prompts import load_prompts, write_rows
from t3s_megatron.teacher_data.recipes import RECIPES, choose, trace_rows
from t3s_megatron.teacher_data.report import make_report, text, to_json
from t3s_megatron.teacher_data.sample_file import SampleFile
from t3s_megatron.teacher_data.traces import Asked, Trace, load_traces
from t3s_megatron.teacher_data.unanswered import by_prompt

#: `generate`: some samples were not answered.
INCOMPLETE = 3


def add_command(commands) -> None:
    """The `prepare` command of `t3s-megatron`."""
    command = commands.add_parser(
        "prepare",
        help="training data: prompts, teachers' answers, one verified answer each",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = command.add_subparsers(dest="step", required=True)
    _add_prompts(steps)
    _add_generate(steps)
    _add_filter(steps)


def _add_prompts(steps) -> None:
    step = steps.add_parser("prompts", help="prompts and gold answers out of a published file")
    add = step.add_argument
    add("source", help="the published file: .jsonl, .parquet, a saved dataset or a dataset's name")
    add("--recipe", required=True, choices=list(RECIPES))
    add("--output", required=True, metavar="FILE", help="prompts, as .jsonl")
    add("--traces", metavar="FILE", help="write the published answers to them too, for `filter`")
    add("--count", type=positive, default=200, help="how many, drawn uniformly (default: 200)")
    add("--seed", type=int, default=0)
    add("--split", default="train", help="of a dataset (default: train)")
    add("--instruction", help="follows prompts that do not ask for a box (default: the recipe's)")
    _add_verifier(step)
    step.set_defaults(run=_prompts)


def _add_generate(steps) -> None:
    paper = Sampling("", "")
    step = steps.add_parser(
        "generate",
        help="a teacher's samples, through an OpenAI-compatible server",
        description="Asks POST /v1/chat/completions. Started again, it asks for what is missing. "
        "What the server refuses, while it answers others, is not asked for again. Exit status 3: "
        "the same command may get more. T3S_SERVER_API_KEY: a bearer token.",
    )
    add = step.add_argument
    add("prompts", help="prompts and gold answers: .jsonl, .parquet or a dataset")
    add("--output", required=True, metavar="FILE", help="samples are appended here, as .jsonl")
    add("--url", required=True, action="append", help="of a server; may be given several times")
    add("--model", required=True, help="the teacher, as the server calls it")
    add("--teacher", help="the teacher's name in the data (default: --model)")
    add("--samples", type=positive, default=paper.samples, help="a prompt (default: 16)")
    add("--temperature", type=float, default=paper.temperature)
    add("--top-p", type=float, default=paper.top_p)
    add("--max-tokens", type=positive, default=paper.max_tokens, help="(default: 32768)")
    add("--seed", type=int, default=paper.seed)
    add("--concurrency", type=positive, default=64, help="requests in flight at each URL")
    add("--timeout", type=float, default=3600.0, help="seconds one attempt may take")
    add("--retries", type=int, default=4, help="attempts after the first one")
    add("--extra", type=json_object, help="further fields of every request, as a JSON object")
    add("--ask-refused", action="store_true", help="ask again for samples that were refused")
    add(
        "--max-tokens-name",
        default=Dialect().max_tokens,
        choices=("max_tokens", "max_completion_tokens"),
        help="what the server calls the limit of --max-tokens",
    )
    add("--answering-model", metavar="NAME", help="in replies, where it is not --model")
    add(
        "--no-usage",
        action="store_true",
        help="take replies that do not count their tokens; lengths are not known then",
    )
    add("--split", default="train", help="of a dataset (default: train)")
    _add_ignored(step)
    step.set_defaults(run=_generate)


def _add_filter(steps) -> None:
    step = steps.add_parser(
        "filter", help="verify every sample, keep one correct one of each teacher to each prompt"
    )
    add = step.add_argument
    add("sources", nargs="+", help="samples: .jsonl, .parquet, saved datasets or datasets' names")
    add("--output", required=True, metavar="FILE", help="what --t3s-data reads, as .jsonl")
    add("--report", metavar="FILE", help="as JSON (default: beside the output)")
    add("--seed", type=int, default=0, help="which of the correct samples is kept")
    add("--split", default="train", help="of a dataset (default: train)")
    add("--teacher", help="keep this teacher's samples only; rows without one are taken for its")
    add(
        "--require-thinking",
        action="store_true",
        help="a sample without </think> was cut off: for samples without a finish reason",
    )
    add("--tokenizer-model", metavar="DIR", help="report lengths in this tokenizer's tokens")
    _add_ignored(step)
    _add_verifier(step)
    step.set_defaults(run=_filter)


def _add_ignored(step) -> None:
    step.add_argument(
        "--ignore-fields",
        "--t3s-ignore-fields",
        nargs="+",
        default=[],
        metavar="NAME",
        help="fields of a row that are no part of its conversation: text in others is refused",
    )


def _add_verifier(step) -> None:
    # Under the names of a run's arguments too: messages of the verifiers speak of those.
    limits = Limits()
    add = step.add_argument
    add("--verifier", "--t3s-verifier", default="math", help="as --t3s-verifier (default: math)")
    add("--workers", "--t3s-verify-workers", type=positive, default=limits.workers)
    add("--verify-timeout", "--t3s-verify-timeout", type=float, default=limits.timeout)
    add("--verify-memory", "--t3s-verify-memory", type=float, default=limits.memory)


def _limits(options: argparse.Namespace) -> Limits:
    if options.verify_timeout <= 0 or options.verify_memory <= 0:
        raise T3SError("--verify-timeout and --verify-memory have to be positive")
    return Limits(options.verify_timeout, options.workers, options.verify_memory)


def positive(value: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("has to be at least 1")
    return number


def json_object(value: str) -> dict:
    """A JSON object, for argparse."""
    made = json.loads(value)
    if not isinstance(made, dict):
        raise argparse.ArgumentTypeError("has to be a JSON object")
    return made


def _prompts(options: argparse.Namespace) -> int:
    recipe = RECIPES[options.recipe]
    report_path = _beside(options.output)
    for path in filter(None, (options.output, options.traces, report_path)):
        _check_output(path, [options.source])
    with VerifierPool(options.verifier, _limits(options)) as pool:
        pool.load()
        chosen = choose(
            recipe,
            options.source,
            seed=options.seed,
            count=options.count,
            instruction=options.instruction,
            split=options.split,
            pool=pool,
        )
    print(f"{recipe.name}: {chosen.rows} rows, {chosen.qualified} problems qualify")
    for why, n in chosen.left_out.counts.most_common():
        print(f"  left out {n}: {why} (first {chosen.left_out.first[why]})")
    traces = trace_rows(chosen.problems)
    if options.traces and not traces:
        raise DataError(f"{options.source}: has no answers of teachers; leave out --traces")
    if len(chosen.problems) < options.count:
        print(f"  fewer than --count {options.count}: all of them are taken")
    # In an order of their own: files of the same prompts are the same.
    rows = sorted((one.prompt.to_row() for one in chosen.problems), key=lambda row: row["id"])
    write_rows(options.output, rows)
    if options.traces:
        write_rows(options.traces, sorted(traces, key=lambda row: (row["teacher"], row["id"])))
        print(f"{options.traces}: {len(traces)} published answers")
    report = {
        "source": {options.source: _fingerprint(options.source)},
        "recipe": recipe.name,
        "seed": options.seed,
        "verifier": options.verifier,
        "rows": chosen.rows,
        "qualified": chosen.qualified,
        "left_out": [
            {
                "why": why,
                "rows": n,
                "first": chosen.left_out.first[why],
                "sources": dict(chosen.left_out.sources.get(why, {})),
            }
            for why, n in chosen.left_out.counts.most_common()
        ],
        "output": options.output,
        "output_sha256": sha256_file(options.output),
    }
    write_bytes(report_path, to_json(report))
    print(f"{options.output}: {len(rows)} prompts; report: {report_path}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    if options.temperature < 0 or not 0 < options.top_p <= 1 or options.timeout <= 0:
        raise T3SError("--temperature from 0, --top-p in (0, 1], --timeout above 0")
    if options.retries < 0:
        raise T3SError("--retries has to be 0 or more")
    _check_output(options.output, [options.prompts])
    prompts = load_prompts(options.prompts, split=options.split, ignored=options.ignore_fields)
    sampling = Sampling(
        options.teacher or options.model,
        options.model,
        options.samples,
        options.temperature,
        options.top_p,
        options.max_tokens,
        options.seed,
        options.extra,
    )
    client = Client(
        options.url,
        options.model,
        concurrency=options.concurrency,
        timeout=options.timeout,
        retries=options.retries,
        extra=options.extra,
        dialect=Dialect(options.max_tokens_name, options.answering_model, not options.no_usage),
        say=_say,
    )
    with SampleFile(options.output) as file:
        try:
            made = generate(prompts, sampling, client, file, _say, ask_refused=options.ask_refused)
        except KeyboardInterrupt:
            _say("interrupted; the same command goes on")
            return 130
    whole = len(prompts) * sampling.samples
    print(
        f"{options.output}: {made.before + made.answered} of {whole} samples; {made.tokens} tokens "
        f"now, {made.truncated} samples met the length limit"
    )
    _say_what_is_missing(made)
    if made.answered and made.thinking < made.answered:
        _say(
            f"{made.answered - made.thinking} of {made.answered} answers have no thinking, neither "
            "apart nor in <think> tags. If the teacher thinks, its thoughts stand in the answers: "
            "start its server with a reasoning parser, or give --require-thinking to `filter`"
        )
    return INCOMPLETE if made.failed else 0


def _say_what_is_missing(made: Generated) -> None:
    for line in by_prompt(made.refused):
        _say(line)
    if made.refused:
        _say(f"{len(made.refused)} samples are refused, and not asked for again: see --ask-refused")
    if made.failed:
        _say(f"{made.failed} were not answered, the first one: {made.why}")
        _say("the same command asks for them again")
    if made.refused or made.failed:
        _say(f"{made.path_of_unanswered} tells of them")


def _filter(options: argparse.Namespace) -> int:
    report_path = options.report or _beside(options.output)
    for path in (options.output, report_path):
        _check_output(path, options.sources)
    limits = _limits(options)
    asked = load_traces(
        options.sources,
        split=options.split,
        teacher=options.teacher,
        ignored=options.ignore_fields,
    )
    if options.teacher is not None:
        names = sorted({one.teacher or "" for one in asked})
        asked = [one for one in asked if one.teacher == options.teacher]
        if not asked:
            raise DataError(f"--teacher {options.teacher}: only {', '.join(names)} answered")
    length, unit = _length(options.tokenizer_model, asked)
    results = verify_and_choose(
        asked,
        options.verifier,
        limits,
        seed=options.seed,
        thinking_required=options.require_thinking,
        progress=_progress,
    )
    rows = [training_row(result) for result in results if result.kept is not None]
    settings = {
        "sources": {path: _fingerprint(path) for path in options.sources},
        "verifier": options.verifier,
        "seed": options.seed,
        "output": options.output,
    }
    report = make_report(results, length, unit, **settings)
    print(text(report))
    if not rows:
        write_bytes(report_path, to_json(report))
        raise DataError(f"nothing is left to train on; {report_path} says what became of it")
    write_rows(options.output, rows)
    # Which output it tells of can be checked, since two files cannot be replaced at once.
    write_bytes(report_path, to_json({**report, "output_sha256": sha256_file(options.output)}))
    print(f"{options.output}: {len(rows)} samples; report: {report_path}")
    return 0


def _beside(output: str) -> str:
    """Where the report of `output` stands when it is not said."""
    return os.path.splitext(output)[0] + ".report.json"


def _check_output(path: str, sources: list[str]) -> None:
    """Before time is spent."""
    if not path.endswith((".jsonl", ".json")) or os.path.isdir(path):
        raise T3SError(f"{path}: name a file that ends with .jsonl, which is what it will be")
    if os.path.realpath(path) in map(os.path.realpath, sources):
        raise T3SError(f"{path}: would replace its own source; name another file")
    check_folder(os.path.dirname(os.path.abspath(path)))


def _length(
    tokenizer_model: str | None, asked: list[Asked]
) -> tuple[Callable[[Trace], int | None], str]:
    """How a trace is measured, and in what."""
    if tokenizer_model is not None:
        from t3s_megatron.data.tokenizing import load_tokenizer

        encode = load_tokenizer(tokenizer_model).encode
        return lambda trace: len(encode(trace.response, add_special_tokens=False)), "tokens"
    if all(trace.tokens is not None for one in asked for trace in one.traces):
        return lambda trace: trace.tokens, "tokens, as the server counted"
    return lambda trace: len(trace.response), "characters"


def _fingerprint(path: str) -> str | None:
    return sha256_file(path) if os.path.isfile(path) else None


def _progress(done: int, total: int) -> None:
    _say(f"verified {done} of {total} samples")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
