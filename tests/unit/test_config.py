# SPDX-License-Identifier: Apache-2.0
"""Arguments: what they default to, what is filled in, and that no command line reaches training
that cannot be carried out: it is refused with the argument, the reason and the way out."""

from __future__ import annotations

import re

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from t3s_megatron.config import UNSUPPORTED_WITH_ANSWERS, T3SConfig
from t3s_megatron.errors import T3SError
from t3s_megatron.method.arguments import SIGNALS
from t3s_megatron.method.phases import PhaseMachine
from t3s_megatron.method.selection import MASKING_BASELINES, METHODS
from t3s_megatron.options import argument_name, default_of, options_of
from tests.support.arguments import config, namespace, parser

# --------------------------------------------------------------------------------------- the parser


def options() -> list[str]:
    ours = next(group for group in parser()._action_groups if group.title == "t3s")
    return [option for action in ours._group_actions for option in action.option_strings]


def test_every_argument_starts_with_t3s_and_is_one_field():
    expected = ["--t3s", *(argument_name(f.name) for f, _ in options_of(T3SConfig))]
    assert options() == expected


def test_an_empty_command_line_gives_the_defaults_and_no_t3s_run():
    args = vars(parser().parse_args([]))
    assert args.pop("t3s") is False
    assert args == {f"t3s_{f.name}": default_of(f) for f, _ in options_of(T3SConfig)}


def test_the_defaults_are_the_ones_of_the_paper_and_the_help():
    made = config()
    assert (made.method, made.simple, made.simple_step) == ("t3s", False, 10)
    assert (made.anchor_threshold, made.patience, made.min_delta) == (0.0, 8, 0.0)
    assert (made.accuracy_interval, made.no_shock) == (1, "simple")
    assert (made.accuracy_prompts, made.accuracy_samples, made.temperature) == (0, 1, 0.6)
    assert (made.prompt_format, made.overlong, made.verifier) == ("chat", "error", "numeric")
    assert (made.report_temperatures, made.report_samples) == ((), 4)


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("data", "b.jsonl c.jsonl", ["b.jsonl", "c.jsonl"]),
        ("simple_step", "7", 7),
        ("mask_share", "0.25", 0.25),
        ("min_delta", "1e-3", 0.001),
        ("max_new_tokens", "12", 12),
        ("targeted_accuracy_interval", "0", 0),
        ("seed", "5", 5),
        ("report_temperatures", "0 0.6", [0.0, 0.6]),
        ("report_temperatures", "", []),
        ("method", "mask-top-confidence", "mask-top-confidence"),
    ],
)
def test_values_are_converted_to_the_type_of_their_field(name, words, value):
    found = parser().parse_args(["--t3s-" + name.replace("_", "-"), *words.split()])
    assert getattr(found, f"t3s_{name}") == value
    assert type(getattr(found, f"t3s_{name}")) is type(value)


