# SPDX-License-Identifier: Apache-2.0
"""python -m tests.gpu.reference FOLDER: the task, a student, and what a whole job on a CPU in
float32 makes of them."""

from __future__ import annotations

import os
import shutil
import sys

from tests.conftest import pretrain_student
from tests.gpu.jobs import run_job
from tests.support.task import write_task


def main(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    _, tokenizer = write_task(f"{folder}/task")
    pretrain_student(f"{folder}/student", tokenizer, [])
    os.remove(f"{folder}/student/pretrain.jsonl")
    made = run_job("made", f"{folder}/made", folder, device="cpu")
    if made.returncode:
        raise SystemExit(made.output[-3000:])
    shutil.move(f"{folder}/made/t3s", f"{folder}/t3s")
    for name in ("probe.json", "losses.json"):
        shutil.move(f"{folder}/made/{name}", f"{folder}/{name}")
    shutil.rmtree(f"{folder}/made")
    shutil.rmtree(f"{folder}/t3s/state", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
