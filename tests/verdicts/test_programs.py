# SPDX-License-Identifier: Apache-2.0
"""Programs that try everything but to solve the problem, in their real sandbox.

Each attack stands between two right answers that have to stay right. All of them run once, in one
pool, and the tests look at what came of each. Nothing asserts wall time.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from t3s_megatron.accuracy.code import sandbox
from t3s_megatron.accuracy.code.programs import last_program, same_output, same_value
from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.errors import T3SError
from tests.support.sandboxed import needs_sandbox

CORRECT, WRONG, UNPARSEABLE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSEABLE
CRASHED, TIMED_OUT = Verdict.CRASHED, Verdict.TIMED_OUT
#: 4.8 s for all tests of an answer, 2 s of computing for a process of it.
LIMITS = Limits(timeout=6.0, workers=2, memory=1.0)
#: For what ends by itself, on a machine that is busy with something else.
PATIENT = Limits(timeout=120.0, workers=2, memory=1.0)
#: Programs give their processes this name, by which they are found from outside.
MARK = f"t3s{os.getpid()}"
SECRET = "q8f3-secret-7711"

PRINTS = {"inputs": ["1\n", "2\n"], "outputs": [SECRET, SECRET]}
STREAM = {"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}
CALL = {"fn_name": "f", "inputs": [[2], [5]], "outputs": [4, 10]}
ASSERT = ["assert f(2) == 4", "assert f(5) == 10"]
CHECK = {
    "entry_point": "f",
    "prompt": "def f(x):\n    '''Twice x.'''\n\ndef helper(x):\n    return x\n",
    "test": "def check(candidate):\n    assert helper(candidate(2)) == 4\n"
    "    assert sorted([candidate(5), 1]) == [1, 10]\n",
}
ALL = [STREAM, CALL, ASSERT, CHECK]
RIGHT = "def f(x):\n    return 2 * x\nif __name__ == '__main__':\n    print(f(int(input())))\n"


def writes(text: str) -> dict:
    """A program is right when it prints this: that a limit held."""
    return {"inputs": [""], "outputs": [text]}


def named(program: str) -> str:
    return f"import ctypes\nctypes.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)\n{program}"


#: name: (program, its tests, the verdict)
ATTACKS: dict[str, tuple[str, list, Verdict]] = {
    # ---- to be taken for one that passed
    "sys.exit": ("import sys; sys.exit(0)", ALL, WRONG),
    "os._exit": ("import os; os._exit(0)", ALL, WRONG),
    "exit in the call": ("import os\ndef f(x):\n    os._exit(0)", [CALL, ASSERT, CHECK], WRONG),
    "prints a verdict": ('print(\'{"passed": true}\\ncorrect\')', ALL, WRONG),
    "speaks as the tests": (
        "import os\n"
        "for _ in range(9):\n"
        '    os.write(3, b\'{"loaded": true}\\n{"passed": true}\\n{"value": true}\\n\')\n'
        "def f(x): return 0",
        [CALL, ASSERT, CHECK],
        WRONG,
    ),
    "speaks nonsense": (
        "import os\nos.write(3, b'[]\\n' + b'{' * 10**5 + b'\\n\\xff\\n')\ndef f(x): return 4",
        [CALL, ASSERT],
        WRONG,
    ),
    "says too much": ("def f(x): return 'x' * 10**8", [CALL, ASSERT], WRONG),
    "equal to everything": (
        "class A(int):\n"
        "    def __eq__(self, other): return True\n"
        "    def __hash__(self): return 4\n"
        "    def __lt__(self, other): return False\n"
        "class B:\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "def f(x): return A(0) if x == 2 else B()",
        [CALL, ASSERT, CHECK],
        WRONG,
    ),
    "patches Python": (
        "import builtins, json, sys, __main__\n"
        "builtins.sorted = lambda xs: [1, 10]\n"
        "builtins.AssertionError = builtins.Exception = BaseException\n"
        "json.dumps = lambda *a, **k: '{\"passed\": true}'\n"
        "__main__.encode = lambda value: 4\n"
        "def helper(x): return 4\n"
        "def check(candidate): pass\n"
        "def f(x): return 0",
        [CALL, ASSERT, CHECK],
        WRONG,
    ),
    "replaces a helper of the tests": (
        "def helper(x): return 4\ndef f(x): return 0 if x == 2 else 10",
        [CHECK],
        WRONG,
    ),
    "looks for the tests": (
        "import gc, os, sys\n"
        "found = ['no']\n"
        "for folder, _, names in os.walk('/', followlinks=False):\n"
        "    if folder.startswith(('/usr', '/lib', '/bin', '/dev', sys.prefix, sys.base_prefix)):\n"
        "        continue\n"
        "    for name in names:\n"
        "        text = open(os.path.join(folder, name), errors='replace').read()\n"
        "        at = text.find('secret-7711')\n"
        "        if at >= 0 and 'find(' not in text: found.append(text[at - 5:at + 11])\n"
        "found += [s for s in gc.get_objects() if isinstance(s, str) and s.endswith('cret-7711')]\n"
        "print(found[-1], os.environ, sys.argv)",
        [PRINTS],
        WRONG,
    ),
    # ---- to do harm
    "kills": (
        "import os, signal\n"
        "for pid in (os.getppid(), 1, 0, -1):\n"
        "    try: os.kill(pid, signal.SIGKILL)\n"
        "    except OSError: pass\n"
        "def f(x): return 0",
        ALL,
        WRONG,
    ),
    "fork bomb": (
        named("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
        [STREAM, CALL],
        WRONG,
    ),
    "processes are bounded": (
        "import os, time\n"
        "for n in range(1000):\n"
        "    try:\n"
        "        if os.fork() == 0: time.sleep(100)\n"
        "    except OSError: break\n"
        f"print(n < {sandbox.PROCESSES})",
        [writes("True")],
        CORRECT,
    ),
    "disk is bounded": (
        "n = 0\n"
        "try:\n"
        "    for n in range(300):\n"
        "        with open(f'f{n}', 'wb') as file: file.write(bytes(2**20))\n"
        "except OSError: pass\n"
        f"print(n * 2**20 <= {sandbox.FOLDER_SIZE})",
        [writes("True")],
        CORRECT,
    ),
    "a file is bounded": (
        "try:\n"
        "    with open('f', 'wb') as file:\n"
        "        for n in range(60): file.write(bytes(2**20))\n"
        "except OSError: pass\n"
        f"print(n * 2**20 <= {sandbox.FILE_SIZE})",
        [writes("True")],
        CORRECT,
    ),
    "memory is bounded": (
        "kept = []\n"
        "try:\n"
        "    for n in range(300): kept.append(bytearray(2**23))\n"
        "except MemoryError: pass\n"
        "count = len(kept); kept.clear(); print(50 < count < 130)",
        [writes("True")],
        CORRECT,
    ),
    "all memory": ("kept = [bytearray(2**24) for _ in range(10**5)]", [STREAM, ASSERT], WRONG),
    "prints for ever": ("while True: print('x' * 10**5)", [STREAM], WRONG),
    "computes for ever": ("while True: pass", [STREAM], WRONG),
    "calls for ever": ("def f(x):\n    while True: pass", [CALL, ASSERT], WRONG),
    "sleeps for ever": (
        "import time, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n"
        "time.sleep(1e6)",
        [STREAM, CHECK],
        WRONG,
    ),
    "closes everything": (
        "import os, time\nos.closerange(0, 64)\ntime.sleep(1e6)",
        [STREAM, CALL],
        WRONG,
    ),
    "leaves a daemon": (
        named(
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0: time.sleep(1e6)\n"
            "    os._exit(0)\n" + RIGHT
        ),
        [STREAM, CALL],
        CORRECT,
    ),
    "recursion": ("def f(x): return f(x)\nf(1)", ALL, WRONG),
    "crash": ("import ctypes; ctypes.string_at(0)", ALL, WRONG),
    "no Python": ("def f(x) return 2 * x\0", ALL, WRONG),
}  # fmt: skip


@pytest.fixture(scope="module")
def harm(tmp_path_factory):
    """What programs could reach from outside: a file, a server, a variable."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "file").write_text(SECRET)
    (folder / "file").chmod(0o666)
    folder.chmod(0o777)
    server = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{MARK}")
    abstract.listen()
    os.environ["HF_TOKEN"] = SECRET
    yield {"file": str(folder / "file"), "port": server.getsockname()[1]}
    del os.environ["HF_TOKEN"]
    server.close()
    abstract.close()