@pytest.mark.parametrize(
    "line",
    [
        "--t3s-method t4s",
        "--t3s-patience 2.5",
        "--t3s-no-shock maybe",
        "--t3s-overlong pad",
        "--t3s-prompt-format xml",
        "--t3s-device tpu",
        "--t3s-seed one",
    ],
)
def test_a_value_of_another_kind_is_a_usage_error(line, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(line.split())
    assert line.split()[0] in capsys.readouterr().err


def test_every_help_text_can_be_printed():
    # A stray "%" in one breaks `--help` of the whole script.
    text = parser().format_help()
    assert all(option in text for option in options())


# -------------------------------------------------------------------------------- what is filled in


def test_the_folder_is_t3s_inside_save():
    assert config(save="/runs/two").dir == "/runs/two/t3s"
    assert config("--t3s-dir /elsewhere", save="/runs/two").dir == "/elsewhere"
    assert config("--t3s-dir /elsewhere", save=None).dir == "/elsewhere"


def test_the_seed_is_megatrons_unless_given():
    assert config(seed=77).seed == 77
    assert config("--t3s-seed 5", seed=77).seed == 5
    assert config("--t3s-seed 0", seed=77).seed == 0


def test_the_profile_may_last_as_long_as_training_unless_bounded():
    assert config(train_iters=80).profile_iters == 80
    assert config("--t3s-profile-iters 30", train_iters=80).profile_iters == 30


@pytest.mark.parametrize(
    ("line", "interval"),
    [
        ("", 1),
        ("--t3s-accuracy-interval 4", 4),
        ("--t3s-accuracy-interval 4 --t3s-targeted-accuracy-interval 2", 2),
        ("--t3s-targeted-accuracy-interval 0", 0),
        ("--t3s-simple", 0),
        ("--t3s-simple --t3s-targeted-accuracy-interval 3", 3),
        ("--t3s-signal confidence", 0),
    ],
)
def test_the_targeted_phase_is_measured_like_the_profile_unless_given(line, interval):
    assert config(line).targeted_accuracy_interval == interval


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("", True),
        ("--t3s-method sft", True),
        ("--t3s-simple", False),
        ("--t3s-signal confidence", False),
        ("--t3s-signal both --t3s-accuracy-interval-coarse 4", True),
        ("--t3s-simple --t3s-report-temperatures 0", True),
        ("--t3s-simple --t3s-targeted-accuracy-interval 5", True),
        ("--t3s-method sft --t3s-accuracy-interval 0", False),
        ("--t3s-method sft --t3s-targeted-accuracy-interval 0", True),
        ("--t3s-method random --t3s-mask-share 0.3", True),
        ("--t3s-method random --t3s-mask-share 0.3 --t3s-targeted-accuracy-interval 0", False),
        ("--t3s-selection-load s --t3s-targeted-accuracy-interval 0", False),
        ("--t3s-selection-load s", True),
    ],
)
def test_gold_answers_are_needed_exactly_when_something_is_generated(line, needed):
    assert config(line).needs_answers is needed


# ------------------------------------------------------------------------------------- what is fine

_REQUIRED = {
    "mask_share": "--t3s-mask-share 0.3",
    "soft_temperature": "--t3s-soft-temperature 0.5",
    "min_probability": "--t3s-min-probability 0.1",
    "reference": "--t3s-reference c.safetensors",
}


