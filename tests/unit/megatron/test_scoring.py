# SPDX-License-Identifier: Apache-2.0
"""Losses of a scoring pass: of float32 logits, whatever the model computes in; and the arrangement
of the second pass, whose difference is noise."""

from __future__ import annotations

import argparse

import pytest
import torch

pytestmark = pytest.mark.child

S, B = 12, 2


def losses(model, tokens):
    positions = torch.arange(S).expand_as(tokens)
    with torch.no_grad():
        return model(tokens, positions, None, labels=tokens.roll(-1, 1))


def reference(model, tokens):
    """float64 cross-entropy of the hidden states and the weights that the model has. [B, S]."""
    seen = []
    hook = model.output_layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    losses(model, tokens)
    hook.remove()
    logits = seen[0].double() @ model.output_layer.weight.detach().double().t()
    wanted = tokens.roll(-1, 1).t()
    return -logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0].t()


def tokens():
    from tiny_gpt import VOCABULARY

    return torch.randint(0, VOCABULARY, (B, S), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fused", [False, True])
def test_bf16_models_are_scored_by_float32_logits(fused):
    from tiny_gpt import VOCABULARY, make_parallel, tiny_gpt

    import t3s_megatron.megatron.float32_logits as room

    make_parallel()
    model = tiny_gpt(bf16=True, params_dtype=torch.bfloat16, cross_entropy_loss_fusion=fused)
    before, truth = losses(model, tokens()), reference(model, tokens())
    with room.float32_logits([model]):
        exact = losses(model, tokens())
    room._CHUNK_BYTES = 4 * VOCABULARY * B * 5  # five positions a chunk, the last one of two
    with room.float32_logits([model]):
        assert torch.equal(losses(model, tokens()), exact)
    assert exact.dtype == torch.float32 and exact.shape == (B, S)
    assert (exact - truth).abs().max() < 1e-5
    assert (before - truth).abs().max() > 1e-3  # what rounding the logits costs
    assert torch.equal(losses(model, tokens()), before)  # and training goes on as it was


def test_a_float32_model_is_scored_as_ever():
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.float32_logits import float32_logits

    make_parallel()
    model = tiny_gpt()
    before = losses(model, tokens())
    with float32_logits([model]):
        assert "forward" not in vars(model.output_layer)
        assert torch.equal(losses(model, tokens()), before)


def true_entropies(hidden, weight):
    """float64, [B, S], of the predictions of hidden states [S, B, h]."""
    log_p = (hidden.double() @ weight.detach().double().t()).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).t()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
def test_entropies_are_those_of_float64_logits(dtype, fused):
    from tiny_gpt import VOCABULARY, make_parallel, tiny_gpt

    import t3s_megatron.megatron.float32_logits as room

    make_parallel()
    bf16 = dtype == torch.bfloat16
    model = tiny_gpt(bf16=bf16, params_dtype=dtype, cross_entropy_loss_fusion=fused)
    before, seen = losses(model, tokens()), []
    hook = model.output_layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    losses(model, tokens())
    hook.remove()
    truth = true_entropies(seen[0], model.output_layer.weight)
    room._CHUNK_BYTES = 4 * VOCABULARY * B * 5
    with room.entropies_as_scores([model]):
        found = -losses(model, tokens())
    assert found.dtype == torch.float32 and found.shape == (B, S)
    assert truth.max() - truth.min() > 0.1 and (found - truth).abs().max() < 1e-5
    assert torch.equal(losses(model, tokens()), before)


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_entropies_of_tensor_parallel_ranks_are_of_the_whole_vocabulary(sequence_parallel):
    from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.float32_logits import entropies_as_scores

    make_parallel(tensor_model_parallel_size=2)
    model = tiny_gpt(tensor_model_parallel_size=2, sequence_parallel=sequence_parallel)
    seen = []
    hook = model.output_layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    losses(model, tokens())
    hook.remove()
    hidden = gather_from_sequence_parallel_region(seen[0]) if sequence_parallel else seen[0]
    parts = [torch.empty_like(model.output_layer.weight) for _ in range(2)]
    torch.distributed.all_gather(parts, model.output_layer.weight.detach().contiguous())
    with entropies_as_scores([model]):
        found = -losses(model, tokens())
    assert (found - true_entropies(hidden, torch.cat(parts))).abs().max() < 1e-5


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_tensor_parallel_ranks_have_a_part_of_the_vocabulary_each(sequence_parallel):
    from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.float32_logits import float32_logits

    make_parallel(tensor_model_parallel_size=2)
    model = tiny_gpt(
        bf16=True, params_dtype=torch.bfloat16, tensor_model_parallel_size=2,
        sequence_parallel=sequence_parallel,
    )  # fmt: skip
    seen = []
    hook = model.output_layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    losses(model, tokens())
    hook.remove()
    hidden = gather_from_sequence_parallel_region(seen[0]) if sequence_parallel else seen[0]
    parts = [torch.empty_like(model.output_layer.weight) for _ in range(2)]
    torch.distributed.all_gather(parts, model.output_layer.weight.detach().contiguous())
    logits = hidden.double() @ torch.cat(parts).double().t()
    truth = -logits.log_softmax(-1).gather(-1, tokens().roll(-1, 1).t()[..., None])[..., 0].t()
    with float32_logits([model]):
        assert (losses(model, tokens()) - truth).abs().max() < 1e-5


