# SPDX-License-Identifier: Apache-2.0
"""How the two commands find a Python, in an environment that has only what the test gives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def find(tmp_path):
    """Runs `t3s_find_312` with a PATH of its own; `add` puts an executable into it."""
    path = tmp_path / "bin"
    path.mkdir()
    (path / "cat").symlink_to(shutil.which("cat"))

    def add(name: str, text: str, folder=path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (folder / name).chmod(0o755)
        return str(folder / name)

    def find(**environment):
        return subprocess.run(
            [shutil.which("bash"), "-c", f"source {ROOT}/examples/lib/python.sh; t3s_find_312"],
            env={"PATH": str(path), "HOME": str(tmp_path / "home"), **environment},
            capture_output=True,
            text=True,
        )

    find.add = add
    find.home = tmp_path / "home"
    return find


PYTHON_312 = f'exec {sys.executable} "$@"'
REFUSES = "echo 'pyenv: python3.12: command not found' >&2; exit 127"


def test_without_a_python_it_says_what_to_install(find):
    find.add("python3", "exit 1")  # an older one
    done = find()
    assert done.returncode != 0 and done.stdout == ""
    for words in ("Python 3.12", "uv", "pyenv install 3.12", "apt-get", "T3S_PYTHON="):
        assert words in done.stderr, words


def test_a_python_on_the_path_is_taken_and_a_shim_that_refuses_is_not(find):
    find.add("python3.12", REFUSES)
    python = find.add("python3", PYTHON_312)
    assert find().stdout.strip() == python


def test_a_pyenv_version_that_is_not_active_is_found(find):
    python = find.add("python", PYTHON_312, find.home / ".pyenv/versions/3.12.9/bin")
    assert find().stdout.strip() == python


def test_the_named_one_comes_first(find):
    find.add("python3", PYTHON_312)
    named = find.add("other", PYTHON_312, find.home)
    assert find(T3S_PYTHON=named).stdout.strip() == named


def test_uv_is_asked_last(find):
    find.add("uv", 'if [ "$2" = find ]; then echo /from/uv; fi')
    done = find()
    assert done.returncode == 0 and done.stdout.strip() == "/from/uv"