def reaching(harm: dict) -> dict[str, tuple[str, list, Verdict]]:
    return {
        "network": (
            "import socket\n"
            "def reaches(family, address):\n"
            "    try: socket.socket(family).connect(address); return True\n"
            "    except OSError: return False\n"
            f"print(reaches(socket.AF_INET, ('127.0.0.1', {harm['port']})),\n"
            f"      reaches(socket.AF_UNIX, b'\\0{MARK}'),\n"
            "      reaches(socket.AF_INET, ('1.1.1.1', 53)))",
            [writes("False False False")],
            CORRECT,
        ),
        "files": (
            "import os\n"
            "def opens(path, how):\n"
            "    try: open(path, how); return True\n"
            "    except OSError: return False\n"
            f"print(opens({harm['file']!r}, 'r'), opens({harm['file']!r}, 'w'),\n"
            "      opens('/proc/self/environ', 'rb'), opens(os.__file__, 'r+'),\n"
            "      opens('/program/answer.py', 'r+'), opens('/x', 'w'), opens('x', 'w'))",
            [writes("False False False False False False True")],
            CORRECT,
        ),
        "surroundings": (
            "import os\n"
            "print(os.getcwd() == os.environ['HOME'] == os.environ['TMPDIR'], os.listdir(),\n"
            "      'HF_TOKEN' in os.environ, os.getpid(), os.getuid() == 0)",
            [writes("True [] False 1 False")],
            CORRECT,
        ),
        "rights": (
            "import ctypes\n"
            "libc = ctypes.CDLL(None)\n"
            "print(libc.unshare(0x10000000), libc.setuid(0), libc.mount(0, b'/', 0, 32, 0))",
            [writes("-1 -1 -1")],
            CORRECT,
        ),
        "a folder of its own": (
            "import os; print(os.listdir()); open('left', 'w').close()",
            [{"inputs": ["", ""], "outputs": ["[]", "[]"]}],
            CORRECT,
        ),
    }


