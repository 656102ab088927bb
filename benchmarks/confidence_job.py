# SPDX-License-Identifier: Apache-2.0
"""One trajectory of plain fine-tuning with everything that a signal could be made of, and targeted
training from many theta_b of it: a launch of `benchmarks/confidence.sh`.

A kind of run with phases of its own: PROFILE steps of SFT from theta_0, at each of which the
accuracy is measured and the whole corpus is scored, and then for each step of GRID: rewind, the
selection of that theta_b, --train-iters steps, and an evaluation. With PROFILE 0 the trajectory is
the one that is there already. Writes TRAJECTORY (.npz), and evaluations to a .json beside it:

    marks   bool[PROFILE + 1, prompts, answers]  which answers were correct, after each step
    c       float32[PROFILE + 1, n]              exact log-probs of the n target tokens
    seen    int64[.], seen_c float32[.], seen_step int64[.]   tokens of the training batches: the
            forward of step k saw the weights after k - 1 updates
    seconds float64[3]                           training, measuring, scoring, of all steps
"""

from __future__ import annotations

import json
import os
import time

import numpy as np

from t3s_megatron import pretrain
from t3s_megatron.method.outcome import RIGHT

OUT = os.environ["TRAJECTORY"]
PROFILE = int(os.environ["PROFILE"])
GRID = [int(step) for step in os.environ["GRID"].split()]


def main() -> None:
    pretrain.main(run=trajectory)


def trajectory(inputs, rows, forward):
    """The run; made once Megatron may be imported."""
    from t3s_megatron.megatron.rewind import StartingPoint
    from t3s_megatron.megatron.scoring import score_corpus
    from t3s_megatron.method.selection import anchors, delta_c
    from t3s_megatron.run.base import Run

    class Trajectory(Run):
        phase, step = "profile", 0

        def begin(self, context):
            self.theta_0 = None
            self.marks, self.c, self.tokens = [], [], []
            self.grid = list(GRID)
            self.seconds = np.zeros(3)

        @property
        def train_iters(self):
            return PROFILE + len(GRID) * self.config.budget

        def before_step(self, context):
            if self.theta_0 is None:
                self.theta_0 = StartingPoint(context)
                if GRID:
                    self.evaluate(context, "theta_0")
                if PROFILE:
                    self._look(context)
            if self.phase == "profile" and self.step == PROFILE:
                if PROFILE:
                    self._write()
                self.c = np.load(OUT)["c"]
                self.phase = "targeted"
                self._next_selection(context)
            elif self.phase == "targeted" and self.step == self.config.budget:
                self._next_selection(context)
            self.began = time.perf_counter()

        def after_step(self, context, tokens):
            self.step += 1
            if self.phase == "profile":
                self.seconds[0] += time.perf_counter() - self.began
                self.tokens.append(tokens)
                self._look(context)
                if self.step == PROFILE and not GRID:
                    self._write()
            elif self.step == self.config.budget:
                self.evaluate(context, f"theta_b={self.theta_b}")

        def _look(self, context):
            began = time.perf_counter()
            measured = self.training_accuracy(context)
            marks = np.array([mark == RIGHT for mark in measured.marks])
            self.marks.append(marks.reshape(-1, self.config.accuracy_samples))
            self.seconds[1] += time.perf_counter() - began
            began = time.perf_counter()
            self.c.append(score_corpus(context, self.rows))
            self.seconds[2] += time.perf_counter() - began
            self.journal.tell(f"step {self.step}: {measured.describe()}")

        def _next_selection(self, context):
            self.theta_b, self.step = self.grid.pop(0), 0
            keep = ~anchors(delta_c(self.c[self.theta_b], self.c[0]))
            self.apply_mask(keep)
            self.theta_0.rewind(context)

        def _write(self):
            np.savez_compressed(
                OUT,
                marks=np.stack(self.marks),
                c=np.stack(self.c),
                seen=np.concatenate([t.target for t in self.tokens]),
                seen_c=np.concatenate([t.c for t in self.tokens]),
                seen_step=np.concatenate([np.full(len(t.target), t.step) for t in self.tokens]),
                seconds=self.seconds,
            )

        def end(self, context):
            if not GRID:
                return
            with open(OUT.removesuffix(".npz") + ".json", "w") as file:
                json.dump(self.journal.to_state()["evaluations"], file)

    return Trajectory(inputs, rows, forward)


if __name__ == "__main__":
    main()
