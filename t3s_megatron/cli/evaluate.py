# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron evaluate`: several students and their base on the same problems, through servers
that hold them (docs/evaluate.md).

A suite is a file of prompts and gold answers (as `prepare generate` reads them), verified here, or
one of the paper's: aime, ood, forgetting, paper, run by evalscope in an environment of its own.
The same command again goes on where it was killed, and takes up students that are served now.
"""

from __future__ import annotations

import argparse
import os
import sys

from t3s_megatron.accuracy import verifiers
from t3s_megatron.accuracy.pool import Limits, VerifierPool
from t3s_megatron.cli.prepare import INCOMPLETE, json_object, positive
from t3s_megatron.data.durable import check_folder
from t3s_megatron.errors import T3SError
from t3s_megatron.evaluation.benchmarks import evaluate_benchmark
from t3s_megatron.evaluation.evalscope import Evalscope
from t3s_megatron.evaluation.evaluate import (
    Asking,
    Evaluated,
    evaluate_file,
    fingerprint,
    write,
)
from t3s_megatron.evaluation.students import HOLDS, RELOADS, Student, read_student
from t3s_megatron.evaluation.suites import BENCHMARKS, SUITES
from t3s_megatron.monitor.comparison import BASE, as_text
from t3s_megatron.servers.exchange import base_url


def add_command(commands) -> None:
    """The `evaluate` command of `t3s-megatron`."""
    command = commands.add_parser(
        "evaluate",
        help="several students and their base on the same problems: who is better, by how much",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Exit status {INCOMPLETE}: answers are missing; the same command may get more. "
        "T3S_SERVER_API_KEY: a bearer token.",
    )
    add = command.add_argument
    add("--base", metavar="DIR", help="theta_0, which all others are compared with")
    add(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="a student's Hugging Face folder, once for each; the one called sft is compared with "
        "as well (default name: the folder's, of OUT/t3s/hf: t3s)",
    )
    add("--url", required=True, action="append", help="of a server; may be given several times")
    add(
        "--suite",
        required=True,
        action="append",
        metavar="FILE|NAME",
        help=f"prompts with gold answers, or {', '.join(SUITES)}; may be given several times",
    )
    add("--output", required=True, metavar="DIR", help="answers, verdicts, evaluation.json")
    add(
        "--reload",
        choices=RELOADS,
        default=HOLDS,
        help="how the servers are given each student in turn: vllm, sglang: their own call; model: "
        "the folder is the model's name in a request (transformers serve); no: each holds one "
        "already, and says which (default)",
    )
    add("--samples", type=positive, help="answers a problem (default: 16; a suite's own)")
    add("--verifier", default="math", help=f"of a file: {verifiers.names()} (default: math)")
    add("--temperature", type=float, default=0.6)
    add("--top-p", type=float, default=0.95)
    add("--max-tokens", type=positive, default=32_768, help="(default: 32768)")
    add("--seed", type=int, default=0)
    add("--concurrency", type=positive, help="requests in flight at each URL (default: 64)")
    add("--timeout", type=float, default=3600.0, help="seconds one attempt may take")
    add("--retries", type=int, default=4, help="attempts after the first one")
    add("--extra", type=json_object, help="further fields of every request, as a JSON object")
    add(
        "--probes",
        type=int,
        default=4,
        help="greedy answers by which a server is compared with the folder it should hold, whose "
        "weights are loaded here; 0: it is believed (default: 4)",
    )
    add("--workers", type=positive, default=4, help="processes of the verifier")
    add(
        "--evalscope-python",
        metavar="FILE",
        help="the Python of an environment with evalscope, for the paper's suites",
    )
    add(
        "--datasets",
        metavar="DIR",
        help="a folder with a folder of files for each of evalscope's datasets, where no hub can "
        "be reached (DIR/aime24/...)",
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        return run_command(args)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on")
        return 130


def run_command(args: argparse.Namespace) -> int:
    """T3SError for what is wrong with the command, before anything is asked."""
    students = _students(args)
    files, names = _suites(args.suite)
    if args.temperature < 0 or not 0 < args.top_p <= 1 or args.timeout <= 0 or args.probes < 0:
        raise T3SError(
            "--temperature from 0, --top-p in (0, 1], --timeout above 0, --probes from 0"
        )
    if names and not args.evalscope_python:
        raise T3SError(
            "the paper's suites are run by evalscope, which has an environment of its own: "
            "python3 -m venv ES && ES/bin/pip install evalscope==1.14.1, then give "
            "--evalscope-python ES/bin/python"
        )
    harness = Evalscope(args.evalscope_python) if names else None
    check_folder(args.output)
    asking = _asking(args, args.samples or 16)
    results: list[Evaluated] = []
    with VerifierPool(args.verifier, Limits(workers=args.workers)) as pool:
        if files:
            pool.load()
        for path in files:
            results.append(evaluate_file(path, students, asking, pool, args.output, _say))
    for name in names:
        assert harness is not None
        benchmark = BENCHMARKS[name]
        asked = _asking(args, args.samples or benchmark.samples)
        results.append(
            evaluate_benchmark(
                benchmark, students, asked, harness, args.datasets, args.output, _say
            )
        )
    compared = [found for one in results for found in one.comparisons if found.scores]
    print(as_text(compared))
    path = os.path.join(args.output, "evaluation.json")
    write(path, results, _settings(args, files))
    print(f"\n{path}")
    left = [why for one in results for why in one.left]
    for why in dict.fromkeys(left):
        _say(why)
    return INCOMPLETE if left else 0


def _students(args: argparse.Namespace) -> list[Student]:
    students = [read_student(f"{BASE}={args.base}")] if args.base else []
    students += [read_student(given) for given in args.model]
    names = [student.name for student in students]
    if not students:
        raise T3SError("nothing to evaluate: give --base DIR, --model NAME=DIR or both")
    if len(set(names)) < len(names):
        raise T3SError(f"two students have one name ({', '.join(names)}): give NAME=DIR")
    return students


def _suites(given: list[str]) -> tuple[list[str], list[str]]:
    """(files, benchmarks). T3SError for what is neither."""
    files, names = [], []
    for suite in given:
        if suite in SUITES:
            names += [name for name in SUITES[suite] if name not in names]
        elif suite in BENCHMARKS:
            names.append(suite)
        elif os.path.exists(suite):
            files.append(suite)
        else:
            raise T3SError(
                f"--suite {suite}: no file, and none of {', '.join((*SUITES, *BENCHMARKS))}"
            )
    return files, names


def _asking(args: argparse.Namespace, samples: int) -> Asking:
    return Asking(
        urls=tuple(map(base_url, args.url)),
        reload=args.reload,
        samples=samples,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.seed,
        # transformers serve has one seed for all that it does.
        concurrency=args.concurrency or (1 if args.reload == "model" else 64),
        timeout=args.timeout,
        retries=args.retries,
        probes=args.probes,
        extra=args.extra,
    )


def _settings(args: argparse.Namespace, files: list[str]) -> dict:
    kept = ("suite", "samples", "verifier", "temperature", "top_p", "max_tokens", "seed", "reload")
    return {name: getattr(args, name) for name in kept} | {
        "sha256": {path: fingerprint(path) for path in files}
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
