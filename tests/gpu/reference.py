# SPDX-License-Identifier: Apache-2.0
"""python -m tests.gpu.reference FOLDER: the task, two students, and what a whole job on a CPU
in float32 makes of them."""

from __future__ import annotations

import os
import shutil
import sys

import torch

from tests.conftest import pretrain_student
from tests.gpu.jobs import run_job
from tests.support.launch import MOE
from tests.support.task import write_task


def main(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    _, tokenizer = write_task(f"{folder}/task")
    for student, extra in (("dense", []), ("moe", MOE)):
        where = f"{folder}/{student}"
        pretrain_student(f"{where}/student", tokenizer, extra)
        os.remove(f"{where}/student/pretrain.jsonl")
        made = run_job("made", f"{where}/made", folder, device="cpu", student=student)
        if made.returncode:
            raise SystemExit(made.output[-3000:])
        shutil.move(f"{where}/made/t3s", f"{where}/t3s")
        for name in ("probe.json", "losses.json"):
            shutil.move(f"{where}/made/{name}", f"{where}/{name}")
        shutil.rmtree(f"{where}/made")
        shutil.rmtree(f"{where}/t3s/state", ignore_errors=True)
    with open(f"{folder}/torch_version", "w") as file:
        file.write(torch.__version__.split("+")[0])


if __name__ == "__main__":
    main(sys.argv[1])
