# SPDX-License-Identifier: Apache-2.0
"""What became of single tokens, as HTML: traces in colour, a histogram, the largest changes.

A run's traces may have millions of tokens, and a page has to stay usable: which are shown, and how
much of them, is bounded here, and the page says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from t3s_megatron.monitor.charts import bar, histogram
from t3s_megatron.monitor.markup import Markup, folded, joined, table, tag, text
from t3s_megatron.monitor.tokens import (
    RunTokens,
    TokenChange,
    chosen_samples,
    pieces,
    token_changes,
    token_text,
)

#: Traces of each of the four kinds; and of all traces of a page together, how much is shown.
TRACES_EACH, PAGE_TOKENS, PAGE_BYTES = 3, 120_000, 10_000_000
_TRACE_TOKENS = 10_000
#: Tokens of a prompt, at its beginning and at its end.
_PROMPT_TOKENS = 200
#: |delta_c| in nats at which a colour begins; the lowest are as good as unchanged.
LEVELS = (0.05, 0.25, 1.0, 3.0)
_CHANGES, _IN_CONTEXT, _AROUND, _BINS, _LONGEST = 20, 10, 8, 60, 40
#: A token of the vocabulary is ranked if it occurs so often, or, with few data, at all.
_OFTEN_ENOUGH = (10, 3, 1)


def token_sections(run: RunTokens, runs: int) -> Markup:
    """All that is said of this run's tokens, on a page that shows so many `runs`."""
    return joined((_distribution(run), _figure_3(run), _traces(run, runs)))


def level(delta: float) -> str:
    """The class of a token's colour: "" , r1 to r4 for a rise, f1 to f4 for a fall."""
    step = sum(abs(delta) >= bound for bound in LEVELS)
    return f"{'r' if delta > 0 else 'f'}{step}" if step else ""


# ------------------------------------------------------------------------------------- distribution


def _distribution(run: RunTokens) -> Markup:
    delta = run.delta
    if delta is None:
        return Markup("")
    low, high = (float(v) for v in np.quantile(delta, (0.005, 0.995)))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    edges = np.linspace(low, high, _BINS + 1)
    # In the precision of the edges, or what is clipped to one may fall outside of it.
    inside = np.clip(delta.astype(np.float64), low, high)
    groups = [("tokens", np.ones(delta.size, dtype=bool))]
    if run.keep is not None:
        groups = [("kept tokens", run.keep), ("masked tokens", ~run.keep)]
    counts = [(name, np.histogram(inside[which], edges)[0].tolist()) for name, which in groups]
    marks = [(run.tau, f"threshold {run.tau:g}")] if low <= run.tau <= high else []
    picture = histogram(
        "Histogram of delta_c, the change of log-prob from theta_0 to theta_b",
        edges.tolist(),
        counts,
        x_title="delta_c (nats); the outer bins hold all that lies beyond (0.5% on each side)",
        marks=marks,
    )
    shares = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
    values = zip(shares, np.quantile(delta, shares), strict=True)
    rows = [(f"{share:.0%}", f"{value:.3f}") for share, value in values]
    rows.append(("mean", f"{delta.mean(dtype=np.float64):.3f}"))
    quantiles = table(("quantile", "delta_c"), rows, f"delta_c of {delta.size:,} target tokens")
    heading = tag("h3", "How log-probs changed (Eq. 3)")
    return joined((heading, picture, folded("Quantiles", quantiles)))


# ----------------------------------------------------------------------------------------- Figure 3


