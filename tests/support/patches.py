# SPDX-License-Identifier: Apache-2.0
"""`patches/apply.sh` on copies of Megatron's training loop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from tests.support.launch import ROOT

#: Of the default release.
SITE_PACKAGES = str(distribution("megatron-core").locate_file(""))


def copy_sources(site_packages: str, folder: Path) -> Path:
    """What the script looks at, of the release installed there. The copy shadows that release's
    `megatron.training` on PYTHONPATH; `megatron` is a namespace, so the core stays its own."""
    source = Path(site_packages, "megatron")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "training", folder / "megatron/training", ignore=ignored)
    (folder / "megatron/core").mkdir()
    shutil.copy(source / "core/package_info.py", folder / "megatron/core")
    return folder


def apply(folder, *options: str, fails: bool = False) -> str:
    """What the script says, without the end of its line."""
    words = ["bash", os.path.join(ROOT, "patches/apply.sh"), *options]
    if folder is not None:
        words.append(str(folder))
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return (done.stderr if fails else done.stdout).strip()