def with_method(method: str) -> str:
    """A command line of the method, with what it cannot do without."""
    return " ".join(
        [f"--t3s-method {method}", *(_REQUIRED[name] for name in METHODS[method].requires)]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", _REQUIRED)
def test_what_is_of_some_methods_is_asked_of_them_and_refused_to_the_others(method, name):
    chosen = METHODS[method]
    if name in chosen.requires:
        rest = [_REQUIRED[other] for other in chosen.requires if other != name]
        argument = _REQUIRED[name].split()[0]
        said = refused(" ".join([f"--t3s-method {method}", *rest]))
        assert f"--t3s-method {method} needs {argument}" in said
    elif not chosen.takes(name):
        said = refused(f"{with_method(method)} {_REQUIRED[name]}")
        assert "only applies to --t3s-method " in said and "drop it" in said


@pytest.mark.parametrize(
    "line",
    [
        *map(with_method, METHODS),
        *(f"{with_method(m.name)} --t3s-simple" for m in METHODS.values() if m.has_theta_b),
        *(f"{with_method(method)} --t3s-mask-share 0.3" for method in MASKING_BASELINES),
        *(f"--t3s-method {m.name} --t3s-selection-load s" for m in METHODS.values() if m.selects),
        *(f"--t3s-no-shock {end}" for end in ("simple", "sft", "stop")),
        "--t3s-simple-step 50 --t3s-profile-iters 50",
        "--t3s-profile-iters 5 --t3s-simple-step 6 --t3s-no-shock stop",
        "--t3s-profile-iters 5 --t3s-no-shock sft",
        "--t3s-profile-iters 90 --t3s-no-shock simple",
        "--t3s-method rrt --t3s-profile-iters 90 --t3s-no-shock sft",
        "--t3s-method random --t3s-mask-share 0.3 --t3s-accuracy-interval 0",
        "--t3s-method random --t3s-mask-share 0.3 --t3s-simple-step 99",
        "--t3s-method sft --t3s-accuracy-interval 0 --t3s-simple-step 99",
        "--t3s-simple --t3s-accuracy-interval 0",
        "--t3s-profile-samples 4",
        "--t3s-profile-samples 4 --t3s-simple",
        "--t3s-signal both --t3s-accuracy-interval-coarse 4",
        "--t3s-signal confidence --t3s-accuracy-interval 0 --t3s-method rrt",
        "--t3s-signal accuracy --t3s-method sft",
        "--t3s-selection-load s --t3s-accuracy-interval 0 --t3s-simple-step 99",
        "--t3s-heldout-data h.jsonl --t3s-report-temperatures 0 0.6",
        "--t3s-anchor-threshold -0.5",
        "--t3s-temperature 0",
        "--t3s-max-new-tokens 63",
    ],
)
def test_a_run_that_can_be_carried_out(line):
    config(line).check()


def test_the_plan_is_the_one_asked_for():
    made = config(
        "--t3s-method inverse --t3s-simple-step 3 --t3s-profile-iters 7 --t3s-accuracy-interval 2 "
        "--t3s-targeted-accuracy-interval 4 --t3s-patience 6 --t3s-min-delta 0.25 "
        "--t3s-no-shock stop"
    )
    assert made.signal == "accuracy"
    assert (made.method, made.budget, made.profile_iters) == ("inverse", 50, 7)
    assert (made.simple, made.simple_step) == (False, 3)
    assert (made.accuracy_interval, made.targeted_accuracy_interval) == (2, 4)
    assert (made.patience, made.min_delta, made.no_shock) == (6, 0.25, "stop")
    assert (made.selection_load, made.mask_share, made.needs_answers) == (None, None, True)


def test_the_plan_of_a_run_whose_detector_knows_its_noise():
    line = "--t3s-confirm-level 0.05 --t3s-shock-level 0.01 --t3s-accuracy-interval-coarse 3"
    blocks = " --t3s-accuracy-blocks 4 --t3s-accuracy-stop-level 0.2"
    made = config(line + blocks)
    levels = (made.confirm_level, made.shock_level, made.accuracy_stop_level)
    assert levels == (0.05, 0.01, 0.2) and made.coarse_interval == 3
    assert config(f"{line} --t3s-simple").coarse_interval == 0


def test_the_plan_of_a_run_without_a_profile():
    loaded = config("--t3s-selection-load s --t3s-targeted-accuracy-interval 0")
    assert loaded.starts_targeted and loaded.profile_interval == 0 and not loaded.needs_answers
    masked = config("--t3s-method random --t3s-mask-share 0.3")
    assert (masked.mask_share, masked.profile_interval, masked.starts_targeted) == (0.3, 0, True)
    args = namespace()
    args.t3s_selection_load = ""  # an unset variable of a script
    assert not T3SConfig.from_args(args).starts_targeted
    simple = config("--t3s-simple")
    assert simple.simple and simple.profile_interval == 0 and not simple.starts_targeted


# ---------------------------------------------------------------------------------- what is refused


def refused(line: str = "", **megatron) -> str:
    with pytest.raises(T3SError) as caught:
        config(line, **megatron)
    return str(caught.value)


def test_no_data():
    args = namespace()
    args.t3s_data = None
    with pytest.raises(T3SError, match="--t3s needs --t3s-data: the samples"):
        T3SConfig.from_args(args)


@pytest.mark.parametrize("save", [None, ""])
def test_nowhere_to_write(save):
    assert "--t3s-dir or --save" in refused(save=save)


def test_an_empty_folder_name_is_nowhere():
    # What a script with an unset variable gives; it would litter the current directory.
    args = namespace()
    args.t3s_dir = ""
    with pytest.raises(T3SError, match="--t3s-dir or --save"):
        T3SConfig.from_args(args)


def test_megatrons_own_arguments_that_are_needed():
    said = refused(calculate_per_token_loss=False)
    assert "needs --calculate-per-token-loss: a sparse loss mask is normalised wrongly" in said
    assert "give --train-iters, not --train-samples" in refused(train_iters=None)
    assert "--train-iters -3: --t3s needs at least 1 step" in refused(train_iters=-3)
    said = refused(tokenizer_type="NullTokenizer")
    assert "--tokenizer-type HuggingFaceTokenizer" in said and "NullTokenizer" in said


@pytest.mark.parametrize(
    "name",
    [
        "simple-step",
        "patience",
        "profile-iters",
        "accuracy-samples",
        "accuracy-blocks",
        "report-samples",
        "generation-batch-size",
        "max-new-tokens",
        "verify-workers",
    ],
)
def test_counts_are_at_least_one(name):
    assert f"--t3s-{name} 0: must be at least 1" in refused(f"--t3s-{name} 0")
    assert f"--t3s-{name} -4: must be at least 1" in refused(f"--t3s-{name} -4")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--t3s-accuracy-interval -1", "--t3s-accuracy-interval -1: must not be negative"),
        ("--t3s-targeted-accuracy-interval -1", "accuracy-interval -1: must not be negative"),
        ("--t3s-accuracy-prompts -1", "--t3s-accuracy-prompts -1: must not be negative"),
        ("--t3s-min-delta -0.1", "--t3s-min-delta -0.1: must not be negative"),
        ("--t3s-temperature -0.1", "--t3s-temperature -0.1: must not be negative"),
        ("--t3s-report-temperatures 0 -1", "--t3s-report-temperatures -1.0: must not be negative"),
        ("--t3s-seed -1", "--t3s-seed -1: must not be negative"),
        ("--t3s-max-failed-share -0.1", "--t3s-max-failed-share -0.1: must not be negative"),
        ("--t3s-max-failed-share 1", "--t3s-max-failed-share 1.0: must be less than 1"),
        ("--t3s-measurement-retries -1", "--t3s-measurement-retries -1: must not be negative"),
        ("--t3s-verify-timeout 0", "--t3s-verify-timeout 0.0: must be more than 0"),
        ("--t3s-verify-memory -1", "--t3s-verify-memory -1.0: must be more than 0"),
        ("--t3s-generation-timeout 0", "--t3s-generation-timeout 0.0: must be more than 0"),
        (f"--t3s-seed {2**32}", f"--t3s-seed {2**32}: must be at most {2**32 - 1}"),
        ("--t3s-method random --t3s-mask-share nan", "--t3s-mask-share nan: has to be a finite"),
        ("--t3s-min-delta nan", "--t3s-min-delta nan: has to be a finite number"),
        ("--t3s-temperature inf", "--t3s-temperature inf: has to be a finite number"),
        ("--t3s-anchor-threshold nan", "--t3s-anchor-threshold nan: has to be a finite number"),
        ("--t3s-report-temperatures nan", "--t3s-report-temperatures nan: has to be a finite"),
        ("--t3s-confirm-level 1", "--t3s-confirm-level 1.0: must be less than 1"),
        ("--t3s-shock-level 1", "--t3s-shock-level 1.0: must be less than 1"),
        ("--t3s-shock-level -0.1", "--t3s-shock-level -0.1: must not be negative"),
        ("--t3s-accuracy-blocks 4 --t3s-accuracy-stop-level 2", "stop-level 2.0: must be less"),
        ("--t3s-accuracy-interval-coarse -1", "coarse -1: must not be negative"),
    ],
)
def test_numbers_out_of_their_range(line, said):
    assert said in refused(line)


