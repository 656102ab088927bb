# SPDX-License-Identifier: Apache-2.0
"""The installed Megatron is what is recorded of its release; any other one is refused by name.

In child processes: they patch Megatron's version, and need its argument parser.
"""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from t3s_megatron import __version__
from t3s_megatron.config import (
    OPTIMIZERS,
    UNSUPPORTED,
    UNSUPPORTED_WITH_ANSWERS,
    T3SConfig,
    add_t3s_arguments,
)
from t3s_megatron.data.lengths import FIXED_SHAPE
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.releases import (
    SIGNATURES,
    TESTED_RELEASES,
    check_signature,
    megatron_series,
    megatron_version,
    parse_arguments,
    require_output_processor,
)
from tests.support.launch import MODEL

pytestmark = pytest.mark.child

NAMES = ("train", "train_step", "training_log", "save_checkpoint")


def pretend(version: str) -> None:
    import megatron.core

    megatron.core.__version__ = version


def function(parameters: str):
    """A function of these parameters."""
    return eval(f"lambda {', '.join(parameters.split())}: None")


def test_the_installed_release_is_one_of_those_that_were_tested():
    assert any(megatron_version().startswith(release) for release in TESTED_RELEASES)
    assert megatron_version().startswith(megatron_series() + ".")


def test_what_is_recorded_of_the_installed_release_is_true():
    import megatron.training.training as training

    for name in NAMES:
        check_signature(name, getattr(training, name))


def test_every_tested_release_is_recorded():
    assert sorted(SIGNATURES) == sorted({r.rpartition(".")[0] for r in TESTED_RELEASES})
    assert all(tuple(recorded) == NAMES for recorded in SIGNATURES.values())


@pytest.mark.parametrize("version", ["0.17.1", "0.18.0", "0.19.2", "0.19.3+abc1234"])
def test_a_patch_release_belongs_to_its_series(version):
    pretend(version)
    assert megatron_series() == version[:4]


@pytest.mark.parametrize("version", ["0.16.1", "0.20.0", "0.1.9", "1.17.0", "0.190.0"])
def test_a_release_that_was_not_checked_is_refused_by_name(version):
    pretend(version)
    with pytest.raises(T3SError) as caught:
        megatron_series()
    said = str(caught.value)
    assert f"megatron-core {version} is not supported by t3s-megatron {__version__}" in said
    assert f"{', '.join(TESTED_RELEASES)}. Install one of those." in said


def test_a_release_is_refused_by_name_where_the_plugin_is_not_installed_as_a_package():
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    importlib.metadata.version = missing  # a checkout on PYTHONPATH
    pretend("0.16.0")
    with pytest.raises(T3SError, match=r"megatron-core 0\.16\.0 is not supported"):
        megatron_series()


@pytest.mark.parametrize("release", TESTED_RELEASES)
@pytest.mark.parametrize("name", NAMES)
def test_a_function_with_other_parameters_is_refused_for_each_release(release, name):
    pretend(release)
    recorded = SIGNATURES[megatron_series()][name]
    check_signature(name, function(recorded))
    first, *rest = recorded.split()
    changed = [" ".join(rest), recorded + " extra", f"renamed {' '.join(rest)}"]
    changed += [" ".join([*rest[:1], first, *rest[1:]])]  # another order
    for parameters in changed:
        with pytest.raises(T3SError) as caught:
            check_signature(name, function(parameters))
        said = str(caught.value)
        assert f"megatron.training.training.{name} of megatron-core {release} takes" in said
        assert ", ".join(parameters.split()) in said and ", ".join(recorded.split()) in said


def test_megatrons_own_parser_takes_the_group_and_has_what_the_config_reads(task):
    words = "--t3s --t3s-data d.jsonl --t3s-patience 7 --train-iters 15 --lr 1e-3".split()
    words += "--save s --save-interval 9".split()
    sys.argv = ["script", *MODEL, "--num-layers", "1", "--tokenizer-model", task[1], *words]
    args = parse_arguments(add_t3s_arguments, {})
    made = T3SConfig.from_args(args)
    assert (made.patience, made.profile_iters, made.seed) == (7, 15, args.seed)
    assert (made.dir, made.data) == ("s/t3s", ("d.jsonl",))
    args.calculate_per_token_loss = False
    with pytest.raises(T3SError, match="--calculate-per-token-loss"):
        T3SConfig.from_args(args)


def test_features_that_are_refused_are_arguments_of_this_release():
    # A renamed argument would be read as "not asked for" and let through.
    from megatron.training.arguments import parse_args

    sys.argv = ["script"]
    args = parse_args(add_t3s_arguments)
    refused = [*UNSUPPORTED, *UNSUPPORTED_WITH_ANSWERS, *FIXED_SHAPE]
    assert args.optimizer in OPTIMIZERS
    assert [name for name in refused if not hasattr(args, name)] == []
    assert not any(getattr(args, name) for name in refused)
    assert args.cuda_graph_impl == "none"
    assert args.fp8 is args.fp4 is args.microbatch_group_size_per_vp_stage is None


def test_the_stand_in_for_megatrons_namespace_in_other_tests_has_only_real_arguments():
    from megatron.training.arguments import parse_args

    from tests.support.arguments import MEGATRON

    sys.argv = ["script"]
    args = vars(parse_args(add_t3s_arguments))
    # Set by the tokenizer's setup, and by the validation.
    derived = {"padded_vocab_size", "data_parallel_size", "virtual_pipeline_model_parallel_size"}
    assert set(MEGATRON) - set(args) <= derived


def test_a_release_that_computes_every_logit_cannot_train_a_diffusion_student(monkeypatch):
    from megatron.core.models.gpt import GPTModel

    require_output_processor()
    monkeypatch.setattr(GPTModel, "forward", lambda self, input_ids, labels=None: None)
    with pytest.raises(T3SError, match="--t3s-diffusion needs megatron-core 0.18 or newer, found"):
        require_output_processor()
