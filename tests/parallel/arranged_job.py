# SPDX-License-Identifier: Apache-2.0
"""A T3S job that also scores and trains in arrangements which are not its own.

PROBE_FILE=FILE receives, at theta_0, the log-probs by arrangement, and those of packed rows that
the stages between first and last are not told of; and what Megatron was told about the lengths of
each step. In the targeted phase the run first trains PROBE_STEPS steps with an empty mask as it is,
then, rewound, the same in rows of their own length, before it is rewound once more.
"""

from __future__ import annotations

import dataclasses
import json
import os

from tests.parallel.probed_job import main

PROBE_STEPS = 2


def arranged():
    import megatron.training.training as training
    from megatron.core import mpu

    from t3s_megatron.megatron import scoring
    from t3s_megatron.megatron.batches import RowMaker
    from t3s_megatron.megatron.rewind import StartingPoint
    from t3s_megatron.method.phases import Phase
    from t3s_megatron.run.t3s import T3SRun

    told = []
    count_flops = training.num_floating_point_operations

    def num_floating_point_operations(args, batch_size, **lengths):
        told.append(lengths)
        return count_flops(args, batch_size, **lengths)

    training.num_floating_point_operations = num_floating_point_operations

    class ArrangedRun(T3SRun):
        def on_train_step_start(self, context):
            if self.machine.total_steps == 0:
                self.arrangement = self.rows.arrangement
                self.own_start = StartingPoint(context)
                self.scores = self._scores(context)
            super().on_train_step_start(context)
            if self.machine.phase is not Phase.TARGETED:
                return
            if self.machine.phase_step == 0:
                self.selected, self.rows.keep = self.rows.keep, None
            elif self.machine.phase_step == PROBE_STEPS:
                self._start_again(context, "own")
            elif self.machine.phase_step == 2 * PROBE_STEPS:
                self._start_again(context, self.arrangement.kind)
                self.rows.keep = self.selected

        def _start_again(self, context, kind):
            self.own_start.rewind(context)
            plans = self.inputs.training_rows
            self.rows.arrangement = plans.arrangement = self._as(kind)
            plans.at.cache_clear()
            context.num_microbatches = len(self.step_rows().micro_batches)

        def _as(self, kind):
            return dataclasses.replace(self.arrangement, kind=kind)

        def _scores(self, context):
            def score(kind):
                maker = RowMaker(self.inputs.corpus, self.inputs.pad_token, self._as(kind))
                c = scoring.score_corpus(context, maker)
                return None if c is None else c.tolist()

            # In one order on all ranks, which a set has not.
            kinds = dict.fromkeys(["padded", "own", self.arrangement.kind])
            scores = {kind: score(kind) for kind in kinds}
            if mpu.get_pipeline_model_parallel_world_size() > 2:
                tell = scoring.next_batch
                scoring.next_batch = lambda *given: _without_metadata(tell(*given))
                scores["packed, not told"] = score("packed")
                scoring.next_batch = tell
            return scores

        def on_train_end(self, context):
            super().on_train_end(context)
            if self.is_root:
                with open(os.environ["PROBE_FILE"], "w") as file:
                    json.dump({"scores": self.scores, "told": told}, file)

    return ArrangedRun


def _without_metadata(batch: dict) -> dict:
    ends = "tokens" in batch
    return {key: value for key, value in batch.items() if ends or key != "cu_seqlens"}


if __name__ == "__main__":
    main(arranged)
