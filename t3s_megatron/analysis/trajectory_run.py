# SPDX-License-Identifier: Apache-2.0
"""The run of `analysis.trajectory`: trains as it is told, and looks at its tokens between steps.

Nothing that is looked at changes the training: weights, moments and random state are put back bit
for bit, which the tests compare with a run that is left alone.
"""

from __future__ import annotations

import json
import os

import numpy as np

from t3s_megatron.analysis.groups import SUBSETS, require_both, subsets
from t3s_megatron.analysis.records import FORMAT, TRAJECTORY, Sketches, write_sketches
from t3s_megatron.data.durable import check_folder, write_bytes
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.gradients import (
    check_can_measure_gradients,
    compare_gradients,
    one_step_along,
    sketch_gradients,
)
from t3s_megatron.megatron.process import get_args
from t3s_megatron.megatron.scoring import score_corpus, spread
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.run.base import Run
from t3s_megatron.run.identity import model_shape, parallel_layout


class Trajectory(Run):
    """See the module. `records`: what was seen, a step each; on the root rank alone complete."""

    @property
    def kind(self) -> str:
        return "trajectory"

    def begin(self, context: CallbackContext) -> None:
        args = get_args()
        if args.iteration:
            raise T3SError(
                "a trajectory that is analysed is not gone on with: start it from the student, "
                "with another --save or none"
            )
        if args.analyse_interval < 1 or args.analyse_samples < 0:
            raise T3SError("--analyse-interval has to be at least 1, --analyse-samples at least 0")
        if args.analyse_tokens < 4:
            raise T3SError("--analyse-tokens has to be at least 4, two of each group")
        self.looks = set(args.analyse)
        if self.looks:
            check_can_measure_gradients()
        self.records: list[dict] = []
        self.c_start: np.ndarray | None = None
        layout.together(self._read_groups)
        layout.together(lambda: check_folder(args.analyse_output) if self.is_root else None)

    def before_step(self, context: CallbackContext) -> None:
        if self.step % get_args().analyse_interval == 0:
            self._look(context)

    def end(self, context: CallbackContext) -> None:
        self._look(context)

    # ------------------------------------------------------------------------------------- groups

    def _read_groups(self) -> None:
        """The tokens of each group, the same on every rank; MismatchError for stores of others."""
        args, corpus = get_args(), self.inputs.corpus
        self.label = np.zeros(corpus.n_targets, dtype=np.int8)
        for part in self.inputs.parts:
            c_0, c_b = (self._store(part, tag) for tag in ("theta_0", "theta_b"))
            self.label[part.targets] = subsets(c_b, c_0, self.config.anchor_threshold)
        self.is_anchor = self.label < SUBSETS.index("other-easy")
        require_both(self.is_anchor)
        count, n = args.analyse_samples, len(corpus.samples)
        self.samples = None
        self.seen = np.ones(corpus.n_targets, dtype=bool)
        if 0 < count < n:
            self.samples = spread(n, count)
            self.seen[:] = False
            for sample in self.samples:
                self.seen[corpus.target_slice(sample)] = True
            require_both(self.is_anchor[self.seen])

    def _store(self, part, tag: str) -> np.ndarray:
        path = part.path(get_args().analyse_groups, f"c_{tag}")
        return LogProbStore.load(path, part.corpus).c

    @property
    def _groups(self) -> dict[str, np.ndarray]:
        """bool[n_target_tokens] by name."""
        by_subset = {name: self.label == i for i, name in enumerate(SUBSETS)}
        return {"anchors": self.is_anchor, "others": ~self.is_anchor} | by_subset

    # ------------------------------------------------------------------------------------- looking

    def _look(self, context: CallbackContext) -> None:
        c = score_corpus(context, self.rows)
        record: dict = {"step": self.step}
        if self.c_start is None:
            self.c_start = c
        if c is not None:
            record["groups"] = self._of_groups(c)
        anchors, others = self.is_anchor & self.seen, ~self.is_anchor & self.seen
        if "gradients" in self.looks:
            pair = compare_gradients(
                context, self.rows, self.forward, anchors, others, self.samples
            )
            record["gradients"] = {
                "norm_anchors": pair.norms[0],
                "norm_others": pair.norms[1],
                "ratio": pair.ratio,
                "share_ratio": pair.share_ratio,
                "cosine": pair.cosine,
            }
        if "one-step" in self.looks:
            before = self._losses(c)
            steps = {"anchors": anchors, "others": others, "all": self.seen}
            record["one_step"] = {
                "learning_rate": max(
                    (group["lr"] for group in context.optimizer.param_groups), default=0.0
                ),
                "loss": before,
                "change": {
                    name: self._after_one_step(context, which, before)
                    for name, which in steps.items()
                },
            }
        if "sketches" in self.looks:
            record["sketches"] = self._sketch(context)
        self.records.append(record)
        layout.together(lambda: self._write(c) if self.is_root else None)
        self.journal.tell(f"step {self.step}: looked at")

    def _sketch(self, context: CallbackContext) -> dict[str, int]:
        """Sketches of as many tokens of each group, to a file of their own on the root rank."""
        half = get_args().analyse_tokens // 2
        left_out = np.zeros_like(self.seen)
        for sample in self.rows.excluded:
            left_out[self.inputs.corpus.target_slice(sample)] = True
        members = [np.flatnonzero(of & self.seen & ~left_out)
                   for of in (self.is_anchor, ~self.is_anchor)]  # fmt: skip
        targets = np.sort(np.concatenate([of[spread(len(of), half)] for of in members]))
        sketches = sketch_gradients(context, self.rows, self.forward, targets.tolist())
        found = Sketches(sketches, targets, self.is_anchor[targets])
        where = get_args().analyse_output
        layout.together(lambda: write_sketches(where, self.step, found) if self.is_root else None)
        return {"tokens": len(targets), "directions": sketches.shape[1]}

    def _of_groups(self, c: np.ndarray) -> dict[str, dict]:
        assert self.c_start is not None
        found, finite = {}, np.isfinite(c) & np.isfinite(self.c_start)
        for name, group in self._groups.items():
            which = group & finite
            now, then = c[which].astype(np.float64), self.c_start[which].astype(np.float64)
            found[name] = {
                "tokens": int(which.sum()),
                "loss": _mean(-now),
                "delta": _mean(now - then),
                "probability": _mean(np.exp(now) - np.exp(then)),
                "below": _mean(now < then),
                "above": _mean(now > then),
            }
        return found

    def _losses(self, c: np.ndarray | None) -> dict[str, float | None]:
        """Mean loss of both groups in the samples that single steps are of; empty but on the root
        rank."""
        if c is None:
            return {}
        both = {"anchors": self.is_anchor & self.seen, "others": ~self.is_anchor & self.seen}
        finite = np.isfinite(c)
        return {name: _mean(-c[of & finite].astype(np.float64)) for name, of in both.items()}

    def _in_its_place(self, c: np.ndarray) -> np.ndarray:
        """float32[n_target_tokens] with c, of the samples that are looked at, and else NaN."""
        whole = np.full(len(self.seen), np.nan, dtype=np.float32)
        whole[self.seen] = c
        return whole

    def _after_one_step(self, context: CallbackContext, which: np.ndarray, before: dict) -> dict:
        with one_step_along(context, self.rows, self.forward, self.guard, which, self.samples):
            some = score_corpus(context, self.rows, self.samples)
        after = self._losses(None if some is None else self._in_its_place(some))
        known = {name: (loss, before[name]) for name, loss in after.items()}
        return {name: None if None in pair else pair[0] - pair[1] for name, pair in known.items()}

    # ------------------------------------------------------------------------------------- written

    def _write(self, c: np.ndarray | None) -> None:
        args, loaded = get_args(), self.inputs.selection
        content = {
            "format": FORMAT,
            "model": model_shape(args),
            "layout": parallel_layout(args),
            "groups_of": os.path.abspath(args.analyse_groups),
            "trained_on": self.config.selection_load if loaded is not None else None,
            "tau": self.config.anchor_threshold,
            "samples": len(self.samples or self.inputs.corpus.samples),
            "data": self.inputs.corpus.fingerprint,
            "records": self.records,
        }
        path = os.path.join(args.analyse_output, TRAJECTORY)
        write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())
        if args.analyse_stores and self.step and c is not None:
            self._write_stores(c)

    def _write_stores(self, c: np.ndarray) -> None:
        assert self.c_start is not None
        folder = os.path.join(get_args().analyse_output, f"step-{self.step}")
        check_folder(folder)
        shape = model_shape(get_args())
        for part in self.inputs.parts:
            for tag, values, step in (("theta_0", self.c_start, 0), ("theta_b", c, self.step)):
                path = part.path(folder, f"c_{tag}")
                LogProbStore(values[part.targets], part.corpus, tag, step, shape).save(path)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
