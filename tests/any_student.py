# SPDX-License-Identifier: Apache-2.0
"""The generic script on a CPU with a tiny random student of every family that is supported.

    .venv/bin/python -m tests.any_student            (slow; not part of the suite)

For each of them `HF_MODEL=<folder> DATA=... OUT=... DEVICE=cpu bash examples/run_t3s.sh`, first
with DRY_RUN=1, then for two steps of a profile and two of targeted training; what is exported has
to load in transformers, or, where that does not know the model, to have the tensors of the folder.
At two tensor-parallel ranks, the experts spread over them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

from t3s_megatron.huggingface.families.table import FAMILIES
from tests.support.every_student import check_students
from tests.support.families import AHEAD, STUDENTS, reference
from tests.support.hf_models import read_tensors
from tests.support.launch import ROOT, job_environment
from tests.support.ports import free_port
from tests.support.task import make_tokenizer, write_samples

LAYOUTS = {"tp2": {"TP": "2", "EP": "2"}, "pp2": {"PP": "2"}}
#: A student that learns by block diffusion has a script of its own (docs/diffusion.md).
ELSEWHERE = ("llada2_moe",)


def environment(folder: Path, layout: dict[str, str]) -> dict[str, str]:
    return job_environment() | {
        "HF_MODEL": f"{folder}/student", "DATA": f"{folder}/train.jsonl", "OUT": f"{folder}/out",
        "PYTHON": sys.executable, "DEVICE": "cpu", "NPROC_PER_NODE": "2", **layout,
        "SEQ_LENGTH": "48", "GBS": "8", "STEPS": "2", "LR": "1e-3", "SAVE_INTERVAL": "2",
        "T3S_SIMPLE": "1", "VERIFIER": "numeric", "MASTER_PORT": str(free_port()),
        "EXTRA_ARGS": "--t3s-max-new-tokens 8 --t3s-simple-step 2",
    }  # fmt: skip


def start(environment: dict[str, str], log: Path) -> None:
    """RuntimeError when the script does not come to its end."""
    with open(log, "w") as file:
        done = subprocess.run(
            ["bash", f"{ROOT}/examples/run_t3s.sh"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        end = "\n".join(log.read_text().splitlines()[-25:])
        raise RuntimeError(f"exit status {done.returncode}\n{end}")


def check_run(name: str, folder: Path) -> None:
    """RuntimeError for a run that has not trained, or has exported another kind of folder."""
    summary = json.loads((folder / "out/t3s/summary.json").read_text())
    if not summary["finished"]:
        raise RuntimeError("the run says that it has not finished")
    before, after = read_tensors(f"{folder}/student"), read_tensors(f"{folder}/out/hf")
    before = {key: value for key, value in before.items() if not key.startswith(AHEAD)}
    shapes = {key: value.shape for key, value in before.items()}
    if {key: value.shape for key, value in after.items()} != shapes:
        raise RuntimeError("the exported folder has other tensors")
    if all((after[key] == value).all() for key, value in before.items()):
        raise RuntimeError("no weight has changed")
    if reference(f"{folder}/student") == f"{folder}/student":
        AutoModelForCausalLM.from_pretrained(f"{folder}/out/hf")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(STUDENTS), help="of tests.support.families"
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="tp2")
    parser.add_argument("--dry-run", action="store_true", help="plans alone")
    options = parser.parse_args()
    missing = {*FAMILIES} - {STUDENTS[name]["model_type"] for name in STUDENTS} - {*STUDENTS}
    if missing - {*ELSEWHERE}:
        raise SystemExit(f"no tiny student of {', '.join(sorted(missing))}")

    def check(name: str, folder: Path) -> None:
        make_tokenizer(f"{folder}/student")
        write_samples(f"{folder}/train.jsonl", 24, 0)
        given = environment(folder, LAYOUTS[options.layout])
        start(given | {"DRY_RUN": "1"}, folder / "plan.log")
        if not options.dry_run:
            start(given, folder / "run.log")
            check_run(name, folder)

    return check_students(options.names, check)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