def test_measurements_that_contradict_each_other():
    said = refused("--t3s-accuracy-interval 3 --t3s-accuracy-interval-coarse 2")
    assert "coarse 2 is meant for the time before accuracy falls, and is smaller than" in said
    said = refused("--t3s-accuracy-stop-level 0.05")
    assert "give --t3s-accuracy-blocks, or drop it" in said


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "1.5"])
def test_a_masked_share_lies_between_0_and_1(share):
    said = refused(f"--t3s-method random --t3s-mask-share {share}")
    assert f"--t3s-mask-share {float(share)}: must lie between 0 and 1" in said


_RRT = "--t3s-method rrt"
_RANDOM = "--t3s-method random --t3s-mask-share 0.3"


@pytest.mark.parametrize(
    ("line", "reason", "way_out"),
    [
        ("--t3s-mask-share 0.3", "--t3s-mask-share only applies to", "drop it"),
        ("--t3s-simple --t3s-method sft", "no meaning with --t3s-method sft", "Drop it"),
        (f"--t3s-simple {_RANDOM}", "--t3s-mask-share there is none", "drop one"),
        ("--t3s-selection-load s --t3s-method sft", "trains on every token", "drop one"),
        (f"--t3s-selection-load s {_RRT}", "trains on every token", "drop one"),
        ("--t3s-selection-load s --t3s-simple", "skips the profile", "drop --t3s-simple"),
        ("--t3s-simple --t3s-signal both", "--t3s-signal both finds one", "drop one"),
        ("--t3s-signal both", "says when to stop measuring coarsely", "give --t3s-accuracy-int"),
        ("--t3s-signal both --t3s-method sft", "no meaning with --t3s-method sft", "Drop it"),
        (f"--t3s-signal confidence {_RANDOM}", "--t3s-mask-share there is none", "drop one"),
        ("--t3s-selection-load s --t3s-signal confidence", "skips", "drop --t3s-signal confidence"),
        ("--t3s-heldout-data h", "only used with --t3s-report-temperatures or", "give one"),
        ("--t3s-accuracy-interval 0", "detector needs accuracy", "choose --t3s-simple"),
        (f"{_RRT} --t3s-accuracy-interval 0", "detector needs accuracy", "at least 1"),
        (f"{_RRT} --t3s-profile-iters 49", "49 cannot be shorter than --train-iters 50", "leave"),
        (
            "--t3s-simple --t3s-simple-step 8 --t3s-profile-iters 7",
            "--t3s-simple-step 8 lies beyond --t3s-profile-iters 7",
            "Lower the step",
        ),
        (
            "--t3s-simple-step 8 --t3s-profile-iters 7",
            "--t3s-no-shock simple takes that step",
            "choose --t3s-no-shock sft or stop",
        ),
        # Both of these used to end in a ValueError without the name of an argument.
        (
            f"{_RRT} --t3s-simple --t3s-simple-step 60 --t3s-profile-iters 90",
            "--t3s-simple-step 60 lies beyond --train-iters 50",
            "Lower the step",
        ),
        (
            "--t3s-no-shock sft --t3s-profile-iters 51",
            "--t3s-no-shock sft goes on to --train-iters 50 in all: --t3s-profile-iters 51",
            "Lower it",
        ),
        (
            "--t3s-profile-samples 4 --t3s-no-shock sft",
            "--t3s-profile-samples 4 with --t3s-no-shock sft",
            "Choose --t3s-no-shock simple or stop",
        ),
        ("--t3s-profile-samples 4 --t3s-selection-load s", "without a profile", "drop it"),
        (f"{_RRT} --t3s-profile-samples 4", "trains on all samples from the start", "drop it"),
        ("--t3s-profile-samples -1", "--t3s-profile-samples -1", "must not be negative"),
        ("--t3s-max-new-tokens 64", "64 does not fit", "--max-position-embeddings 64"),
    ],
)
def test_arguments_that_contradict_each_other(line, reason, way_out):
    said = refused(line)
    assert reason in said and way_out in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ddp_average_in_collective", True),
        ("use_precision_aware_optimizer", True),
        ("optimizer_cpu_offload", True),
        ("use_megatron_fsdp", True),
        ("use_torch_fsdp2", True),
        ("fp8_param_gather", True),
        ("rampup_batch_size", ["16", "16", "100"]),
        ("mtp_num_layers", 1),
        ("perform_rl_step", True),
        ("hybrid_context_parallel", True),
        ("overlap_param_gather_with_optimizer_step", True),
        ("overlap_moe_expert_parallel_comm", True),
        ("skip_train", True),
    ],
)
def test_features_of_megatron_that_t3s_cannot_work_with(name, value):
    said = refused(**{name: value})
    option = "--" + name.replace("_", "-")
    assert re.match(rf"{option} does not work with --t3s: it \w+", said)
    config(**{name: None if name == "rampup_batch_size" else False})  # and only when it is on


