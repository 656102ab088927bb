# SPDX-License-Identifier: Apache-2.0
"""Two tokenizers of one text: same pieces under other numbers, with other ends."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.diffusion.alignment import align
from t3s_megatron.errors import MismatchError
from tests.unit.data.made_data import sample


def words(*vocabulary: str, special: tuple[str, ...] = ("<end>", "<turn>")):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=special[0], additional_special_tokens=list(special[1:])
    )


#: <turn> of the one has the number of <mask> of the other.
THEIRS = words("a", "b", "c", "<end>", "<turn>")
MINE = words("c", "a", "b", "<turn>", "<mask>", "<end>", "d")


def corpus(tokenizer, *responses: str, prompt: int = 1) -> Corpus:
    samples = []
    for number, response in enumerate(responses):
        tokens = tokenizer.convert_ids_to_tokens([0] * prompt) + response.split()
        ids = tokenizer.convert_tokens_to_ids(tokens)
        samples.append(sample(ids, prompt, f"s{number}"))
    return Corpus(samples, str(tokenizer.get_vocab()), {})


def partners(theirs: Corpus, mine: Corpus) -> list[int]:
    return align(theirs, mine, THEIRS, MINE).tolist()


def test_pieces_meet_by_their_text_and_ends_may_differ():
    theirs = corpus(THEIRS, "a b <turn>", "c c c <turn>", prompt=3)
    mine = corpus(MINE, "a b <turn> <end>", "c c c <end>", prompt=1)
    assert partners(theirs, mine) == [0, 1, 2, -1, 3, 4, 5, -1]


def test_samples_meet_by_their_ids():
    theirs, mine = corpus(THEIRS, "a <turn>", "b b <turn>"), corpus(MINE, "a <turn>", "b b <turn>")
    theirs = theirs.subset([1, 0])
    assert partners(theirs, mine) == [3, 4, 0, 1, 2]


def test_a_response_that_was_cut_is_the_beginning_of_its_partner():
    assert partners(corpus(THEIRS, "a b c <turn>"), corpus(MINE, "a b")) == [0, 1]


def test_one_tokenizer_is_the_identity():
    mine = corpus(MINE, "a b <turn> <end>", "d <end>")
    assert align(mine, mine, MINE, MINE).tolist() == list(range(mine.n_targets))


@pytest.mark.parametrize(
    ("theirs", "mine", "said"),
    [
        ("a b <turn>", "a c <turn>", "token 1 of the response: 'b' and 'c'"),
        ("a <turn>", "a a <turn>", "token 1 of the response: '<turn>' and 'a'"),
        ("a a <turn>", "a <turn>", "token 1 of the response: 'a' and '<turn>'"),
        ("a", "a b", "token 1 of the response: no token and 'b'"),
        ("b <turn>", "d <turn>", "token 0 of the response: 'b' and 'd'"),
    ],
)
def test_the_first_token_that_differs_is_named(theirs, mine, said):
    with pytest.raises(MismatchError) as caught:
        partners(corpus(THEIRS, "a", theirs), corpus(MINE, "a", mine))
    assert "1 of 2 responses" in str(caught.value) and "'s1'" in str(caught.value)
    assert said in str(caught.value)


def test_a_sample_that_the_selector_lacks_is_named():
    with pytest.raises(MismatchError, match="'s1'.*the selector has none"):
        partners(corpus(THEIRS, "a"), corpus(MINE, "a", "b"))


def test_what_is_aligned_carries_the_scores():
    from t3s_megatron.diffusion.targeting import SelectorScores

    c_0 = np.array([-1.0, -2.0, -3.0], np.float32)
    scores = SelectorScores(c_0, c_0 / 2, {}).at(np.array([2, -1, 0]))
    assert scores.c_0.tolist() == [-3, 0, -1] and scores.delta.tolist() == [-1.5, 0, -0.5]
    assert scores.about == {"unaligned": 1}
