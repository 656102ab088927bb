# SPDX-License-Identifier: Apache-2.0
"""How a patched Megatron is found, and what is refused. Each test has a process of its own, whose
megatron.training is a patched copy where it says so.

The whole job on patched source is in tests/jobs/test_releases.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_seam import Events, functions, pretrain, save_over_a_file

from t3s_megatron.errors import T3SError
from tests.support.patches import SITE_PACKAGES, apply, copy_sources

pytestmark = pytest.mark.child


@pytest.fixture
def patched(tmp_path) -> str:
    """A folder with a patched megatron/training."""
    apply(copy_sources(SITE_PACKAGES, tmp_path))
    return str(tmp_path)


def use(folder: str) -> None:
    """Import megatron.training from `folder`, in this process that has already imported another."""
    import megatron

    from t3s_megatron.megatron.device import install_megatron_layer

    for name in [n for n in sys.modules if n.startswith("megatron.training")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    megatron.__path__._recalculate()
    for name in [n for n in sys.modules if n.startswith("t3s_megatron.megatron.")]:
        if name != "t3s_megatron.megatron.device":
            del sys.modules[name]  # what they took out of the other megatron.training
    install_megatron_layer()


def test_an_original_source_gets_the_seam_of_run_time():
    from t3s_megatron.megatron.seam import Seam
    from t3s_megatron.megatron.source_seam import install_seam, is_patched

    assert not is_patched()
    assert isinstance(install_seam(Events()), Seam)


def test_the_events_of_patched_source_are_those_of_the_seam(patched, task, tmp_path):
    use(patched)
    from t3s_megatron.megatron.source_seam import SourceSeam, install_seam

    before, events = functions(), Events()
    seam = install_seam(events)
    assert isinstance(seam, SourceSeam) and seam.installed and seam.install() is seam
    assert functions() == before  # nothing is wrapped
    pretrain(task, 2, "--save", str(tmp_path / "out"), "--save-interval", "2")
    assert events.seen == [
        ("train start", 0, False),
        ("step start", 0, False),
        ("step end", 1, True),
        ("log", 1, True),
        ("step start", 1, False),
        ("step end", 2, True),
        ("log", 2, True),
        ("checkpoint save", 2, True),
        ("train end", 2, True),
    ]
    assert seam.calls == {"train": 1, "train_step": 2, "training_log": 2, "save_checkpoint": 1}
    context = events.contexts[0]
    assert all(one is context for one in events.contexts)
    assert "lm loss" in context.result[0] and "labels" in next(context.data_iterator)


def test_a_callback_says_how_many_micro_batches_a_step_has(patched, task):
    use(patched)
    from t3s_megatron.megatron.source_seam import install_seam

    class Shorter(Events):
        def on_train_step_start(self, context):
            super().on_train_step_start(context)
            assert context.num_microbatches is None  # of the step before
            if context.iteration == 0:
                context.num_microbatches = 1

    events = Shorter()
    install_seam(events)
    pretrain(task, steps=2)
    # One micro-batch in the first step, and Megatron's own four in the second: the last of those
    # is the first of what would have been the next.
    batches = events.contexts[0].data_iterator.iterable
    assert (batches.position, batches.number) == (8, 1)


def test_a_checkpoint_that_cannot_be_written_is_told_as_the_seam_tells_it(patched, task, tmp_path):
    use(patched)
    from t3s_megatron.megatron.source_seam import install_seam

    install_seam(Events())
    save_over_a_file(task, tmp_path / "out")


def test_a_second_run_is_refused_until_the_first_is_removed(patched):
    use(patched)
    from t3s_megatron.megatron.source_seam import install_seam

    first = install_seam(Events())
    with pytest.raises(T3SError, match="another T3S run is registered"):
        install_seam(Events())
    first.remove()
    first.remove()  # does nothing
    assert not first.installed and install_seam(Events()).installed


def test_a_step_without_its_event_is_told(patched):
    use(patched)
    from t3s_megatron.megatron.source_seam import install_seam

    seam = install_seam(Events())
    seam.assert_called()
    with pytest.raises(T3SError, match="without an event of train, train_step"):
        seam.assert_called("train", "train_step")


def test_half_a_patch_is_refused(patched):
    callbacks = Path(patched, "megatron/training/callbacks.py")
    text = callbacks.read_text()
    apply(patched, "--reverse")
    callbacks.write_text(text)
    use(patched)
    from t3s_megatron.megatron.source_seam import install_seam

    with pytest.raises(T3SError, match="does not have T3S's patch, although"):
        install_seam(Events())


def test_the_patch_of_another_version_is_refused(patched):
    callbacks = Path(patched, "megatron/training/callbacks.py")
    callbacks.write_text(callbacks.read_text().replace("T3S_SEAM = 2", "T3S_SEAM = 7"))
    use(patched)
    from t3s_megatron.megatron.source_seam import is_patched

    with pytest.raises(T3SError, match="has version 7 of T3S's patch, this release"):
        is_patched()
