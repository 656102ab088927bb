# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder in, the same folder out, in every layout; in between, the same logits.

Against transformers, which made the folders: logits within 1e-4 in float32, and every tensor bit
for bit after the round trip. One launch a layout, several models in it: tied and untied embeddings,
experts, input in one file and in many, and (at two tensor-parallel ranks) 23 vocabulary rows padded
to 24.

Not covered here: CUDA, Transformer Engine's own layers.
"""

from __future__ import annotations

import json

import pytest
import torch

from t3s_megatron.huggingface.folder import weight_files
from tests.parallel.hf_folders_job import TOKENS
from tests.support.hf_models import ARGUMENTS, MOE_ARGUMENTS, logits_of, read_tensors, save_model
from tests.support.launch import run

VOCABULARY = 23

MODELS = {
    "dense": dict(shard_size="60KB"),
    "tied": dict(tied=True),
    "moe": dict(moe=True, shard_size="60KB"),
}

#: (processes, arguments, models)
LAYOUTS = {
    "1": (1, "", ["dense", "tied", "moe"]),
    "tp2": (2, "--tensor-model-parallel-size 2 --sequence-parallel", ["dense", "tied", "moe"]),
    "tp2-etp1": (
        2,
        "--tensor-model-parallel-size 2 --sequence-parallel --expert-tensor-parallel-size 1",
        ["moe"],
    ),
    "pp2": (2, "--pipeline-model-parallel-size 2", ["dense", "tied", "moe"]),
    "pp2-vpp2": (
        2,
        "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1",
        ["dense", "tied", "moe"],
    ),
    "tp2-pp2": (
        4,
        "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel",
        ["dense", "tied"],
    ),
    "ep2": (2, "--expert-model-parallel-size 2", ["moe"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("hf")
    return {
        name: save_model(str(where / name), vocab_size=VOCABULARY, **how)
        for name, how in MODELS.items()
    }


@pytest.fixture(scope="module")
def expected(folders) -> dict[str, torch.Tensor]:
    return {name: logits_of(folder, TOKENS) for name, folder in folders.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(layout, tmp_path, folders, expected, task):
    processes, arguments, names = LAYOUTS[layout]
    cases = [
        {
            "folder": folders[name],
            "out": str(tmp_path / name),
            "moe": name == "moe",
            "tied": name == "tied",
        }
        for name in names
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    run(
        [*ARGUMENTS, *MOE_ARGUMENTS, *arguments.split(), "--tokenizer-model", task[1]],
        processes=processes,
        module="tests.parallel.hf_folders_job",
        environment={"CASES": str(tmp_path / "cases.json")},
    )
    for name in names:
        got = torch.load(f"{tmp_path}/{name}.pt", weights_only=True)
        assert got.shape[-1] == VOCABULARY + ("tp2" in layout), name
        assert (got[..., :VOCABULARY] - expected[name]).abs().max() < 1e-4, name
        before, after = read_tensors(folders[name]), read_tensors(str(tmp_path / name))
        assert set(before) == set(after), name
        for key, value in before.items():
            assert after[key].dtype == value.dtype and torch.equal(after[key], value), (name, key)
    shards = {len(set(weight_files(folders[name]).values())) for name in MODELS}
    assert min(shards) == 1 and max(shards) > 10
    assert (tmp_path / names[0] / "tokenizer.json").is_file()