def asked(program: str, tests) -> Question:
    return Question(f"```python\n{program}\n```", json.dumps(tests))


def judge_all(harm) -> dict[str, list[tuple[Verdict, str | None]]]:
    cases = ATTACKS | reaching(harm)
    right = [("right", asked(RIGHT, tests)) for tests in ALL]
    found: dict[str, list] = {}
    for limits, works in ((LIMITS, False), (PATIENT, True)):
        attacks = [
            (name, asked(program, tests))
            for name, (program, many, wanted) in cases.items()
            if (wanted is CORRECT) == works
            for tests in many
        ]
        order = [*right, *attacks, *right]
        with VerifierPool("code", limits) as pool:
            judged = pool.verify([question for _, question in order])
        for (name, _), one in zip(order, judged, strict=True):
            found.setdefault(name, []).append((one.verdict, one.why))
    return found


@pytest.fixture(scope="module")
def verdicts(harm, once) -> dict[str, list[tuple[Verdict, str | None]]]:
    """By attack, one for each of its tests; and those of right answers in between. Against one
    worker's `harm`."""

    def make(folder: str) -> None:
        Path(folder, "verdicts").write_bytes(pickle.dumps(judge_all(harm)))

    return pickle.loads(Path(once("attacks", make), "verdicts").read_bytes())


@needs_sandbox
@pytest.mark.parametrize("name", [*ATTACKS, *reaching({"file": "", "port": 0})])
def test_an_attack_is_a_wrong_answer_and_no_more(name, verdicts, harm):
    allowed = {(ATTACKS | reaching(harm))[name][2]}
    if name == "fork bomb":  # on a busy machine its end may take more time than a worker has
        allowed.add(TIMED_OUT)
    assert {verdict for verdict, _ in verdicts[name]} <= allowed, verdicts[name]


@needs_sandbox
def test_right_answers_stay_right(verdicts, harm):
    assert [verdict for verdict, _ in verdicts["right"]] == [CORRECT] * 16, verdicts["right"]
    assert Path(harm["file"]).read_text() == SECRET


def marked() -> list[int]:
    """Processes of the name that the programs here give themselves."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text().strip() == MARK:
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def gone() -> bool:
    for _ in range(600):
        if not marked():
            return True
        time.sleep(0.05)
    return False


@needs_sandbox
def test_nothing_is_left_running(verdicts):
    assert gone()


@needs_sandbox
def test_a_program_ends_with_the_worker_that_is_killed():
    sleeps = asked(named("import time\nif __name__ == '__main__': time.sleep(1e6)"), STREAM)
    with VerifierPool("code", Limits(timeout=600, workers=1)) as pool:
        judged = []
        asking = threading.Thread(target=lambda: judged.extend(pool.verify([sleeps])))
        asking.start()
        while not marked():
            assert asking.is_alive(), judged
            time.sleep(0.02)
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        asking.join()
    assert judged[0].verdict is CRASHED and gone()


# ----------------------------------------------------------------- faults that are not the answer's


@needs_sandbox
def test_tests_that_do_not_end_or_cannot_be_carried_out_are_no_wrong_answer():
    never = "def check(candidate):\n    candidate(1)\n    while True: pass\n"
    code = "def check(candidate):\n    assert candidate(lambda: 1)\n"
    tests = [{"test": test, "entry_point": "f"} for test in (never, code)]
    tests.append({"test_list": ASSERT, "test_setup_code": "import no_such_module"})
    with VerifierPool("code", Limits(timeout=8.0, workers=2, memory=1.0)) as pool:
        judged = pool.verify([asked(RIGHT, one) for one in tests])
    assert [one.verdict for one in judged] == [CRASHED] * 3
    reasons = [one.why or "" for one in judged]
    # Of 3 s of computing and 6.4 s in all, a busy machine may come to the end of the second first.
    ends = ("the process of the test code: it has ended", "test code itself did not end in time")
    assert any(end in reasons[0] for end in ends), reasons[0]
    assert "something that is no data" in reasons[1]
    assert "No module named 'no_such_module'" in reasons[2]


#: Be this user in a user namespace.
BECOME_USER = f"""import os, sys
        user, group = os.geteuid(), os.getegid()
        os.unshare(os.CLONE_NEWUSER)
        open("/proc/self/setgroups", "w").write("deny")
        open("/proc/self/uid_map", "w").write(f"%d {{user}} 1")
        open("/proc/self/gid_map", "w").write(f"%d {{group}} 1")
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})"""


@needs_sandbox
def test_a_run_that_is_not_roots():
    questions = [(asked(RIGHT, tests).text, json.dumps(tests)) for tests in ALL]
    questions.append((asked("import os; print(os.getuid())", "").text, json.dumps(writes("65534"))))
    program = f"""
        {BECOME_USER % (1000, 1000)}
        from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
        assert os.geteuid() == 1000
        with VerifierPool("code", Limits(workers=1)) as pool:
            for one in pool.verify([Question(*pair) for pair in {questions!r}]):
                print(one.verdict, one.why)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert ran.stdout.splitlines() == ["correct None"] * 5, ran.stderr


