# SPDX-License-Identifier: Apache-2.0
"""The target tokens of a finished run: their log-probs at theta_0 and theta_b, which were masked.

Read from the log-prob stores and the selection that a run leaves beside its summary. They know
their samples by hash, so that data or a tokenizer of another run is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.teachers import load_training_records, parts_of
from t3s_megatron.errors import T3SError
from t3s_megatron.method.selection import anchors, delta_c

#: No sample is longer: the limit of the run is not known, unless it is given.
_ANY_LENGTH = 2**40


@dataclass(frozen=True)
class RunTokens:
    """`keep` bool[n] (of weights: those above 0), `c_0` and `c_b` float32[n], over the n target
    tokens of `corpus`; None where the run has left none. `tokenizer`: a Hugging Face one.
    `weights` float32[n]: those of the tokens in the loss, None where each is 0 or 1."""

    corpus: Corpus
    tokenizer: object
    keep: np.ndarray | None
    c_0: np.ndarray | None
    c_b: np.ndarray | None
    tau: float
    weights: np.ndarray | None = None

    @property
    def delta(self) -> np.ndarray | None:
        """float32[n], Eq. 3; None where it is not known."""
        if self.c_0 is None or self.c_b is None:
            return None
        return delta_c(self.c_b, self.c_0)

    @property
    def marked(self) -> np.ndarray | None:
        """bool[n]: the masked tokens, or the anchors where nothing was masked."""
        if self.keep is not None:
            return ~self.keep
        delta = self.delta
        return None if delta is None else anchors(delta, self.tau)

    def ids(self) -> np.ndarray:
        """int32[n]: the target tokens themselves."""
        return np.concatenate([sample.tokens[sample.is_target] for sample in self.corpus.samples])


def read_tokens(
    summary: dict, folder: str, sources: tuple[str, ...], tokenizer, seq_length: int | None
) -> RunTokens:
    """What a run has left in its `folder`, for the samples of `sources`.

    `seq_length`: of the run, needed where it dropped or cut long samples. T3SError (DataError,
    MismatchError) for data or a tokenizer that are not the run's, and for damaged files.
    """
    arguments, counts = summary["arguments"], summary.get("data", {})
    long = counts.get("dropped_overlong", 0) + counts.get("truncated_overlong", 0)
    if long and seq_length is None:
        raise T3SError(
            f"{folder}: the run dropped or cut {long} samples that were too long; give the "
            "--seq-length that it had"
        )
    records = load_training_records(
        sources,
        split=arguments.get("data_split", "train"),
        ignored=arguments.get("ignore_fields", ()),
    )
    corpus = Corpus.build(
        records,
        tokenizer,
        seq_length=_ANY_LENGTH if seq_length is None else seq_length,
        prompt_format=arguments.get("prompt_format", "chat"),
        overlong=arguments.get("overlong", "error"),
    )
    kept = os.path.join(folder, "selection.safetensors")
    selected = Selection.load(kept, corpus).keep if os.path.exists(kept) else None
    weighted = selected is not None and selected.dtype != np.bool_
    parts = parts_of(corpus, records)
    c: dict[str, np.ndarray | None] = {}
    for tag in ("theta_0", "theta_b"):
        paths = [part.path(folder, f"c_{tag}") for part in parts]
        if not all(map(os.path.exists, paths)):
            c[tag] = None
            continue
        values = np.empty(corpus.n_targets, dtype=np.float32)
        for part, path in zip(parts, paths, strict=True):
            values[part.targets] = LogProbStore.load(path, part.corpus).c
        c[tag] = values
    tau = float(arguments.get("anchor_threshold", 0.0))
    return RunTokens(
        corpus,
        tokenizer,
        None if selected is None else selected > 0,
        c["theta_0"],
        c["theta_b"],
        tau,
        selected if weighted else None,
    )


# ------------------------------------------------------------------------------------ what they say


def pieces(tokenizer, before: list[int], tokens: list[int]) -> Iterator[str]:
    """The text that each of `tokens` adds behind those of `before`, in order.

    Of a character that several tokens make up, the last has all of it and the others are empty.
    """
    context, pending = before[-4:], []
    known = _decode(tokenizer, context)
    for token in tokens:
        pending.append(token)
        whole = _decode(tokenizer, context + pending)
        if whole.endswith("\ufffd") and len(pending) < 4:  # a character has 4 bytes at the most
            yield ""
            continue
        yield whole[len(known) :] if whole.startswith(known) else _decode(tokenizer, pending)
        context = (context + pending)[-4:]
        pending = []
        known = _decode(tokenizer, context)


def token_text(tokenizer, token: int) -> str:
    """One token by itself, with the space that it may begin with; its name in the vocabulary where
    it is a part of a character."""
    end = tokenizer.eos_token_id
    said = _decode(tokenizer, [end, token])[len(_decode(tokenizer, [end])) :]
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in said or not said else said


def _decode(tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


# ---------------------------------------------------------------------------------- which are shown


@dataclass(frozen=True)
class TokenChange:
    """How a token of the vocabulary has changed over its occurrences: mean delta_c, and the share
    of them that is masked (None: nothing was)."""

    token: int
    occurrences: int
    mean_delta: float
    masked_share: float | None


def token_changes(run: RunTokens, at_least: int) -> list[TokenChange]:
    """Of all tokens with that many occurrences, largest rise first. Empty without a delta_c."""
    delta = run.delta
    if delta is None:
        return []
    found, which = np.unique(run.ids(), return_inverse=True)
    counts = np.bincount(which)
    means = np.bincount(which, weights=delta.astype(np.float64)) / counts
    masked = None if run.keep is None else np.bincount(which, weights=~run.keep) / counts
    order = np.argsort(-means, kind="stable")
    return [
        TokenChange(
            int(found[i]),
            int(counts[i]),
            float(means[i]),
            None if masked is None else float(masked[i]),
        )
        for i in order
        if counts[i] >= at_least
    ]


def chosen_samples(run: RunTokens, each: int) -> dict[int, str]:
    """Samples to be looked at, by number, and why each: the first `each` of the data, then as many
    with the smallest, a median and the largest share of `marked` tokens. Ties stand in the order of
    the data. Empty where nothing is marked."""
    marked = run.marked
    if marked is None:
        return {}
    total = len(run.corpus.samples)
    shares = np.array([marked[run.corpus.target_slice(i)].mean() for i in range(total)])
    order = np.argsort(shares, kind="stable").tolist()
    largest_first = np.argsort(-shares, kind="stable").tolist()
    middle = max(0, total // 2 - each // 2)
    word = "masked" if run.keep is not None else "anchor"
    groups = (
        (range(min(each, total)), "among the first of the data"),
        (order[:each], f"among the smallest {word} shares"),
        (order[middle : middle + each], f"among the median {word} shares"),
        (largest_first[:each], f"among the largest {word} shares"),
    )
    chosen: dict[int, str] = {}
    for samples, why in groups:
        for sample in samples:
            chosen.setdefault(sample, why)
    return chosen
