# SPDX-License-Identifier: Apache-2.0
"""A kind of run of a user's own: plain training, twice from the same start, with an accuracy before
each and at the end. SEEN=FILE receives the log-probs of each step's tokens, by rank 0."""

from __future__ import annotations

import json
import os

from t3s_megatron import pretrain


def twice(inputs, rows, forward):
    """The run; made once Megatron may be imported."""
    from t3s_megatron.megatron.rewind import StartingPoint
    from t3s_megatron.run.base import Run

    class Twice(Run):
        def begin(self, context):
            self.seen = []

        @property
        def train_iters(self):
            return 2 * self.config.budget

        def before_step(self, context):
            if self.step == 0:
                self.start = StartingPoint(context)
            if self.step in (0, self.config.budget):
                self.start.rewind(context)
                self.journal.measured(self.training_accuracy(context), None)

        def after_step(self, context, tokens):
            self.seen.append([float(c).hex() for c in tokens.c])

        def end(self, context):
            self.evaluate(context, "final")
            if self.is_root:
                with open(os.environ["SEEN"], "w") as file:
                    json.dump(self.seen, file)

    return Twice(inputs, rows, forward)


if __name__ == "__main__":
    pretrain.main(run=twice)
