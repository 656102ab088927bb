# SPDX-License-Identifier: Apache-2.0
"""Students of the hub: the real client, in processes of its own, against a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.hub import fetch_weights, local_folder
from tests.support.hub import COMMIT, GATED, Hub
from tests.support.launch import ROOT

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
ABOUT = ("config.json", "tokenizer.json", "chat_template.jinja", "tokenizer.model", "modeling.py",
         "model.safetensors.index.json", "merges.txt")  # fmt: skip
NEVER = ("pytorch_model.bin", "consolidated.safetensors", "original/params.json", "README.md",
         "onnx/model.safetensors")  # fmt: skip

#: What a process says: the folder and its files before and after the weights, or the error.
SCRIPT = """
import json, os, sys
from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.hub import fetch_weights, local_folder
for name in sys.argv[1:]:
    try:
        folder = local_folder(name)
        before = sorted(os.listdir(folder))
        fetch_weights(folder)
        print(json.dumps([folder, before, sorted(os.listdir(folder))]))
    except T3SError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name in (*ABOUT, *SHARDS, *NEVER):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"the text of {name}")
    index = {"weight_map": {f"tensor.{i}": shard for i, shard in enumerate(SHARDS)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with Hub({"tiny/student": str(folder)}, str(tmp_path_factory.mktemp("home"))) as hub:
        yield hub


def begin(names: list[str], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *names],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def said(process: subprocess.Popen) -> list:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def fetched(hub):
    """What three processes of one node found, that began at the same time."""
    processes = [begin(["tiny/student"], hub.environment) for _ in range(3)]
    return [said(process)[0] for process in processes]


def test_the_ranks_of_a_node_fetch_once_what_is_needed_and_nothing_else(hub, fetched):
    (folder, before, after), *others = fetched
    assert folder.endswith(f"models--tiny--student/snapshots/{COMMIT}")
    assert sorted(after) == sorted(ABOUT + SHARDS)
    assert set(ABOUT) <= set(before)
    assert all(found[0] == folder and found[2] == after for found in others)
    assert hub.downloads == {name: 1 for name in ABOUT + SHARDS}


def test_without_the_hub_what_is_there_serves_and_what_is_not_is_said(hub, fetched):
    offline = hub.environment | {"HF_HUB_OFFLINE": "1"}
    known, unknown = said(begin(["tiny/student", "tiny/other"], offline))
    assert known == [fetched[0][0], fetched[0][2], fetched[0][2]]
    assert "tiny/other: no such folder, not whole in the hub's cache" in unknown
    assert "hf download tiny/other --local-dir DIR" in unknown
    gone = hub.environment | {"HF_ENDPOINT": "http://localhost:9"}
    known, unknown = said(begin(["tiny/student", "tiny/other"], gone))
    assert known[0] == fetched[0][0] and "the hub cannot be asked from here" in unknown


def test_what_the_hub_refuses_is_said_in_its_own_way(hub):
    names = ["tiny/gone", "tiny/student@v9", GATED, f"tiny/student@{COMMIT}"]
    gone, revision, gated, pinned = said(begin(names, hub.environment))
    assert gone.startswith("tiny/gone: no such folder, and the hub has no such model")
    assert revision == "tiny/student@v9: the hub has tiny/student, and no revision v9 of it"
    assert gated.startswith(f"{GATED}: the hub gives it only to those who have accepted its terms")
    assert pinned[0].endswith(COMMIT)


@pytest.mark.parametrize("name", ["student", "./tiny/student", "/tiny/student", "a/b/c", "there/x"])
def test_what_cannot_be_a_name_of_the_hub_is_never_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert local_folder(name) == name


def test_a_folder_is_itself_and_its_weights_its_owners(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("tiny/student")
    assert local_folder("tiny/student") == "tiny/student"
    fetch_weights("tiny/student")
    assert not os.listdir("tiny/student")


def test_a_damaged_index_is_named(tmp_path):
    snapshot = tmp_path / "models--tiny--student" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(T3SError, match=r"index\.json: not an index of safetensors files"):
        fetch_weights(str(snapshot))
