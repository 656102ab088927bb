# SPDX-License-Identifier: Apache-2.0
"""Tests that run programs in the sandbox of `--t3s-verifier code`, where the kernel allows one."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

_TRY = "from t3s_megatron.accuracy.code.programs import check_here; check_here()"


@functools.cache
def refusal() -> str:
    """Why there is no sandbox on this machine; "" where there is. In a process of its own, since
    the attempt makes its process adopt orphans."""
    tried = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True)
    return "" if tried.returncode == 0 else tried.stderr.strip().splitlines()[-1]


needs_sandbox = pytest.mark.skipif(bool(refusal()), reason=f"no sandbox here: {refusal()}")
