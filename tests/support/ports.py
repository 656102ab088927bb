# SPDX-License-Identifier: Apache-2.0
"""Ports for what a test starts."""

from __future__ import annotations

import contextlib
import secrets
import socket


def free_port() -> int:
    """One that nobody listens at, and that the system gives to no one who asks for any: between
    this call and the use of the port, others connect."""
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("localhost", 20_000 + secrets.randbelow(12_000)))
            return free.getsockname()[1]
