# SPDX-License-Identifier: Apache-2.0
"""From weights to a selection: c_t at theta_0 and theta_b, delta_c, which tokens stay in the loss;
for tail-sft which samples count in a step.

With several teachers each one's tokens are scored at theta_0 and at its own theta_b, in passes over
its samples alone, and selected among themselves: exactly as in a run with that teacher only.
"""

from __future__ import annotations

import bisect
import itertools
import os
import time
from collections.abc import Iterator

import numpy as np

from t3s_megatron.data.arrangement import StepRows
from t3s_megatron.data.kept_bits import KeptBits, KeptSamples
from t3s_megatron.data.selection_file import map_kept, packed, save_selection, selection_info
from t3s_megatron.data.stores import ENTROPY, LogProbStore, not_finite
from t3s_megatron.data.tables import (
    corpus_keys,
    mapped_values,
    slices_of,
    table_checksum,
    wait_for_tables,
)
from t3s_megatron.data.teachers import Part
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.meter import TokenGroups, step_figures
from t3s_megatron.megatron.process import get_args
from t3s_megatron.megatron.scoring import score_again, score_corpus, score_entropies
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.method.confidence import confidence_fall
from t3s_megatron.method.noise import scoring_noise
from t3s_megatron.method.profile import Profile
from t3s_megatron.method.selection import anchors, delta_c, keep_mask
from t3s_megatron.method.selection_counts import SelectionCounts
from t3s_megatron.monitor.journal import Journal
from t3s_megatron.run.identity import model_shape
from t3s_megatron.run.inputs import Inputs
from t3s_megatron.run.non_finite import NonFinitePolicy
from t3s_megatron.run.state import RunState

#: Tokens in a histogram; of more, every second, third, ... is drawn.
_DRAWN = 2**24


