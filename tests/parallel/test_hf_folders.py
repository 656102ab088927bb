# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder in, the same folder out, in every layout; in between, the same model.

Against transformers, which made the folders: logits within 1e-5 in float32, greedy answers with the
key-value cache token for token, every tensor bit for bit after the round trip, and every gradient,
as the optimizer gets it, within 1e-4 of its largest entry; its norm counts each entry once. The
command line says nothing of the models. One launch a layout, every family in it: tied and untied
embeddings, experts in all layers and in some, input in one file and in many, and (at two
tensor-parallel ranks) 23 vocabulary rows padded to 24, which takes nothing from a loss.

Not covered here: CUDA, Transformer Engine's own layers.
"""

from __future__ import annotations

import json

import pytest
import torch

from t3s_megatron.huggingface.folder import weight_files
from tests.parallel.hf_folders_job import ANSWER, LABELS, PROMPTS, TOKENS
from tests.support.families import (
    AHEAD,
    STUDENTS,
    VOCABULARY,
    WITH_EXPERTS,
    greedy,
    reference,
    save_student,
)
from tests.support.hf_models import gradients_of, logits_of, read_tensors
from tests.support.launch import RUNTIME, run

ALL = list(STUDENTS)
DENSE = [name for name in ALL if name not in WITH_EXPERTS]
#: gpt-oss' experts are whole by default; the groups of a launch are its first student's.
CUT = [name for name in ALL if name != "gpt_oss"]
IN_MANY_FILES = ("qwen3", "qwen3_moe")

#: (processes, arguments, students)
LAYOUTS = {
    "1": (1, "", ALL),
    "tp2": (2, "--tensor-model-parallel-size 2 --sequence-parallel", CUT),
    "tp2-etp1": (
        2,
        "--tensor-model-parallel-size 2 --sequence-parallel --expert-tensor-parallel-size 1",
        WITH_EXPERTS,
    ),
    "tp2-ep2": (
        2,
        "--tensor-model-parallel-size 2 --sequence-parallel --expert-model-parallel-size 2 "
        "--expert-tensor-parallel-size 1",
        WITH_EXPERTS,
    ),
    "etp2": (2, "--expert-tensor-parallel-size 2", ["qwen3_moe"]),
    "pp2": (2, "--pipeline-model-parallel-size 2", ALL),
    "pp2-vpp2": (
        2,
        "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1",
        ["qwen3", "qwen3-tied", "qwen3_moe"],
    ),
    "tp2-pp2": (
        4,
        "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel",
        CUT,
    ),
    "ep2": (2, "--expert-model-parallel-size 2", WITH_EXPERTS),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("hf")
    return {
        name: save_student(
            name, str(where / name), shard_size="60KB" if name in IN_MANY_FILES else "5GB"
        )
        for name in ALL
    }


@pytest.fixture(scope="module")
def expected(folders) -> dict[str, tuple]:
    return {
        name: (logits_of(folder, TOKENS), [greedy(folder, p, ANSWER) for p in PROMPTS])
        for name, folder in ((name, reference(folder)) for name, folder in folders.items())
    }


@pytest.fixture(scope="module")
def gradients(folders) -> dict[str, dict]:
    """Of those that transformers has under the names of the folder."""
    named = {name: folder for name, folder in folders.items() if reference(folder) == folder}
    return {name: gradients_of(folder, TOKENS, LABELS) for name, folder in named.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(layout, tmp_path, folders, expected, gradients, task):
    processes, arguments, names = LAYOUTS[layout]
    cases = [
        {"folder": folders[name], "out": str(tmp_path / name), "arguments": []} for name in names
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    run(
        [*arguments.split(), "--tokenizer-model", task[1]],
        processes=processes,
        module="tests.parallel.hf_folders_job",
        model=RUNTIME,
        environment={"CASES": str(tmp_path / "cases.json")},
        timeout=600,
    )
    for name in names:
        got = torch.load(f"{tmp_path}/{name}.pt", weights_only=True)
        logits, answers = expected[name]
        padded = got["logits"]
        assert padded.shape[-1] == VOCABULARY + ("tp2" in layout and "etp2" not in layout), name
        assert (padded[..., :VOCABULARY] - logits).abs().max() < 1e-5, name
        wanted = torch.nn.functional.cross_entropy(logits.transpose(1, 2), LABELS, reduction="none")
        assert (got["losses"] - wanted).abs().max() < 1e-5, name
        assert got["answers"] == answers, name
        before, after = read_tensors(folders[name]), read_tensors(str(tmp_path / name))
        before = {key: value for key, value in before.items() if not key.startswith(AHEAD)}
        assert set(before) == set(after), name
        for key, value in before.items():
            assert after[key].dtype == value.dtype and torch.equal(after[key], value), (name, key)
        found = read_tensors(f"{tmp_path / name}-gradients")
        for key, gradient in gradients.get(name, {}).items():
            apart = (found[key] - gradient).abs().max()  # 0 of an expert that no token chose
            assert apart <= 1e-4 * gradient.abs().max(), (name, key)
        if name in gradients:
            ends = [key for key in before if key.startswith(("lm_head.", "model.embed_tokens."))]
            hidden = sum(before[key].shape[1] for key in ends)
            padding = (padded.shape[-1] - VOCABULARY) * hidden
            wanted = sum(gradient.numel() for gradient in gradients[name].values()) + padding
            assert got["counted"] == wanted, name
    assert (tmp_path / names[0] / "tokenizer.json").is_file()
    if "glm4_moe" in names:
        written = json.loads((tmp_path / "glm4_moe" / "config.json").read_text())
        assert written["num_nextn_predict_layers"] == 0
    if "bailing_moe_v2" in names:
        assert (tmp_path / "bailing_moe_v2" / "configuration_bailing.py").is_file()


def test_the_folders_are_of_one_file_and_of_many(folders):
    shards = {name: len(set(weight_files(folders[name]).values())) for name in ALL}
    assert all((count > 10) == (name in IN_MANY_FILES) for name, count in shards.items())
