# SPDX-License-Identifier: Apache-2.0
"""The process in which a verifier runs: python -m t3s_megatron.accuracy.worker, see `pool`.

Takes (number, text, answer, metadata) pickled from its socket, one at a time, and answers each with
one line of JSON; without a text it is the gold answer that is judged. Whatever the verifier does to
standard input and output, the socket is apart.
Imports neither torch nor Megatron.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import socket
import sys
import traceback

from t3s_megatron.accuracy.child import die_with, limit
from t3s_megatron.accuracy.verdicts import TooHard, Verdict
from t3s_megatron.accuracy.verifiers import entry
from t3s_megatron.errors import T3SError

#: Answers after which the parent replaces the process, so that a small leak stays small.
_LIFE = 1000
_LONGEST_REASON = 4000


def main() -> None:
    handle, parent, memory, timeout, spec = sys.argv[1:]
    die_with(int(parent))
    channel = socket.socket(fileno=int(handle))
    channel.set_inheritable(False)  # or a program that the verifier starts would keep it open
    limit(resource.RLIMIT_DATA, int(float(memory) * 2**30))
    limit(resource.RLIMIT_CORE, 0)
    try:
        known = entry(spec)
        verify = known.make(float(timeout))
    except T3SError as error:
        _send(channel, refused=str(error))
        return
    except BaseException as error:  # a user's module may do anything when it is imported
        _send(channel, refused=f"--t3s-verifier {spec}: cannot be imported ({error!r})")
        return
    _send(channel, ready=True)
    requests, me = channel.makefile("rb"), os.getpid()
    for served in range(1, _LIFE + 1):
        try:
            number, text, answer, metadata = pickle.load(requests)
        except EOFError:  # the parent is done with us
            return
        why, worn_out = None, served == _LIFE
        try:
            if text is None:
                verdict, why = known.judge_gold(verify, answer, metadata)
            else:
                verdict = verify(text, answer, metadata)
        except BaseException as error:  # SystemExit and the like: one answer's verdict, no more
            verdict, why = Verdict.CRASHED, traceback.format_exc()[-_LONGEST_REASON:]
            if isinstance(error, TooHard) and text is not None:
                verdict, why = Verdict.UNPARSEABLE, None
            # Out of memory, threads or files: what was leaked would fail the next answers as well.
            worn_out = worn_out or isinstance(error, (MemoryError, OSError))
        if os.getpid() != me:  # a fork that came back out of the verifier: there can be one reader
            os._exit(0)
        _send(channel, number=number, verdict=verdict, why=why, worn_out=worn_out)


def _send(channel: socket.socket, **reply) -> None:
    channel.sendall(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
