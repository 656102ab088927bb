# SPDX-License-Identifier: Apache-2.0
"""The jobs that tests break off, and the same jobs left alone, once a session."""

from __future__ import annotations

import pytest

from tests.support.launch import run
from tests.support.resumable import SETTINGS, job_arguments


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
