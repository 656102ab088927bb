# SPDX-License-Identifier: Apache-2.0
"""Unit tests of a programming problem, in the forms in which they are published.

| form | keys | published by |
|---|---|---|
| standard input | `inputs`, `outputs`: texts, or lists of lines | APPS, TACO, CodeContests+ |
| calls | the same with `fn_name`: arguments, or a JSON value a line | APPS, LiveCodeBench |
| cases | a list of `{"input", "output", "type" or "testtype"}` | LiveCodeBench, DeepCoder |
| asserts | `test_list`, `test_setup_code` or `test_imports` | MBPP |
| `check` | `test`, which defines `check(candidate)`, `entry_point`, `prompt` | HumanEval |

They stand in `metadata`, or as JSON in `answer`; or `answer` is test code itself. `input_output`
and `tests` may hold them once more, as an object or as JSON.

Read for this: hendrycks/apps eval/testing_util.py, LiveCodeBench lcb_runner/evaluation/
testing_util.py, openai/human-eval human_eval/execution.py, and the dataset cards of BAAI/TACO,
google-research-datasets/mbpp, openai/openai_humaneval and agentica-org/DeepCoder-Preview-Dataset.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from dataclasses import dataclass
from typing import Any

#: Under these a dataset keeps its tests as one object, or as JSON of one.
_WRAPPERS = ("input_output", "tests", "public_test_cases")
_METHOD = re.compile(r"[^\W\d]\w*(\(\))?(\.[^\W\d]\w*)?")


#: Whose attributes tests may use of what an answer's function returns.
_PLAIN = (str, int, float, complex, bytes, list, tuple, dict, set)


class UnusableTests(ValueError):
    """What is wrong with a problem's tests, for a person."""


@dataclass(frozen=True)
class Streams:
    """Programs that read standard input. One (input, expected output) each."""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Calls:
    """`name(*arguments)` has to return what is expected; plain JSON values. `literal`: what is
    expected was itself read as one JSON value, and not perhaps put into a list, as APPS does."""

    name: str
    cases: tuple[tuple[list, Any], ...]
    literal: bool


@dataclass(frozen=True)
class Asserts:
    """`setup` and `code` are run beside the answer; `names` are the answer's functions in them."""

    setup: str
    code: str
    names: tuple[str, ...]


Tests = Streams | Calls | Asserts


def read_tests(answer: str | None, metadata: dict | None) -> Tests:
    """The tests of a sample. UnusableTests when it has none, or they are of no form known."""
    if metadata and _knows(metadata):
        return _of_object(metadata)
    if answer is None:
        raise UnusableTests("neither `answer` nor `metadata` holds tests")
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return _asserts("", [answer])
    return _of_value(value)


def _knows(value: dict) -> bool:
    return any(key in value for key in (*_WRAPPERS, "inputs", "test_list", "test"))


def _of_value(value: object) -> Tests:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _asserts("", [str(value)])
    if isinstance(value, dict):
        return _of_object(value)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return _asserts("", value)
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return _of_cases(value)
    raise UnusableTests(f"tests have to be an object or a list, found {type(value).__name__}")


def _of_object(given: dict) -> Tests:
    for key in _WRAPPERS:
        if given.get(key):
            return _of_value(given[key])
    if "inputs" in given:
        return _pairs(given.get("inputs"), given.get("outputs"), given.get("fn_name"))
    setup = "\n".join(
        part for key in ("test_imports", "test_setup_code") for part in _lines(given.get(key))
    )
    if given.get("test_list"):
        return _asserts(setup, _lines(given["test_list"]))
    if isinstance(given.get("test"), list):
        return _asserts(setup, _lines(given["test"]))
    if isinstance(given.get("test"), str):
        return _check(given)
    raise UnusableTests(
        "no `inputs` and `outputs`, `test_list`, or `test` with `entry_point` in it; found "
        + (", ".join(map(str, given))[:200] or "nothing")
    )


