# SPDX-License-Identifier: Apache-2.0
"""Real worker processes whose verifier does its worst: its own answer is lost, nothing else.

Nothing here asserts wall time; a pool that hangs meets the deadline of `no_hang`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t3s_megatron.accuracy import pool as pool_module
from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.errors import T3SError

CORRECT, WRONG, TIMED_OUT, CRASHED, SKIPPED = (
    Verdict.CORRECT,
    Verdict.WRONG,
    Verdict.TIMED_OUT,
    Verdict.CRASHED,
    Verdict.SKIPPED,
)

#: What the verifier does when it is shown this text, and what becomes of that answer.
FAULTS = {
    "loop": ("while True: pass", TIMED_OUT),
    # One call into C that keeps the interpreter's lock: no thread and no alarm could end it.
    "regex": ("re.match(r'(a+)+$', 'a' * 64 + 'b')", TIMED_OUT),
    "sleep": ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); time.sleep(1e6)", TIMED_OUT),
    "stop": ("os.kill(os.getpid(), signal.SIGSTOP)", TIMED_OUT),
    "exit": ("os._exit(3)", CRASHED),
    "exit 0": ("os._exit(0)", CRASHED),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", CRASHED),
    "segfault": ("ctypes.string_at(0)", CRASHED),
    "raise": ("raise KeyError('units')", CRASHED),
    "raise long": ("raise ValueError('\\0\\n' * 10**6)", CRASHED),
    "system exit": ("sys.exit(0)", CRASHED),
    "interrupt": ("raise KeyboardInterrupt", CRASHED),
    "recursion": ("verify(text, answer, metadata)", CRASHED),
    "memory": ("kept.append([bytearray(2**24) for _ in range(10**4)])", CRASHED),
    "close all": ("os.closerange(0, 256)", CRASHED),
    "garbage": ("[os.write(n, b'{}[]\\xff\\n') for n in sockets()]", CRASHED),
    "flood": ("[os.write(n, b'x' * 2**17) for n in sockets()]", CRASHED),
    "half a line": ("[os.write(n, b'{\"num') for n in sockets()]; os._exit(1)", CRASHED),
    "nothing": ("return None", CRASHED),
    "a list": ("return ['1', True]", CRASHED),
    "a long text": ("return 'x' * 10**7", CRASHED),
    "print": ("print('x' * 10**7); print('y' * 10**7, file=sys.stderr)", WRONG),
    "read stdin": ("sys.stdin.read()", WRONG),
    "close stdin": ("sys.stdin.close()", WRONG),
    "fork": ("os.fork()", WRONG),
    "signals": ("signal.signal(signal.SIGALRM, lambda *_: 1 / 0)", WRONG),
    "exception hook": ("sys.excepthook = sys.stdout = None", WRONG),
}  # fmt: skip

LIMITS = Limits(timeout=2.0, workers=2, memory=0.25)


@pytest.fixture(autouse=True)
def no_hang():
    def late(*_):
        raise AssertionError("the pool hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of modules with verifiers, on the path of this process and so of the workers."""
    folder = tmp_path_factory.mktemp("verifiers")
    cases = "\n".join(
        f"    if text == {name!r}:\n        {code}" for name, (code, _) in FAULTS.items()
    )
    (folder / "worst.py").write_text(
        "import ctypes, os, re, signal, stat, sys, time\n"
        "kept = []\n"
        "def sockets():\n"
        "    handles = [n for n in range(3, 64) if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "    return [n for n in handles if stat.S_ISSOCK(os.fstat(n).st_mode)]\n"
        "def verify(text, answer, metadata):\n" + cases + "\n    return text == answer\n"
        "def pid(text, answer, metadata):\n"
        "    with open(answer, 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "    return 1.0\n"
        "def child(text, answer, metadata):\n"
        "    import subprocess\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        "    with open(answer, 'a') as file: file.write(f'{child.pid}\\n')\n"
        "    time.sleep(1000)\n"
        "def metadata(text, answer, metadata):\n"
        "    return repr(metadata) == text\n"
    )
    (folder / "imports_badly.py").write_text("raise SystemExit(0)\n")
    (folder / "imports_never.py").write_text("import os\nos._exit(1)\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def pool(folder):
    with VerifierPool("worst:verify", LIMITS) as made:
        yield made


def verdicts(judged) -> list[Verdict]:
    return [one.verdict for one in judged]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids) -> bool:
    """Whether all end, which the kernel may take a moment for."""
    for _ in range(600):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_own_answer(fault, pool):
    good, bad = Question("1", "1"), Question("1", "2")
    judged = pool.verify([good, bad, Question(fault, "1"), good, bad, good])
    assert verdicts(judged) == [CORRECT, WRONG, FAULTS[fault][1], CORRECT, WRONG, CORRECT]
    assert (judged[2].why is not None) == (FAULTS[fault][1] is not WRONG)


