# SPDX-License-Identifier: Apache-2.0
"""The CPU layer is chosen once, is never there unasked, and answers for CUDA when it is.

Tests without `child` run in pytest's own process, which never has the layer.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time

import pytest
import torch

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron import device
from t3s_megatron.megatron.device import (
    choose_device,
    install_megatron_layer,
    install_torch_layer,
    is_cpu_layer_active,
)

child = pytest.mark.child


@pytest.fixture
def cuda(monkeypatch):
    """cuda(True): a machine that has CUDA devices."""
    return lambda there: monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


# --------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("argv", "there", "chosen"),
    [
        ("", True, "cuda"),
        ("", False, "cpu"),
        ("--t3s-device auto", True, "cuda"),
        ("--t3s-device auto", False, "cpu"),
        ("--t3s-device cpu", True, "cpu"),
        ("--t3s-device cpu", False, "cpu"),
        ("--t3s-device cuda", True, "cuda"),
        ("--t3s-device=cpu", True, "cpu"),
        ("--t3s-device=cuda", True, "cuda"),
        ("--t3s-device=auto", False, "cpu"),
        ("--t3s-device cuda --t3s-device=cpu", True, "cpu"),  # the last one, as argparse has it
        ("--t3s-device=cpu --t3s-device cuda", True, "cuda"),
        ("--t3s-data --t3s --seq-length 8 --t3s-device cpu --lr 1", True, "cpu"),
        ("--t3s-device", True, "cuda"),  # the parser, which comes later, complains
    ],
)
def test_the_device_of_a_command_line(cuda, argv, there, chosen):
    cuda(there)
    assert choose_device(["script", *argv.split()]) == chosen


@pytest.mark.parametrize("argv", [["--t3s-device", "cuda"], ["--t3s-device=cuda"]])
def test_cuda_is_refused_where_there_is_none(cuda, argv):
    cuda(False)
    with pytest.raises(T3SError, match="--t3s-device cuda: torch sees no CUDA device on this"):
        choose_device(argv)


@pytest.mark.parametrize("argv", [["--t3s-device", "gpu"], ["--t3s-device=gpu"]])
def test_another_device_is_refused(argv):
    with pytest.raises(T3SError, match="--t3s-device gpu: must be auto, cpu or cuda"):
        choose_device(argv)


@child
def test_the_layer_is_not_taken_for_a_cuda_device():
    assert torch.cuda.is_available()  # as Megatron is told
    assert choose_device([]) == "cpu"
    with pytest.raises(T3SError, match="torch sees no CUDA device"):
        choose_device(["--t3s-device", "cuda"])


# ------------------------------------------------------------------------------------- installation


def test_megatrons_part_is_refused_without_torchs():
    assert not is_cpu_layer_active()
    with pytest.raises(T3SError, match=r"install_torch_layer\(\) has to run first"):
        install_megatron_layer()


def test_the_layer_is_refused_once_cuda_is_in_use(cuda, monkeypatch):
    cuda(True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    empty = torch.empty
    with pytest.raises(T3SError, match="asked for after CUDA was initialised"):
        install_torch_layer()
    assert not is_cpu_layer_active() and torch.empty is empty


_UNTOUCHED = """
import inspect

import torch
import torch.distributed.distributed_c10d as c10d

def everything():
    spaces = {
        "torch": torch, "cuda": torch.cuda, "Tensor": torch.Tensor, "dist": torch.distributed,
        "random": torch.cuda.random, "Module": torch.nn.Module, "c10d": c10d,
        "Optimizer": torch.optim.Optimizer,
    }
    return {
        f"{space}.{name}": id(inspect.getattr_static(module, name))
        for space, module in spaces.items()
        for name in dir(module)
        if not name.startswith("__")
    }

