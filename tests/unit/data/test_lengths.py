# SPDX-License-Identifier: Apache-2.0
"""Which arrangement a command line means, what it tells the layout to be divided by, and what is
refused with it."""

from __future__ import annotations

import pytest

from t3s_megatron.data.arrangement import Arrangement
from t3s_megatron.data.lengths import FIXED_SHAPE, choose_arrangement, make_arrangement
from t3s_megatron.errors import T3SError
from tests.support.arguments import config, namespace

OWN, PADDED, PACKED = (f"--t3s-arrangement {kind}" for kind in ("own", "padded", "packed"))
MOE = {"num_experts": 8, "moe_token_dispatcher_type": "alltoall"}
CP2 = {"context_parallel_size": 2}
TP4 = {"tensor_model_parallel_size": 4, "sequence_parallel": True}


def refused(line: str = "", **megatron) -> str:
    with pytest.raises(T3SError) as caught:
        choose_arrangement(namespace(line, **megatron))
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "micro_batch_size", "kind"),
    [
        ("", 1, "own"),
        ("", 4, "padded"),
        (OWN, 1, "own"),
        (PADDED, 1, "padded"),
        (PADDED, 4, "padded"),
        (PACKED, 1, "packed"),
    ],
)
def test_own_lengths_at_micro_batches_of_one_unless_asked(line, micro_batch_size, kind):
    args = namespace(line, micro_batch_size=micro_batch_size)
    assert choose_arrangement(args) == make_arrangement(args).kind == kind
    # Resolved in the configuration, and so in the summary and in what a resumed run is held to.
    assert config(line, micro_batch_size=micro_batch_size).arrangement == kind


@pytest.mark.parametrize(
    ("megatron", "multiple"),
    [
        ({}, 1),
        ({"tensor_model_parallel_size": 4}, 1),  # without sequence parallelism nothing is cut
        (TP4, 4),
        (CP2, 4),
        (CP2 | TP4, 16),
        (CP2 | TP4 | {"fp8": "hybrid"}, 512),
        ({"fp4": "e2m1"}, 32),
    ],
)
def test_rows_are_as_long_as_the_layout_can_cut_up(megatron, multiple):
    assert make_arrangement(namespace(seq_length=1024, **megatron)).multiple == multiple


def test_padded_rows_are_left_as_they_are_in_8_bit_formats():
    assert make_arrangement(namespace(PADDED, fp8="hybrid")).multiple == 1


@pytest.mark.parametrize("line", [OWN, PADDED, PACKED])
def test_a_row_length_that_cannot_be_cut_up(line):
    said = refused(line, seq_length=46, **TP4)
    assert said.startswith("--seq-length 46 has to be divisible by 4")


def test_the_layout_of_the_arrangement():
    pipeline = {"pipeline_model_parallel_size": 4, "data_parallel_size": 3}
    pipeline["global_batch_size"] = 24
    plain = make_arrangement(namespace(**pipeline))
    assert plain == Arrangement("own", 48, ranks=3, fewest=16)
    interleaved = make_arrangement(namespace(virtual_pipeline_model_parallel_size=2, **pipeline))
    assert (interleaved.stages, interleaved.group) == (4, 4)
    args = namespace(virtual_pipeline_model_parallel_size=2, **pipeline)
    args.microbatch_group_size_per_vp_stage = 6
    assert (make_arrangement(args).stages, make_arrangement(args).group) == (4, 6)


@pytest.mark.parametrize("line", [OWN, PADDED, PACKED])
def test_no_sample_of_a_step_may_be_left_out(line):
    said = refused(line, data_parallel_size=3, decrease_batch_size_if_needed=True)
    assert said.startswith("--global-batch-size 8 has to be divisible by the 3 samples")


@pytest.mark.parametrize("line", [OWN, PACKED])
def test_a_micro_batch_is_one_row_where_rows_differ(line):
    said = refused(line, micro_batch_size=4)
    assert "use --micro-batch-size 1 (got 4), or --t3s-arrangement padded" in said


@pytest.mark.parametrize("name", FIXED_SHAPE)
@pytest.mark.parametrize("line", ["", OWN, PACKED])
def test_what_takes_rows_to_be_of_one_length(line, name):
    said = refused(line, **{name: True})
    assert said.startswith(f"--{name.replace('_', '-')} does not work with --t3s-arrangement ")
    assert "choose --t3s-arrangement padded" in said
    assert ("(the default at --micro-batch-size 1)" in said) is (line == "")
    assert choose_arrangement(namespace(PADDED, **{name: True})) == "padded"


@pytest.mark.parametrize("line", [OWN, PACKED])
def test_captured_graphs(line):
    assert "--cuda-graph-impl local does not work with" in refused(line, cuda_graph_impl="local")
    assert choose_arrangement(namespace(PADDED, cuda_graph_impl="local")) == "padded"
    assert choose_arrangement(namespace(line, cuda_graph_impl="none")) in line


def test_experts_need_a_dispatcher_that_takes_any_number_of_tokens():
    allgather = MOE | {"moe_token_dispatcher_type": "allgather"}
    assert "add --moe-token-dispatcher-type alltoall" in refused(OWN, **allgather)
    assert choose_arrangement(namespace(PADDED, **allgather)) == "padded"
    assert choose_arrangement(namespace(OWN, **MOE)) == "own"
    dense = namespace(OWN, moe_token_dispatcher_type="allgather")  # Megatron's default, unused
    assert choose_arrangement(dense) == "own"


def test_quantile_balancing_takes_rows_of_one_length():
    for losses in ("quantile_balancing", ["aux_loss", "quantile_balancing"]):
        given = MOE | {"moe_router_load_balancing_type": losses}
        assert "quantile_balancing does not work with" in refused(OWN, **given)
        assert choose_arrangement(namespace(PADDED, **given)) == "padded"


@pytest.mark.parametrize(
    "losses",
    [
        {"moe_aux_loss_coeff": 1e-3},
        {"moe_aux_loss_coeff": [0.0, 1e-3], "moe_router_load_balancing_type": ["aux_loss"] * 2},
        {"moe_z_loss_coeff": 1e-3},
        {"moe_z_loss_coeff": 1e-3, "moe_router_load_balancing_type": "none"},
    ],
)
def test_losses_of_the_router_would_balance_padding(losses):
    assert "padding it counts as tokens" in refused(PADDED, **MOE | losses)
    assert choose_arrangement(namespace(OWN, **MOE | losses)) == "own"
    assert choose_arrangement(namespace(PADDED, **losses)) == "padded"  # no experts


def test_a_coefficient_without_its_loss():
    off = {"moe_aux_loss_coeff": 1e-3, "moe_router_load_balancing_type": "none"}
    assert choose_arrangement(namespace(PADDED, **MOE | off)) == "padded"


def test_packed_rows_are_not_cut_up_by_context_parallelism():
    assert "choose --t3s-arrangement own" in refused(PACKED, **CP2)


def test_packed_rows_of_gated_delta_nets_in_torch_would_run_from_sample_to_sample():
    delta_nets = {"experimental_attention_variant": "gated_delta_net"}
    nccl, gloo = ({"distributed_backend": name} for name in ("nccl", "gloo"))
    assert choose_arrangement(namespace(PACKED, **delta_nets, **nccl)) == "packed"
    said = refused(PACKED, **delta_nets, **nccl, deterministic_mode=True)
    assert "does not begin anew with each sample" in said and "own" in said
    assert refused(PACKED, **delta_nets, **gloo) == said
    assert choose_arrangement(namespace(OWN, **delta_nets, **gloo)) == "own"
