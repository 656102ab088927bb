# SPDX-License-Identifier: Apache-2.0
"""A slow check of the tiny students of all families, one after the other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.families import save_student


def check_students(names: list[str], check: Callable[[str, Path], None]) -> bool:
    """Whether `check` of a student's name and a folder of its own, in which student/ is, failed for
    one of them. What fails raises AssertionError, RuntimeError or OSError, and is printed."""
    failed = []
    for name in names:
        with tempfile.TemporaryDirectory() as where:
            folder, began = Path(where), time.perf_counter()
            save_student(name, f"{folder}/student")
            try:
                check(name, folder)
                said = "ok"
            except (AssertionError, RuntimeError, OSError) as error:
                failed.append(name)
                said = f"FAILED: {error}"
            print(f"{name:16} {time.perf_counter() - began:5.0f} s  {said}", flush=True)
    print(f"{len(names) - len(failed)} of {len(names)} students are as they have to be")
    return bool(failed)