class Selector:
    """The selector of one run, on one rank; every method is called on all ranks.

    `groups`: anchors and the others, of all target tokens; only those of closed profiles mean
    something. `root`: the rank that collects log-probs.
    """

    def __init__(
        self,
        inputs: Inputs,
        state: RunState,
        journal: Journal,
        non_finite: NonFinitePolicy,
        root: int,
    ):
        self.inputs = inputs
        self.config = inputs.config
        self.state = state
        self.journal = journal
        self.non_finite = non_finite
        self.root = root
        self.is_root = layout.rank() == root
        self.groups = TokenGroups(self.config.anchor_threshold)
        # On the root rank, theta_0's of a few of the profile's samples: their places, and c_t.
        self._again: tuple[list[int], np.ndarray] | None = None

    # ------------------------------------------------------------------------------------ scoring

    def score_theta_b(self, context: CallbackContext, profile: Profile) -> None:
        """At the live weights, which are theta_b of this profile."""
        assert profile.theta_b_step is not None
        for part in self.inputs.parts_of(profile.teacher):
            self.state.c_0.pop(part.teacher, None)  # of what the profile took, for the confidence
            self._score(context, part, "theta_b", profile.theta_b_step)

    def score_theta_0(self, context: CallbackContext, profile: Profile) -> None:
        """At the live weights, which are theta_0, in the same rows as theta_b; a sample of them
        once more in others, for the noise of both."""
        for part in self.inputs.parts_of(profile.teacher):
            self._score(context, part, "theta_0", 0)
            started = time.perf_counter()
            if "entropy" in self._reads:
                self._score_entropy(context, part)
            if profile.theta_b_step is not None:  # or there is no delta_c with noise in it
                self._again = score_again(context, self.state.rows, part.samples)
            self.journal.spent("scoring", time.perf_counter() - started)

    def _score(self, context: CallbackContext, part: Part, tag: str, step: int) -> None:
        started = time.perf_counter()
        c, bad = self._finite_scores(context, part, tag)
        if c is not None:
            self._scores(tag)[part.teacher] = c
            self._store(part, tag, step)
            if bad and tag == "theta_0" and part.teacher in self.state.c_b:
                self._store(part, "theta_b", self.state.machine.theta_b_step or 0)
        seconds = time.perf_counter() - started
        whose = "" if part.teacher is None else f" of teacher {part.teacher}"
        self.journal.say(f"scored {tag}: {part.corpus.n_targets} tokens{whose} in {seconds:.1f} s")

    @property
    def _reads(self) -> tuple[str, ...]:
        return self.config.chosen.reads(self.config.mask_share)

    def _score_entropy(self, context: CallbackContext, part: Part) -> None:
        entropy = score_entropies(context, self.state.rows, part.samples)
        if entropy is not None:
            for i, sample in enumerate(part.samples):
                if sample in self.state.rows.excluded:  # as its log-probs: see `_level_excluded`
                    entropy[part.corpus.target_slice(i)] = 0.0
            self.state.entropy[part.teacher] = entropy
        layout.together(lambda: self._store_entropy(part) if self.is_root else None)

    def _store_entropy(self, part: Part) -> None:
        entropy = self.state.entropy[part.teacher]
        store = LogProbStore(entropy, part.corpus, ENTROPY, 0, model_shape(get_args()))
        store.save(self.path(part.file_name(ENTROPY)))

    def _scores(self, tag: str) -> dict[str | None, np.ndarray]:
        return {"theta_0": self.state.c_0, "theta_b": self.state.c_b}[tag]

    def confidence_fall(self, context: CallbackContext, profile: Profile, step: int) -> float:
        """`method.confidence_fall` of the profile's tokens at the live weights; step 0 is what the
        others are compared with."""
        part = self.inputs.profile_parts[profile.teacher]
        c, _ = self._finite_scores(context, part, "the live weights")
        fall = None
        if c is not None:
            if step == 0:
                self.state.c_0[part.teacher] = c
            fall = confidence_fall(c, self.state.c_0[part.teacher])
        return layout.broadcast(fall, self.root)

    def _finite_scores(
        self, context: CallbackContext, part: Part, where: str
    ) -> tuple[np.ndarray | None, list[int]]:
        """The scores of the teacher's tokens, on the root rank, and the samples that are left out
        from now on because theirs are not finite."""
        rows, started = self.state.rows, time.perf_counter()
        c = score_corpus(context, rows, part.samples)
        bad: list[int] = []
        if c is not None:
            places = [part.corpus.sample_index(targets) for targets in not_finite(c)]
            found = {part.samples[place] for of_piece in places for place in np.unique(of_piece)}
            bad = sorted(found - rows.excluded)
        bad = layout.broadcast(bad, self.root)
        if bad:
            machine = self.state.machine
            self.non_finite.found(
                f"log-prob at {where}", bad, machine.phase.value, machine.live_step
            )
        if c is not None:
            self._level_excluded(part, c)
        self.journal.spent("scoring", time.perf_counter() - started)
        return c, bad

    def _level_excluded(self, part: Part, c: np.ndarray) -> None:
        """Samples that were left out have delta_c = 0: neither anchors nor learned."""
        excluded = [i for i, s in enumerate(part.samples) if s in self.state.rows.excluded]
        if not excluded:
            return
        levelled = [c]
        for scores in (self.state.c_0, self.state.c_b):
            if part.teacher in scores:  # of a file, which is mapped and stays as it is
                scores[part.teacher] = np.array(scores[part.teacher])
                levelled.append(scores[part.teacher])
        for i in excluded:
            for values in levelled:
                values[part.corpus.target_slice(i)] = 0.0

    def _store(self, part: Part, tag: str, step: int) -> None:
        """From here on they are in the file: the root's memory is free for the next."""
        c, path = self._scores(tag)[part.teacher], self.path(part.file_name(f"c_{tag}"))
        shape = model_shape(get_args())
        LogProbStore(c, part.corpus, tag=tag, step=step, model=shape).save(path)
        self._scores(tag)[part.teacher] = mapped_values(path)

    def path(self, name: str) -> str:
        """Where a file of this name is that the run makes beside its summary."""
        return os.path.join(self.config.dir, f"{name}.safetensors")

    # ------------------------------------------------------------------------------ after a profile

    def close_profile(self, context: CallbackContext, profile: Profile) -> None:
        """Its tokens have been scored: tell anchors and the others apart, and the profile's Figure
        4. Does nothing for a method without a theta_b."""
        if profile.theta_b_step is None:
            return
        (part,) = self.inputs.parts_of(profile.teacher)
        files = [self.path(part.file_name(f"c_{tag}")) for tag in ("theta_0", "theta_b")]
        self.wait_for(files)
        c_0, c_b = map(mapped_values, files)
        self.groups.know(part.targets, c_0, c_b)
        self._report_noise(part, c_0, c_b)
        self._draw_figure_4(context, part, c_0, c_b)

    def wait_for(self, files: list[str]) -> None:
        """Until every rank sees these tables as the root rank has written them. T3SError, on every
        rank, for a file system that is not shared."""
        written = layout.broadcast(
            [table_checksum(path) for path in files] if self.is_root else None, self.root
        )
        layout.together(lambda: wait_for_tables(dict(zip(files, written, strict=True))))

    def _report_noise(self, part: Part, c_0: np.ndarray, c_b: np.ndarray) -> None:
        noise = None
        if self._again is not None:  # on the root rank
            places, again = self._again
            once = np.concatenate([c_0[part.corpus.target_slice(place)] for place in places])
            deltas = (delta_c(c_b[some], c_0[some]) for some in slices_of(len(c_0)))
            noise = scoring_noise(once, again, deltas, self.config.anchor_threshold)
        noise, self._again = layout.broadcast(noise, self.root), None
        if noise is not None:
            self.journal.note(part.teacher, noise=noise.to_dict())
            self.journal.say(f"scoring: {noise.describe()}")

    def store_names(self, profile: Profile) -> list[str]:
        """Names of the files with what is read of a closed profile: its log-probs at theta_0 and
        theta_b, and the entropies where the method reads them."""
        if not profile.closed or profile.theta_b_step is None:
            return []
        (part,) = self.inputs.parts_of(profile.teacher)
        names = ["c_theta_0", "c_theta_b", *([ENTROPY] if "entropy" in self._reads else [])]
        return [part.file_name(name) for name in names]

    def restore_profile(self, profile: Profile) -> None:
        """Read what `store_names` names. MismatchError for files of other samples."""
        (part,) = self.inputs.parts_of(profile.teacher)
        c_0, c_b, *entropy = (
            LogProbStore.load(self.path(name), part.corpus).c for name in self.store_names(profile)
        )
        if self.is_root:
            self.state.c_0[part.teacher], self.state.c_b[part.teacher] = c_0, c_b
            if entropy:
                (self.state.entropy[part.teacher],) = entropy
        self.groups.know(part.targets, c_0, c_b)

    def _draw_figure_4(
        self, context: CallbackContext, part: Part, c_0: np.ndarray, c_b: np.ndarray
    ) -> None:
        """Mean delta_c of both groups over the profile's steps, now that the groups are known."""
        if self.journal.draws:  # on one rank
            n_anchors = sum(
                int(anchors(delta_c(c_b[some], c_0[some]), self.config.anchor_threshold).sum())
                for some in slices_of(len(c_0))
            )
            drawn = slice(None, None, -(-len(c_0) // _DRAWN) or 1)
            delta = delta_c(c_b[drawn], c_0[drawn])
            self.journal.anchors(delta, n_anchors / len(c_0), part.teacher)
        history = self.state.history
        first = context.iteration - len(history)
        for tokens in history:
            figures = step_figures(tokens, None, self.groups)
            self.journal.token_groups(
                "profile", tokens.step, figures, first + tokens.step, part.teacher
            )

    # ---------------------------------------------------------------------------------- selection

    def select(self) -> np.ndarray | KeptBits:
        """Make the selection and its files; bool[n_target_tokens], or float32 of weights, mapped
        on every rank."""
        if self.is_root:
            self._make()
        self.state.c_0, self.state.c_b, self.state.entropy = {}, {}, {}
        path = self.path("selection")
        self.wait_for([path])
        return map_kept(path, self.inputs.corpus)

    def _make(self) -> None:
        config, corpus, tau = self.config, self.inputs.corpus, self.config.anchor_threshold
        detected = self.state.machine.theta_b_step is not None
        kept: list[np.ndarray] = [np.zeros(0)] * len(corpus.samples)
        counts = SelectionCounts(tau)
        for part in self.inputs.parts:
            c_0, c_b = self.state.c_0.get(part.teacher), self.state.c_b.get(part.teacher)
            of_part = SelectionCounts(tau)
            for samples, targets, keep in self._kept_pieces(part):
                delta = None
                if detected and c_0 is not None and c_b is not None:
                    delta = delta_c(c_b[targets], c_0[targets])
                for some in (of_part, counts):
                    some.add(keep, delta)
                for place in samples:
                    own = part.corpus.target_slice(place)
                    of_sample = slice(own.start - targets.start, own.stop - targets.start)
                    kept[part.samples[place]] = packed(keep[of_sample])
            self.journal.note(part.teacher, tokens=of_part.to_dict())
        self.journal.note(None, tokens=counts.to_dict())
        info = selection_info(
            config.method, self._theta_b_steps(), counts.to_dict(), model_shape(get_args())
        )
        for path in filter(None, [self.path("selection"), config.selection_save]):
            save_selection(path, kept, corpus_keys(corpus), info)

    def _kept_pieces(self, part: Part) -> Iterator[tuple[range, slice, np.ndarray]]:
        """Which tokens of the part stay: (places of some samples in it, their targets, bool or
        float32 of those), until they are all; a few million at a time where the method decides
        about each token by itself."""
        config, reference = self.config, self.inputs.reference
        values = {
            "c_0": self.state.c_0.get(part.teacher),
            "c_b": self.state.c_b.get(part.teacher),
            "entropy": self.state.entropy.get(part.teacher),
            "c_ref": None if reference is None else reference.of(part.samples),
        }
        whole = [range(len(part.samples))]
        for samples in part.corpus.in_pieces() if config.chosen.decides_alone else whole:
            targets = part.corpus.targets_of(samples)
            keep = keep_mask(
                config.method,
                n=targets.stop - targets.start,
                seed=config.seed,
                share=config.mask_share,
                tau=config.anchor_threshold,
                temperature=config.soft_temperature,
                **{name: None if c is None else c[targets] for name, c in values.items()},
            )
            yield samples, targets, keep

    # -------------------------------------------------------------------------- samples of one step

    def leave_out(self, context: CallbackContext, step: StepRows) -> None:
        """Of the samples of the step that is about to begin, let only those count that the method
        does not leave out, by their mean log-prob at the live weights and at theta_0. One forward
        pass over them; nothing of it outlives the step, so that a resumed run does the same."""
        leaves_out, share = self.config.chosen.leaves_out, self.config.mask_share
        assert leaves_out is not None and share is not None
        rows, started = self.state.rows, time.perf_counter()
        samples = sorted(set(step.samples) - rows.excluded)
        rise = np.zeros(len(samples))
        if self.state.machine.total_steps:  # or it would be rounding, another in each layout
            c = score_corpus(context, rows, samples)
            if c is not None:
                rise = self._mean_rises(c, samples)
            rise = layout.broadcast(rise, self.root)
        left_out = list(itertools.compress(samples, leaves_out(rise, share)))
        rows.use_selection(KeptSamples(self.inputs.corpus.offsets, left_out))
        self.journal.spent("scoring", time.perf_counter() - started)

    def _mean_rises(self, c: np.ndarray, samples: list[int]) -> np.ndarray:
        """From `c`, the log-probs of their targets one sample after the other, float64[m]: how far
        the mean log-prob of each sample is above theta_0's. NaN, which is left out last, where one
        is not finite: the step itself finds that."""
        corpus, rises = self.inputs.corpus, np.zeros(len(samples))
        sizes = [corpus.offsets[sample + 1] - corpus.offsets[sample] for sample in samples]
        of_sample = np.split(c.astype(np.float64), np.cumsum(sizes)[:-1])
        for part in self.inputs.parts:
            c_0 = self.state.c_0[part.teacher]
            for number, sample in enumerate(samples):
                place = bisect.bisect_left(part.samples, sample)
                if place < len(part.samples) and part.samples[place] == sample:
                    then = c_0[part.corpus.target_slice(place)]
                    rises[number] = (of_sample[number] - then).mean()
        return rises

    def theta_0_names(self) -> list[str]:
        """Names of the files with the log-probs that the steps are compared with."""
        if self.config.chosen.leaves_out is None:
            return []
        return [part.file_name("c_theta_0") for part in self.inputs.parts]

    def restore_theta_0(self) -> None:
        """Read what `theta_0_names` names. MismatchError for files of other samples."""
        for part, name in zip(self.inputs.parts, self.theta_0_names(), strict=True):
            c_0 = LogProbStore.load(self.path(name), part.corpus).c
            if self.is_root:
                self.state.c_0[part.teacher] = c_0

    def _theta_b_steps(self) -> int | dict | None:
        """One, or with several teachers one for each."""
        profiles = self.state.machine.profiles
        if len(profiles) == 1:
            return profiles[0].theta_b_step
        return {profile.teacher: profile.theta_b_step for profile in profiles}
