# SPDX-License-Identifier: Apache-2.0
"""Programs as answers: does the code in a response pass the unit tests of its problem?

What decides never runs where the answer runs. Expected outputs stay in this process, which compares
them with what the program printed or what its function returned; tests that are code themselves run
in a second sandbox and reach the answer's functions by messages that this process carries (see
`code_inside`). So an answer can end, print or patch what it likes: it cannot say that it passed.

An answer that runs too long, takes too much memory or dies is wrong. It is not a fault of the
verifier: faults make a measurement void, and a student in the shock writes endless loops.
"""

from __future__ import annotations

import json
import math
import os
import re
import selectors
import socket
import time
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Self

from t3s_megatron.accuracy.code import inside as code_inside
from t3s_megatron.accuracy.code import sandbox
from t3s_megatron.accuracy.code.tests import Asserts, Calls, Streams, Tests

#: Share of the time for one answer that its program has, so that the verifier is done before it is
#: itself taken to hang; and of that the share that one process may compute.
_WALL_SHARE, _CPU_SHARE = 0.8, 0.5
#: Bytes of one message, and of an output beyond the length of what is expected.
_LONGEST_MESSAGE, _LONGER_OUTPUT = 2**24, 2**16
_RELATIVE, _ABSOLUTE = Decimal("1e-6"), Decimal("1e-9")
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<label>[^`]*)")
_PYTHON = re.compile(r"(?:python|py|pypy|ipython|cpython)[\d.]*")

_INSIDE = Path(code_inside.__file__).read_bytes()


class _Wrong(Exception):
    """The answer did not keep to what it is bound by."""


def last_program(text: str) -> str | None:
    """The last fenced block marked as Python, else the last one without a mark; None when there is
    none. As in CommonMark, a fence may be indented (in a list), its lines lose as much, and a block
    that is never closed goes on to the end. Linear in the text."""
    found: dict[bool, str] = {}
    block: list[str] = []
    fence = label = indent = ""
    for line in text.splitlines():
        match = _FENCE.fullmatch(line)
        if not fence:
            if match:
                fence, indent, block = match["fence"], match["indent"], []
                label = (match["label"].strip(" {.").split() or [""])[0].lower().rstrip("}")
        elif match and match["fence"].startswith(fence) and not match["label"].strip():
            _keep(found, label, block)
            fence = ""
        else:
            block.append(_outdented(line, indent))
    if fence:
        # The fence may stand at the end of the last line of code.
        ends = (i for i, line in enumerate(block) if line.rstrip().endswith(fence))
        if (last := next(ends, None)) is not None:
            block = [*block[:last], block[last].rstrip().rstrip(fence[0])]
        _keep(found, label, block)
    return found.get(True, found.get(False))


def _keep(found: dict[bool, str], label: str, block: list[str]) -> None:
    """By whether it is marked as Python; not what is marked as anything else."""
    if any(block) and (not label or _PYTHON.fullmatch(label)):
        found[bool(label)] = "\n".join(block) + "\n"


def _outdented(line: str, indent: str) -> str:
    """Without as much white space as the fence had before it, at most."""
    extra = len(line) - len(line.lstrip())
    return line[min(len(indent), extra) :]


def check_here() -> None:
    """SandboxError when not even a program that prints 7 passes here."""
    sandbox.adopt_orphans()
    if not passes("print(7)", Streams((("", "7"),)), 120):
        raise sandbox.SandboxError("a program that prints 7 did not print it in time")


def passes(program: str, tests: Tests, seconds: float) -> bool:
    """Whether `program` passes all of `tests`, within `seconds` for verifying it.

    SandboxError when it could not be run, TimeoutError when the tests themselves do not end,
    RuntimeError when they cannot be carried out: those say nothing of the program.
    """
    deadline = time.monotonic() + seconds * _WALL_SHARE
    cpu = max(1, round(seconds * _WALL_SHARE * _CPU_SHARE))
    try:
        if isinstance(tests, Streams):
            return _streams(program, tests, cpu, deadline)
        if isinstance(tests, Calls):
            return _calls(program, tests, cpu, deadline)
        return _asserts(program, tests, cpu, deadline)
    except _Wrong:
        return False
    finally:
        sandbox.reap()  # every program has ended, or was killed


# --------------------------------------------------------------------------------- standard input


def _streams(program: str, tests: Streams, cpu: int, deadline: float) -> bool:
    for given, expected in tests.cases:
        most = 4 * len(expected.encode()) + _LONGER_OUTPUT
        if not same_output(_run(program, given, most, cpu, deadline), expected):
            return False
    return True


def _run(program: str, given: str, most: int, cpu: int, deadline: float) -> str:
    """What the program prints. _Wrong when it fails, prints more, or is not done by then."""
    handle = os.memfd_create("stdin")
    with open(handle, "r+b") as stdin:
        stdin.write(given.encode())
        stdin.seek(0)
        ours, theirs = os.pipe()
        with open(ours, "rb", buffering=0) as output:
            try:
                files = {"answer.py": _encoded(program), sandbox.STDIN: given.encode()}
                arguments = [f"{sandbox.PROGRAM}/answer.py"]
                confined = sandbox.start(
                    files, arguments, cpu_seconds=cpu, stdin=stdin.fileno(), stdout=theirs
                )
            finally:
                os.close(theirs)
            try:
                printed = _read(output, most, deadline)
                while confined.poll() is None:  # it may have closed its output and go on
                    if time.monotonic() >= deadline:
                        raise _Wrong
                    time.sleep(0.002)
            finally:
                confined.kill()
    if confined.poll() != 0:
        raise _Wrong
    return printed.decode(errors="replace")


def _read(output, most: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = output.read(2**16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            most -= len(part)
            if most < 0:
                break
    raise _Wrong


def same_output(found: str, expected: str) -> bool:
    """Line by line, blind to white space at the ends of lines and of the output; within a line
    that differs, word by word, numbers by `same_number`."""
    lines, wanted = ([line.strip() for line in text.strip().splitlines()] for text in
                     (found, expected))  # fmt: skip
    if len(lines) != len(wanted):
        return False
    for line, want in zip(lines, wanted, strict=True):
        if line != want:
            words, wanted_words = line.split(), want.split()
            if len(words) != len(wanted_words):
                return False
            if not all(map(_same_word, words, wanted_words)):
                return False
    return True


def _same_word(found: str, expected: str) -> bool:
    if found == expected:
        return True
    try:
        return same_number(Decimal(found), Decimal(expected), "." in expected or "e" in expected)
    except InvalidOperation:
        return False


def same_number(found: Decimal, expected: Decimal, inexact: bool) -> bool:
    """Equal; or, where `inexact` (a fraction is expected, and its last digits are a matter of
    rounding), within 1e-6 of it or 1e-9."""
    if found == expected:
        return True
    if not (inexact and found.is_finite() and expected.is_finite()):
        return False
    return abs(found - expected) <= max(_RELATIVE * abs(expected), _ABSOLUTE)


# ------------------------------------------------------------------------------------------ calls


class _Peer:
    """A program in its sandbox, and the socket that it is spoken to by."""

    def __init__(self, role: list[str], files: Mapping[str, str], cpu: int):
        self.socket, theirs = socket.socketpair()
        self._incoming = bytearray()
        content = {name: _encoded(text) for name, text in files.items()}
        content["code_inside.py"] = _INSIDE
        arguments = [f"{sandbox.PROGRAM}/code_inside.py", *role]
        with theirs, open(os.devnull, "r+b") as nothing:
            try:
                self._confined = sandbox.start(
                    content,
                    arguments,
                    cpu_seconds=cpu,
                    stdin=nothing.fileno(),
                    stdout=nothing.fileno(),
                    channel=theirs.fileno(),
                )
            except BaseException:
                self.socket.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._confined.kill()
        self.socket.close()

    def send(self, message: bytes, deadline: float) -> None:
        """TimeoutError when it does not listen in time, another OSError when it is gone."""
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        self.socket.sendall(message + b"\n")

    def receive(self, deadline: float) -> dict:
        """Its next message. TimeoutError when it has none in time, another OSError when it is gone
        or says too much, ValueError when it says something else."""
        searched = 0
        while (end := self._incoming.find(b"\n", searched)) < 0:
            searched = len(self._incoming)
            if searched > _LONGEST_MESSAGE:
                raise OSError("it says too much")
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self.socket.recv(2**18)
            if not part:
                raise OSError("it has ended")
            self._incoming += part
        line = bytes(self._incoming[:end])
        del self._incoming[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"{type(message).__name__} is no message")
        return message


class _Answer(_Peer):
    """The answer's side. Whatever it does, other than to reply in time, is _Wrong."""

    def __init__(self, program: str, cpu: int, deadline: float):
        super().__init__(["answer"], {"answer.py": program}, cpu)
        self._deadline = deadline
        self.loaded = False

    def call(self, request: dict) -> dict:
        """{"value": ..} or {"raised": type, "text": ..}."""
        try:
            if not self.loaded:
                self.loaded = self.receive(self._deadline).get("loaded") is True
                if not self.loaded:
                    raise _Wrong
            self.send(json.dumps(request).encode(), self._deadline)
            return self.receive(self._deadline)
        except (OSError, ValueError, RecursionError) as error:
            raise _Wrong from error


def _calls(program: str, tests: Calls, cpu: int, deadline: float) -> bool:
    with _Answer(program, cpu, deadline) as answer:
        for arguments, expected in tests.cases:
            encoded = [code_inside.encode(one) for one in arguments]
            reply = answer.call({"call": tests.name, "args": encoded, "kwargs": {}})
            if "value" not in reply:
                return False
            try:
                found = code_inside.decode(reply["value"])
                same = same_value(found, expected)
                if not same and not tests.literal and isinstance(expected, list):
                    same = len(expected) == 1 and same_value(found, expected[0])
            except Exception:  # whatever it sent, it was no such value
                return False
            if not same:
                return False
    return True


def same_value(found: Any, expected: Any) -> bool:
    """Equal in the sense of JSON: a tuple is a list, keys are text; fractions by `same_number`."""
    if isinstance(expected, list):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(expected)
            and all(map(same_value, found, expected))
        )
    if isinstance(expected, dict):
        if not isinstance(found, dict) or len(found) != len(expected):
            return False
        by_text = {str(key): value for key, value in found.items()}
        return by_text.keys() == expected.keys() and all(
            same_value(by_text[key], value) for key, value in expected.items()
        )
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return found == expected or same_number(
            Decimal(repr(float(found))), Decimal(repr(expected)), math.isfinite(expected)
        )
    kinds = (str, bool)
    return found == expected and all(
        isinstance(found, kind) == isinstance(expected, kind) for kind in kinds
    )


# ------------------------------------------------------------------------------ tests that are code


def _asserts(program: str, tests: Asserts, cpu: int, deadline: float) -> bool:
    files = {"setup.py": tests.setup, "tests.py": tests.code}
    with (
        _Answer(program, cpu, deadline) as answer,
        _Peer(["tests", *tests.names], files, cpu) as judge,
    ):
        while True:
            try:
                told = judge.receive(deadline)
            except TimeoutError:
                raise TimeoutError("the test code itself did not end in time") from None
            except OSError as error:
                raise RuntimeError(f"the process of the test code: {error}") from error
            if "call" not in told:
                break
            reply = answer.call(told)
            judge.send(json.dumps(reply).encode(), deadline)
    if "fault" in told:
        raise RuntimeError(told["fault"])
    return told["passed"] is True


def never_fails(tests: Tests, seconds: float) -> str | None:
    """Which of the tests no answer can fail: tried with one that lacks the functions and one that
    raises. None where there is no such test. RuntimeError when they cannot be carried out,
    TimeoutError when they do not end."""
    if not isinstance(tests, Asserts):
        return None  # what has to be printed or returned cannot be there
    deadline = time.monotonic() + seconds * _WALL_SHARE
    cpu = max(1, round(seconds * _WALL_SHARE * _CPU_SHARE))
    files = {"setup.py": tests.setup, "tests.py": tests.code}
    try:
        with _Peer(["probe", *tests.names], files, cpu) as judge:
            try:
                told = judge.receive(deadline)
            except TimeoutError:
                raise TimeoutError("the test code itself did not end in time") from None
            except OSError as error:
                raise RuntimeError(f"the process of the test code: {error}") from error
    finally:
        sandbox.reap()
    if "fault" in told:
        raise RuntimeError(told["fault"])
    return told["why"] if told["passed"] else None


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