def _of_cases(cases: list[dict]) -> Tests:
    """LiveCodeBench names the function in `metadata.func_name`, DeepCoder in `fn_name`."""
    names = set()
    for case in cases:
        kind = case.get("type") or case.get("testtype") or "stdin"
        extra = case.get("metadata")
        named = case.get("fn_name") or (extra or {}).get("func_name")
        names.add(None if kind in ("stdin", "stdin_stdout") else named)
        if kind not in ("stdin", "stdin_stdout") and not named:
            raise UnusableTests(f"a case of type {kind!r} without `fn_name`")
    if len(names) > 1:
        raise UnusableTests("cases of several functions, or of functions and of standard input")
    inputs, outputs = ([case.get(key) for case in cases] for key in ("input", "output"))
    return _pairs(inputs, outputs, names.pop())


def _pairs(inputs: object, outputs: object, name: object) -> Tests:
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs:
        raise UnusableTests("`inputs` and `outputs` have to be lists with a test in them")
    if len(inputs) != len(outputs):
        raise UnusableTests(f"{len(inputs)} `inputs` and {len(outputs)} `outputs`")
    if name is None:
        return Streams(tuple((_text(i), _text(o)) for i, o in zip(inputs, outputs, strict=True)))
    if not isinstance(name, str) or not _METHOD.fullmatch(name):
        raise UnusableTests(f"`fn_name` {name!r} is not the name of a function")
    literal = isinstance(inputs[0], str)
    if literal:
        arguments = [[_json(line) for line in _str(one).split("\n") if line] for one in inputs]
        return Calls(
            name,
            tuple((i, _json(_str(o))) for i, o in zip(arguments, outputs, strict=True)),
            literal,
        )
    if not all(isinstance(one, list) for one in inputs):
        raise UnusableTests("with `fn_name`, each of `inputs` has to be a list of arguments")
    return Calls(name, tuple(zip(inputs, outputs, strict=True)), literal)


def _check(given: dict) -> Tests:
    name, prompt, test = given.get("entry_point"), given.get("prompt") or "", given["test"]
    if not isinstance(name, str) or not _METHOD.fullmatch(name):
        raise UnusableTests(f"`test` needs `entry_point`, the function it is for; found {name!r}")
    defined = {one.name for one in _parsed(test).body if isinstance(one, ast.FunctionDef)}
    if "check" not in defined:
        raise UnusableTests("`test` does not define check(candidate)")
    prompt = prompt if isinstance(prompt, str) and _is_python(prompt) else ""
    return Asserts(prompt, f"{test}\ncheck(_candidate)", (name,))


def _asserts(setup: str, code: list[str]) -> Tests:
    text = "\n".join(code)
    tree = _parsed(text)
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise UnusableTests("the test code asserts nothing")
    known = {
        name
        for part in (_parsed(setup), tree)
        for node in ast.walk(part)
        for name in _made_by(node)
    }
    called = [name for name in _called(tree) if name not in known]
    # A problem may be about a function that is called as one of Python's own: MBPP has a `sum`.
    own = [name for name in called if not hasattr(builtins, name)] or called
    if not own:
        raise UnusableTests("the test code calls no function of the answer's")
    _refuse_objects(setup, tree, own, known)
    return Asserts(setup, text, tuple(own))


def _refuse_objects(setup: str, tree: ast.Module, own: list[str], known: set[str]) -> None:
    """Tests and answer share no objects: what the answer's functions return is plain data."""
    for name in _called(_parsed(setup)):
        if name not in known and not hasattr(builtins, name):
            raise UnusableTests(f"the setup of the tests calls {name}, which is the answer's")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        inner = node.value
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
            name = inner.func.id
            plain = any(hasattr(kind, node.attr) for kind in _PLAIN)
            if name in own and not plain:
                raise UnusableTests(
                    f"the tests use {name}(...).{node.attr}: an object of the answer's, where only "
                    "plain data reaches the tests"
                )


def _called(tree: ast.Module) -> list[str]:
    """Names that are called, once each."""
    return sorted(
        {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
    )


def _made_by(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    return []


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableTests(f"the test code is not Python ({error})") from None


def _is_python(code: str) -> bool:
    try:
        _parsed(code)
    except UnusableTests:
        return False
    return True


def _lines(value: object) -> list[str]:
    if value is None or value == "":
        return []
    lines = value if isinstance(value, list) else [value]
    return [_str(line) for line in lines]


def _text(value: object) -> str:
    return "\n".join(_str(line) for line in value) if isinstance(value, list) else _str(value)


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise UnusableTests(f"text is expected, found {type(value).__name__}: {value!r}"[:200])
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableTests(f"{text[:80]!r} is not JSON ({error})") from None
