# SPDX-License-Identifier: Apache-2.0
"""Test code of which each part is run.

Functions that pytest or unittest would find are defined by a file and called by nobody: run as it
is, it passes every answer. So they are called here; and what still nobody reaches is refused.
"""

from __future__ import annotations

import ast


class UnusableTests(ValueError):
    """What is wrong with a problem's tests, for a person."""


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def asserts(node: ast.AST) -> bool:
    """Whether it is an assertion: `assert`, `self.assertEqual(..)`, `pytest.raises(..)`."""
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name = node.func.attr
    return name.startswith(("assert", "fail")) or name in ("raises", "assert_allclose")


def run_all(tree: ast.Module, text: str) -> str:
    """The test code with calls of all tests that it defines. UnusableTests when an assertion stands
    where nothing reaches it."""
    calls = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            calls += _call(node, tree)
        elif isinstance(node, ast.ClassDef) and _is_test_class(node):
            calls += _methods(node)
    code = "\n".join([text, *calls])
    _refuse_unreached(ast.parse(code))
    return code


def _call(function: ast.FunctionDef, tree: ast.Module) -> list[str]:
    if _names(tree, outside=function).intersection({function.name}):
        return []  # the code calls it itself
    if function.decorator_list:
        raise UnusableTests(
            f"{function.name} is decorated, and parameters and fixtures are pytest's: write its "
            "cases out"
        )
    arguments = function.args.args
    if len(arguments) > len(function.args.defaults):
        raise UnusableTests(f"{function.name} takes arguments that nothing gives it (a fixture?)")
    return [f"{function.name}()"]


def _is_test_class(node: ast.ClassDef) -> bool:
    bases = [ast.unparse(base) for base in node.bases]
    return node.name.startswith("Test") or any(base.endswith("TestCase") for base in bases)


def _methods(node: ast.ClassDef) -> list[str]:
    names = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
    hooks = {"setup": ("setUp", "setup_method"), "teardown": ("tearDown", "teardown_method")}
    before, after = ([name for name in hooks[when] if name in names] for when in hooks)
    lines = []
    for name in names:
        if name.startswith("test"):
            case = f"_case = {node.name}()"
            lines += [case, *(f"_case.{part}()" for part in (*before, name, *after))]
    if "setUpClass" in names and lines:
        lines.insert(0, f"{node.name}.setUpClass()")
    return lines


def _refuse_unreached(tree: ast.Module) -> None:
    for function in ast.walk(tree):
        if not isinstance(function, _Function):
            continue
        if not any(asserts(node) for node in ast.walk(function)):
            continue
        if function.name not in _names(tree, outside=function) and not _is_hook(function):
            raise UnusableTests(
                f"nothing calls {function.name}, so that what it asserts is never tested"
            )


def _is_hook(function: _Function) -> bool:
    return function.name in ("setUp", "tearDown", "setup_method", "teardown_method")


def _names(tree: ast.AST, outside: ast.AST) -> set[str]:
    """Names and attributes that are read in `tree`, but for those in `outside`."""
    inside = set(ast.walk(outside))
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if node not in inside and isinstance(node, (ast.Name, ast.Attribute))
    }


# ----------------------------------------------------------------------------- whose names are used


def made_by(scope: ast.AST) -> set[str]:
    """Names that a scope makes: it defines, imports or assigns them, or has them for arguments."""
    made: set[str] = set()
    for node in _within(scope):
        if isinstance(node, (*_SCOPES, ast.ClassDef)) and not isinstance(node, ast.Lambda):
            made.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    if isinstance(scope, _SCOPES):
        given = scope.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        made |= {argument.arg for argument in named if argument is not None}
    return made


def used_of_others(scope: ast.AST, known: set[str]) -> list[str]:
    """Names that are called, or handed on as in `check(f)`, and that are not `known` where they
    stand. Once each, in alphabetical order."""
    found: set[str] = set()
    for node in _within(scope):
        if isinstance(node, ast.Call):
            names = (part.id for part in (node.func, *node.args) if isinstance(part, ast.Name))
            found |= {name for name in names if name not in known}
        if isinstance(node, _SCOPES):
            found |= set(used_of_others(node, known | made_by(node)))
    return sorted(found)


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _within(scope: ast.AST) -> list[ast.AST]:
    """The nodes of a scope, functions in it among them, but nothing that is inside of those."""
    found: list[ast.AST] = []
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop()
        found.append(node)
        if not isinstance(node, _SCOPES):
            todo += ast.iter_child_nodes(node)
    return found
