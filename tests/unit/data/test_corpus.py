# SPDX-License-Identifier: Apache-2.0
"""The corpus: numbering of targets, policy for over-long samples, fingerprints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_data import (
    END,
    QWEN_THINKING,
    A,
    B,
    C,
    byte_tokenizer,
    corpus,
    record,
    sample,
    three_samples,
    word_tokenizer,
)

from t3s_megatron.data.corpus import Corpus, tokenizer_fingerprint
from t3s_megatron.errors import DataError


def build(records, **changed) -> Corpus:
    options = dict(seq_length=5, prompt_format="raw") | changed
    return Corpus.build(records, word_tokenizer(None), **options)


SHORT = record("a", "b c", "short")  # a | b c <end>: 4 tokens, 3 places
FITS = record("a b c", "a b", "fits")  # 6 tokens, 5 places
LONG = record("a", "a b c a b c", "long")  # 8 tokens, 7 places
LATE = record("a b c a b c a", "b", "late")  # 9 tokens, the first target is number 7


def test_offsets_number_the_targets():
    made = corpus(*three_samples())
    assert made.offsets.dtype == np.int64 and made.offsets.tolist() == [0, 2, 11, 12]
    assert [made.target_slice(i) for i in range(3)] == [slice(0, 2), slice(2, 11), slice(11, 12)]
    assert made.n_targets == 12


def test_counts_and_order():
    made = build([SHORT, FITS])
    assert [s.uid for s in made.samples] == ["short", "fits"]
    assert made.counts == dict(
        records=2,
        samples=2,
        dropped_overlong=0,
        truncated_overlong=0,
        tokens=4 + 6,
        target_tokens=3 + 3,
    )


# -------------------------------------------------------------------------------------- over-long


def test_a_sample_of_l_tokens_needs_l_minus_1_places():
    assert len(build([FITS], seq_length=5).samples) == 1
    with pytest.raises(DataError):
        build([FITS], seq_length=4)


def test_by_blocks_it_needs_a_place_for_every_token():
    assert list(build([SHORT, FITS], seq_length=6, block_size=3).lengths) == [6, 6]
    with pytest.raises(DataError):
        build([FITS], seq_length=5, block_size=1)


def test_overlong_is_an_error_that_offers_the_choices():
    more = [dataclasses.replace(LONG, uid=f"l{i}", where=f"line {i}") for i in range(4)]
    with pytest.raises(DataError) as caught:
        build([SHORT, *more])
    text = str(caught.value)
    assert "4 of 5 samples do not fit --seq-length 5" in text
    assert "line 0 (8 tokens); line 1 (8 tokens); line 2 (8 tokens), ..." in text
    assert "line 3" not in text
    assert "--t3s-overlong drop or --t3s-overlong truncate" in text


def test_drop():
    made = build([LONG, SHORT, LATE], overlong="drop")
    assert [s.uid for s in made.samples] == ["short"]
    assert (made.counts["records"], made.counts["dropped_overlong"]) == (3, 2)
    assert (made.counts["tokens"], made.counts["target_tokens"]) == (4, 3)


def test_truncate_cuts_the_tail_and_drops_what_has_no_target_left():
    made = build([SHORT, LONG, LATE], overlong="truncate")
    assert [s.uid for s in made.samples] == ["short", "long"]
    cut = made.samples[1]
    assert cut.tokens.tolist() == [A, A, B, C, A, B]
    assert cut.is_target.tolist() == [False] + [True] * 5 and cut.prompt_length == 1
    assert (made.counts["truncated_overlong"], made.counts["dropped_overlong"]) == (1, 1)
    assert made.counts["target_tokens"] == 3 + 5 and made.offsets.tolist() == [0, 3, 8]
    assert made.samples[0].tokens[-1] == END


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_nothing_left(overlong):
    with pytest.raises(DataError, match=f"no sample fits --seq-length 5: .*{overlong} leaves none"):
        build([LATE], overlong=overlong)


def test_vocabulary_is_checked():
    with pytest.raises(DataError, match="line of short: token id .* vocabulary of 3"):
        build([SHORT], vocab_size=3)


# ---------------------------------------------------------------------------------------- answers


def test_require_answers():
    corpus(sample([1, 2], 1)).require_answers()
    without = [sample([1, 2], 1, f"s{i}", answer=None) for i in range(4)]
    with pytest.raises(DataError) as caught:
        corpus(sample([1, 2], 1, "fine"), *without).require_answers()
    text = str(caught.value)
    assert "4 samples have no gold `answer`" in text and "--t3s-simple" in text
    assert "line of s0; f.jsonl, line of s1; f.jsonl, line of s2, ..." in text
    assert "fine" not in text and "s3" not in text


# ----------------------------------------------------------------------------------- fingerprints


def test_fingerprint_is_blind_to_where_samples_came_from():
    moved = [dataclasses.replace(s, where="elsewhere", answer="9") for s in three_samples()]
    assert corpus(*moved).fingerprint == corpus(*three_samples()).fingerprint
    assert len(corpus(*moved).fingerprint) == 64


def changed_corpora():
    p, q, r = three_samples()
    yield "order", [q, p, r]
    yield "one less", [p, q]
    yield "uid", [dataclasses.replace(p, uid="P"), q, r]
    yield "token", [dataclasses.replace(p, tokens=p.tokens + np.int32(1)), q, r]
    yield "targets", [dataclasses.replace(p, is_target=np.array([0, 1, 1, 1], dtype=bool)), q, r]
    yield "boundary", [sample([5, 6, 7], 2, "p"), sample([8, 1, *range(20, 29)], 1, "q"), r]


@pytest.mark.parametrize(("what", "samples"), list(changed_corpora()))
def test_fingerprint_sees(what, samples):
    assert corpus(*samples).fingerprint != corpus(*three_samples()).fingerprint


def test_tokenizer_fingerprint():
    first = tokenizer_fingerprint(word_tokenizer())
    assert first == tokenizer_fingerprint(word_tokenizer()) and len(first) == 64
    added = word_tokenizer()
    added.add_tokens(["new"])
    others = [word_tokenizer(QWEN_THINKING), word_tokenizer(None), word_tokenizer(bos=True), added]
    prints = {tokenizer_fingerprint(other) for other in [*others, byte_tokenizer()]}
    assert len(prints) == 5 and first not in prints
    assert build([SHORT]).tokenizer_fingerprint == tokenizer_fingerprint(word_tokenizer(None))
