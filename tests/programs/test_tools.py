# SPDX-License-Identifier: Apache-2.0
"""The type checker and the linter, in the versions of constraints.txt, find nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.launch import ROOT

TOOLS = {
    "types": ["mypy"],
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_finds_nothing(tool):
    done = subprocess.run(
        [sys.executable, "-m", *TOOLS[tool]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
