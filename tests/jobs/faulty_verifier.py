# SPDX-License-Identifier: Apache-2.0
"""A user's verifier that breaks at some measurements, for the first answers that it is shown there;
else it is `numeric`.

FAULTS=FOLDER: the job writes there which measurement is being made (`now`), and each fault leaves a
mark. Without it nothing breaks. Samples carry their number as metadata.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.accuracy.verifiers import make_verifier

#: measurement -> what happens to the first answers, and whether again to the same on a retry
FAULTS = {
    "profile 3": (["hang", "kill", "hang"], False),
    "targeted 2": (["hang", "kill", "exit"], True),
    "targeted 3": (["hang", "raise"], True),
}
_numeric = make_verifier("numeric")


def verify(text: str, answer: str, metadata: dict) -> bool:
    if "FAULTS" in os.environ:
        break_down(Path(os.environ["FAULTS"]), str(metadata["number"]))
    return _numeric(text, answer, metadata) is Verdict.CORRECT


def break_down(folder: Path, number: str) -> None:
    now = (folder / "now").read_text()
    faults, again = FAULTS.get(now, ([], False))
    for i, fault in enumerate(faults):
        mark = folder / f"{now} {i}"
        try:
            with open(mark, "x") as file:  # one worker only gets it
                file.write(number)
        except FileExistsError:
            if not again or mark.read_text() != number:
                continue
        fail(fault)


def fail(how: str) -> None:
    if how == "hang":
        while True:
            pass
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(0)
    raise KeyError("units")