def _figure_3(run: RunTokens) -> Markup:
    delta = run.delta
    if delta is None:
        return Markup("")
    for often in _OFTEN_ENOUGH:
        changes = token_changes(run, often)
        if len(changes) >= 2 * _CHANGES:
            break
    rises = [change for change in changes if change.mean_delta > 0][:_CHANGES]
    falls = [change for change in changes[::-1] if change.mean_delta < 0][:_CHANGES]
    most = max((abs(change.mean_delta) for change in rises + falls), default=1.0)
    rule = tag(
        "p",
        "By token of the vocabulary: the mean of delta_c over all its occurrences, of tokens that "
        f"occur {'at all' if often == 1 else f'{often} times or more'}. In context: single "
        "occurrences. Spaces are shown as ␣, line breaks as ↵.",
    )
    by_token = tag(
        "div",
        _changes(run, rises, most, "rise", "Largest rise, by token"),
        _changes(run, falls, most, "fall", "Largest fall, by token"),
        class_="beside",
    )
    order = np.argsort(-delta, kind="stable")
    in_context = tag(
        "div",
        _in_context(run, delta, order[:_IN_CONTEXT], "Largest rise, in context"),
        _in_context(run, delta, order[::-1][:_IN_CONTEXT], "Largest fall, in context"),
        class_="beside",
    )
    heading = tag("h3", "The tokens that changed most (Figure 3)")
    return joined((heading, rule, by_token, in_context))


def _changes(
    run: RunTokens, changes: Sequence[TokenChange], most: float, kind: str, caption: str
) -> Markup:
    rows = [
        (
            tag("code", _short(token_text(run.tokenizer, change.token))),
            f"{change.mean_delta:+.3f}",
            bar(abs(change.mean_delta) / most, kind),
            f"{change.occurrences:,}",
            "-" if change.masked_share is None else f"{change.masked_share:.0%}",
        )
        for change in changes
    ]
    return table(("token", "mean delta_c", "", "occurs", "masked"), rows, caption)


def _in_context(run: RunTokens, delta: np.ndarray, targets: np.ndarray, caption: str) -> Markup:
    rows = []
    for target in targets.tolist():
        index = int(run.corpus.sample_index(np.asarray(target)))
        sample = run.corpus.samples[index]
        number = int(np.flatnonzero(sample.is_target)[target - int(run.corpus.offsets[index])])
        ids = sample.tokens.tolist()
        begin, end = max(0, number - _AROUND), number + 1 + _AROUND
        around = list(pieces(run.tokenizer, ids[:begin], ids[begin:end]))
        at = number - begin
        said = joined(
            (
                _short("".join(around[:at]), from_end=True),
                tag(
                    "mark",
                    _short(around[at]) or "(part of a character)",
                    class_=level(float(delta[target])) or None,
                ),
                _short("".join(around[at + 1 :])),
            )
        )
        rows.append((tag("code", said), f"{delta[target]:+.3f}", sample.uid))
    return table(("token", "delta_c", "sample"), rows, caption)


def _short(plain: str, from_end: bool = False) -> str:
    if len(plain) > _LONGEST:
        plain = f"…{plain[-_LONGEST:]}" if from_end else f"{plain[:_LONGEST]}…"
    return plain.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")


# ------------------------------------------------------------------------------------------- traces