before = everything()
import t3s_megatron.megatron.device as device
from t3s_megatron.plugin import T3S
import t3s_megatron.pretrain, t3s_megatron.run.inputs, t3s_megatron.cli
device.choose_device(["--t3s-device", "cpu"])
after = everything()
print("CHANGED", sorted(name for name in before if after.get(name) != before[name]))
device.install_torch_layer()
after = everything()
print("INSTALLED", sorted(name for name in before if after.get(name) != before[name]))
"""


def test_torch_is_untouched_until_the_layer_is_installed():
    done = subprocess.run(
        [sys.executable, "-c", _UNTOUCHED],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines.get("CHANGED") == "[]", done.stdout + done.stderr
    # The same look sees the layer once it is there.
    assert {"torch.empty", "cuda.is_available", "Tensor.to", "dist.isend"} <= set(
        eval(lines["INSTALLED"])
    )


@child
def test_installing_twice_changes_nothing():
    once = (torch.empty, torch.Tensor.to, torch.cuda.Stream, torch.distributed.isend)
    install_torch_layer()
    assert once == (torch.empty, torch.Tensor.to, torch.cuda.Stream, torch.distributed.isend)
    assert is_cpu_layer_active()


@child
@pytest.mark.parametrize("package", ["transformer_engine", "apex", "amp_C"])
def test_packages_for_cuda_are_not_there_for_megatron(package):
    """They were there when Megatron was imported, and their import raises."""
    import cpu_layer
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_block import LayerNormImpl

    assert package in cpu_layer.FOUND
    assert LayerNormImpl is WrappedTorchNorm
    with pytest.raises(ImportError):
        importlib.import_module(package)


# ----------------------------------------------------------------------------- standing in for CUDA


@child
def test_tensors_for_cuda_are_made_on_the_cpu():
    for where in ("cuda", "cuda:0", torch.device("cuda"), torch.cuda.current_device()):
        assert torch.zeros(2, device=where).device.type == "cpu"
        assert torch.tensor([1.0], device=where).tolist() == [1.0]
        assert torch.empty_like(torch.ones(3), device=where).shape == (3,)
        assert torch.ones(2).new_zeros(2, device=where).tolist() == [0, 0]
        assert torch.ones(2).to(where).tolist() == [1, 1]
        assert torch.ones(2).to(device=where, dtype=torch.int64).dtype == torch.int64
    assert torch.zeros(2, pin_memory=True).tolist() == [0, 0]
    assert torch.ones(2).cuda().pin_memory().device.type == "cpu"
    assert torch.nn.Linear(2, 2).cuda().weight.device.type == "cpu"


@child
def test_other_devices_are_left_alone():
    assert torch.zeros(2, device="meta").device.type == "meta"
    assert torch.ones(2).to("meta").device.type == "meta"
    assert torch.ones(2).to(torch.bfloat16).dtype == torch.bfloat16


@child
def test_type_strings_are_those_that_megatrons_optimizers_compare_with():
    assert torch.ones(2).type() == "torch.cuda.FloatTensor"
    assert torch.ones(2).bfloat16().type() == "torch.cuda.BFloat16Tensor"
    assert torch.ones(2).type(torch.int64).dtype == torch.int64


@child
def test_the_cuda_generator_is_the_cpu_one():
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), first)
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.set_state(state)
    assert torch.equal(torch.rand(3), first)


@child
def test_streams_and_events_are_in_order():
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        begin.record()
        end.record()
        torch.cuda.current_stream().wait_event(end)
    assert 0 <= begin.elapsed_time(end) < 1000 and end.query()


@child
def test_megatron_takes_the_adam_with_the_conventions_of_the_fused_one():
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.distrib_optimizer as distributed

    assert optimizer.Adam is distributed.Adam is device.CpuFusedAdam


@child
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_norms_are_torchs_and_marked_for_sequence_parallelism(parallel, kind):
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=1, hidden_size=8, num_attention_heads=2, normalization=kind,
        sequence_parallel=parallel, tensor_model_parallel_size=2 if parallel else 1,
    )  # fmt: skip
    norm = WrappedTorchNorm(config, 8, eps=1e-3)
    assert isinstance(norm, getattr(torch.nn, kind)) and norm.eps == 1e-3
    assert {p.sequence_parallel for p in norm.parameters()} == {parallel}


@child
def test_a_norm_that_the_layer_does_not_have_is_refused():
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=1, hidden_size=8, num_attention_heads=2, layernorm_zero_centered_gamma=True
    )
    with pytest.raises(
        T3SError, match="--apply-layernorm-1p with --normalization LayerNorm is not"
    ):
        WrappedTorchNorm(config, 8)
    config.normalization = "RMSNorm"
    norm, x = WrappedTorchNorm(config, 8), torch.randn(3, 8)
    torch.nn.init.uniform_(norm.weight, -0.5, 0.5)
    plain = torch.nn.functional.rms_norm(x, (8,), norm.weight + 1, 1e-5)
    assert (norm(x) - plain).abs().max() < 1e-6


@child(processes=2)
def test_a_barrier_takes_a_device_as_megatron_gives_it():
    torch.distributed.barrier(device_ids=[torch.cuda.current_device()])


@child(processes=2)
def test_a_sent_tensor_may_be_freed_at_once():
    # Megatron frees the storage of what it sends to the next pipeline stage.
    big = torch.arange(1 << 20, dtype=torch.float32)
    if torch.distributed.get_rank() == 0:
        work = torch.distributed.isend(sent := big.clone(), 1)
        sent.zero_()
        work.wait()
    else:
        time.sleep(0.5)  # it is only sent once it is asked for
        found = torch.empty(1 << 20)
        torch.distributed.recv(found, 0)
        assert torch.equal(found, big)


@pytest.mark.child(processes=2)
def test_parts_of_unequal_lengths_are_gathered_and_scattered():
    """As NCCL does: tensor-parallel experts exchange as many tokens as were routed to each."""
    import torch
    import torch.distributed as dist

    rank, lengths = dist.get_rank(), [3, 1]
    mine = torch.full((lengths[rank], 2), float(rank + 1))
    parts = [torch.zeros(n, 2) for n in lengths]
    dist.all_gather(parts, mine)
    assert [part.unique().tolist() for part in parts] == [[1.0], [2.0]]
    out = torch.zeros(lengths[rank], 2)
    dist.reduce_scatter(out, [torch.full((n, 2), float(n)) for n in lengths])
    assert torch.equal(out, torch.full((lengths[rank], 2), 2.0 * lengths[rank]))
