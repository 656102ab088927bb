# SPDX-License-Identifier: Apache-2.0
"""`@pytest.mark.child`: run the test in a process of its own that has the CPU layer.

`@pytest.mark.child(processes=2)` runs it in two, joined by gloo; all of them have to pass.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver

import pytest

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))
_CUDA_PACKAGES = os.path.join(_HERE, "cuda_packages")
_SECONDS = 120


def pytest_configure(config):
    config.addinivalue_line("markers", "child(processes=1): in processes with the CPU layer")


@pytest.fixture(scope="session")
def fork_server():
    """A context whose children are forks of a process that has imported `cpu_layer`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cpu_layer"])
    before = dict(os.environ)
    path = [_HERE, _CUDA_PACKAGES, _ROOT, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@pytest.fixture(scope="session")
def run_children(fork_server, tmp_path_factory):
    """run_children(function, arguments, processes): the failures of those processes."""

    def run(function, arguments: dict, processes: int) -> list[str]:
        store = tmp_path_factory.mktemp("store") / "store"
        return _run(fork_server, function, arguments, processes, str(store))

    return run


@pytest.fixture(scope="session")
def in_child(run_children):
    """in_child(function, **arguments): a fixture's own work, done where the tests are."""

    def call(function, **arguments) -> None:
        assert not (failures := run_children(function, arguments, 1)), failures

    return call


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("child"):
            item.fixturenames.append("run_children")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    marker = pyfuncitem.get_closest_marker("child")
    if marker is None:
        return None
    processes = marker.kwargs.get("processes", 1)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run = pyfuncitem.funcargs["run_children"]
    failures = run(pyfuncitem.function, arguments, processes)
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
    return True


def _run(context, function, arguments: dict, processes: int, store: str) -> list[str]:
    from cpu_layer_call import call  # not cpu_layer itself: pytest's process stays without it

    children, failures = [], []
    for rank in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(
            target=call, args=(theirs, function, arguments, rank, processes, store)
        )
        child.start()
        theirs.close()
        children.append((rank, child, ours))
    for rank, child, ours in children:
        try:
            result = ours.recv() if ours.poll(_SECONDS) else f"no end after {_SECONDS} s"
        except EOFError:
            result = "the process died without a word"
        if result is not None:
            failures.append(f"process {rank}: {result}")
        child.kill() if result is not None else child.join(_SECONDS)
    return failures
