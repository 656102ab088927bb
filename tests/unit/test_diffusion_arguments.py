# SPDX-License-Identifier: Apache-2.0
"""Arguments of a diffusion student: what is filled in, and what is refused by name."""

from __future__ import annotations

import pytest

from t3s_megatron.config import NOT_OF_DIFFUSION, UNSUPPORTED_WITH_DIFFUSION, T3SConfig
from t3s_megatron.data.lengths import make_arrangement
from t3s_megatron.diffusion.forced import FORCED
from t3s_megatron.errors import T3SError
from t3s_megatron.method.phases import ActionKind, Phase, PhaseMachine
from t3s_megatron.method.selection import METHODS
from t3s_megatron.options import argument_name
from tests.support.arguments import config, namespace

PLAIN = "--t3s-diffusion --t3s-block-size 16 --t3s-method sft"
T3S = "--t3s-diffusion --t3s-block-size 16 --t3s-selector t3s"
SERVER = "--t3s-generation server --t3s-server-url http://a:1"
GLOO = {"distributed_backend": "gloo"}


def refused(line: str, **megatron) -> str:
    with pytest.raises(T3SError) as caught:
        config(line, **GLOO | megatron)
    return str(caught.value)


@pytest.mark.parametrize("method", FORCED)
def test_one_phase_and_nothing_generated_unless_asked(method):
    made = config(f"{T3S} --t3s-method {method}", **GLOO)
    assert made.starts_targeted and not made.needs_answers and made.mask_rate == (0.3, 0.8)
    machine = PhaseMachine(made)
    assert machine.phase is Phase.TARGETED and machine.next_action() is None
    assert machine.train_iters_now == 50
    for _ in range(50):
        machine.step_done()
    assert machine.next_action().kind is ActionKind.FINISH


def test_accuracy_is_measured_where_it_is_asked_for():
    made = config(f"{PLAIN} --t3s-targeted-accuracy-interval 5", **GLOO)
    assert made.needs_answers and PhaseMachine(made).next_action().kind is ActionKind.MEASURE
    assert config(f"{PLAIN} --t3s-report-temperatures 0", **GLOO).needs_answers


def test_servers_that_decode_by_blocks_may_answer():
    made = config(f"{T3S} {SERVER} --t3s-server-reload sglang --t3s-temperature 0", **GLOO)
    assert made.server_reload == "sglang" and made.server_concurrency == 64


def test_every_method_of_a_diffusion_student_is_one_that_the_command_knows():
    assert set(FORCED) < set(METHODS)
    for method in set(METHODS) - set(FORCED):
        said = refused(f"{T3S} --t3s-method {method}")
        assert said.startswith(f"--t3s-method {method} has no meaning with --t3s-diffusion")


@pytest.mark.parametrize("method", [name for name, made in FORCED.items() if made.needs_selector])
def test_tokens_that_fell_need_a_selector(method):
    line = f"--t3s-diffusion --t3s-block-size 16 --t3s-method {method}"
    assert "as --t3s-selector, or choose --t3s-method sft" in refused(line)


VALUES = {
    "signal": "confidence",
    "simple": "",
    "no_shock": "stop",
    "selection_load": "s",
    "selection_save": "s",
    "stop_after": "selection",
    "mask_share": "0.3",
    "reference": "s",
    "accuracy_interval": "2",
}


