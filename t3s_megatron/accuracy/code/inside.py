# SPDX-License-Identifier: Apache-2.0
"""Runs inside the sandbox, as a file by itself; imports the standard library only.

    code_inside.py answer   loads /t3s_program/answer.py and calls its functions when it is asked to
    code_inside.py tests    runs /t3s_program/tests.py, which asks for such calls
    code_inside.py probe    runs them with functions that fail, to find tests that pass all the same

They speak JSON, one line each, over descriptor 3. Answer and tests are two processes in two
sandboxes: the answer is shown the arguments of each call and no test; the tests get values and no
code. A value is plain data, rebuilt on the side of the tests from the types below: an object that
calls itself equal to everything does not arrive.
"""

from __future__ import annotations

import ast
import builtins
import collections
import decimal
import fractions
import importlib.util
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

#: Values of an iterator that a function may return.
_LONGEST_ITERATOR = 1_000_000
_REBUILD: dict[str, Callable[[list], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "deque": collections.deque,
    "iterator": iter,
    "range": lambda v: range(*v),
    "int": lambda v: int(v[0], 16),
    "float": lambda v: float(v[0]),
    "complex": lambda v: complex(v[0], v[1]),
    "bytes": lambda v: bytes.fromhex(v[0]),
    "decimal": lambda v: decimal.Decimal(v[0]),
    "fraction": lambda v: fractions.Fraction(v[0], v[1]),
}


def encode(value: Any) -> Any:
    """JSON of plain data. TypeError for anything else."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist())
    if isinstance(value, int):
        return int(value) if -(2**63) < value < 2**63 else ["int", [hex(value)]]
    if isinstance(value, float):
        return ["float", [repr(float(value))]]
    if isinstance(value, (list, tuple, set, frozenset)):
        bases = (list, tuple, set, frozenset)
        name = next(base.__name__ for base in bases if isinstance(value, base))
        return [name, [encode(one) for one in value]]
    if isinstance(value, dict):
        return ["dict", [["tuple", [encode(k), encode(v)]] for k, v in value.items()]]
    if isinstance(value, collections.deque):
        return ["deque", [encode(one) for one in value]]
    if isinstance(value, range):
        return ["range", [value.start, value.stop, value.step]]
    if isinstance(value, complex):
        return ["complex", [encode(value.real), encode(value.imag)]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", [value.hex()]]
    if isinstance(value, decimal.Decimal):
        return ["decimal", [str(value)]]
    if isinstance(value, fractions.Fraction):
        return ["fraction", [value.numerator, value.denominator]]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterator):
        return ["iterator", [encode(one) for one in itertools.islice(value, _LONGEST_ITERATOR)]]
    raise TypeError(f"{kind.__name__} is not plain data")


def decode(value: Any) -> Any:
    """What `encode` was given. Any exception for what it has not made."""
    if not isinstance(value, list):
        return value
    name, parts = value
    return _REBUILD[name]([decode(part) for part in parts])


def _channel() -> tuple[Callable[[], dict], Callable[[dict], None]]:
    """To hear a message, and to tell one."""
    both = socket.socket(fileno=3)
    reading, writing = both.makefile("rb"), both.makefile("wb")

    def hear() -> dict:
        line = reading.readline()
        if not line:
            os._exit(0)  # nobody is there
        return json.loads(line)

    def tell(message: dict) -> None:
        writing.write(json.dumps(message).encode() + b"\n")
        writing.flush()

    return hear, tell


# -------------------------------------------------------------------------------- the answer's side

#: What LiveCodeBench's runner puts before an answer that is a function: starter code has type hints
#: without their imports.
_IMPORTS = """
import bisect, collections, copy, datetime, functools, heapq, itertools, json, math, operator
import random, re, statistics, string, sys
from typing import *
from collections import *
from itertools import *
from functools import *
from heapq import *
from bisect import *
from math import *
from builtins import *
"""


def serve() -> None:
    """Answer calls for ever: {"call": name, "args": .., "kwargs": ..} by {"value": ..} or by
    {"raised": type, "text": ..}; first {"loaded": true}, or what loading raised."""
    hear, tell = _channel()
    namespace: dict[str, Any] = {"__name__": "answer"}
    sys.setrecursionlimit(50_000)
    try:
        exec(_IMPORTS, namespace)
        with open("/t3s_program/answer.py", encoding="utf-8") as file:
            exec(compile(file.read(), "answer.py", "exec"), namespace)
        reply = {"loaded": True}
    except BaseException as error:
        reply = _raised(error)
    while True:
        tell(reply)
        request = hear()
        try:
            function = _find(namespace, request["call"])
            arguments = [decode(one) for one in request["args"]]
            named = {key: decode(one) for key, one in request["kwargs"].items()}
            reply = {"value": encode(function(*arguments, **named))}
        except BaseException as error:
            reply = _raised(error)


def _find(namespace: dict, name: str) -> Callable:
    """`f`, `Class.f`, `Class().f`; `f` may also be a method of the answer's class Solution."""
    first, _, method = name.partition(".")
    if not method and first not in namespace and "Solution" in namespace:
        return getattr(namespace["Solution"](), first)
    if first.removesuffix("()") not in namespace:
        raise NameError(f"name {first!r} is not defined")
    found = namespace[first.removesuffix("()")]
    found = found() if first.endswith("()") else found
    return getattr(found, method) if method else found


def _raised(error: BaseException) -> dict:
    try:
        text = str(error)[:2000]
    except BaseException:
        text = ""
    return {"raised": type(error).__name__, "text": text}


# ---------------------------------------------------------------------------------- the tests' side


def test(names: list[str]) -> None:
    """Run the tests with stand-ins for `names`; then {"passed": true}, or false and why."""
    hear, tell = _channel()

    def stand_in(name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                request = {
                    "call": name,
                    "args": [encode(one) for one in args],
                    "kwargs": {key: encode(one) for key, one in kwargs.items()},
                }
            except TypeError as error:
                tell({"fault": f"the tests call {name} with something that is no data ({error})"})
                raise SystemExit from None
            tell(request)
            reply = hear()
            if "value" in reply:
                return decode(reply["value"])
            kind = getattr(builtins, str(reply.get("raised")), None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                kind = RuntimeError
            raise kind(reply.get("text"))

        return call

    try:
        namespace = _prepared()
    except Exception as error:
        tell({"fault": f"the setup of the tests fails: {error!r}"})
        return
    try:
        for name in names:
            namespace["_candidate"] = namespace[name] = stand_in(name)
        with open("/t3s_program/tests.py", encoding="utf-8") as file:
            exec(compile(file.read(), "tests.py", "exec"), namespace)
        tell({"passed": True})
    except Exception as error:
        tell({"passed": False, "why": _raised(error)})


def _prepared() -> dict[str, Any]:
    """The names that tests begin with. They are the program that is run, and what would run them
    for them, and end the process, does nothing: each test is called by its name."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with open("/t3s_program/tests.py", encoding="utf-8") as file:
        text = file.read()
    for runner in ("unittest", "pytest"):
        if runner in text and importlib.util.find_spec(runner):
            setattr(importlib.import_module(runner), "main", lambda *args, **kwargs: 0)  # noqa: B010
    with open("/t3s_program/setup.py", encoding="utf-8") as file:
        exec(compile(file.read(), "setup.py", "exec"), namespace)
    return namespace


def probe(names: list[str]) -> None:
    """Each test with an answer that lacks the functions, and with one whose functions raise: both
    have to fail it. {"passed": false} when they do; else true and which test passes."""
    hear, tell = _channel()
    with open("/t3s_program/tests.py", encoding="utf-8") as file:
        tree = ast.parse(file.read())
    made = {part.name for part in tree.body if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
    made.add("_case")
    for kind, what in ((NameError, "that lacks the function"), (BufferError, "that raises")):

        def fail(*args: Any, kind: type = kind, **kwargs: Any) -> Any:
            raise kind("probing")

        try:
            namespace = _prepared()
        except Exception as error:
            tell({"fault": f"the setup of the tests fails: {error!r}"})
            return
        for name in names:
            namespace["_candidate"] = namespace[name] = fail
        for part in tree.body:
            try:
                exec(compile(ast.Module([part], []), "tests.py", "exec"), namespace)
            except ImportError as error:
                tell({"fault": f"the tests cannot be run: {error}"})
                return
            except BaseException:
                continue
            if _tests_something(part, made):
                text = ast.unparse(part)[:200]
                tell({"passed": True, "why": f"an answer {what} passes `{text}`"})
                return
    tell({"passed": False})


def _tests_something(part: ast.stmt, made: set[str]) -> bool:
    """Whether a statement asserts, or calls what the tests define. Not so `assert True`."""
    if isinstance(part, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return False
    if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call):
        return False  # _case = TestIt(): the making of what is called then
    for node in ast.walk(part):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant):
            return True
        if isinstance(node, ast.Call):
            first = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            hook = isinstance(node.func, ast.Attribute) and not node.func.attr.startswith("test")
            if isinstance(first, ast.Name) and first.id in made and not hook:
                return True
    return False


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        serve()
    else:
        {"tests": test, "probe": probe}[sys.argv[1]](sys.argv[2:])