def _traces(run: RunTokens, runs: int) -> Markup:
    chosen = chosen_samples(run, TRACES_EACH)
    if not chosen:
        return Markup("")
    of_page = runs * max(len(chosen), 1)
    most_tokens = min(_TRACE_TOKENS, PAGE_TOKENS // of_page)
    most_bytes = PAGE_BYTES // of_page
    total = len(run.corpus.samples)
    shares = "masked shares" if run.keep is not None else "shares of anchors"
    rule = tag(
        "p",
        f"{len(chosen)} of {total} samples: the first {TRACES_EACH} of the data, then "
        f"{TRACES_EACH} each with the smallest, the median and the largest {shares}, ties in the "
        f"order of the data, none twice. Of each, at most its first {most_tokens:,} target tokens. "
        "Hover over a token for its log-probs; context is grey, and no token of it is learned.",
    )
    made = [
        _trace(run, sample, why, most_tokens, most_bytes, number == 0)
        for number, (sample, why) in enumerate(chosen.items())
    ]
    return joined((tag("h3", "Sample traces"), rule, _key(run), *made))


def _key(run: RunTokens) -> Markup:
    shown: list[Markup] = []
    if run.delta is not None:
        for step in reversed(range(len(LEVELS))):
            shown.append(tag("span", f"-{LEVELS[step]:g}", class_=f"f{step + 1}"))
        shown.append(tag("span", "0"))
        for step, bound in enumerate(LEVELS):
            shown.append(tag("span", f"+{bound:g}", class_=f"r{step + 1}"))
    masked = (tag("s", "masked"), " out of the loss") if run.keep is not None else ()
    said = "delta_c, from this value on: " if shown else "the run has left no delta_c; "
    return tag("p", said, joined(shown), " ", *masked, class_="trace key")


def _trace(
    run: RunTokens, sample: int, why: str, most_tokens: int, most_bytes: int, is_open: bool
) -> Markup:
    chosen, marked = run.corpus.samples[sample], run.marked
    assert marked is not None
    count = int(marked[run.corpus.target_slice(sample)].sum())
    word = "masked" if run.keep is not None else "anchors"
    share = count / chosen.n_targets
    title = f"{chosen.uid}: {count} of {chosen.n_targets} tokens {word} ({share:.1%}), {why}"
    head = [int(token) for token in chosen.tokens[: chosen.prompt_length]]
    said, shown, size = [], 0, 0
    for token in _tokens(run, sample, most_tokens):
        size += len(token.encode())
        if size > most_bytes:
            break
        said.append(token)
        shown += 1
    left = chosen.n_targets - shown
    cut = tag("p", f"{left:,} more tokens are not shown", class_="cut") if left else None
    context = tag("span", _prompt(run, head), class_="context")
    return folded(
        title,
        tag("div", context, joined(said), class_="trace", lang="", translate="no"),
        cut,
        is_open=is_open,
    )


def _prompt(run: RunTokens, head: list[int]) -> Markup:
    parts: list[object] = ["".join(pieces(run.tokenizer, [], head[:_PROMPT_TOKENS]))]
    rest = head[_PROMPT_TOKENS:]
    if rest:
        if (left := len(rest) - _PROMPT_TOKENS) > 0:
            parts.append(f" [... {left:,} tokens ...] ")
            rest = rest[left:]
        before = head[: len(head) - len(rest)]
        parts.append("".join(pieces(run.tokenizer, before, rest)))
    return joined(parts)


def _tokens(run: RunTokens, sample: int, most: int) -> Iterator[Markup]:
    """Each target token of a sample, in its colour, struck out if it is masked."""
    chosen, place = run.corpus.samples[sample], run.corpus.target_slice(sample)
    numbers = np.flatnonzero(chosen.is_target)[:most]
    ids = chosen.tokens[numbers].tolist()
    before = chosen.tokens[: int(numbers[0])].tolist()
    delta = run.delta
    for number, piece in enumerate(pieces(run.tokenizer, before, ids)):
        target = place.start + number
        name = "s" if run.keep is not None and not run.keep[target] else "i"
        colour = level(float(delta[target])) if delta is not None else ""
        shown = piece.replace("\n", "↵\n") if piece else "·"
        title = _log_probs(run, target, delta)
        # Written out, since there may be a hundred thousand of them.
        kind = f" class={colour}" if colour else ""
        said = f' title="{text(title)}"' if title else ""
        yield Markup(f"<{name}{kind}{said}>{text(shown)}</{name}>")


def _log_probs(run: RunTokens, target: int, delta: np.ndarray | None) -> str:
    known = (
        ("θ0", run.c_0, ""),
        ("θb", run.c_b, ""),
        ("Δ", delta, "+"),
        ("weight", run.weights, ""),
    )
    return ", ".join(
        f"{name} {format(float(values[target]), sign + '.3f')}"
        for name, values, sign in known
        if values is not None
    )
