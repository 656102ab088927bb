# SPDX-License-Identifier: Apache-2.0
"""`patches/apply.sh`: what it changes, and what it refuses. The patched loop itself is run in
tests/jobs/test_releases.py."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from t3s_megatron.megatron.releases import TESTED_RELEASES
from t3s_megatron.megatron.source_seam import PATCH
from tests.support.launch import ROOT
from tests.support.patches import SITE_PACKAGES, apply, copy_sources

RELEASE = "0.19.2"


@pytest.fixture
def tree(tmp_path) -> Path:
    return copy_sources(SITE_PACKAGES, tmp_path / "tree")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_there_and_back_leaves_every_file_as_it_was(tree):
    before = contents(tree)
    assert apply(tree, "--check") == f"{tree}: Megatron {RELEASE}, original"
    assert apply(tree) == f"{tree}: Megatron {RELEASE}, patched"
    after = contents(tree)
    training = {"megatron/training/callbacks.py", "megatron/training/training.py"}
    assert {name for name in after if after[name] != before.get(name)} == training
    assert apply(tree, "--check") == f"{tree}: Megatron {RELEASE}, patched"
    assert apply(tree, "--reverse") == f"{tree}: Megatron {RELEASE}, original again"
    assert contents(tree) == before


def test_a_patched_tree_is_refused_and_an_original_one_cannot_be_reversed(tree):
    assert "is not patched" in apply(tree, "--reverse", fails=True)
    apply(tree)
    before = contents(tree)
    assert f"{tree} is patched already (Megatron {RELEASE})" in apply(tree, fails=True)
    assert contents(tree) == before


@pytest.mark.parametrize("file", ["training.py", "callbacks.py"])
@pytest.mark.parametrize("options", [[], ["--check"], ["--reverse"]])
def test_a_modified_tree_is_refused_and_left_alone(tree, file, options):
    with open(tree / "megatron/training" / file, "a") as changed:
        changed.write("# of mine\n")
    before = contents(tree)
    said = apply(tree, *options, fails=True)
    assert f"is neither what Megatron {RELEASE} was released with nor" in said
    assert contents(tree) == before


def test_a_change_after_patching_is_not_reversed_away(tree):
    apply(tree)
    with open(tree / "megatron/training/callbacks.py", "a") as changed:
        changed.write("# of mine\n")
    before = contents(tree)
    assert "is neither" in apply(tree, "--reverse", fails=True)
    assert contents(tree) == before


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [("PATCH", "7", "0.19.7"), ("MINOR", "7", "0.7.2"), ("PRE_RELEASE", "'rc1'", "0.19.2.rc1")],
)
def test_another_release_is_refused_by_name(tree, name, value, named):
    info = tree / "megatron/core/package_info.py"
    text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", info.read_text(), flags=re.M)
    assert count == 1
    info.write_text(text)
    said = apply(tree, fails=True)
    assert f"is Megatron {named}; there are patches for: {' '.join(TESTED_RELEASES)}" in said


def test_without_a_target_it_is_the_megatron_that_python_imports():
    assert apply(None, "--check").startswith(f"{SITE_PACKAGES}: Megatron {RELEASE}, ")


def test_what_is_no_megatron_is_refused(tmp_path):
    said = apply(tmp_path, fails=True)
    assert f"{tmp_path}: no megatron/training/training.py in it" in said
    assert "unknown option --force" in apply(tmp_path, "--force", fails=True)


def test_a_folder_with_a_blank_in_its_name(tree):
    blank = tree.parent / "a tree"
    shutil.move(tree, blank)
    assert apply(blank) == f"{blank}: Megatron {RELEASE}, patched"


def test_every_release_is_given_the_same_callbacks():
    added = []
    for patch in sorted(Path(ROOT, "patches").glob("core_v*/callbacks.patch")):
        module = patch.read_text().partition("--- a/megatron/training/training.py")[0]
        added.append(module.partition("+++ b/megatron/training/callbacks.py")[2])
    assert len(added) == 3 and len(set(added)) == 1
    assert f"+T3S_SEAM = {PATCH}\n" in added[0]
