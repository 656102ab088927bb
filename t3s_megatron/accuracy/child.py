# SPDX-License-Identifier: Apache-2.0
"""What a process that judges, or is judged, does to itself when it starts."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with(parent: int) -> None:
    """SIGKILL for this process when its parent dies, however that dies. `parent`: its number as
    this process sees it. OSError when the system refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it was gone before we could ask
        os._exit(125)


def limit(what: int, most: int) -> None:
    """Both limits of a resource to `most`, or to the hard limit where that is lower."""
    _, highest = resource.getrlimit(what)
    if highest != resource.RLIM_INFINITY and (most == resource.RLIM_INFINITY or most > highest):
        most = highest
    resource.setrlimit(what, (most, most))
