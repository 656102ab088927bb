# SPDX-License-Identifier: Apache-2.0
"""Places of a run that contain one another are refused before anything is written.

Sources: NVIDIA-NeMo/Megatron-Bridge #339, huggingface/transformers #25129, camlab-ethz/poseidon #4.
"""

from __future__ import annotations

from argparse import Namespace

import pytest

from t3s_megatron.data.places import check_places
from t3s_megatron.errors import T3SError


def places(tmp_path, **given) -> Namespace:
    """`{place}` in a value is below `tmp_path`."""
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "train.jsonl").touch()
    (tmp_path / "qwen").mkdir(exist_ok=True)
    there = {name: value and f"{tmp_path}/{value}" for name, value in given.items()}
    return Namespace(**{"t3s_dir": None, "save": None, **there})


OVERLAPS = {
    "the checkpoints": dict(t3s_hf_export="out", save="out"),
    "above the checkpoints": dict(t3s_hf_export="out", save="out/checkpoints"),
    "inside the checkpoints": dict(t3s_hf_export="out/hf", save="out"),
    "with another spelling": dict(t3s_hf_export="out/./x/..", save="out"),
    "above what is loaded": dict(t3s_hf_export=".", pretrained_checkpoint="qwen"),
    "above the run's folder": dict(t3s_hf_export="out", t3s_dir="out/t3s"),
    "above the curves": dict(t3s_hf_export="out", tensorboard_dir="out/tensorboard"),
    "the student's folder": dict(t3s_hf_export="qwen", t3s_hf_model="qwen"),
    "inside the tokenizer's": dict(t3s_hf_export="qwen/new", tokenizer_model="qwen"),
    "above the data": dict(t3s_hf_export="data", t3s_data="data/train.jsonl"),
    "the server's weights": dict(t3s_hf_export="w", t3s_server_weights="w"),
}


@pytest.mark.parametrize("which", OVERLAPS)
def test_an_export_has_a_folder_of_its_own(which, tmp_path):
    with pytest.raises(T3SError, match="--t3s-hf-export .* and --.*give it a folder of its own"):
        check_places(places(tmp_path, **OVERLAPS[which]))


def test_links_are_resolved(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "disk")
    with pytest.raises(
        T3SError, match="--t3s-hf-export .*latest/hf and --save .*disk.*the first is in"
    ):
        check_places(places(tmp_path, t3s_hf_export="latest/hf", save="disk"))


def test_nothing_lies_in_the_folder_that_is_pruned(tmp_path):
    for inside in ("t3s/state", "t3s/state/curves"):
        with pytest.raises(T3SError, match="--tensorboard-dir .*where a run keeps its state"):
            check_places(places(tmp_path, t3s_dir="t3s", tensorboard_dir=inside))
    with pytest.raises(T3SError, match="where a run keeps its state"):
        check_places(places(tmp_path, save="out", tensorboard_dir="out/t3s/state/curves"))


def test_places_beside_one_another_or_that_are_only_added_to(tmp_path):
    usual = dict(save="out/checkpoints", load="out/checkpoints", t3s_hf_export="out/hf",
                 t3s_dir="out/t3s", tensorboard_dir="out/t3s/tensorboard", t3s_hf_model="qwen",
                 tokenizer_model="qwen", t3s_data="data/train.jsonl")  # fmt: skip
    check_places(places(tmp_path, **usual))
    check_places(places(tmp_path, save="out", tensorboard_dir="out", t3s_data="out/train.jsonl"))
    hub = places(tmp_path, t3s_hf_export="Qwen")
    hub.tokenizer_model = "Qwen/Qwen3-8B"  # a name on the hub is no place here
    check_places(hub)
