# SPDX-License-Identifier: Apache-2.0
"""The plan of a tiny student of every family that is supported, against a real launch of it: what
is held as parameters, weights, gradients, optimizer state, theta_0 and for the backward pass.

    .venv/bin/python -m tests.planned_students            (slow; not part of the suite)

One process, bfloat16; tests/parallel/test_plan.py says what has to be equal, and has layouts.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.parallel.test_plan import T3S, TRAINING, compare
from tests.support.every_student import check_students
from tests.support.families import STUDENTS, WITH_EXPERTS
from tests.support.launch import ROOT, RUNTIME
from tests.support.task import write_task


def check(name: str, folder: Path) -> None:
    data, tokenizer = write_task(f"{folder}/task")
    arguments = [
        "--t3s-hf-model", f"{folder}/student", "--t3s-data", data,
        "--tokenizer-model", tokenizer, *TRAINING, *T3S, "--t3s-dir", f"{folder}/t3s",
    ]  # fmt: skip
    compare(RUNTIME, arguments, 1, folder, has_experts=name in WITH_EXPERTS)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(STUDENTS), help="of tests.support.families"
    )
    return check_students(parser.parse_args().names, check)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
