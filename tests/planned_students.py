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
import tempfile
from pathlib import Path

from tests.parallel.test_plan import T3S, TRAINING, compare
from tests.support.families import STUDENTS, WITH_EXPERTS, save_student
from tests.support.launch import ROOT, RUNTIME
from tests.support.task import write_task


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(STUDENTS), help="of tests.support.families"
    )
    failed = []
    names = parser.parse_args().names
    for name in names:
        with tempfile.TemporaryDirectory() as where:
            folder = Path(where)
            save_student(name, f"{folder}/student")
            data, tokenizer = write_task(f"{folder}/task")
            arguments = [
                "--t3s-hf-model", f"{folder}/student", "--t3s-data", data,
                "--tokenizer-model", tokenizer, *TRAINING, *T3S, "--t3s-dir", f"{folder}/t3s",
            ]  # fmt: skip
            try:
                compare(RUNTIME, arguments, 1, folder, has_experts=name in WITH_EXPERTS)
                said = "ok"
            except (AssertionError, RuntimeError) as error:
                failed.append(name)
                said = f"FAILED: {error}"
            print(f"{name:16} {said}", flush=True)
    print(f"{len(names) - len(failed)} of {len(names)} students hold what was planned")
    return bool(failed)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
