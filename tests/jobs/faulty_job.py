# SPDX-License-Identifier: Apache-2.0
"""A pretrain script in which accuracy measurements meet with faults; see also faulty_verifier.py.

FAULTS=FOLDER     tells the verifier which measurement is being made
LATE_RANK=R       this rank's clock is past the deadline in the middle of the profile's step 1
RAISE_RANK=R      this rank raises while it generates
KILL_MARK=FILE    rank 1 dies by SIGKILL during the retry of the profile's step 3, once
"""

from __future__ import annotations

import os
from pathlib import Path

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer
from tests.jobs.killed_job import before

#: Of some 30 tokens: a part of the answers has met its end token by then.
_LATE_AT = 20


class Watch:
    """Which measurement is being made, and what breaks at it."""

    def __init__(self):
        self.rank = os.environ["RANK"]
        self.measurement, self.attempt, self.token = "", 0, 0

    def begins(self, measurer, *_, step: int, phase: str, **__) -> bool:
        self.measurement, self.attempt = f"{phase} {step}", 0
        if "FAULTS" in os.environ and self.verifies():
            Path(os.environ["FAULTS"], "now").write_text(self.measurement)
        return False

    def generates(self, *_) -> bool:
        """Whether to die here."""
        self.attempt, self.token = self.attempt + 1, 0
        return "KILL_MARK" in os.environ and self.at("profile 3", 2) and self.rank == "1"

    def chooses(self, decoder, *_) -> bool:
        self.token += 1
        if self.rank == os.environ.get("LATE_RANK") and self.at("profile 1", 1):
            decoder.deadline = 0.0 if self.token == _LATE_AT else decoder.deadline
        if self.rank == os.environ.get("RAISE_RANK"):
            raise RuntimeError("an accelerator fell off the bus")
        return False

    @staticmethod
    def verifies() -> bool:
        """Whether this rank verifies."""
        from t3s_megatron.megatron.layout import collects_over_data, speaks_for_its_samples

        return collects_over_data() and speaks_for_its_samples()

    def at(self, measurement: str, attempt: int) -> bool:
        return (self.measurement, self.attempt) == (measurement, attempt)


def main() -> None:
    install_torch_layer()
    from t3s_megatron import pretrain

    install_megatron_layer()
    from t3s_megatron.accuracy.measuring import Measurer
    from t3s_megatron.megatron.generation import Decoder

    watch = Watch()
    before(Measurer, "measure", watch.begins)
    before(Measurer, "_generate", watch.generates)
    before(Decoder, "_choose", watch.chooses)
    pretrain.main()


if __name__ == "__main__":
    main()