def arguments(**changed) -> argparse.Namespace:
    from tests.support.arguments import namespace

    return namespace("", micro_batch_size=2, seq_length=4096, **changed)


def test_the_second_pass_has_rows_of_other_lengths():
    from t3s_megatron.data.arrangement import Arrangement
    from t3s_megatron.megatron.scoring import another_arrangement

    own = another_arrangement(Arrangement("own", 4096, multiple=8), None)
    assert (own.kind, own.multiple, own.seq_length) == ("own", 256, 4096)
    short = another_arrangement(Arrangement("own", 48, multiple=8), None)
    assert (short.kind, short.seq_length) == ("padded", 48)
    packed = another_arrangement(Arrangement("packed", 4096), None)
    assert (packed.kind, packed.multiple) == ("own", 256)
    padded = another_arrangement(Arrangement("padded", 4096, micro_batch_size=2), arguments())
    assert (padded.kind, padded.micro_batch_size) == ("own", 1)


def test_where_shapes_are_fixed_there_is_no_second_pass():
    from t3s_megatron.data.arrangement import Arrangement
    from t3s_megatron.megatron.scoring import another_arrangement

    padded = Arrangement("padded", 4096, micro_batch_size=2)
    assert another_arrangement(padded, arguments(tp_comm_overlap=True)) is None


def test_samples_of_the_second_pass_are_spread_over_all():
    from t3s_megatron.megatron.scoring import spread

    assert spread(200, 4) == [0, 50, 100, 150]
    assert spread(2, 16) == [0, 1]
    assert spread(0, 16) == []


def test_the_second_pass_is_the_same_function_rounded_otherwise():
    from tiny_gpt import make_parallel, tiny_gpt

    from t3s_megatron.megatron.decoding import torch_attention
    from t3s_megatron.megatron.float32_logits import float32_logits

    make_parallel()
    exact = tiny_gpt()
    before = losses(exact, tokens())
    with torch_attention([exact]):
        assert (losses(exact, tokens()) - before).abs().max() < 1e-4
    model = tiny_gpt(bf16=True, params_dtype=torch.bfloat16)
    with float32_logits([model]):
        first = losses(model, tokens())
        with torch_attention([model]):
            again = losses(model, tokens())
        assert torch.equal(losses(model, tokens()), first)  # and nothing of it stays
    differ = (again - first).abs()
    assert 0 < differ.median() < 0.1


@pytest.mark.parametrize(
    ("count", "group", "most", "expected"),
    [
        (7, 1, 10, [7]),
        (20, 1, 10, [10, 10]),
        (21, 1, 10, [10, 10, 1]),
        (24, 4, 10, [8, 8, 8]),
        (26, 4, 10, [8, 8, 10]),  # two alone would not fill a group
        (29, 4, 10, [8, 8, 8, 5]),
        (3, 1, 0, [1, 1, 1]),
    ],
)
def test_a_pass_in_portions_has_every_micro_batch_and_schedules_take_them(
    count, group, most, expected
):
    from t3s_megatron.megatron.scoring import portions

    assert portions(count, group, most) == expected


def test_anchors_are_looked_up_in_the_log_probs_of_their_teacher():
    import numpy as np

    from t3s_megatron.megatron.meter import StepTokens, TokenGroups

    draw = np.random.default_rng(0)
    c_0, c_b = -draw.random((2, 12)).astype(np.float32)
    own = np.array([1, 2, 5, 8]), slice(9, 12)
    groups = TokenGroups(0.1)
    asked = np.array([11, 0, 5, 1, 9, 8, 3])
    assert not groups.at(asked)[0].any() and not groups.at(asked)[1].any()
    for targets in own:
        groups.know(targets, c_0[targets], c_b[targets])
    is_anchor, at_0 = groups.at(asked)
    known = np.isin(asked, [1, 2, 5, 8, 9, 10, 11])
    np.testing.assert_array_equal(at_0, np.where(known, c_0[asked], 0))
    np.testing.assert_array_equal(is_anchor, known & (c_b[asked] - c_0[asked] > np.float32(0.1)))
    assert 0 < is_anchor.sum() < known.sum()
    tokens = StepTokens(asked, c_b[asked], 3)
    assert tokens.among(own[0]).target.tolist() == [5, 1, 8]
    assert tokens.among(own[1]).target.tolist() == [11, 9]


def test_what_is_collected_of_some_samples_stands_one_after_the_other():
    import types

    import numpy as np

    from t3s_megatron.data.corpus import Corpus
    from t3s_megatron.megatron.scoring import _Collected

    offsets = np.array([0, 2, 5, 6, 10])
    samples = types.SimpleNamespace(
        offsets=offsets, samples=range(4), n_targets=10,
        sample_index=lambda target: Corpus.sample_index(samples, target),
    )  # fmt: skip
    c = np.arange(10, dtype=np.float32)
    for some, wanted in (
        (None, range(10)),
        (range(4), range(10)),
        ([1, 3], [2, 3, 4, 6, 7, 8, 9]),
        ([3, 0], [6, 7, 8, 9, 0, 1]),
        ([], []),
    ):
        collected = _Collected.of(samples, some)
        assert np.isnan(collected.values).all()
        order = np.random.default_rng(1).permutation(np.array(wanted, dtype=np.int64))
        for target in np.array_split(order, 3):
            collected.put(target, c[target])
        assert collected.values.tolist() == list(wanted)
