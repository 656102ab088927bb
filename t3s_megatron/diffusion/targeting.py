# SPDX-License-Identifier: Apache-2.0
"""From a selector's run to the forced tokens of a diffusion student."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.kept_bits import digest_of
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.teachers import Part, load_training_records, parts_of
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.diffusion.alignment import align
from t3s_megatron.diffusion.forced import FORCED, Fallen, shares_by_place, shares_by_tau
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.method.selection import delta_c

#: The selector's rows may have been longer than the student's.
_ANY_LENGTH = 2**31

#: The selector's files, and the weights that each has to be of.
_STORES = {"c_theta_0": "theta_0", "c_theta_b": "theta_b"}


@dataclass(frozen=True)
class SelectorScores:
    """Log-probs of a selector's run: float32[n_targets] in the order of the corpus that it was
    asked for. `about`: what is written down of them."""

    c_0: np.ndarray
    delta: np.ndarray
    about: dict

    @classmethod
    def load(cls, folder: str, corpus: Corpus, parts: Sequence[Part]) -> SelectorScores:
        """`parts`: the corpus by teacher; each has a pair of files. MismatchError for files that
        are missing, damaged, or of other samples or another tokenizer."""
        if not os.path.isdir(folder):
            raise T3SError(f"--t3s-selector {folder}: no such folder; give the t3s/ of its run")
        c_0, c_b = (np.zeros(corpus.n_targets, np.float32) for _ in _STORES)
        about: dict = {"folder": folder, "theta_b_step": {}}
        for part in parts:
            stores = {tag: _load(folder, name, tag, part) for name, tag in _STORES.items()}
            c_0[part.targets], c_b[part.targets] = stores["theta_0"].c, stores["theta_b"].c
            about["theta_b_step"][part.teacher or "all"] = stores["theta_b"].step
            about["model"] = stores["theta_b"].model
        return cls(c_0, delta_c(c_b, c_0), about)

    def at(self, partner: np.ndarray) -> SelectorScores:
        """The same in another numbering: `partner` int64[n] says where each target is in this one;
        -1: nowhere, and it did not fall."""
        there = partner >= 0
        c_0, delta = (np.zeros(len(partner), np.float32) for _ in range(2))
        c_0[there], delta[there] = self.c_0[partner[there]], self.delta[partner[there]]
        return SelectorScores(c_0, delta, self.about | {"unaligned": int((~there).sum())})


def load_scores(args, corpus: Corpus, parts: Sequence[Part], tokenizer) -> SelectorScores | None:
    """Those of --t3s-selector for the targets of `corpus`, which `tokenizer` made; None without it.
    `args`: Megatron's namespace. Errors as `SelectorScores.load` and `align`."""
    if not args.t3s_selector:
        return None
    if not args.t3s_selector_tokenizer:
        return SelectorScores.load(args.t3s_selector, corpus, parts)
    theirs = load_tokenizer(args.t3s_selector_tokenizer)
    records = load_training_records(
        tuple(args.t3s_data), split=args.t3s_data_split, ignored=args.t3s_ignore_fields
    )
    wanted = set(corpus.uids)
    records = [record for record in records if record.uid in wanted]
    whole = Corpus.build(
        records, theirs, seq_length=_ANY_LENGTH, prompt_format=args.t3s_prompt_format
    )
    scores = SelectorScores.load(args.t3s_selector, whole, parts_of(whole, records))
    return scores.at(align(whole, corpus, theirs, tokenizer))


def _load(folder: str, name: str, tag: str, part: Part) -> LogProbStore:
    path = part.path(folder, name)
    if not os.path.exists(path):
        raise MismatchError(
            f"--t3s-selector {folder}: has no {os.path.basename(path)}. It has to be the t3s/ "
            "folder of a run with a theta_b, on the same samples and teachers"
        )
    store = LogProbStore.load(path, part.corpus)
    if store.tag != tag:
        raise MismatchError(f"{path}: holds log-probs at {store.tag}, not at {tag}; remake it")
    return store


#: Shares of the tokens that fell between which tau was chosen well: the paper's is about 5 %, and
#: its sweep (Table 11) is best there and worse at 1 % and above 10 %.
_USUAL = 0.01, 0.15


def warning_about_share(share: float, tau: float) -> str | None:
    """What is unusual about a `share` of tokens that fell at this threshold; None for nothing."""
    least, most = _USUAL
    if least <= share <= most:
        return None
    return (
        f"{share:.1%} of the target tokens fell in the selector by more than --t3s-drop-threshold "
        f"{tau:g}, where the paper has 5 %: how far tokens fall depends on how long and how fast "
        "the selector was trained. fell_share_by_tau in summary.json has the share of other "
        "thresholds"
    )


@dataclass(frozen=True)
class Targeting:
    """`forced` bool[n_targets]: masked every time. `fell` bool[n_targets]: B of Eq. 8, whatever the
    method does with it; None without a selector. `about`: for the summary."""

    forced: np.ndarray
    fell: np.ndarray | None
    delta: np.ndarray | None
    about: dict

    @property
    def fingerprint(self) -> str:
        """Digests of the forced tokens and of those that fell."""
        return "-".join(digest_of(of) for of in (self.forced, self.fell) if of is not None)


def target(
    method: str,
    corpus: Corpus,
    parts: Sequence[Part],
    scores: SelectorScores | None,
    *,
    tau: float,
    seed: int,
) -> Targeting:
    """The forced tokens of `method`, a name in FORCED: those of each teacher from its own scores.
    T3SError when a method that forces tokens would force none."""
    forced = np.zeros(corpus.n_targets, dtype=bool)
    if scores is None:
        return Targeting(forced, None, None, {})
    fell = np.zeros(corpus.n_targets, dtype=bool)
    for part in parts:
        fallen = Fallen(scores.c_0[part.targets], scores.delta[part.targets], tau, seed)
        fell[part.targets] = fallen.dropped
        choose = FORCED[method].choose
        if choose is not None:
            forced[part.targets] = choose(fallen)
    if FORCED[method].choose is not None and not forced.any():
        raise T3SError(
            f"--t3s-drop-threshold {tau}: not one of {corpus.n_targets} target tokens fell by "
            f"more, so --t3s-method {method} would be sft. Shares by threshold: "
            f"{shares_by_tau(scores.delta)}; lower it"
        )
    about = {
        "selector": scores.about,
        "forced_tokens": int(forced.sum()),
        "forced_share": float(forced.mean()),
        "fell_share": float(fell.mean()),
        "fell_share_by_tau": shares_by_tau(scores.delta),
        "fell_by_quarter_of_response": shares_by_place(fell, np.diff(corpus.offsets)),
    }
    return Targeting(forced, fell, scores.delta, about)