@pytest.mark.parametrize("name", ["data_path", "mock_data", "train_data_path", "data_args_path"])
def test_data_that_would_not_be_read(name):
    option = "--" + name.replace("_", "-")
    assert refused(**{name: ["/data"]}).startswith(f"{option} does not work with --t3s: ")


@pytest.mark.parametrize("name", UNSUPPORTED_WITH_ANSWERS)
@pytest.mark.parametrize("generation", ["", "--t3s-generation server --t3s-server-url http://h:1"])
def test_features_of_megatron_that_decoding_cannot_work_with(name, generation):
    option, _ = UNSUPPORTED_WITH_ANSWERS[name]
    padded = {name: "hybrid", "t3s_arrangement": "padded"}  # others refuse the overlap anyway
    said = refused(generation, **padded)
    assert re.match(rf"{option} does not work where accuracy is measured: it \w+", said)
    assert "--t3s-simple" in said
    config("--t3s-simple", **padded)
    config("--t3s-signal confidence", **padded)


def test_a_student_that_megatron_cannot_generate_with():
    delta_nets = {"experimental_attention_variant": "gated_delta_net"}
    assert "this student needs --t3s-generation server" in refused(**delta_nets)
    config("--t3s-generation server --t3s-server-url http://h:1", **delta_nets)
    config("--t3s-signal confidence", **delta_nets)
    config("--t3s-simple", **delta_nets)


