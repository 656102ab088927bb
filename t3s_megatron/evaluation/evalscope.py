# SPDX-License-Identifier: Apache-2.0
"""evalscope as a process in an environment of its own: a configuration in, its report files out.

Never imported: its dependencies are not those of training. What is read are its files, which a
test holds to a recorded run of the real thing (tests/data/evalscope).

    WORK/reports/<model>/<dataset>.json           the score, how many were asked
    WORK/reviews/<model>/<dataset>_<subset>.jsonl     the verdict of each answer
    WORK/predictions/<model>/<dataset>_<subset>.jsonl how each ended, and its tokens
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.method.outcome import RIGHT, UNKNOWN, WRONG
from t3s_megatron.monitor.comparison import Answers, total_tokens

#: Releases whose files have been read, by their beginning.
KNOWN = ("1.14.",)
_SCHEMA = 2
#: What a prediction says that met the length limit.
_CUT_OFF = ("max_tokens", "length")
_VERSION = "import evalscope; print(evalscope.__version__)"
#: The key stands in no file.
_RUN = """
import json, os, sys
from evalscope.run import run_task
key = os.environ.get("T3S_SERVER_API_KEY", "EMPTY")
run_task(json.load(open(sys.argv[1])) | {"api_key": key})
"""


class Evalscope:
    """The evalscope of the environment of `python`. T3SError when it has none, or one whose files
    nobody has read."""

    def __init__(self, python: str):
        self.python = python
        try:
            done = subprocess.run(
                [python, "-c", _VERSION], capture_output=True, text=True, timeout=300
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise T3SError(f"--evalscope-python {python}: cannot be run ({error})") from None
        lines = done.stdout.split()
        if done.returncode or not lines:
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise T3SError(
                f"--evalscope-python {python}: has no evalscope ({last}): {python} -m pip install "
                "evalscope==1.14.1"
            )
        self.version = lines[-1]
        if not self.version.startswith(KNOWN):
            raise T3SError(
                f"--evalscope-python {python}: has evalscope {self.version}; files of "
                f"{', '.join(f'{known}x' for known in KNOWN)} can be read: {python} -m pip install "
                "evalscope==1.14.1"
            )

    def run(self, config: dict, work: str) -> None:
        """Run or go on with an evaluation in the folder `work`; what it says goes to work/log.

        T3SError when it fails, with the end of that.
        """
        path, log = os.path.join(work, "config.json"), os.path.join(work, "log")
        write_bytes(path, json.dumps(config, indent=1).encode())
        with open(log, "ab") as file:
            done = subprocess.run(
                [self.python, "-c", _RUN, path],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            with open(log, errors="replace") as file:
                end = "".join(file.readlines()[-5:]).strip()
            raise T3SError(f"evalscope failed, {log}: {end}")


def configuration(
    dataset: str,
    *,
    model: str,
    url: str,
    samples: int,
    sampling: dict,
    concurrency: int,
    work: str,
    datasets: str | None,
) -> dict:
    """What evalscope is told. No seed: with several answers a problem, a server that keeps to seeds
    would give the same one every time. `datasets`: a folder with a folder of this benchmark's own
    files, where the machine reaches no hub."""
    local = os.path.join(datasets, dataset) if datasets else None
    return {
        "model": model,
        "api_url": f"{url}/v1",
        "eval_type": "openai_api",
        "datasets": [dataset],
        "dataset_args": {dataset: {"dataset_id": local}} if local else {},
        "repeats": samples,
        "generation_config": sampling,
        "eval_batch_size": concurrency,
        "work_dir": work,
        "no_timestamp": True,
        # What is there is not asked again.
        **({"use_cache": work} if os.path.isdir(os.path.join(work, "predictions")) else {}),
    }


def read_answers(work: str, model: str, dataset: str, k: int) -> tuple[Answers, list[str]]:
    """What came of it, and what a reader has to know. MismatchError for files that are not there or
    not of the form that was read."""
    name = os.path.basename(os.path.normpath(model))
    report = _json(os.path.join(work, "reports", name, f"{dataset}.json"))
    if report.get("schema_version") != _SCHEMA or not report.get("metrics"):
        raise MismatchError(
            f"{work}: a report of schema {report.get('schema_version')}, {_SCHEMA} can be read"
        )
    reviews = list(_lines(work, "reviews", name, dataset))
    predictions = [line["model_output"] for _, line in _lines(work, "predictions", name, dataset)]
    try:
        ends = [one["choices"][0]["stop_reason"] for one in predictions]
        tokens = [(one.get("usage") or {}).get("output_tokens") for one in predictions]
        marks, problems = _marks(reviews, k)
    except (KeyError, IndexError, TypeError) as error:
        raise MismatchError(f"{work}: reviews or predictions cannot be read ({error!r})") from None
    notes = []
    summary = report.get("execution_summary") or {}
    if summary.get("incomplete") or summary.get("errored"):
        notes.append(f"{summary['errored']} of {summary['requested']} answers failed in evalscope")
    answers = Answers(
        marks=marks,
        k=k,
        problems=problems,
        total=len(predictions),
        truncated=sum(end in _CUT_OFF for end in ends),
        tokens=total_tokens(tokens),
        reported=report["metrics"][0]["score"],
    )
    return answers, notes


def _marks(reviews: list[tuple[str, dict]], k: int) -> tuple[str, str]:
    """(marks of every answer, what the problems are). No marks where a verdict is more than right
    or wrong."""
    found: dict[tuple[str, int], list[str]] = {}
    gold: dict[tuple[str, int], object] = {}
    for place, review in reviews:
        score = review["sample_score"]
        problem = (place, score["group_id"])
        gold[problem] = review.get("target")
        of_problem = found.setdefault(problem, [UNKNOWN] * k)
        if score["score"].get("status") != "success":
            continue
        values = score["score"]["value"]
        main = score["score"].get("main_score_name")
        if main is None and len(values) > 1:
            return "", ""
        value = values[main] if main is not None else next(iter(values.values()))
        if value not in (0, 1):
            return "", ""
        of_problem[score["generation_index"]] = RIGHT if value else WRONG
    text = json.dumps([[*problem, gold[problem]] for problem in sorted(found)])
    marks = "".join("".join(found[problem]) for problem in sorted(found))
    return marks, hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(work: str, kind: str, model: str, dataset: str) -> Iterator[tuple[str, dict]]:
    """(file's name, what stands there) of every line of this dataset's files."""
    inside = os.path.join(glob.escape(os.path.join(work, kind, model)), f"{dataset}_*.jsonl")
    paths = sorted(glob.glob(inside))
    if not paths:
        raise MismatchError(f"{work}: evalscope has left no {kind} of {dataset}")
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                try:
                    yield os.path.basename(path), json.loads(line)
                except ValueError:
                    raise MismatchError(f"{path}: a line is no JSON") from None


def _json(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise MismatchError(f"{path}: cannot be read ({error})") from None
    return found if isinstance(found, dict) else {}