@pytest.mark.parametrize("name", NOT_OF_DIFFUSION)
def test_what_has_no_meaning_is_refused_by_name(name):
    argument = argument_name(name)
    said = refused(f"{T3S} {argument} {VALUES.get(name, '0.5' if 'level' in name else '3')}")
    assert said.startswith(f"{argument} has no meaning with --t3s-diffusion")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--t3s-selector s", "--t3s-selector has no meaning without --t3s-diffusion"),
        ("--t3s-block-size 8", "--t3s-block-size has no meaning without"),
        (f"{PLAIN} --t3s-mask-rate 0.5", "--t3s-mask-rate 0.5: give two numbers"),
        (f"{PLAIN} --t3s-mask-rate 0.8 0.3", "--t3s-mask-rate 0.8 0.3: give two numbers"),
        (f"{PLAIN} --t3s-mask-rate 0 0", "the highest, which is more than 0"),
        (f"{PLAIN} --t3s-mask-rate 0.3 1.5", "--t3s-mask-rate 1.5: must be at most 1"),
        (f"{PLAIN} --t3s-selector-tokenizer t", "without --t3s-selector"),
        (f"{PLAIN} --t3s-drop-threshold -1", "--t3s-drop-threshold -1.0: must not be negative"),
        (f"{PLAIN} --t3s-decode-threshold 0", "--t3s-decode-threshold 0.0: must be more than 0"),
        (f"{PLAIN} --t3s-block-size 20", "divisible by --t3s-block-size 20"),
        (f"{PLAIN} --t3s-arrangement padded", "use --micro-batch-size 1"),
        (f"{T3S} {SERVER}", "--t3s-server-reload model does not work with --t3s-diffusion"),
        (f"{T3S} {SERVER} --t3s-server-reload sglang", "--t3s-temperature 0.6 does not work"),
        (
            f"{T3S} {SERVER} --t3s-server-reload sglang --t3s-temperature 0 "
            "--t3s-report-temperatures 0 0.6",
            "--t3s-report-temperatures 0.6 does not work with --t3s-diffusion",
        ),
        (f"{PLAIN} --t3s-server-colocated", "without --t3s-generation server"),
        (f"{PLAIN} --t3s-server-url http://a:1", "without --t3s-generation server"),
    ],
)
def test_values_that_cannot_work(line, said):
    assert said in refused(line)


@pytest.mark.parametrize("name", UNSUPPORTED_WITH_DIFFUSION)
def test_features_of_megatron_that_it_cannot_work_with(name):
    assert f"--{name.replace('_', '-')} does not work with --t3s" in refused(PLAIN, **{name: 1})


@pytest.mark.parametrize(
    ("megatron", "said"),
    [
        ({"context_parallel_size": 2}, "--context-parallel-size does not work with"),
        ({"position_embedding_type": "yarn"}, "--position-embedding-type yarn does not work with"),
        ({"softmax_type": "off-by-one"}, "--softmax-type off-by-one does not work with"),
        ({"micro_batch_size": 2, "global_batch_size": 8}, "use --micro-batch-size 1"),
    ],
)
def test_layouts_and_models_that_it_cannot_work_with(megatron, said):
    assert said in refused(PLAIN, **megatron)


def test_rows_are_of_few_lengths_where_attention_is_compiled():
    long = {"seq_length": 4096, "max_position_embeddings": 4096}
    on_cuda = namespace(PLAIN, distributed_backend="nccl", **long)
    assert make_arrangement(on_cuda).multiple == 1024
    assert make_arrangement(namespace(PLAIN, **GLOO, **long)).multiple == 1
    dense = namespace(f"{PLAIN} --t3s-diffusion-attention sdpa", distributed_backend="nccl", **long)
    assert make_arrangement(dense).multiple == 1


# ------------------------------------------------------------------- a selector's run, and its end


def test_a_run_that_ends_with_its_selection():
    made = config("--t3s-simple --t3s-simple-step 3 --t3s-stop-after selection")
    assert made.targeted_accuracy_interval == 0 and not made.needs_answers
    machine = PhaseMachine(made)
    assert machine.train_iters_now == 3
    did = []
    while machine.phase is not Phase.DONE:
        action = machine.next_action()
        if action is None:
            machine.step_done()
            continue
        did.append(action.kind)
        machine.done(action)
    assert did[-4:] == [
        ActionKind.REWIND,
        ActionKind.SCORE_THETA_0,
        ActionKind.SELECT,
        ActionKind.FINISH,
    ]
    assert machine.total_steps == machine.train_iters_now == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--t3s-method sft", "no profile that makes one"),
        ("--t3s-method rrt", "no profile that makes one"),
        ("--t3s-selection-load s", "no profile that makes one"),
        ("--t3s-targeted-accuracy-interval 2", "drop one of the two"),
        ("--t3s-no-shock sft", "choose --t3s-no-shock simple or stop"),
    ],
)
def test_a_selection_has_to_be_made_before_it_can_end_a_run(line, said):
    with pytest.raises(T3SError, match=said):
        T3SConfig.from_args(namespace(f"--t3s-stop-after selection {line}"))
