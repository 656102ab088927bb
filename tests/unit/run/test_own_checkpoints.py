# SPDX-License-Identifier: Apache-2.0
"""Old checkpoints go, and nothing else ever does."""

from __future__ import annotations

import os

import pytest

from t3s_megatron.run.own_checkpoints import OwnCheckpoints


def name(iteration: int) -> str:
    return f"iter_{iteration:07d}"


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


@pytest.fixture
def write(folder):
    """write(iteration): a checkpoint, as Megatron leaves one."""

    def write(iteration: int) -> None:
        os.makedirs(f"{folder}/{name(iteration)}", exist_ok=True)
        open(f"{folder}/{name(iteration)}/__0_0.distcp", "w").close()

    return write


def save(mine: OwnCheckpoints, write, iteration: int, named: int | None) -> list[str]:
    """One save of a run: its state is committed, then Megatron writes."""
    mine.begin(iteration)
    failed = mine.remove_old(named)
    write(iteration)
    return failed


def there(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_newest_stay(folder, write):
    mine = OwnCheckpoints(folder, 2)
    for iteration in (10, 20, 30, 40):
        assert not save(mine, write, iteration, iteration - 10 if iteration > 10 else None)
    assert there(folder) == [name(30), name(40)]


def test_that_of_the_profile_stays_besides(folder, write):
    mine = OwnCheckpoints(folder, 2)
    for iteration in (10, 20, 30, 40, 50):
        mine.begin(iteration)
        mine.remove_old(iteration - 10 if iteration > 10 else None, 20 if iteration > 20 else None)
        write(iteration)
    assert there(folder) == [name(20), name(40), name(50)]


def test_there_are_never_more_than_asked_for_not_even_while_one_is_written(folder, write):
    mine = OwnCheckpoints(folder, 3)
    for iteration in range(10, 80, 10):
        mine.begin(iteration)
        mine.remove_old(iteration - 10 if iteration > 10 else None)
        assert len(there(folder)) <= 2
        write(iteration)
    assert there(folder) == [name(50), name(60), name(70)]


def test_without_the_argument_all_stay(folder, write):
    mine = OwnCheckpoints(folder, None)
    for iteration in (10, 20, 30):
        save(mine, write, iteration, iteration - 10)
    assert len(there(folder)) == 3


def test_what_the_run_has_not_saved_stays(folder, write, tmp_path):
    """Another run's checkpoints, a release, links, files, and what only looks like a checkpoint."""
    for iteration in (1, 5, 15):
        write(iteration)
    os.makedirs(f"{folder}/release")
    os.makedirs(f"{folder}/iter_0000010_copy")
    os.symlink(f"{folder}/release", f"{folder}/{name(12)}")
    others = there(folder)
    mine = OwnCheckpoints(folder, 2)
    for iteration in (10, 20, 30):
        save(mine, write, iteration, iteration - 10 if iteration > 10 else None)
    assert there(folder) == sorted([*others, name(20), name(30)])


def test_a_link_in_the_place_of_a_checkpoint_stays(folder, write, tmp_path_factory):
    """Someone has moved it to another disk."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    mine = OwnCheckpoints(folder, 2)
    save(mine, write, 10, None)
    os.rename(f"{folder}/{name(10)}", elsewhere / "kept")
    os.symlink(elsewhere / "kept", f"{folder}/{name(10)}")
    for iteration in (20, 30, 40):
        save(mine, write, iteration, iteration - 10)
    assert there(folder) == [name(10), name(30), name(40)]
    assert os.listdir(elsewhere / "kept")


def test_one_that_the_tracker_does_not_name_yet_is_no_reason_to_remove_another(folder, write):
    """An asynchronous save may still be on its way."""
    mine = OwnCheckpoints(folder, 2)
    for iteration, named in ((10, None), (20, 10), (30, 10), (40, 10)):
        save(mine, write, iteration, named)
    assert there(folder) == [name(10), name(20), name(30), name(40)]
    save(mine, write, 50, 40)
    assert there(folder) == [name(40), name(50)]


def test_one_that_a_person_has_removed_does_not_count(folder, write):
    mine = OwnCheckpoints(folder, 2)
    save(mine, write, 10, None)
    save(mine, write, 20, 10)
    os.rename(f"{folder}/{name(20)}", f"{folder}/saved")
    save(mine, write, 30, 20)
    assert there(folder) == [name(10), name(30), "saved"]


def test_a_run_that_goes_on_knows_its_own(folder, write):
    first = OwnCheckpoints(folder, 2)
    save(first, write, 10, None)
    remembered = first.begin(20)
    write(20)
    again = OwnCheckpoints(folder, 2)
    again.restore(remembered)
    save(again, write, 30, 20)
    assert there(folder) == [name(20), name(30)]


def test_a_run_that_goes_back_saves_the_same_iteration_again(folder, write):
    """Killed while Megatron wrote iteration 20."""
    first = OwnCheckpoints(folder, 2)
    save(first, write, 10, None)
    write(20)
    again = OwnCheckpoints(folder, 2)
    again.restore([10])
    save(again, write, 20, 10)
    assert there(folder) == [name(10), name(20)]
    save(again, write, 30, 20)
    assert there(folder) == [name(20), name(30)]


def test_a_removal_that_was_killed_is_finished(folder, write):
    mine = OwnCheckpoints(folder, 2)
    save(mine, write, 10, None)
    save(mine, write, 20, 10)
    os.rename(f"{folder}/{name(10)}", f"{folder}/{name(10)}.removed")
    again = OwnCheckpoints(folder, 2)
    again.restore([10, 20])
    save(again, write, 30, 20)
    assert there(folder) == [name(20), name(30)]


def test_what_cannot_be_removed_is_said_once(folder, write):
    mine = OwnCheckpoints(folder, 2)
    save(mine, write, 10, None)
    save(mine, write, 20, 10)
    open(f"{folder}/{name(10)}.removed", "w").close()  # someone's file is in the way
    (said,) = save(mine, write, 30, 20)
    assert name(10) in said and "it stays" in said
    assert not save(mine, write, 40, 30)
    assert there(folder) == [name(10), f"{name(10)}.removed", name(30), name(40)]