def test_what_happened_is_told(pool):
    names = ["loop", "kill", "segfault", "exit", "raise", "raise long", "close all"]
    told = [one.why for one in pool.verify([Question(name, "1") for name in names])]
    assert told[0] == "no verdict within 2 s"
    assert told[1].endswith("killed by SIGKILL") and told[2].endswith("killed by SIGSEGV")
    assert told[3].endswith("exit status 3") and told[4].endswith("KeyError: 'units'\n")
    assert len(told[5]) <= 4000


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["1", "2", "exit", "kill", "raise", "system exit", "garbage", "fork",
                         "half a line", "nothing", "close all"]),
        max_size=12,
    )
)  # fmt: skip
def test_any_mixture_gives_each_its_own_verdict_in_order(pool, texts):
    wanted = {"1": CORRECT, "2": WRONG} | {name: verdict for name, (_, verdict) in FAULTS.items()}
    judged = pool.verify([Question(text, "1") for text in texts])
    assert verdicts(judged) == [wanted[text] for text in texts]


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "😀" * 10, "x" * 5_000_000, "\n{}\r\n"])
def test_any_text_arrives_as_it_is(pool, text):
    assert verdicts(pool.verify([Question(text, text)])) == [CORRECT]


def test_metadata_arrives_as_it_is(folder):
    metadata = {"a": [1, (2.5, None)], 3: b"\xff"}
    with VerifierPool("worst:metadata", LIMITS) as pool:
        asked = [Question(repr(one), "", one) for one in (metadata, None)]
        assert verdicts(pool.verify(asked)) == [CORRECT, CORRECT]


def test_no_answers_need_no_process(folder):
    with VerifierPool("no.such:verifier", LIMITS) as pool:
        assert pool.verify([]) == []


def test_beyond_the_failures_that_are_allowed_no_more_is_begun(pool):
    judged = verdicts(pool.verify([Question("kill", "1")] * 50, allowed_failures=3))
    begun = 50 - judged.count(SKIPPED)
    assert 4 <= begun <= 4 + LIMITS.workers and judged == [CRASHED] * begun + [SKIPPED] * (
        50 - begun
    )
    judged = verdicts(pool.verify([Question("kill", "1")] * 3, allowed_failures=3))
    assert judged == [CRASHED] * 3


def test_workers_are_kept_from_one_measurement_to_the_next(folder, tmp_path):
    with VerifierPool("worst:pid", Limits(workers=1)) as pool:
        asked = [Question("", str(tmp_path / "pids"))] * 2
        pool.verify(asked)
        pool.verify(asked)
    assert len(set((tmp_path / "pids").read_text().split())) == 1


def test_a_worker_is_replaced_after_a_while_for_what_it_may_have_leaked(folder, tmp_path):
    with VerifierPool("worst:pid", Limits(workers=1)) as pool:
        judged = pool.verify([Question("", str(tmp_path / "pids"))] * 1001)
    assert verdicts(judged) == [CORRECT] * 1001
    pids = (tmp_path / "pids").read_text().split()
    assert len(set(pids[:1000])) == 1 and pids[1000] != pids[0]


