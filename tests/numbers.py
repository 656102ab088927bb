# SPDX-License-Identifier: Apache-2.0
"""Whether a change of the code has changed a number.

    python -m tests.numbers record FOLDER        in the tree before the change, and in the one after
    python -m tests.numbers compare BEFORE AFTER

Records what a few jobs in different layouts, from one student, leave behind: every tensor of the
last checkpoint, selection and log-prob stores as bytes, losses and `[t3s]` lines of the log, the
summary, and the text of every `--help`. `compare` prints a row for each and ends with status 1
where something differs. Seconds and the names of folders are left out, and so is a summary's list
of versions. Arguments and parts of a summary that only one side knows are listed and do not count
as a difference. In a tree from before this file: copy it there.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.launch import FRESH, MOE, ROOT, job_environment, run
from tests.support.reference import read_tensors
from tests.support.task import make_samples, write_samples, write_task

_SCHEDULE = "--train-iters 5 --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()
#: What could change its default is given.
_T3S = """--t3s --t3s-max-new-tokens 16 --t3s-temperature 1 --t3s-patience 2 --t3s-profile-iters 6
--t3s-simple-step 2 --t3s-no-shock simple""".split()

_DROPOUT = "--attention-dropout 0.1 --hidden-dropout 0.1".split()
_OWN = "--micro-batch-size 1".split()
_PACKED = [*_OWN, *"--t3s-arrangement packed".split()]
_SHARDED = """--bf16 --attention-softmax-in-fp32 --use-distributed-optimizer --overlap-grad-reduce
--overlap-param-gather""".split()

#: name: (processes, whether of experts, arguments)
JOBS = {
    "one process, t3s, dropout": (1, False, _DROPOUT),
    "tp2 + sp, rrt": (
        2,
        False,
        "--tensor-model-parallel-size 2 --sequence-parallel --t3s-method rrt".split(),
    ),
    "pp2 x vpp2, own lengths": (
        2,
        False,
        [
            *_OWN,
            *"--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1".split(),
        ],
    ),
    "dp2, sharded optimizer and overlaps, bf16, packed": (2, False, [*_SHARDED, *_PACKED]),
    "ep2, experts, -t3s": (
        2,
        True,
        "--expert-model-parallel-size 2 --t3s-method inverse".split(),
    ),
    "confidence decides": (
        1,
        False,
        [*_PACKED, *"--t3s-signal confidence --t3s-targeted-accuracy-interval 1".split()],
    ),
    "two teachers, t3s-simple": (1, False, "--t3s-simple".split()),
    "random masks": (1, False, "--t3s-method random".split()),
}

_HELPS = {
    "plan": "t3s_megatron.cli plan --help".split(),
    "prepare": "t3s_megatron.cli prepare --help".split(),
    "prepare prompts": "t3s_megatron.cli prepare prompts --help".split(),
    "prepare generate": "t3s_megatron.cli prepare generate --help".split(),
    "prepare filter": "t3s_megatron.cli prepare filter --help".split(),
    "report": "t3s_megatron.cli report --help".split(),
}


def record(folder: Path) -> None:
    folder.mkdir(parents=True)
    data, tokenizer = write_task(str(folder / "task"))
    others = write_samples(str(folder / "others.jsonl"), n=600, seed=1)
    for name, model in (("student", []), ("moe_student", MOE)):
        print(name, flush=True)
        _pretrain(str(folder / name), others, tokenizer, model)
    teachers = [sample | {"teacher": f"t{i % 2}"} for i, sample in enumerate(make_samples(24, 0))]
    both = folder / "teachers.jsonl"
    both.write_text("".join(json.dumps(sample) + "\n" for sample in teachers))
    for name, (processes, experts, arguments) in JOBS.items():
        print(name, flush=True)
        out = str(folder / name)
        student = str(folder / ("moe_student" if experts else "student"))
        made = run(
            [
                "--t3s-data", str(both) if "teachers" in name else data,
                "--tokenizer-model", tokenizer, *_SCHEDULE, *(MOE if experts else []), *_T3S,
                *arguments, "--load", student, *FRESH, "--save", out, "--save-interval", "100",
                "--dist-ckpt-optim-fully-reshardable",
            ],
            processes=processes,
        )  # fmt: skip
        Path(out, "log.txt").write_text(made.output)
    for name, words in _HELPS.items():
        (folder / f"help {name}.txt").write_text(_help(words))
    (folder / "help run.txt").write_text(_run_help())


def _pretrain(folder: str, data: str, tokenizer: str, model: list) -> None:
    schedule = "--train-iters 150 --lr 4e-3 --min-lr 4e-4 --lr-warmup-iters 10".split()
    batch = "--micro-batch-size 32 --global-batch-size 32".split()
    saving = ["--save", folder, "--save-interval", "1000", "--no-save-optim", "--no-save-rng"]
    run(["--t3s-data", data, "--tokenizer-model", tokenizer, *model, *schedule, *batch, *saving])


def _help(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=job_environment() | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    return done.stdout


def _run_help() -> str:
    """The `--t3s` arguments, sorted: their order is no promise."""
    code = (
        "import argparse; from t3s_megatron.config import add_t3s_arguments;"
        "add_t3s_arguments(argparse.ArgumentParser()).print_help()"
    )
    text = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=job_environment() | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
    ).stdout
    parts = re.split(r"\n  (?=--t3s)", text.partition("\nt3s:\n")[2])
    return "\n".join(sorted(" ".join(part.split()) for part in parts[1:])) + "\n"


def compare(before: Path, after: Path) -> bool:
    """Whether both hold the same numbers; says what does not."""
    same = True
    for name in ("student", "moe_student", *JOBS):
        differences, notes = _job_differences(before / name, after / name, name in JOBS)
        print(f"{'differs' if differences else 'equal':8} {name}")
        for line in differences + notes:
            print(f"         {line}")
        same &= not differences
    for path in sorted(before.glob("help *.txt")):
        was, is_now = path.read_text(), (after / path.name).read_text()
        equal = was == is_now
        print(f"{'equal' if equal else 'differs':8} {path.stem}")
        for line in difflib.unified_diff(was.splitlines(), is_now.splitlines(), n=0, lineterm=""):
            print(f"         {line[:300]}")
        same &= equal
    return same


def _job_differences(before: Path, after: Path, whole: bool) -> tuple[list[str], list[str]]:
    """(what differs, what only one side knows)."""
    was, is_now = _tensors(before), _tensors(after)
    found = [f"tensor {key}" for key in sorted(was) if was[key] != is_now.get(key)]
    found += [f"tensor {key} is new" for key in sorted(is_now.keys() - was.keys())]
    if not whole:
        return found, []
    names = {path.name for path in (before / "t3s").glob("*.safetensors")}
    names |= {path.name for path in (after / "t3s").glob("*.safetensors")}
    found += [f"file {name}" for name in sorted(names) if not _equal_tables(before, after, name)]
    notes: list[str] = []
    summaries = [_without_times(json.loads((f / "t3s/summary.json").read_text()))
                 for f in (before, after)]  # fmt: skip
    _walk("summary", *summaries, found, notes)
    logs = [_log(f / "log.txt") for f in (before, after)]
    for line in difflib.unified_diff(*logs, n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            (found if line.startswith("-") or "lm loss" in line else notes).append(f"log {line}")
    return found, notes


def _tensors(folder: Path) -> dict[str, str]:
    return {
        key: hashlib.sha256(value.contiguous().view(-1).float().numpy().tobytes()).hexdigest()
        for key, value in read_tensors(str(folder)).items()
    }


def _equal_tables(before: Path, after: Path, name: str) -> bool:
    """Whether the tensors are the same: a header names the version that wrote it."""
    from safetensors.torch import load_file

    paths = [folder / "t3s" / name for folder in (before, after)]
    if not all(path.exists() for path in paths):
        return False
    was, is_now = map(load_file, paths)
    return was.keys() == is_now.keys() and all((was[k] == is_now[k]).all() for k in was)


def _without_times(summary: dict) -> dict:
    for name in ("seconds", "versions"):
        summary.pop(name, None)
    for inside in ("dir", "server_weights", "data"):
        summary["arguments"].pop(inside, None)
    for entry in (*summary["measurements"], *summary["phases"], *summary.get("evaluations", [])):
        entry.pop("seconds", None)
    summary["log"] = [_stable(line) for line in summary["log"]]
    return summary


def _walk(where: str, was, is_now, found: list[str], notes: list[str]) -> None:
    if isinstance(was, dict) and isinstance(is_now, dict):
        for key in was.keys() | is_now.keys():
            if key in was and key in is_now:
                _walk(f"{where}.{key}", was[key], is_now[key], found, notes)
            else:
                side = "before" if key in was else "after"
                notes.append(f"{where}.{key}: only {side}")
    elif isinstance(was, list) and isinstance(is_now, list) and len(was) == len(is_now):
        for i, (a, b) in enumerate(zip(was, is_now, strict=True)):
            _walk(f"{where}[{i}]", a, b, found, notes)
    elif was != is_now:
        found.append(f"{where}: {str(was)[:150]} -> {str(is_now)[:150]}")


def _log(path: Path) -> list[str]:
    """What ranks print at once may share a line."""
    text = path.read_text()
    losses = re.findall(r"iteration +\d+/.*?number of nan iterations: +\d+", text)
    said = [line for line in text.splitlines() if line.startswith("[t3s]")]
    return [_stable(line) for line in said + losses]


def _stable(line: str) -> str:
    line = re.sub(r"[\d.]+ s\b", "", line)
    line = re.sub(r"elapsed time per iteration \(ms\): [\d.]+ \|", "", line)
    return re.sub(r"/\S+", "PATH", line)


if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    if command == "record":
        record(Path(folders[0]).absolute())
    else:
        sys.exit(0 if compare(*map(Path, folders)) else 1)
    os._exit(0)
