# SPDX-License-Identifier: Apache-2.0
"""A block-diffusion student against plain PyTorch, block by block, in every kind of layout.

An autoregressive student of another tokenizer is the selector: its run ends with the selection, and
what fell in it is masked every time, aligned by the text of the tokens. What has to hold:

loss of the first step    PyTorch, every block computed by itself after clean blocks, 2e-6 relative
its gradient              the same, every parameter, 1e-5 of the largest entry
greedy answers            PyTorch, whole forwards without a cache, token for token, and how many
                          forwards have set tokens
losses of later steps     one process, 1e-5 relative: masks do not depend on layout or arrangement
a run killed in its last step, and started again: bit-exact
a run that goes on in another layout: the losses of one process, 1e-5 relative
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.records import load_records
from t3s_megatron.data.stores import LogProbStore
from tests.support.block_server import block_server, decode_by_blocks
from tests.support.launch import FRESH, MOE, ArrangedLayout, Job, run
from tests.support.reference import HALF, Reference, read_gradient, read_tensors, read_weights

BLOCK, BATCH, STEPS, SEED = 4, 8, 4, 1234
TAU = 0.01
#: Of decoding: steps that set one token and steps that set several.
THRESHOLD, LIMIT = 0.3, 10
ROWS = f"--micro-batch-size 1 --global-batch-size {BATCH} --t3s-diffusion".split()
# 21 tokens, 22 rows of embedding, also where tensor parallelism cuts them up.
ROWS += ["--t3s-block-size", str(BLOCK), "--make-vocab-size-divisible-by", "11"]


LAYOUTS = {
    "1": ArrangedLayout(1, "", "own"),
    "tp2-sp": ArrangedLayout(2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": ArrangedLayout(2, "--pipeline-model-parallel-size 2"),
    "pp2-vpp2": ArrangedLayout(
        2, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
    ),
    "dp2-distributed-optimizer": ArrangedLayout(
        2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather", "own"
    ),
    "moe-ep2": ArrangedLayout(2, "--expert-model-parallel-size 2", "own", moe=True),
}


@pytest.fixture(scope="session")
def masking_tokenizer(once, task) -> str:
    """The task's tokenizer with a mask token: another table."""

    def make(folder: str) -> None:
        tokenizer = AutoTokenizer.from_pretrained(task[1])
        tokenizer.add_special_tokens({"mask_token": "<mask>"})
        tokenizer.save_pretrained(folder)

    return once("masking_tokenizer", make)


@pytest.fixture(scope="session")
def diffusion_student(once, task, masking_tokenizer):
    """diffusion_student(moe): a checkpoint of plain block diffusion from random numbers."""

    def of(moe: bool) -> str:
        def make(folder: str) -> None:
            run(
                ["--t3s-data", task[0], "--tokenizer-model", masking_tokenizer, *ROWS,
                 *(MOE if moe else []), "--train-iters", 12, "--lr", 4e-3, "--seed", 5,
                 "--save", folder, "--save-interval", 1000, "--no-save-optim", "--no-save-rng"]
            )  # fmt: skip

        return once(f"diffusion_student-{moe}", make)

    return of


@pytest.fixture(scope="session")
def selector(once, student, data_arguments) -> str:
    """The t3s/ folder of a selector's run."""

    def make(folder: str) -> None:
        run(
            [*data_arguments, "--load", student, *FRESH, "--train-iters", 9, "--lr", 1e-3,
             "--save", f"{folder}/save", "--save-interval", 1000, "--t3s", "--t3s-dir", folder,
             "--t3s-simple", "--t3s-simple-step", 2, "--t3s-stop-after", "selection"]
        )  # fmt: skip

    return once("selector", make)


@pytest.fixture(scope="session")
def samples(task, masking_tokenizer) -> Corpus:
    tokenizer = AutoTokenizer.from_pretrained(masking_tokenizer)
    return Corpus.build(load_records(task[0]), tokenizer, seq_length=48, block_size=BLOCK)


@pytest.fixture(scope="session")
def fell(selector, corpus) -> np.ndarray:
    """bool[n_targets]; both tokenizers cut the responses up in the same way, to the end."""
    c_0, c_b = (LogProbStore.load(f"{selector}/c_theta_{at}.safetensors", corpus).c for at in "0b")
    return c_b - c_0 < -TAU