@pytest.mark.parametrize("name", ["muon", "dist_muon", "lion", "soap"])
def test_optimizers_whose_state_the_rewind_does_not_know(name):
    assert refused(optimizer=name).startswith(f"--optimizer {name} does not work with --t3s")
    config(optimizer="sgd")


def test_fp16():
    assert refused(fp16=True).startswith("--fp16 does not work with --t3s: use --bf16")


# --------------------------------------------------------------------------------- any command line


def _numbers(lowest: int):
    return st.one_of(st.integers(lowest - 1, lowest + 12), st.integers(-3, 60))


_FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, 0.3, 0.6, -0.0, 1.0]))
_VALUES = {
    "method": st.sampled_from(tuple(METHODS)),
    "signal": st.sampled_from(SIGNALS),
    "simple": st.booleans(),
    "simple_step": _numbers(1),
    "mask_share": st.none() | st.none() | st.floats(0, 1) | _FLOATS,
    "soft_temperature": st.none() | _FLOATS,
    "min_probability": st.none() | _FLOATS,
    "reference": st.just(()) | st.just(("c.safetensors",)),
    "anchor_threshold": _FLOATS,
    "patience": _numbers(1),
    "min_delta": _FLOATS,
    "accuracy_interval": _numbers(0),
    "targeted_accuracy_interval": st.none() | _numbers(0),
    "profile_iters": st.none() | _numbers(1),
    "profile_samples": _numbers(0),
    "no_shock": st.sampled_from(["simple", "sft", "stop"]),
    "accuracy_prompts": _numbers(0),
    "accuracy_samples": _numbers(1),
    "temperature": _FLOATS,
    "max_new_tokens": st.none() | _numbers(1),
    "report_temperatures": st.just(()) | st.lists(_FLOATS, max_size=2),
    "report_samples": _numbers(1),
    "selection_load": st.none() | st.sampled_from(["", "s"]),
    "heldout_data": st.none() | st.just("h"),
    "heldout_interval": _numbers(0),
    "seed": st.none() | st.integers(),
    "dir": st.none() | st.sampled_from(["", "d"]),
}


def carried_out_or_refused(given: dict, budget: int | None, save: str | None) -> None:
    args = namespace(train_iters=budget, save=save)
    for name, value in given.items():
        setattr(args, f"t3s_{name}", value)
    try:
        made = T3SConfig.from_args(args)
    except T3SError as error:  # and no exception of another type
        event("refused")
        assert "--" in str(error)
        return
    event("accepted")
    machine = PhaseMachine(made)
    assert machine.train_iters_now >= budget
    assert made.dir and made.seed >= 0


@settings(max_examples=400)
@given(
    values=st.fixed_dictionaries({}, optional=_VALUES),
    budget=st.none() | _numbers(1),
    save=st.none() | st.just("s"),
)
def test_any_values_are_carried_out_or_refused_by_name(values, budget, save):
    carried_out_or_refused(values, budget, save)


@settings(max_examples=400)
@given(
    values=st.fixed_dictionaries(
        {
            "method": _VALUES["method"],
            "no_shock": _VALUES["no_shock"],
            "simple_step": st.integers(1, 30),
            "profile_iters": st.none() | st.integers(1, 30),
        },
        optional={
            "signal": _VALUES["signal"],
            "simple": st.booleans(),
            "accuracy_interval": st.integers(0, 3),
            "targeted_accuracy_interval": st.integers(0, 3),
            "mask_share": st.just(0.3),
            "selection_load": st.just("s"),
        },
    ),
    budget=st.integers(1, 30),
)
def test_any_steps_of_the_phases_are_carried_out_or_refused_by_name(values, budget):
    """Each value is fine by itself here: what is refused is refused for the combination."""
    carried_out_or_refused(values, budget, "s")
