# SPDX-License-Identifier: Apache-2.0
"""What a run does about samples whose numbers are not finite: stop and name them, or skip them.

`--t3s-non-finite stop` is the default: a NaN is usually a learning rate, a broken kernel or a
broken sample, and training on would hide which. `skip` leaves the sample out from then on, in
training and in both scoring passes, and counts it.
"""

from __future__ import annotations

from collections.abc import Sequence

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.monitor.journal import Journal

_NAMED = 8


class NonFinitePolicy:
    """The policy of one run. Call `found` on every rank with the same samples. `parts`: the samples
    of each teacher, of whom one has to be left."""

    def __init__(
        self, skip: bool, rows: RowMaker, parts: Sequence[Sequence[int]], journal: Journal
    ):
        self.skip = skip
        self.rows = rows
        self.parts = parts
        self.journal = journal

    def found(self, what: str, samples: list[int], phase: str, step: int) -> None:
        """`what` (loss, gradient, log-prob at theta_b) of these corpus indices was not finite.

        Raises T3SError, naming them, unless they are to be skipped and others are left.
        """
        corpus = self.rows.corpus
        named = ", ".join(
            f"{corpus.samples[i].uid!r} ({corpus.samples[i].where})" for i in samples[:_NAMED]
        )
        if len(samples) > _NAMED:
            named += f" and {len(samples) - _NAMED} more"
        at = f"{phase} step {step}: the {what} of sample {named} is not finite"
        if not self.skip:
            raise T3SError(
                f"{at}. The weights are as they were before. Look at the sample, lower --lr, or "
                "train without it: --t3s-non-finite skip"
            )
        self.rows.exclude(samples)
        if not samples or any(self.rows.excluded.issuperset(part) for part in self.parts):
            raise T3SError(f"{at}, and no sample can be left out for it: the weights have diverged")
        for i in samples:
            self.journal.skipped(corpus.samples[i].uid, what, phase, step)
        self.journal.say(f"{at}: left out from here on")
