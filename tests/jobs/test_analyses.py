# SPDX-License-Identifier: Apache-2.0
"""A trajectory that is looked at: as it would have been without, the same in two layouts, and what
plain PyTorch finds at the same weights."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from t3s_megatron.analysis.groups import SUBSETS
from t3s_megatron.analysis.records import Seen, read_sketches, read_trajectory
from t3s_megatron.cli import main
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.monitor.analyses import read_analysis
from tests.support.launch import run
from tests.support.reference import Reference, read_tensors, read_weights

LOOK = ["--t3s-method", "sft", "--t3s-accuracy-interval", 0, "--analyse", "gradients", "one-step",
        "sketches", "--analyse-tokens", 8, "--analyse-samples", 16, "--analyse-interval", 2,
        "--analyse-stores"]  # fmt: skip
#: Stages without tokens, ranks with a shard of the gradient each, and gathers that wait for hooks.
SPREAD = """
--pipeline-model-parallel-size 2 --use-distributed-optimizer --overlap-grad-reduce
--overlap-param-gather
""".split()
STEPS = [0, 2, 4, 5]


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory, start, uninterrupted):
    """looked_at(processes, arguments): folder of the run, and what it has seen."""

    def look(processes: int, arguments: list[str]) -> tuple[str, Seen]:
        folder = str(tmp_path_factory.mktemp("looked"))
        where = ["--analyse-groups", f"{uninterrupted('one')}/t3s",
                 "--analyse-output", f"{folder}/seen"]  # fmt: skip
        run(
            [*start("rrt", folder), *LOOK, *where, *arguments],
            processes=processes,
            module="t3s_megatron.analysis.trajectory",
        )
        return folder, read_trajectory(f"{folder}/seen")

    return look


@pytest.fixture(scope="module")
def alone(looked_at):
    return looked_at(1, [])


@pytest.fixture(scope="module")
def label(uninterrupted, corpus) -> np.ndarray:
    """By PyTorch's own sorting: the subset of each token."""
    c_0, c_b = (
        torch.from_numpy(
            np.array(LogProbStore.load(f"{uninterrupted('one')}/t3s/c_{tag}.safetensors", corpus).c)
        )
        for tag in ("theta_0", "theta_b")
    )
    found = torch.full((len(c_0),), -1)
    for first, group in ((0, c_b > c_0), (2, c_b <= c_0)):
        members = torch.nonzero(group)[:, 0]
        order = members[torch.argsort(c_0[members], stable=True)]
        found[order[len(order) // 2 :]] = first
        found[order[: len(order) // 2]] = first + 1
    return found.numpy()


@pytest.fixture(scope="module")
def seen_label(label, corpus) -> np.ndarray:
    """The same, -1 in samples of which no gradients are taken: two thirds are, evenly."""
    found = np.full_like(label, -1)
    for i in range(16):
        sample = corpus.target_slice(i * 24 // 16)
        found[sample] = label[sample]
    return found


def test_looking_leaves_no_trace_in_the_training(alone, uninterrupted):
    """An rrt run is plain fine-tuning up to its last step."""
    folder, _ = alone
    wanted, got = read_tensors(uninterrupted("rrt"), 4), read_tensors(folder, 4)
    assert wanted.keys() == got.keys()
    assert any(key.startswith("optimizer.") for key in wanted)
    different = [key for key, tensor in wanted.items() if not torch.equal(tensor, got[key])]
    assert not different


def losses(student: Reference, corpus, label: np.ndarray) -> dict[str, torch.Tensor]:
    """Mean losses of the groups, with gradients."""
    c = torch.cat([student.log_probs(s.tokens)[s.is_target[1:]] for s in corpus.samples])
    groups = {name: label == i for i, name in enumerate(SUBSETS)}
    groups |= {"anchors": np.isin(label, (0, 1)), "others": label >= 2, "all": label >= 0}
    return {name: -c[torch.from_numpy(which)].mean() for name, which in groups.items()}


@pytest.mark.parametrize("step", [0, 4])
def test_gradients_and_losses_are_those_of_plain_pytorch(
    step, alone, student, corpus, label, seen_label
):
    folder, seen = alone
    weights = read_weights(folder, step) if step else read_weights(student)
    reference = Reference(weights)
    found, of_seen = losses(reference, corpus, label), losses(reference, corpus, seen_label)
    parameters = [w for w in reference.w.values() if w.requires_grad]
    flat = {
        name: torch.cat([
            g.reshape(-1)
            for g in torch.autograd.grad(of_seen[name], parameters, retain_graph=True)
        ]).double()
        for name in ("anchors", "others")
    }  # fmt: skip
    a, b = flat["anchors"], flat["others"]
    record = seen.records[STEPS.index(step)]
    assert record["step"] == step
    got = record["gradients"]
    assert got["norm_anchors"] == pytest.approx(float(a.norm()), rel=1e-4)
    assert got["norm_others"] == pytest.approx(float(b.norm()), rel=1e-4)
    assert got["cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-4)
    counts = np.isin(seen_label, (0, 1)).sum() / (seen_label >= 2).sum()
    assert got["share_ratio"] == pytest.approx(float(a.norm() / b.norm()) * counts, rel=1e-4)
    for name in (*SUBSETS, "anchors", "others"):
        assert record["groups"][name]["loss"] == pytest.approx(float(found[name]), rel=1e-4)


def by_hand(key: str, gradient: torch.Tensor) -> np.ndarray:
    """Its part of a sketch: each element with its own sign to its own one of 1024 sums."""
    with np.errstate(over="ignore"):
        x = np.arange(gradient.numel(), dtype=np.uint64)
        x += np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], dtype="<u8")
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    sign = np.where(x >> np.uint64(32) & np.uint64(1), -1.0, 1.0)
    values = gradient.double().numpy().reshape(-1) * sign
    return np.bincount((x % np.uint64(1024)).astype(np.int64), values, minlength=1024)


@pytest.mark.parametrize("step", [0, 4])
def test_sketches_are_of_single_tokens_gradients(step, alone, student, corpus, seen_label):
    folder, seen = alone
    reference = Reference(read_weights(folder, step) if step else read_weights(student))
    found = read_sketches(seen, step)
    assert len(found.target) == 8 and found.is_anchor.sum() == 4
    assert np.array_equal(found.is_anchor, seen_label[found.target] < 2)
    assert (seen_label[found.target] >= 0).all()
    names = [name for name, w in reference.w.items() if w.requires_grad]
    scale = np.linalg.norm(found.sketches, axis=1).max()
    for target, sketch in zip(found.target, found.sketches, strict=True):
        sample = corpus.samples[int(corpus.sample_index(target))]
        place = target - corpus.target_slice(int(corpus.sample_index(target))).start
        loss = -reference.log_probs(sample.tokens)[sample.is_target[1:]][place]
        gradients = torch.autograd.grad(loss, [reference.w[name] for name in names])
        wanted = sum(by_hand(name, g) for name, g in zip(names, gradients, strict=True))
        assert np.abs(sketch - wanted).max() < 1e-4 * scale
        # As long as the gradient, as far as chance allows: 6 standard deviations.
        squares = sum(float((g.double() ** 2).sum()) for g in gradients)
        assert (sketch.astype(np.float64) ** 2).sum() == pytest.approx(squares, rel=0.27)


def test_one_step_is_adams_from_no_moments(alone, student, corpus, label):
    _, seen = alone
    first, rate = seen.records[0]["one_step"], seen.records[0]["one_step"]["learning_rate"]
    # The schedule begins at a rate of 0: nothing moves.
    assert rate == 0 and all(v == 0 for c in first["change"].values() for v in c.values())


def test_one_step_moves_the_losses_as_the_moments_say(alone, corpus, seen_label):
    """From the checkpoint of step 4: Adam by hand with its moments."""
    folder, seen = alone
    record = seen.records[STEPS.index(4)]["one_step"]
    tensors = read_tensors(folder, 4)
    weights = {k: v for k, v in tensors.items() if not k.startswith("optimizer.")}
    before = losses(Reference(weights), corpus, seen_label)
    for trained in ("anchors", "others", "all"):
        reference = Reference(weights)
        names = [name for name, w in reference.w.items() if w.requires_grad]
        loss = losses(reference, corpus, seen_label)[trained]
        gradients = torch.autograd.grad(loss, [reference.w[name] for name in names])
        norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
        scale = min(1.0, 1.0 / (float(norm) + 1e-6))  # Megatron's --clip-grad
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                m, v = (tensors[f"optimizer.state.{s}.{name}"] for s in ("exp_avg", "exp_avg_sq"))
                g = gradient * scale
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                step = m / (1 - 0.9**5) / ((v / (1 - 0.999**5)).sqrt() + 1e-8)
                if gradient.dim() - (".layers." in name) > 1:  # Megatron decays matrices alone
                    step = step + 0.01 * reference.w[name]
                reference.w[name] -= record["learning_rate"] * step
        after = losses(reference, corpus, seen_label)
        for name in ("anchors", "others"):
            change = float(after[name] - before[name])
            assert record["change"][trained][name] == pytest.approx(change, rel=2e-2, abs=1e-5)
    # A step on one group does more for it than a step on the other.
    change = record["change"]
    assert change["anchors"]["anchors"] < change["others"]["anchors"]
    assert change["others"]["others"] < change["anchors"]["others"]


def test_another_layout_sees_the_same(alone, looked_at):
    _, wanted = alone
    _, got = looked_at(4, SPREAD)
    for step in STEPS:
        mine, its = read_sketches(wanted, step), read_sketches(got, step)
        assert np.array_equal(mine.target, its.target)
        assert np.abs(mine.sketches - its.sketches).max() < 1e-3 * np.abs(mine.sketches).max()
    assert [record["step"] for record in got.records] == STEPS
    for mine, its in zip(wanted.records, got.records, strict=True):
        for key in ("norm_anchors", "norm_others", "ratio", "share_ratio", "cosine"):
            assert its["gradients"][key] == pytest.approx(
                mine["gradients"][key], rel=1e-3, abs=1e-4
            )
        for trained, change in mine["one_step"]["change"].items():
            for name, value in change.items():
                other = its["one_step"]["change"][trained][name]
                assert other == pytest.approx(value, rel=2e-2, abs=1e-4)
        for name, group in mine["groups"].items():
            assert its["groups"][name]["loss"] == pytest.approx(group["loss"], rel=1e-4)


def test_what_was_seen_becomes_tables_and_selections(alone, uninterrupted, tmp_path, capsys):
    folder, seen = alone
    for name in ("confidence", "gradients", "one-step", "sketches"):
        assert main(["analyse", name, f"{folder}/seen", "--to", str(tmp_path)]) == 0
        assert read_analysis(str(tmp_path / f"{name}.json")).name == name
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    # The log-probs of a step are a selector's (Table 8): those of theta_b select as theta_b does.
    target = str(tmp_path / "selection.safetensors")
    step = f"{folder}/seen/step-2"
    assert main(["selection", "from-stores", step, "--to", target]) == 0
    masked = int(capsys.readouterr().out.splitlines()[-1].split(": ")[1].split(" of ")[0])
    rose = sum(g["above"] * g["tokens"] for n, g in seen.records[1]["groups"].items()
               if n in ("anchors", "others"))  # fmt: skip
    assert masked == round(rose)
