# SPDX-License-Identifier: Apache-2.0
"""A kind of run is handed in, never patched in: no benchmark and no test gets its way by assigning
to a name of one of the package's modules or classes, except to inject a fault."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for room in ("benchmarks", "tests") for path in sorted((ROOT / room).rglob("*.py"))]

#: Calls that set an attribute of their first argument.
SETTERS = {"setattr", "delattr"}

#: file: {what is assigned to: why it has to be a fault of that very place}
FAULTS = {
    "tests/jobs/killed_job.py": {
        "T3SRun": "dies in the middle of an event or an action",
        "WeightSnapshot": "dies while a candidate is copied",
        "generation.Decoder": "dies between two tokens of an answer",
        "selector": "dies while a scoring pass is made",
        "durable": "dies between the bytes of a file and its name",
        "rewind": "dies in the middle of a rewind",
        "StateFolder": "dies around the commit of a state",
        "StateFolder.commit": "dies between our commit and Megatron's",
    },
    "tests/jobs/faulty_job.py": {
        "Measurer": "tells the verifier which measurement to break, and dies in a retry",
        "Decoder": "a late clock and a failing accelerator, in the middle of an answer",
    },
    "tests/jobs/poisoned_job.py": {
        "forward.call_model": "one sample's numbers are not finite in the model's output",
        "scoring.call_model": "the same where theta_0 or theta_b alone is scored",
        "Selector._score": "says which of the two is scored",
    },
    "tests/parallel/arranged_job.py": {
        "scoring.next_batch": "pipeline stages that are not told of packed rows",
    },
    "tests/unit/accuracy/test_pool.py": {
        "pool_module": "a module that is imported for ever, waited for half a second",
    },
    "tests/unit/huggingface/test_folder.py": {"module": "a disk that is full at the last moment"},
    "tests/unit/test_entry.py": {"entry": "no agent to ask, waited for a moment"},
}  # fmt: skip


#: As FAULTS, of what is no fault: a look into something that has no reason to show it otherwise.
LOOKS = {
    "benchmarks/decoding.py": {
        "generation.Batch": "remembers the batch, whose end it sets",
        "generation.decoding": "decoding as it was, to be compared with; a run has no use for it",
        "generation._LOOK_EVERY": "the same",
        "generation.SHARE_TO_LEAVE": "the same",
    },
    "tests/unit/data/test_selection_rows.py": {
        "module": "several pieces of a corpus that is small enough for a test",
    },
    "tests/unit/megatron/test_generation.py": {
        "decoding.apply_rotary_pos_emb": "counts the positions that are rotated",
        "decoding.attention.apply_rotary_pos_emb": "the same, where Megatron does it",
    },
    "tests/unit/megatron/test_model_arguments.py": {
        "module.GPTModel": "remembers what the model is made with, before it is made",
    },
    "tests/unit/megatron/test_scoring.py": {
        "room._CHUNK_BYTES": "several chunks of a model that is small enough for a test",
    },
    "tests/unit/monitor/test_page.py": {
        "traces": "bounds that a page which is small enough for a test reaches",
    },
}


def imported(tree: ast.AST) -> set[str]:
    """Names that stand for something of the package, wherever in the file they are imported."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("t3s_megatron"):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.startswith("t3s_megatron")]
            names |= {alias.asname or "t3s_megatron" for alias in ours}
    return names


def setters(tree: ast.AST) -> set[str]:
    """Functions that set an attribute of their first argument: also the file's own, and those of
    the job that is killed."""
    found = set(SETTERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "tests.jobs.killed_job":
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef) and node.args.args:
            called = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
            if called & SETTERS:
                found.add(node.name)
    return found


def rebound(source: str) -> Iterator[tuple[int, str]]:
    """(line, what is assigned to) for each attribute of an imported name that is assigned to."""
    tree = ast.parse(source)
    ours, sets = imported(tree), setters(tree)

    def is_ours(node: ast.AST) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in ours

    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = node.targets
        for target in targets:
            for part in target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]:
                if isinstance(part, ast.Attribute) and is_ours(part):
                    yield node.lineno, ast.unparse(part)
        if isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            name = called.id if isinstance(called, ast.Name) else called
            first = node.args[0]
            by_name = isinstance(first, ast.Constant) and str(first.value).startswith("t3s_meg")
            if name in sets and (is_ours(first) or by_name):
                yield node.lineno, ast.unparse(first)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_rebound_but_for_a_fault(path):
    name = str(path.relative_to(ROOT))
    allowed = FAULTS.get(name, {}) | LOOKS.get(name, {})
    found = list(rebound(path.read_text()))
    wrong = [f"line {line}: {what}" for line, what in found if what not in allowed]
    assert not wrong, (
        f"hand in a kind of run instead (T3S(run=...), pretrain.main(run=...)): {wrong}"
    )
    assert set(allowed) == {what for _, what in found}, "something is listed that is not done"


def test_every_listed_file_is_there():
    assert FAULTS.keys() | LOOKS.keys() <= {str(path.relative_to(ROOT)) for path in FILES}


@pytest.mark.parametrize(
    "line",
    [
        "run.T3SRun = Mine",
        "Measurer.measure = mine",
        "first, run.T3SRun = 1, 2",
        "run.T3SRun.on_log += 1",
        "setattr(run, 'T3SRun', Mine)",
        "monkeypatch.setattr(Measurer, 'measure', mine)",
        "monkeypatch.setattr('t3s_megatron.run.t3s.T3SRun', Mine)",
        "def f():\n    del Measurer.measure",
        "from tests.jobs.killed_job import before\nbefore(Measurer, 'measure')",
        "def change(owner):\n    setattr(owner, 'x', 1)\nchange(Measurer)",
    ],
)
def test_the_check_sees(line):
    head = (
        "import t3s_megatron.run.t3s as run\nfrom t3s_megatron.accuracy.measuring import Measurer\n"
    )
    assert list(rebound(head + line))


@pytest.mark.parametrize(
    "line",
    ["import os\nos.x = 1", "class Mine(Measurer):\n    x = 1", "made = Measurer()\nmade.x = 1"],
)
def test_the_check_lets_pass(line):
    assert not list(rebound("from t3s_megatron.accuracy.measuring import Measurer\n" + line))
