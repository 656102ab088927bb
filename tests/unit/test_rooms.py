# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: down the floors or inside a room, and only one room imports Megatron.

An import counts wherever it stands: at the top of a file, inside a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "t3s_megatron"

#: Bottom first. A room is a folder or a loose module; rooms of one floor do not know one another.
FLOORS = (
    ("__init__", "errors"),
    ("options",),
    ("data", "method"),
    ("accuracy", "servers", "huggingface", "diffusion"),
    ("monitor", "teacher_data"),
    ("config", "evaluation"),
    ("planning",),
    ("megatron",),
    ("answering", "entry"),
    ("run",),
    ("plugin",),
    ("pretrain", "convert"),
    ("analysis",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

#: Doors, and words that everybody uses.
LOOSE = {"pretrain", "convert", "plugin", "entry", "config", "options", "errors", "__init__"}

#: These rooms are readable without Megatron and without processes.
PLAIN = ("method", "data", "accuracy", "servers", "huggingface", "monitor", "teacher_data",
         "evaluation", "planning", "diffusion")  # fmt: skip

MOST_LINES = 400


def module_name(path: Path, package: Path) -> str:
    """As it is imported; of a folder's `__init__`, the folder's."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Every module, and every name of a module, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: import by full name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_inside(package: Path) -> dict[str, set[str]]:
    """By module of the package, the modules of the package that it imports."""
    files = {module_name(path, package): path for path in package.rglob("*.py")}
    return {
        name: {other for other in imported(path) if other in files and other != name}
        for name, path in files.items()
    }


def room_of(module: str) -> str:
    """Its folder or, standing loose, itself."""
    return module.split(".")[1] if "." in module else "__init__"


def climbs(imports: dict[str, set[str]]) -> Iterator[str]:
    """Imports that go up, or over to another room of the same floor."""
    for name, others in imports.items():
        for other in others:
            mine, its = room_of(name), room_of(other)
            if mine != its and FLOOR[its] >= FLOOR[mine]:
                yield f"{name} imports {other}"


def circles(arrows: dict[str, set[str]]) -> Iterable[set[str]]:
    """Sets of nodes that reach one another, of more than one node."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = arrows[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {node: reached(node) for node in arrows}
    together = [frozenset({a} | {b for b in reach[a] if a in reach[b]}) for a in arrows]
    return [set(one) for one in set(together) if len(one) > 1]


IMPORTS = imports_inside(PACKAGE)
MODULES = sorted(IMPORTS)
FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_floor():
    assert {room_of(name) for name in MODULES} <= set(FLOOR)


def test_imports_go_down_or_stay_inside_a_room():
    assert not list(climbs(IMPORTS))


def test_no_files_import_one_another_in_a_circle():
    assert not list(circles(IMPORTS))


def test_no_rooms_import_one_another_in_a_circle():
    rooms: dict[str, set[str]] = {room_of(name): set() for name in IMPORTS}
    for name, others in IMPORTS.items():
        rooms[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    assert not list(circles(rooms))


def test_no_more_modules_stand_loose():
    assert {path.stem for path in PACKAGE.glob("*.py")} <= LOOSE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_has_one_subject(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES


OUTSIDE = [path for path in FILES if PACKAGE / "megatron" not in path.parents]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_room_imports_megatron(path):
    assert not {name for name in imported(path) if name.split(".")[0] == "megatron"}


@pytest.mark.parametrize("room", PLAIN)
def test_plain_rooms_know_nothing_of_processes(room):
    names = {name for path in (PACKAGE / room).rglob("*.py") for name in imported(path)}
    assert not {name for name in names if name.startswith("torch.distributed")}


def test_analyses_of_files_need_no_loop():
    """Of the analyses only the run itself knows Megatron's room, and what lies above it."""
    files = {p.stem: p for p in (PACKAGE / "analysis").glob("*.py") if p.stem != "trajectory_run"}
    above = [room for room, floor in FLOOR.items() if floor >= FLOOR["megatron"]]
    for name, path in files.items():
        rooms = {room_of(i) for i in imported(path) if i.startswith("t3s_megatron.")}
        allowed = {"analysis", "pretrain"} if name == "trajectory" else {"analysis"}
        assert rooms & set(above) <= allowed, name
        assert not {i for i in imported(path) if i.startswith("torch")}


# ------------------------------------------------------------------------------------ the checks


@pytest.fixture
def house(tmp_path):
    """Write a package of `{file: text}`; what its modules import."""

    def build(files: dict[str, str]) -> dict[str, set[str]]:
        package = tmp_path / "house"
        for name, text in {"__init__.py": "", **files}.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return imports_inside(package)

    return build


UPWARDS = {
    "at the top": "from house.run import t3s",
    "of a name": "from house.run.t3s import T3SRun",
    "inside a function": "def f():\n    import house.run.t3s",
    "for a type": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    "    from house.run.t3s import T3SRun",
    "to its own floor": "from house.data import rows",
}


@pytest.mark.parametrize("how", UPWARDS)
def test_an_import_upwards_is_seen(house, how):
    files = {"run/__init__.py": "", "run/t3s.py": "", "data/__init__.py": "", "data/rows.py": ""}
    found = house(files | {"method/__init__.py": "", "method/phases.py": UPWARDS[how]})
    assert any(climb.startswith("house.method.phases imports") for climb in climbs(found))


def test_what_goes_down_or_stays_is_no_climb(house):
    files = {
        "data/__init__.py": "",
        "data/rows.py": "from house.data import order",
        "errors.py": "",
    }
    files |= {"data/order.py": "from house.errors import T3SError", "run/__init__.py": ""}
    files |= {"run/t3s.py": "import house\nfrom house.data.rows import row"}
    assert not list(climbs(house(files)))


def test_a_circle_is_seen_through_functions(house):
    files = {"a.py": "import house.b", "b.py": "def f():\n    from house.c import x"}
    found = house(files | {"c.py": "from house import a", "d.py": "import house.a"})
    assert list(circles(found)) == [{"house.a", "house.b", "house.c"}]


def test_megatron_is_seen():
    assert "megatron.core" in set(imported(PACKAGE / "megatron" / "batches.py"))
