# SPDX-License-Identifier: Apache-2.0
"""Decoding with a cache, and with a batch that finished answers leave, is decoding without either.

What it is compared with recomputes the whole sequence for every token, as context-parallel ranks
have to.
"""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.child

LIMIT, END = 60, 3
PROMPTS = [[7, 2, 9], [1] * 5, [4, 8], [11, 30, 2, 2], [5, 6], [9, 9, 1], [30, 12], [17] * 6]


def decoder(model, temperature: float, timeout=None, vocabulary: int | None = None):
    from tiny_gpt import VOCABULARY, context_of

    from t3s_megatron.megatron.generation import Decoder, Sampling

    sampling = Sampling(temperature, LIMIT, END, 7, vocabulary or VOCABULARY, 8)
    return Decoder(context_of(model), sampling, timeout)


def decode(made, numbers: list[int]):
    prompts = [PROMPTS[number % len(PROMPTS)] for number in numbers]
    lengths = [len(prompt) for prompt in prompts]
    with torch.no_grad():
        return made.decode(prompts, numbers, min(lengths), max(lengths))


def without_a_cache(model, temperature: float):
    made = decoder(model, temperature)
    made.use_cache = False
    return made


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_changes_no_token(temperature):
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()
    model, numbers = tiny_gpt(), list(range(8))
    expected = decode(without_a_cache(model, temperature), numbers)
    assert decode(decoder(model, temperature), numbers) == expected
    if temperature:
        ends = {len(answer.tokens) for answer in expected}
        assert len(ends) > 3 and min(ends) < LIMIT / 4  # answers do leave, at different times


@pytest.mark.parametrize("temperature", [0.0, 50.0])
def test_no_row_without_a_token_is_sampled(temperature):
    """Rows of the model that the tokenizer has no token for, however likely they are."""
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()
    model, numbers = tiny_gpt(), list(range(8))
    some = decode(decoder(model, temperature), numbers)
    assert max(token for answer in some for token in answer.tokens) >= 20
    answers = decode(decoder(model, temperature, vocabulary=20), numbers)
    assert all(token < 20 for answer in answers for token in answer.tokens)


def test_an_answer_depends_on_nobody_else():
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()
    model, numbers = tiny_gpt(), list(range(8))
    together = decode(decoder(model, 1.0), numbers)
    alone = [decode(decoder(model, 1.0), [number])[0] for number in numbers]
    assert together == alone
    assert decode(decoder(model, 1.0), numbers[::-1]) == together[::-1]


def test_finished_answers_leave_the_batch():
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()
    model, rows = tiny_gpt(), []
    model.embedding.register_forward_hook(lambda m, inputs, kwargs, out: rows.append(out.size(1)),
                                          with_kwargs=True)  # fmt: skip
    answers = decode(decoder(model, 1.0), list(range(8)))
    lengths = sorted(len(answer.tokens) for answer in answers)
    assert rows[0] == 8 and rows == sorted(rows, reverse=True) and rows[-1] <= 3
    # Little is computed for those that have ended: what a look every few tokens leaves.
    assert sum(rows) < sum(lengths) + 8 * (8 + max(map(len, PROMPTS)))


def test_only_the_last_position_of_a_prompt_has_logits():
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()
    model, positions = tiny_gpt(), []
    model.output_layer.register_forward_pre_hook(lambda m, inputs: positions.append(len(inputs[0])))
    decode(decoder(model, 0.0), [1, 7])
    assert set(positions) == {1}


def test_keys_are_rotated_once():
    from tiny_gpt import make_parallel, tiny_gpt

    import t3s_megatron.megatron.decoding as decoding

    make_parallel()
    model, rotated, original = tiny_gpt(), [], decoding.apply_rotary_pos_emb

    def spy(t, *args, **kwargs):
        rotated.append(len(t))
        return original(t, *args, **kwargs)

    decoding.apply_rotary_pos_emb = decoding.attention.apply_rotary_pos_emb = spy
    decode(decoder(model, 0.0), [0])
    prompt = len(PROMPTS[0])
    assert rotated[:4] == [prompt] * 4 and set(rotated[4:]) == {1}  # key, query of two layers


def test_the_model_is_left_as_it_was():
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()
    model = tiny_gpt()
    before = [set(vars(module)) for module in model.modules()]
    decode(decoder(model, 1.0), [0, 1])
    made = decoder(model, 1.0)
    made._choose = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        decode(made, [0, 1])
    assert [set(vars(module)) for module in model.modules()] == before


def test_the_time_is_up_at_the_next_look():
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.generation import Generated

    make_parallel()
    made = decoder(tiny_gpt(), 0.0, timeout=0.0)
    answers = decode(made, [0, 5])
    assert made.time_is_up and all(answer.unfinished for answer in answers)
    assert all(isinstance(answer, Generated) and len(answer.tokens) <= 8 for answer in answers)


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ranks_with_other_prompts_stay_in_step(temperature):
    from tiny_gpt import make_parallel, tiny_gpt

    make_parallel()  # two data-parallel ranks
    model, rank, rows = tiny_gpt(), torch.distributed.get_rank(), []
    numbers = [[0, 2, 4, 6], [1, 3, 5, 7]][rank]
    expected = [decode_alone(model, temperature, number) for number in numbers]
    model.embedding.register_forward_hook(lambda m, inputs, kwargs, out: rows.append(out.size(1)),
                                          with_kwargs=True)  # fmt: skip
    made = decoder(model, temperature)
    prompts = [PROMPTS[number] for number in numbers]
    with torch.no_grad():
        answers = made.decode(prompts, numbers, min(map(len, PROMPTS)), max(map(len, PROMPTS)))
    assert answers == expected
    everyone: list = [None, None]
    torch.distributed.all_gather_object(everyone, rows)
    assert everyone[0] == everyone[1]  # as expert-parallel ranks need it


def decode_alone(model, temperature: float, number: int):
    """On this rank, whatever the other one does: same number of looks, since none ends early."""
    made = without_a_cache(model, temperature)
    made._in_common = lambda done, overdue: (1, False)
    return decode(made, [number])[0]