def test_a_worker_that_dies_between_two_measurements_costs_nothing(folder, tmp_path):
    with VerifierPool("worst:pid", Limits(workers=1)) as pool:
        asked = [Question("", str(tmp_path / "pids"))]
        pool.verify(asked)
        victim = int((tmp_path / "pids").read_text())
        os.kill(victim, signal.SIGKILL)
        assert gone([victim])
        assert verdicts(pool.verify(asked)) == [CORRECT]


def test_what_a_verifier_has_started_ends_with_it(folder, tmp_path):
    with VerifierPool("worst:child", LIMITS) as pool:
        judged = pool.verify([Question("", str(tmp_path / "pids"))] * 2)
    assert verdicts(judged) == [TIMED_OUT] * 2
    assert gone(map(int, (tmp_path / "pids").read_text().split()))


def test_no_process_is_left_when_the_pool_is_closed(folder, tmp_path):
    with VerifierPool("worst:pid", LIMITS) as pool:
        pool.verify([Question("", str(tmp_path / "pids"))] * 20)
    assert gone(map(int, (tmp_path / "pids").read_text().split()))


@pytest.mark.parametrize("how", ["SIGKILL", "exit"])
def test_workers_die_with_their_parent(how, folder, tmp_path):
    """Also those that are busy, and will be for ever."""
    program = f"""
        import os, sys, threading, time
        sys.path.insert(0, {str(folder)!r})
        from t3s_megatron.accuracy.pool import *
        def end():
            while not os.path.exists({str(tmp_path / "pids")!r}):
                time.sleep(0.01)
            {"os.kill(os.getpid(), 9)" if how == "SIGKILL" else "os._exit(0)"}
        threading.Thread(target=end, daemon=True).start()
        pool = VerifierPool("stuck_{how}:verify", Limits(timeout=1e6, workers=1))
        pool.verify([Question("", "")])
    """
    # A name of its own: compiled, one of the same size and second would be the other case's.
    (folder / f"stuck_{how}.py").write_text(
        "import os, time\n"
        "def verify(text, answer, metadata):\n"
        f"    with open({str(tmp_path / 'new')!r}, 'w') as file: file.write(str(os.getpid()))\n"
        f"    os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pids')!r})\n"
        "    while True: pass\n"
    )
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=100)
    assert gone([int((tmp_path / "pids").read_text())])


def test_a_worker_imports_neither_torch_nor_megatron():
    program = (
        "import sys, t3s_megatron.accuracy.worker\n"
        "heavy = {'torch', 'megatron', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -------------------------------------------------------------------------------- cannot be loaded


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:f", "no_such_module:f: cannot be imported .*No module named"),
        ("worst:gone", "worst:gone: cannot be imported"),
        ("worst:kept", "worst:kept: is not a function"),
        ("imports_badly:f", r"imports_badly:f: cannot be imported \(SystemExit\(0\)\)"),
        ("imports_never:f", "its process does not start .exit status 1., tried 3 times"),
    ],
)
def test_a_verifier_that_cannot_be_had(spec, message, folder):
    with VerifierPool(spec, LIMITS) as pool:
        with pytest.raises(T3SError, match=message):
            pool.load()
        with pytest.raises(T3SError, match=message):
            pool.verify([Question("1", "1")])


def test_too_little_memory_to_start_with_is_named(folder):
    with (
        VerifierPool("math", Limits(memory=0.001)) as pool,  # sympy needs more than that
        pytest.raises(T3SError, match=r"MemoryError|--t3s-verify-memory is 0\.001 GiB"),
    ):
        pool.load()


def test_a_module_that_is_imported_for_ever(folder, monkeypatch):
    (folder / "imports_slowly.py").write_text("while True: pass\n")
    monkeypatch.setattr(pool_module, "START_TIMEOUT", 0.5)
    with (
        VerifierPool("imports_slowly:f", LIMITS) as pool,
        pytest.raises(T3SError, match=r"does not start \(no answer in time\)"),
    ):
        pool.load()
