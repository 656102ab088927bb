# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: one room imports Megatron, and the method is readable without it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "t3s_megatron"


def imports(path: Path) -> set[str]:
    """Every module a file names in an import, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def files(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((PACKAGE / room).glob("*.py"))]


def test_the_check_sees_imports():
    assert "megatron.core" in imports(PACKAGE / "megatron" / "batches.py")


ROOM = PACKAGE / "megatron"
OUTSIDE = [p for p in PACKAGE.rglob("*.py") if ROOM not in p.parents]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_one_room_imports_megatron(path):
    assert not {name for name in imports(path) if name.split(".")[0] == "megatron"}


PLAIN = files("servers")


@pytest.mark.parametrize(
    "path",
    PLAIN
    + files("method", "data", "accuracy", "monitor", "huggingface", "planning", "teacher_data"),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_inner_rooms_know_nothing_of_processes_or_of_that_room(path):
    forbidden = ("torch.distributed", "t3s_megatron.megatron", "t3s_megatron.run.t3s")
    assert not {name for name in imports(path) if name.startswith(forbidden)}
