# SPDX-License-Identifier: Apache-2.0
"""A Python program shut in by Linux namespaces and resource limits.

The program sees an empty file system with the system's libraries and this Python in it, read-only,
and an empty folder of its own in memory, which is its working directory, HOME and TMPDIR. It has no
network (not even loopback), no /proc, no environment of the run, no capabilities, and sees no
process but its own. It is process 1 of its process namespace, so that whatever it has started, in
whatever session, ends with it; and it ends with the process that called `start`.

What this does not stop is listed in docs/verifiers.md. There is no system-call filter: a program
that breaks the kernel breaks out.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping

from t3s_megatron.accuracy.child import die_with, limit

#: Where the program's files lie, and its working directory, inside.
PROGRAM, HOME = "/t3s_program", "/t3s_home"  # names that hide no Python of a user

#: What programs that open /dev/stdin find there: a file of this name among theirs.
STDIN = "stdin"

#: Processes and threads at once, files open at once, bytes of a file, bytes of its folder.
PROCESSES, OPEN_FILES, FILE_SIZE, FOLDER_SIZE = 32, 128, 32 * 2**20, 64 * 2**20

_NAMESPACES = (
    os.CLONE_NEWUSER | os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWNET | os.CLONE_NEWIPC
    | os.CLONE_NEWUTS
)  # fmt: skip
# <linux/mount.h>, <linux/prctl.h>: the standard library has no names for them.
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR = 442  # the same number on every architecture; Linux 5.12
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_NOBODY = 65534

_UNSHARED, _MAPPED = b"u", b"m"

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(RuntimeError):
    """A program cannot be shut in here; the message says which step the system refused."""


class Confined:
    """A program that runs. Its keeper, a child of this process, ends as it ends."""

    def __init__(self, keeper: int):
        self._keeper = keeper
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or 128 and the number of the signal that ended it; None while it runs,
        what it has started included."""
        if self._status is None:
            pid, status = os.waitpid(self._keeper, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def kill(self) -> None:
        """SIGKILL to it and to all that it has started, if it runs; `reap` waits for their end."""
        if self.poll() is None:
            os.kill(self._keeper, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of what loses its own, so that `reap` sees the end of it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap() -> None:
    """Wait for the end of every child, those of programs that were killed included."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def start(
    files: Mapping[str, bytes],
    arguments: list[str],
    *,
    cpu_seconds: int,
    stdin: int,
    stdout: int,
    channel: int | None = None,
) -> Confined:
    """Run `python *arguments` with `files` (by name) in PROGRAM and these file descriptors: `stdin`
    as 0, `stdout` as 1, nothing as 2, `channel` as 3. Memory is bounded by this process's own
    RLIMIT_DATA, for each process of the program.

    SandboxError when the system refuses a step of it.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        talk = -1
        try:
            talk = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 64)
            die_with(parent)
            _only(stdin, stdout, channel, talk)
            _keep(files, arguments, cpu_seconds, talk, parent)
        except BaseException as error:
            os.write(talk, (str(error) or repr(error)).encode()[:4000])
        finally:
            os._exit(125)
    theirs.close()
    with ours:
        why = ours.recv(4000)
        if why == _UNSHARED:
            try:
                _map_users(pid)
            except OSError as error:
                why = f"its users cannot be mapped: {error}".encode()
            else:
                ours.send(_MAPPED)
                why = ours.recv(4000)  # nothing: closed, as the program begins
    if why:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise SandboxError(why.decode(errors="replace"))
    return Confined(pid)


def _map_users(pid: int) -> None:
    """Give the user namespace of `pid` its users, from outside: only there may root map two.

    Root is not what a program should run as: it owns files, and no limit of processes holds it. So
    it is mapped for the building of the file system, and nobody for the program.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        # Refused in a container that has no other users; its root is not the machine's root.
        with contextlib.suppress(OSError):
            _write(f"/proc/{pid}/uid_map", f"0 0 1\n{_NOBODY} {_NOBODY} 1")
            _write(f"/proc/{pid}/gid_map", f"0 {group} 1\n{_NOBODY} {_NOBODY} 1")
            return
    _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{_NOBODY} {user} 1")
    _write(f"/proc/{pid}/gid_map", f"{_NOBODY} {group} 1")


# ------------------------------------------------------------------------- in the keeper's process


def _only(stdin: int, stdout: int, channel: int | None, talk: int) -> None:
    """Leave the program's descriptors and `talk`, which closes when the program begins."""
    os.setsid()
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    first = 3
    if channel is not None:
        os.dup2(channel, 3)
        os.set_inheritable(3, True)
        first = 4
    os.closerange(first, talk)
    os.closerange(talk + 1, 2**16)


def _keep(
    files: Mapping[str, bytes], arguments: list[str], cpu: int, talk: int, parent: int
) -> None:
    """Make the namespaces, start the program in them, and end as it ends."""
    try:
        os.unshare(_NAMESPACES)
    except OSError as error:
        raise SandboxError(f"unshare: {error.strerror}") from None
    os.write(talk, _UNSHARED)
    if os.read(talk, 1) != _MAPPED:
        os._exit(125)
    _furnish(files)
    die_with(parent)  # again: forgotten with the change of user
    pid = os.fork()
    if pid == 0:
        die_with(0)  # seen from its own process namespace, the keeper has no number
        _limit_all(cpu)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        os.execve(sys.executable, [sys.executable, "-s", "-P", "-B", *arguments], _ENVIRONMENT)
    os.close(talk)
    os.closerange(0, 4)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


#: Everything the program's Python has by way of environment. Not `python -I`, which is this with
#: PYTHONHASHSEED ignored: the order of a set of strings would differ from one measurement to the
#: next, and with it the output of an answer.
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": HOME,
    "TMPDIR": HOME,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def _shown() -> list[str]:
    """What of the file system the program sees."""
    system = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"]
    devices = ["/dev/null", "/dev/zero", "/dev/urandom"]
    return [*system, sys.base_prefix, sys.prefix, *devices]


def _furnish(files: Mapping[str, bytes]) -> None:
    """Inside new namespaces: a file system of `_shown`, `files` and HOME; and be nobody."""
    with contextlib.suppress(OSError):  # read-only in some containers
        _write("/proc/sys/user/max_user_namespaces", "0")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    # Opened before the new root covers what they may lie in.
    shown = {path: os.open(path, os.O_PATH) for path in _shown() if os.path.exists(path)}
    root = "/tmp"  # there is one everywhere
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64m,mode=755")
    for path, handle in shown.items():
        _show(path, handle, root)
        os.close(handle)
    os.mkdir(root + PROGRAM)
    for name, content in files.items():
        with open(f"{root}{PROGRAM}/{name}", "wb") as file:
            file.write(content)
    if STDIN in files:  # without a /proc there is nothing else to be found at its name
        os.symlink(f"{PROGRAM}/{STDIN}", f"{root}/dev/stdin")
    os.mkdir(root + HOME)
    if not os.path.lexists(f"{root}/tmp"):  # where Python lies in /tmp, it is shown there
        os.symlink(HOME, f"{root}/tmp")
    _read_only(root, recursive=False)
    how = f"size={FOLDER_SIZE},nr_inodes=4096,mode=777"
    _mount("tmpfs", root + HOME, "tmpfs", _MS_NOSUID | _MS_NODEV, how)
    os.chdir(root)
    _step("pivot_root", lambda: _libc.pivot_root(b".", b"."))
    _step("umount", lambda: _libc.umount2(b".", _MNT_DETACH))
    os.chdir(HOME)
    with contextlib.suppress(OSError):  # where nobody else is mapped, it is nobody already
        os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _show(path: str, handle: int, root: str) -> None:
    """Bind what `handle` is open on to `path` below `root`, read-only."""
    target, source = root + path, f"/proc/self/fd/{handle}"
    if os.path.exists(target):  # a Python in /usr is there already
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(source, target, None, _MS_BIND | _MS_REC)
    _read_only(target, recursive=True)


def _limit_all(cpu: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    for what, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, soft),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        limit(what, most)


# ---------------------------------------------------------------------------------- system calls


def _step(name: str, call: Callable[[], int]) -> None:
    if call() != 0:
        raise SandboxError(f"{name}: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, value: int) -> None:
    _step("prctl", lambda: _libc.prctl(option, value, 0, 0, 0))


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    encoded = [text and text.encode() for text in (source, target, kind)]
    how = options and options.encode()
    _step(f"mount {target}", lambda: _libc.mount(*encoded, ctypes.c_ulong(flags), how))


def _read_only(path: str, *, recursive: bool) -> None:
    # Not a remount, which may not drop the flags that the source's mount was locked with.
    wanted = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    _step(
        f"mount_setattr {path}",
        lambda: _libc.syscall(
            _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE if recursive else 0,
            ctypes.byref(wanted), ctypes.sizeof(wanted),
        ),
    )  # fmt: skip


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
