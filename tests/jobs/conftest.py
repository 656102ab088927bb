# SPDX-License-Identifier: Apache-2.0
"""The jobs that tests break off, the same jobs left alone, and a server: once a session."""

from __future__ import annotations

import pytest

from tests.support.launch import run
from tests.support.resumable import SETTINGS, job_arguments
from tests.support.servers import transformers_serve


@pytest.fixture(scope="session")
def start(student, data_arguments):
    """start(setting, folder): the one command of a job, for the first time and for every other."""
    return lambda setting, folder: job_arguments(setting, folder, data_arguments, student)


@pytest.fixture(scope="session")
def uninterrupted(once, start):
    """Folder of the run that never died, by setting."""

    def of(setting: str) -> str:
        processes = SETTINGS[setting].processes
        return once(
            f"uninterrupted-{setting}", lambda f: run(start(setting, f), processes=processes)
        )

    return of


@pytest.fixture(scope="session")
def server():
    """URL of a `transformers serve`. One for each worker process: it has one seed for all that it
    does, and another test's requests would change what this one's are answered."""
    with transformers_serve() as url:
        yield url