def job(
    folder: str, name: str, student: str, task, tokenizer: str, selector: str, *extra, **how
) -> Job:
    """Begins, or goes on. `how`: of `launch.run`."""
    layout = LAYOUTS[name]
    given = ["--t3s-data", task[0], "--tokenizer-model", tokenizer, *ROWS]
    method = ["--t3s", "--t3s-dir", folder, "--t3s-arrangement", layout.kind,
              "--t3s-selector", selector, "--t3s-selector-tokenizer", task[1],
              "--t3s-decode-threshold", THRESHOLD, "--t3s-drop-threshold", TAU]  # fmt: skip
    # Nothing is clipped, and the norm is still computed.
    optimizer = ["--adam-beta1", HALF, "--clip-grad", 1e9, "--dist-ckpt-optim-fully-reshardable"]
    schedule = ["--train-iters", STEPS, "--lr", 1e-3, "--min-lr", 1e-4, "--lr-warmup-iters", 1]
    return run(
        [*given, *(MOE if layout.moe else []), *layout.arguments.split(), *method, *optimizer,
         *schedule, "--pretrained-checkpoint", student, "--load", f"{folder}/save",
         "--save", f"{folder}/save", "--save-interval", 1, *extra],
        processes=layout.processes,
        **how,
    )  # fmt: skip


@pytest.fixture(scope="session")
def made(once, task, masking_tokenizer, diffusion_student, selector):
    """made(name): folder of the run in a layout."""

    def of(name: str) -> str:
        def make(folder: str) -> None:
            student = diffusion_student(LAYOUTS[name].moe)
            files = {"LOSS_FILE": f"{folder}/losses.json", "PROBE_FILE": f"{folder}/answers.json"}
            decoded = {"module": "tests.parallel.decoded_job", "environment": files}
            job(folder, name, student, task, masking_tokenizer, selector, **decoded)

        return once(f"diffusion-{name}", make)

    return of


def losses(folder: str) -> list:
    with open(f"{folder}/losses.json") as file:
        return json.load(file)


def figures(found: list) -> np.ndarray:
    return np.array([[float.fromhex(value) for value in step] for step in found])


def drawn(uid: str, epoch: int, n: int) -> tuple[float, np.ndarray]:
    """Rate and mask of ordinary noise, as it is documented."""
    digest = hashlib.sha256(f"{uid}\0{epoch}".encode()).digest()
    raw = np.random.Philox(key=[SEED, int.from_bytes(digest[:8], "little")]).random_raw(n + 1)
    uniform = [(int(number) >> 11) / 2**53 for number in raw]
    rate = 0.3 + 0.5 * uniform[0]
    return rate, np.array([u < rate for u in uniform[1:]])


def first_batch(samples: Corpus) -> list[int]:
    order = EpochOrder(len(samples.samples), SEED)
    return [order.sample_at(position) for position in range(BATCH)]


def noise_of(samples: Corpus, index: int) -> tuple[float, np.ndarray]:
    """`drawn` the first time, of a sample's targets and then its fill."""
    sample = samples.samples[index]
    return drawn(sample.uid, 0, samples.lengths[index] - sample.prompt_length)


