# SPDX-License-Identifier: Apache-2.0
"""The callback seam around Megatron's real loop: what it wraps, what it raises, what it refuses.

Each test runs in a process of its own, and the loops are Megatron's `pretrain` on one rank.
"""

from __future__ import annotations

import functools
import os
import socket
import sys

import pytest

from t3s_megatron.errors import T3SError, WriteError
from t3s_megatron.megatron.releases import megatron_version
from t3s_megatron.megatron.seam import Callback, Seam
from tests.support.launch import MODEL

pytestmark = pytest.mark.child

WRAPPED = {"train", "train_step", "training_log", "save_checkpoint"}


class Events:
    """A callback that writes down what it is told."""

    def __init__(self):
        self.seen = []
        self.contexts = []

    def _event(self, name, context):
        self.seen.append((name, context.iteration, context.result is not None))
        self.contexts.append(context)

    def on_train_start(self, context):
        self._event("train start", context)

    def on_train_step_start(self, context):
        self._event("step start", context)

    def on_train_step_end(self, context):
        self._event("step end", context)

    def on_log(self, context):
        self._event("log", context)

    def on_checkpoint_save(self, context):
        self._event("checkpoint save", context)

    def on_train_end(self, context):
        self._event("train end", context)


def functions() -> dict:
    """Every function of Megatron's training module by its name."""
    import megatron.training.training as training

    return {name: value for name, value in vars(training).items() if callable(value)}


def pretrain(task, steps: int, *extra: str, around=lambda forward_step: forward_step) -> None:
    """Megatron's whole loop on one rank, on a model of one layer; `around` its forward step."""
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.releases import call_pretrain, parse_arguments
    from t3s_megatron.plugin import T3S
    from t3s_megatron.run.plain import PlainTraining

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    data = ["--t3s-data", task[0], "--tokenizer-model", task[1]]
    schedule = ["--num-layers", "1", "--train-iters", str(steps), "--lr", "1e-3"]
    sys.argv = ["script", *MODEL, *data, *schedule, *extra]
    t3s = T3S()
    args = parse_arguments(t3s.add_arguments, {})
    plain = PlainTraining(args)
    call_pretrain(
        args,
        data_provider=plain.data_provider,
        model_provider=model_provider,
        forward_step=around(plain.forward_step),
        extra_args_provider=t3s.add_arguments,
        args_defaults={},
    )


def save_over_a_file(task, folder) -> None:
    """Expect the error of a run whose checkpoint of iteration 2 cannot be made."""
    folder.mkdir()
    (folder / "iter_0000002").write_text("in the way")
    told = "could not write its checkpoint of iteration 2 .*File exists.*start the same command"
    with pytest.raises(WriteError, match=told):
        pretrain(task, 2, "--save", str(folder), "--save-interval", "2")


# ------------------------------------------------------------------------------------- installation


def test_installing_wraps_the_recorded_functions_and_nothing_else():
    before = functions()
    seam = Seam(Events())
    assert functions() == before and not seam.installed
    assert seam.install() is seam and seam.installed
    after = functions()
    assert {name for name in before if after[name] is not before[name]} == WRAPPED
    assert set(after) == set(before) and set(seam.calls) == WRAPPED
    for name in WRAPPED:
        assert after[name].__wrapped__ is before[name] and after[name].__name__ == name


def test_installing_twice_changes_nothing():
    seam = Seam(Events()).install()
    once = functions()
    assert seam.install() is seam
    assert functions() == once


def test_removing_puts_the_very_functions_back():
    before = functions()
    seam = Seam(Events()).install()
    seam.remove()
    assert functions() == before and not seam.installed
    seam.remove()  # does nothing
    assert functions() == before
    Seam(Events()).install()  # and there is room for another one


def test_a_second_seam_is_refused_and_the_first_one_stays():
    first = Seam(Events()).install()
    installed = functions()
    with pytest.raises(T3SError, match="another T3S run has already wrapped train: remove it"):
        Seam(Events()).install()
    assert functions() == installed and first.installed


def test_removing_leaves_a_function_alone_that_was_put_in_its_place():
    import megatron.training.training as training

    seam = Seam(Events()).install()
    training.train_step = print
    seam.remove()
    assert training.train_step is print
    assert not hasattr(training.train, "_t3s_seam")


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_a_missing_function_is_refused_and_nothing_is_wrapped(name):
    import megatron.training.training as training

    delattr(training, name)
    before = functions()
    with pytest.raises(T3SError) as caught:
        Seam(Events()).install()
    assert f"megatron.training.training.{name} does not exist in megatron-core" in str(caught.value)
    assert megatron_version() in str(caught.value)
    assert functions() == before


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_a_changed_function_is_refused_and_nothing_is_wrapped(name):
    import megatron.training.training as training

    def changed(model, a_new_parameter):
        raise AssertionError("never called")

    setattr(training, name, changed)
    before = functions()
    with pytest.raises(T3SError) as caught:
        Seam(Events()).install()
    said = str(caught.value)
    assert f"training.{name} of megatron-core {megatron_version()} takes" in said
    assert "(model, a_new_parameter), expected (" in said
    assert functions() == before


