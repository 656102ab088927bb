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

from t3s_megatron.accuracy.code.reached import (
    UnusableTests,
    asserts,
    made_by,
    run_all,
    used_of_others,
)

#: Under these a dataset keeps its tests as one object, or as JSON of one.
_WRAPPERS = ("input_output", "tests")
#: LiveCodeBench: those that a problem shows, and those that decide. All of them count.
_CASES = ("public_test_cases", "private_test_cases", "generated_tests", "hidden_tests")
_METHOD = re.compile(r"[^\W\d]\w*(\(\))?(\.[^\W\d]\w*)?")


#: Whose attributes tests may use of what an answer's function returns.
_PLAIN = (str, int, float, complex, bytes, list, tuple, dict, set)


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
    return any(key in value for key in (*_WRAPPERS, *_CASES, "inputs", "test_list", "test"))


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
    if any(given.get(key) for key in _CASES):
        return _of_cases([case for key in _CASES for case in _cases(given.get(key), key)], given)
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


def _cases(value: object, key: str) -> list[dict]:
    """Of one of `_CASES`. UnusableTests when they are packed, as LiveCodeBench packs them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableTests(
                f"`{key}` is not JSON: unpack it first (LiveCodeBench has compressed pickles there)"
            ) from None
    if value is None:
        return []
    if isinstance(value, dict):  # CodeContests: {"input": [..], "output": [..]}
        pairs = zip(value.get("input") or [], value.get("output") or [], strict=False)
        return [{"input": given, "output": wanted} for given, wanted in pairs]
    if not isinstance(value, list) or not all(isinstance(case, dict) for case in value):
        raise UnusableTests(f"`{key}` has to be a list of objects")
    return value


def _named(value: object) -> str | None:
    """`func_name` of LiveCodeBench's metadata, an object or JSON of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableTests("the `metadata` of a case is not JSON") from None
    name = value.get("func_name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def _of_cases(cases: list[dict], problem: dict | None = None) -> Tests:
    """LiveCodeBench names the function in `metadata.func_name` of a case or of the problem,
    DeepCoder in `fn_name`."""
    names = set()
    for case in cases:
        kind = case.get("type") or case.get("testtype") or "stdin"
        named = case.get("fn_name") or _named(case.get("metadata"))
        if named is None and problem is not None:
            named = problem.get("fn_name") or _named(problem.get("metadata") or problem)
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
        cases = tuple((_text(i), _text(o)) for i, o in zip(inputs, outputs, strict=True))
        if not any(wanted.strip() for _, wanted in cases):
            raise UnusableTests("no output is expected: a program that prints nothing would pass")
        return Streams(cases)
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
    if not any(asserts(node) for node in ast.walk(tree)):
        raise UnusableTests("the test code asserts nothing")
    known = made_by(_parsed(setup)) | made_by(tree)
    # A problem may be about a function that is called as one of Python's own: MBPP has a `sum`.
    used = used_of_others(tree, known)
    own = [name for name in used if not hasattr(builtins, name)]
    own = own or [name for name in _called(tree) if name not in known]
    if not own:
        raise UnusableTests("the test code calls no function of the answer's")
    _refuse_objects(setup, tree, own, known)
    return Asserts(setup, run_all(tree, text), tuple(own))


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