@needs_sandbox
def test_where_namespaces_are_refused_the_run_is_refused():
    """By the kernel itself: in a user namespace that may hold no further one."""
    program = f"""
        {BECOME_USER % (0, 0)}
        open("/proc/sys/user/max_user_namespaces", "w").write("0")
        from t3s_megatron.accuracy.verifiers import make_verifier
        from t3s_megatron.errors import T3SError
        try:
            make_verifier("code")
        except T3SError as error:
            sys.exit(str(error))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert "--t3s-verifier code: a program cannot be shut in on this machine" in ran.stderr
    assert "unshare: No space left on device" in ran.stderr and ran.returncode == 1


def test_a_python_that_does_not_start_is_a_refusal(monkeypatch):
    with (
        VerifierPool("code", Limits(memory=0.012)) as pool,
        pytest.raises(T3SError, match=r"cannot be shut in|MemoryError|does not start"),
    ):
        pool.load()


# ------------------------------------------------------------------------------- what is compared


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```python\na\n```\n```python\nb\n```\nbye", "b\n"),
        ("```py\na\n```\n```\n42\n```", "a\n"),
        ("```\na\n```\n```\nb\n```", "b\n"),
        ("```python\na\n```\n```cpp\nint a;\n```", "a\n"),
        ("```Python3 title=x\na\n```", "a\n"),
        ("~~~python\na\n```\n~~~", "a\n```\n"),
        ("````python\na\n```\n````", "a\n```\n"),
        # CommonMark: in a list, and never closed
        ("- Code\n  ```python\n  if a:\n      b\n  ```", "if a:\n    b\n"),
        ("    ```python\n    a\n  b\n    ```", "a\nb\n"),
        ("```python\na", "a\n"),
        ("```python\na\nb```", "a\nb\n"),
        ("```python\na```\nbye", "a\n"),
        ("```python3.11\na\n```", "a\n"),
        ("```pypy3\na\n```", "a\n"),
        ("```{.python}\na\n```", "a\n"),
        ("```python", None),
        ("```pyrex\na\n```", None),
        ("```cpp\nint a;\n```", None),
        ("print(1)", None),
        ("", None),
    ],
)
def test_the_last_python_block(text, program):
    assert last_program(text) == program


@pytest.mark.parametrize("part", ["```", "```python\n", "\n```\n", "<think>", "`", "</think>"])
def test_a_response_that_repeats_itself_is_read_in_linear_time(part):
    started = time.process_time()
    last_program(part * 100_000)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1 2\n3", "1 2 \n3\n\n", True),
        ("\n1", "1", True),
        ("1", "1.0", True),
        ("0.3333333", "0.333333333", True),
        ("1e3", "1000.0", True),
        ("1  2", "1 2", True),
        ("nan", "nan", True),
        ("", "", True),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("1000001", "1000000", False),
        ("1.0000001", "1", False),
        ("0.3334", "0.333333333", False),
        ("inf", "1.5", False),
        ("Yes", "YES", False),
        ("1 2 3", "1 2", False),
    ],
)
def test_same_output(found, expected, same):
    assert same_output(found, expected) is same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ((1, [2, (3,)]), [1, [2, [3]]], True),
        ({1: "a"}, {"1": "a"}, True),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, True),
        ("1", 1, False),
        (1, "1", False),
        ([1], [1, 2], False),
        ({1, 2}, [1, 2], False),
        (None, [], False),
        (0.30001, 0.3, False),
        (float("nan"), 0.5, False),
    ],
)
def test_same_value(found, expected, same):
    assert same_value(found, expected) is same
