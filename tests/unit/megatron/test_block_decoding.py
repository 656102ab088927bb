# SPDX-License-Identifier: Apache-2.0
"""Block decoding over the cache is block decoding by whole forwards, for every answer alone."""

from __future__ import annotations

import types

import pytest
import torch

pytestmark = pytest.mark.child

BLOCK, LIMIT, END, MASK = 4, 14, 3, 31
PROMPTS = [[7, 2, 9], [1] * 5, [4, 8], [11, 30, 2, 2], [5, 6], [9, 9, 1], [30, 12, 8, 8, 8], [17]]


def model():
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.block_attention import use_block_attention

    make_parallel()
    args = types.SimpleNamespace(
        t3s_block_size=BLOCK, t3s_diffusion_attention="sdpa", distributed_backend="gloo"
    )
    return tiny_gpt(lambda spec: use_block_attention(spec, args))


def decoder(made, temperature: float, threshold: float, timeout=None):
    from tiny_gpt import context_of

    from t3s_megatron.accuracy.answers import Sampling
    from t3s_megatron.megatron.block_decoding import BlockDecoder

    return BlockDecoder(
        context_of(made),
        Sampling(temperature, LIMIT, END, 7, 32, 8),
        timeout,
        block_size=BLOCK,
        mask_token=MASK,
        threshold=threshold,
    )


def decode(made, numbers: list[int]):
    prompts = [PROMPTS[number % len(PROMPTS)] for number in numbers]
    lengths = [len(prompt) for prompt in prompts]
    with torch.no_grad():
        return made.decode(prompts, numbers, min(lengths), max(lengths))


def by_whole_forwards(made, prompt: list[int], number: int, temperature: float, threshold: float):
    """One answer's tokens, everything so far computed anew at each step; and how many steps."""
    length = -(-(len(prompt) + LIMIT) // BLOCK) * BLOCK
    canvas = torch.tensor(prompt + [MASK] * (length - len(prompt)))
    generator = torch.Generator().manual_seed(7 * 1_000_003 + number)
    uniform = torch.rand(LIMIT, generator=generator, dtype=torch.float64)
    steps = 0
    for first in range(0, length, BLOCK):
        last = first + BLOCK
        while (hidden := canvas[first:last] == MASK).any():
            steps += 1
            logits = made(canvas[None, :last], None, None)[0, first:].double()
            logits[:, MASK] = float("-inf")
            p = (logits / (temperature or 1)).softmax(-1)
            token = p.argmax(-1)
            if temperature:
                cumulative = p.cumsum(-1)
                for place in range(BLOCK):
                    at = min(max(first + place - len(prompt), 0), LIMIT - 1)
                    u = uniform[at] * cumulative[place, -1]
                    token[place] = int((cumulative[place] <= u).sum())
            confidence = p.gather(-1, token[:, None])[:, 0]
            confidence[~hidden] = -1
            sure = confidence > threshold
            if not sure.any():
                sure[confidence.argmax()] = True
            canvas[first:last] = torch.where(sure & hidden, token, canvas[first:last])
        answer = canvas[len(prompt) : last].tolist()
        if END in answer:
            break
    answer = canvas[len(prompt) : len(prompt) + LIMIT].tolist()
    ended = END in answer
    whole = answer[: answer.index(END)] if ended else answer
    blocks = {at // BLOCK for at in range(len(prompt), len(prompt) + len(whole) + ended)}
    return whole, steps, len(blocks)


@pytest.mark.parametrize(("temperature", "threshold"), [(0.0, 0.95), (0.0, 0.2), (1.0, 0.3)])
def test_the_cache_and_the_batch_change_no_token(temperature, threshold):
    made, numbers = model(), list(range(16))
    found = decode(decoder(made, temperature, threshold), numbers)
    steps = 0
    with torch.no_grad():
        for number, answer in zip(numbers, found, strict=True):
            prompt = PROMPTS[number % len(PROMPTS)]
            wanted, count, blocks = by_whole_forwards(made, prompt, number, temperature, threshold)
            assert answer.tokens == wanted and answer.forwards == count
            assert answer.blocks == blocks
            assert answer.truncated == (len(wanted) == LIMIT) and not answer.unfinished
            steps += count
    if not temperature and threshold < 0.9:  # several tokens a step, few of them after an end
        assert steps < sum(len(answer.tokens) for answer in found)


def test_a_mask_is_no_answer():
    made = model()
    with torch.no_grad():
        made.output_layer.weight[MASK] = 100 * made.output_layer.weight.abs().max()
    assert all(MASK not in answer.tokens for answer in decode(decoder(made, 0.0, 0.9), [0, 1, 2]))


def test_time_that_is_up_ends_after_a_block():
    found = decode(decoder(model(), 0.0, 0.9, timeout=0.0), [0, 1, 4])
    assert any(answer.unfinished for answer in found)
    assert all(len(answer.tokens) <= 2 * BLOCK for answer in found)
    assert all(MASK not in answer.tokens for answer in found)