def test_a_function_that_someone_wrapped_with_its_signature_kept_is_wrapped_again():
    import megatron.training.training as training

    original = training.train_step

    @functools.wraps(original)
    def profiled(*args, **kwargs):
        return original(*args, **kwargs)

    training.train_step = profiled
    seam = Seam(Events()).install()
    assert training.train_step.__wrapped__ is profiled
    seam.remove()
    assert training.train_step is profiled


# ------------------------------------------------------------------------------------ the real loop


def test_the_events_of_a_real_run(task):
    from megatron.core.optimizer import MegatronOptimizer

    events, seen_before = Events(), []

    class Second(Callback):
        def on_train_step_end(self, context):
            seen_before.append(list(events.seen))

    seam = Seam(events, Second()).install()
    pretrain(task, steps=2)
    assert [seen[-1] for seen in seen_before] == [("step end", 1, True), ("step end", 2, True)]
    assert events.seen == [
        ("train start", 0, False),
        ("step start", 0, False),
        ("step end", 1, True),
        ("log", 1, True),
        ("step start", 1, False),
        ("step end", 2, True),
        ("log", 2, True),
        ("train end", 2, True),
    ]
    assert seam.calls == {"train": 1, "train_step": 2, "training_log": 2, "save_checkpoint": 0}
    seam.assert_called("train", "train_step", "training_log")
    context = events.contexts[0]
    assert all(one is context for one in events.contexts)
    assert isinstance(context.model, list) and len(list(context.model[0].parameters())) > 5
    assert isinstance(context.optimizer, MegatronOptimizer)
    assert context.opt_param_scheduler.num_steps == 2 * 8  # in samples
    assert "lm loss" in context.result[0] and context.config.num_layers == 1
    assert "labels" in next(context.data_iterator)


def test_a_step_has_the_micro_batches_that_the_callback_says_and_the_next_one_megatrons_own(task):
    forwards = []

    def counted(forward_step):
        def forward(data_iterator, model):
            forwards[-1] += 1
            return forward_step(data_iterator, model)

        return forward

    class Varying(Events):
        def on_train_step_start(self, context):
            super().on_train_step_start(context)
            assert context.num_microbatches is None
            if not forwards:
                context.num_microbatches = 3
            forwards.append(0)

    events = Varying()
    Seam(events).install()
    pretrain(task, steps=2, around=counted)
    assert forwards == [3, 4]
    # Megatron goes on counting samples as it did.
    assert events.contexts[0].opt_param_scheduler.num_steps == 2 * 8


def test_plain_training_does_not_vary_the_number_of_micro_batches(task):
    packed = ["--micro-batch-size", "1", "--t3s-arrangement", "packed"]
    with pytest.raises(T3SError, match="packed varies the number .* --t3s-method sft, or choose"):
        pretrain(task, 1, *packed)


def test_the_save_event_comes_before_the_checkpoint_is_named(task, tmp_path):
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    named = []

    class Saving(Events):
        def on_checkpoint_save(self, context):
            super().on_checkpoint_save(context)
            named.append(tracker.read_text() if tracker.exists() else None)

    events = Saving()
    Seam(events).install()
    pretrain(task, 3, "--save", str(tmp_path), "--save-interval", "1")
    saves = [(name, iteration) for name, iteration, _ in events.seen if "save" in name]
    assert saves == [("checkpoint save", 1), ("checkpoint save", 2), ("checkpoint save", 3)]
    assert named == [None, "1", "2"] and tracker.read_text() == "3"


def test_a_checkpoint_that_cannot_be_written_is_told(task, tmp_path):
    Seam(Events()).install()
    save_over_a_file(task, tmp_path / "out")


def test_no_event_after_removal(task):
    events = Events()
    seam = Seam(events).install()
    seam.remove()
    pretrain(task, steps=1)
    assert events.seen == [] and not any(seam.calls.values())


def test_a_function_that_was_rebound_is_found_out(task):
    import megatron.training.training as training

    original = training.train_step
    seam = Seam(Events()).install()
    training.train_step = original  # what a late monkey patch of someone else does
    pretrain(task, steps=1)
    seam.assert_called("train", "training_log")
    with pytest.raises(T3SError) as caught:
        seam.assert_called("train", "train_step")
    assert "ran a training step without calling train_step through the seam" in str(caught.value)


def test_nothing_was_called_yet():
    seam = Seam(Events()).install()
    seam.assert_called()
    with pytest.raises(T3SError, match="without calling train, train_step, training_log through"):
        seam.assert_called("train", "train_step", "training_log")


def test_an_error_in_the_callback_ends_the_run(task):
    class Failing(Events):
        def on_train_step_end(self, context):
            raise T3SError("nothing is left to learn")

    with pytest.raises(T3SError, match="nothing is left"):
        Seam(Failing()).install()
        pretrain(task, steps=2)


def test_a_step_outside_of_train_is_refused():
    import megatron.training.training as training

    Seam(Events()).install()
    with pytest.raises(T3SError, match="without calling train through the seam"):
        training.train_step(*[None] * 8)