def block_by_block(reference: Reference, tokens, n_prompt: int, masked, mask_token: int, end: int):
    """Sum of the cross-entropy of masked tokens: each block in a forward of its own, after the
    clean blocks before it, and how many there are."""
    length = -(-len(tokens) // BLOCK) * BLOCK
    clean = torch.full((length,), end)
    clean[: len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
    hidden = torch.zeros(length, dtype=torch.bool)
    hidden[n_prompt:] = torch.from_numpy(masked)
    noisy = torch.where(hidden, mask_token, clean)
    block = torch.arange(length) // BLOCK
    total = torch.zeros(())
    for first in range(0, length, BLOCK):
        last = first + BLOCK
        row = torch.cat([clean[:first], noisy[first:last]])
        seen = block[None, :last] <= block[:last, None]
        log_p = torch.log_softmax(reference.logits(row[None], seen)[0, first:], -1)
        of_token = log_p.gather(-1, clean[first:last, None])[:, 0]
        total = total - of_token[hidden[first:last]].sum()
    return total, int(hidden.sum())


def answer(reference: Reference, sample, mask_token: int, end: int) -> list:
    """[tokens, forwards that set some of them]: greedy, by forwards over everything so far."""
    prompt = sample.tokens[: sample.prompt_length].tolist()
    made = decode_by_blocks(reference.logits, prompt, LIMIT, BLOCK, THRESHOLD, mask_token, end)
    return list(made)


@pytest.fixture(scope="session")
def wanted(samples, fell, diffusion_student, masking_tokenizer):
    """wanted(moe): by PyTorch, of such a student, (loss of the first step, its gradient by name,
    answers to all prompts)."""
    tokenizer = AutoTokenizer.from_pretrained(masking_tokenizer)
    mask_token, end = tokenizer.mask_token_id, tokenizer.eos_token_id

    @functools.cache
    def of(moe: bool) -> tuple[float, dict[str, torch.Tensor], list]:
        reference = Reference(read_weights(diffusion_student(moe)))
        total, count = 0.0, 0
        for index in first_batch(samples):
            sample = samples.samples[index]
            _, masked = noise_of(samples, index)
            masked[: sample.n_targets] |= fell[samples.target_slice(index)]
            loss, n = block_by_block(
                reference, sample.tokens, sample.prompt_length, masked, mask_token, end
            )
            loss.backward()
            total, count = total + loss.item(), count + n
        weights = reference.w.items()
        gradient = {key: w.grad / count for key, w in weights if w.grad is not None}
        answers = [answer(reference, sample, mask_token, end) for sample in samples.samples]
        return total / count, gradient, answers

    return of


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, made, wanted):
    loss, gradient, answers = wanted(LAYOUTS[name].moe)
    folder = made(name)
    found = figures(losses(folder))
    assert found[0, 0] == pytest.approx(loss, rel=2e-6)
    of_step = read_gradient(f"{folder}/save", 1)
    for key, exact in gradient.items():
        assert float((of_step[key] - exact).abs().max()) <= 1e-5 * float(exact.abs().max()), key
    with open(f"{folder}/answers.json") as file:
        assert json.load(file) == answers
    if not LAYOUTS[name].moe:
        np.testing.assert_allclose(found, figures(losses(made("1"))), rtol=1e-5)


def test_what_a_run_says(made, fell, samples):
    with open(f"{made('1')}/summary.json") as file:
        summary = json.load(file)
    assert summary["finished"] and summary["method"] == "diffusion-t3s"
    assert summary["targeting"]["forced_tokens"] == fell.sum() > 0
    assert summary["targeting"]["selector"]["theta_b_step"] == {"all": 2}
    assert summary["targeting"]["selector"]["unaligned"] == 0
    steps = summary["masked_losses"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    first, batch = steps[0], first_batch(samples)
    assert first["masked_fell"] == sum(fell[samples.target_slice(i)].sum() for i in batch)
    assert 0.3 < first["masked_share"] < 1
    assert first["loss_fell"] > 0 and first["loss_other"] > 0
    # What is forced are those that fell, and all of them are masked.
    assert first["masked_forced"] == first["masked_fell"]
    assert (first["loss_forced"], first["loss_random"]) == (
        first["loss_fell"],
        first["loss_other"],
    )
    assert first["forced_of_masked"] == first["masked_forced"] / first["masked"]
    assert first["forced_share"] == pytest.approx(first["forced_of_masked"] * first["masked_share"])
    # The end tokens that fill blocks are the rest of the step's loss.
    rates, masks = zip(*(noise_of(samples, index) for index in batch), strict=True)
    assert first["mask_rate"] == pytest.approx(np.mean(rates))
    sizes = [samples.samples[index].n_targets for index in batch]
    filled = sum(int(mask[n:].sum()) for mask, n in zip(masks, sizes, strict=True))
    parts = {"forced": first["masked_forced"], "fill": filled}
    parts["random"] = first["masked"] - first["masked_forced"]
    mean = sum(first[f"loss_{name}"] * n for name, n in parts.items()) / sum(parts.values())
    assert filled and mean == pytest.approx(figures(losses(made("1")))[0, 0], rel=1e-6)


def test_a_killed_run_ends_as_it_would_have(
    made, tmp_path, task, masking_tokenizer, diffusion_student, selector
):
    folder = str(tmp_path / "again")
    again = folder, "1", diffusion_student(False), task, masking_tokenizer, selector
    kill = {"KILL_AT": "in targeted training", "KILL_MARK": str(tmp_path / "killed")}
    job(*again, module="tests.jobs.killed_job", environment=kill, expect=1)
    assert (tmp_path / "killed.0").exists()
    only_losses = {"LOSS_FILE": f"{folder}/losses.json"}
    job(*again, module="tests.parallel.probed_job", environment=only_losses)
    assert losses(folder) == losses(made("1"))[STEPS - 1 :]
    once, again = (read_tensors(f"{f}/save", STEPS) for f in (made("1"), folder))
    assert all(torch.equal(once[key], again[key]) for key in once)


def test_goes_on_in_another_layout(
    made, tmp_path, task, masking_tokenizer, diffusion_student, selector
):
    """From tensor parallelism to virtual pipeline stages, before the last step."""
    folder, left = tmp_path / "moved", STEPS - 1  # of the last two there are states
    shutil.copytree(made("tp2-sp"), folder)
    (folder / "save/latest_checkpointed_iteration.txt").write_text(str(left))
    shutil.rmtree(folder / f"save/iter_{STEPS:07}")  # a job that has left there has no more
    only_losses = {"LOSS_FILE": f"{folder}/losses.json"}
    again = str(folder), "pp2-vpp2", diffusion_student(False), task, masking_tokenizer, selector
    moved = job(*again, module="tests.parallel.probed_job", environment=only_losses)
    assert f"resumed at iteration {left} in another layout" in moved.output
    expected = figures(losses(made("1")))[left:]
    np.testing.assert_allclose(figures(losses(str(folder))), expected, rtol=1e-5)


def test_servers_that_decode_by_blocks_measure_what_pytorch_does(
    made, tmp_path, task, samples, masking_tokenizer, diffusion_student, selector
):
    """Weights of two tensor-parallel ranks. A server that keeps the first weights that it was given
    is left out, and asking changes no step."""
    folder, student = str(tmp_path / "served"), diffusion_student(False)
    again = folder, "tp2-sp", student, task, masking_tokenizer, selector
    servers = (block_server(BLOCK, THRESHOLD), block_server(BLOCK, THRESHOLD, takes_weights=False))
    with servers[0] as (url, server), servers[1] as (other, _):
        done = job(
            *again, "--t3s-generation", "server", "--t3s-server-reload", "sglang",
            "--t3s-server-url", url, other, "--t3s-temperature", 0, "--t3s-max-new-tokens", LIMIT,
            "--t3s-targeted-accuracy-interval", STEPS,
            module="tests.parallel.probed_job", environment={"LOSS_FILE": f"{folder}/losses.json"},
        )  # fmt: skip
    assert len(server.loaded) == len(set(server.loaded)) > 1
    assert f"{other}: " in done.output and "1 of 2 servers ready" in done.output
    assert losses(folder) == losses(made("tp2-sp"))
    tokenizer = AutoTokenizer.from_pretrained(masking_tokenizer)
    with open(f"{folder}/summary.json") as file:
        measured = {m["step"]: m for m in json.load(file)["measurements"]}
    assert [*measured] == [0, STEPS]
    for step, weights in ((0, student), (STEPS, f"{folder}/save")):
        reference = Reference(read_weights(weights))
        answers = [
            answer(reference, sample, tokenizer.mask_token_id, tokenizer.eos_token_id)[0]
            for sample in samples.samples
        ]
        assert measured[step]["generated_tokens"] == sum(map(len, answers))
        assert measured[step]["truncated"] == sum(len(tokens) == LIMIT for tokens in answers)
        assert measured[step]["total"] == len(answers)


def test_a_selectors_run_ends_with_its_selection(selector, student):
    with open(f"{selector}/summary.json") as file:
        summary = json.load(file)
    assert summary["finished"] and summary["theta_b_step"] == 2
    assert [phase["phase"] for phase in summary["phases"]] == ["profile"]
    assert summary["phases"][-1]["last_iteration"] == 2
    assert os.path.exists(f"{selector}/selection.safetensors")
    theta_0, end = read_weights(student), read_weights(f"{selector}/save")
    assert all(torch.equal(theta_0[key], end[key]) for key in theta_0)
