# SPDX-License-Identifier: Apache-2.0
"""Run `megatron.training` on CPU processes with gloo: the device layer.

Megatron assumes CUDA in some hundred places (`device=torch.cuda.current_device()`, streams,
type strings). This module answers those calls with CPU equivalents, so that the real loop, the
real schedules and the real optimizers run unchanged: that is how every parallel layout is tested
without a GPU. It is never active when CUDA is in use: `choose_device` decides once, before
Megatron is imported, and `install_*` refuse to run on a machine where CUDA was asked for.

Two steps: `install_torch_layer()` before `import megatron`, `install_megatron_layer()` after it.
File and line numbers below are megatron-core 0.19.2 unless a release is named.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import sys
import time

import torch
import torch.distributed as dist

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.cpu_collectives import install_uneven_collectives
from t3s_megatron.megatron.cpu_norm import make_norm
from t3s_megatron.megatron.releases import (
    count_lengths_on,
    load_optimizer_without_gradient,
    use_shipped_dataset_helpers,
)

CPU = torch.device("cpu")

_active = False
_megatron_active = False


def choose_device(argv: list[str]) -> str:
    """ "cpu" or "cuda", from `--t3s-device {auto,cpu,cuda}` in `argv` (default auto).

    Read from the raw command line because the answer is needed before Megatron, and with it the
    argument parser, can be imported. Raises T3SError for "cuda" without a CUDA device.
    """
    wanted = "auto"
    for i, word in enumerate(argv):
        if word == "--t3s-device" and i + 1 < len(argv):
            wanted = argv[i + 1]
        elif word.startswith("--t3s-device="):
            wanted = word.split("=", 1)[1]
    if wanted not in ("auto", "cpu", "cuda"):
        raise T3SError(f"--t3s-device {wanted}: must be auto, cpu or cuda")
    has_cuda = _active is False and torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise T3SError("--t3s-device cuda: torch sees no CUDA device on this machine")
    if wanted == "auto":
        return "cuda" if has_cuda else "cpu"
    return wanted


def is_cpu_layer_active() -> bool:
    return _active


# ------------------------------------------------------------------------------- torch, before


class _Stream:
    """A CPU has one in-order stream: every wait is already satisfied."""

    device = CPU
    cuda_stream = 0

    def __init__(self, *args, **kwargs): ...
    def wait_stream(self, stream): ...
    def wait_event(self, event): ...
    def synchronize(self): ...

    def record_event(self, event=None):
        return event or _Event()

    def query(self):
        return True

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return False


class _Event:
    def __init__(self, *args, **kwargs):
        self.recorded_at = 0.0

    def record(self, stream=None):
        self.recorded_at = time.perf_counter()

    def wait(self, stream=None): ...
    def synchronize(self): ...

    def query(self):
        return True

    def elapsed_time(self, other):
        return (other.recorded_at - self.recorded_at) * 1e3


class _CpuGenerator:
    """`torch.cuda.default_generators[i]` is torch's CPU generator here: one generator a process."""

    def get_state(self):
        return torch.get_rng_state()

    def set_state(self, state):
        torch.set_rng_state(state)


class _CpuGenerators:
    # random.py indexes with torch.cuda.current_device(), which is a torch.device here.
    def __getitem__(self, index):
        return _CpuGenerator()

    def __len__(self):
        return 1


class _DeviceProperties:
    name = "cpu"
    major = 8
    minor = 0
    total_memory = 1 << 34
    multi_processor_count = 1


def _returning(value=None):
    # A new function each time: torch._dynamo refuses one function object under two names.
    return lambda *args, **kwargs: value


def _is_cuda(device) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


def _on_cpu(function):
    """`function(..., device="cuda")` made to allocate on the CPU, unpinned."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        return function(*args, **kwargs)

    return wrapper


def install_torch_layer() -> None:
    """Point `torch.cuda` at the CPU. Idempotent. Call before the first `import megatron`."""
    global _active
    if _active:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        raise T3SError("the CPU device layer was asked for after CUDA was initialised")
    _active = True
    # Megatron takes their kernels where they are installed, and asks for no device: the norm behind
    # the last layer (transformer_block.py:53), Adam, the norm of the gradients.
    for name in ("transformer_engine", "apex", "amp_C"):
        sys.modules[name] = None
    _install_cuda_namespace()
    _install_tensor_methods()
    _install_distributed()
    # core/jit.py makes jit_fuser = torch.compile: identity, since inductor needs a C++ toolchain
    # and seconds of compile time for each fused elementwise function of a tiny test.
    torch.compile = lambda model=None, **kwargs: model if model is not None else (lambda f: f)
    # torch >= 2.14 asks torch.accelerator about graph capture in each optimizer step.
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda self: None


def _install_cuda_namespace() -> None:
    cuda = torch.cuda
    cuda.is_available = _returning(True)  # training/initialize.py:66 asserts it
    # training/initialize.py:270: ranks are mapped to devices modulo this count.
    cuda.device_count = lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Used as `device=` in about 80 places, so it has to be a device and not an index.
    cuda.current_device = _returning(CPU)
    for name in ("set_device", "synchronize", "empty_cache", "ipc_collect", "set_stream"):
        setattr(cuda, name, _returning())
    stream = _Stream()
    cuda.current_stream = _returning(stream)  # p2p_communication.py, param_and_grad_buffer.py
    cuda.default_stream = _returning(stream)
    cuda.stream = lambda stream=None: contextlib.nullcontext()
    cuda.Stream = _Stream
    cuda.Event = _Event  # timers.py, schedules.py
    cuda.is_current_stream_capturing = _returning(False)
    # Fused-kernel availability checks (fused_softmax.py, arguments.py) read these.
    cuda.get_device_capability = _returning((8, 0))
    cuda.get_device_properties = _returning(_DeviceProperties)
    cuda.get_device_name = _returning("cpu")
    # training_log's memory report, 0.17-0.19.
    for name in (
        "memory_allocated",
        "max_memory_allocated",
        "memory_reserved",
        "max_memory_reserved",
        "device_memory_used",
    ):
        setattr(cuda, name, _returning(0))
    cuda.memory_stats = lambda *args, **kwargs: collections.defaultdict(int)
    cuda.reset_peak_memory_stats = _returning()
    cuda.mem_get_info = _returning((1 << 34, 1 << 34))
    # tensor_parallel/random.py forks "the CUDA generator": here the CPU's.
    cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed)) and None
    # torch.manual_seed calls it after seeding the CPU generator, which must not be seeded twice.
    cuda.manual_seed_all = _returning()
    cuda.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    cuda.random.get_rng_state = cuda.get_rng_state
    cuda.random.set_rng_state = cuda.set_rng_state
    cuda.default_generators = _CpuGenerators()
    cuda._lazy_call = lambda callback, **kwargs: callback()
    cuda._lazy_init = _returning()
    cuda.nvtx.range_push = _returning()
    cuda.nvtx.range_pop = _returning()


def _install_tensor_methods() -> None:
    for name in (
        "tensor as_tensor empty zeros ones full rand randn randint randperm arange linspace eye "
        "empty_like zeros_like ones_like full_like rand_like randn_like empty_strided"
    ).split():
        setattr(torch, name, _on_cpu(getattr(torch, name)))

    tensor = torch.Tensor
    for name in ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"):
        setattr(tensor, name, _on_cpu(getattr(tensor, name)))
    original_to, original_type = tensor.to, tensor.type

    def to(self, *args, **kwargs):
        if args and _is_cuda(args[0]):
            args = (CPU, *args[1:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return original_to(self, *args, **kwargs)

    def type_(self, dtype=None, *args, **kwargs):
        # Optimizers compare strings: `param.type() == "torch.cuda.FloatTensor"`
        # (optimizer.py:1009,1028; distrib_optimizer.py:401,466,758; clip_grads.py:174).
        if dtype is not None:
            return original_type(self, dtype, *args, **kwargs)
        name = original_type(self)
        return name.replace("torch.", "torch.cuda.", 1) if self.device.type == "cpu" else name

    tensor.to = to
    tensor.type = type_
    tensor.cuda = lambda self, *args, **kwargs: self
    tensor.pin_memory = lambda self, *args, **kwargs: self
    tensor.record_stream = _returning()
    torch.nn.Module.cuda = lambda self, device=None: self


def _install_distributed() -> None:
    import torch.distributed.distributed_c10d as c10d

    original_isend, original_barrier = dist.isend, dist.barrier

    def isend(tensor, *args, **kwargs):
        # gloo sends are not ordered with later CPU work as a CUDA stream would order them: with
        # virtual pipeline stages schedules.deallocate_output_tensor() frees the storage of a
        # tensor whose send is still in flight. Send a private copy.
        return original_isend(tensor.detach().clone(), *args, **kwargs)

    def barrier(group=None, async_op=False, device_ids=None):
        # training.py passes device_ids=[current_device()], which gloo does not take.
        return original_barrier(group=group, async_op=async_op)

    dist.isend = c10d.isend = isend
    dist.barrier = barrier
    install_uneven_collectives()


# ---------------------------------------------------------------------------- megatron, after


def install_megatron_layer() -> None:
    """Replace the few Megatron functions that need more than torch. After `import megatron`.
    Idempotent."""
    global _megatron_active
    if not _active:
        raise T3SError("install_torch_layer() has to run first")
    if _megatron_active:
        return
    _megatron_active = True
    use_shipped_dataset_helpers()
    _use_torch_norms()
    _allow_cpu_token_dispatch()
    _use_fused_adam_conventions()
    count_lengths_on(CPU)


def _use_torch_norms() -> None:
    import megatron.core.transformer.torch_norm as torch_norm

    torch_norm.WrappedTorchNorm.__new__ = make_norm


def _allow_cpu_token_dispatch() -> None:
    # The all-to-all dispatcher turns split sizes into numpy only for CUDA tensors.
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    original = dispatcher.maybe_move_tensor_to_cpu

    def move(tensor, as_numpy=False, record_stream=False):
        if torch.is_tensor(tensor) and as_numpy and not tensor.is_cuda:
            return tensor.numpy()
        return original(tensor, as_numpy, record_stream)

    dispatcher.maybe_move_tensor_to_cpu = move


def _use_fused_adam_conventions() -> None:
    # Without Transformer Engine and Apex, Megatron takes torch.optim.AdamW, whose `step` is
    # state of each parameter; DistributedOptimizer then asserts on load because that state is
    # still empty (distrib_optimizer.py:837-840). An Adam that keeps `step` in the param group, as
    # TE's and Apex's FusedAdam do, takes the same path as on a GPU.
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.distrib_optimizer as distributed

    optimizer.Adam = distributed.Adam = CpuFusedAdam
    optimizer.USING_PYTORCH_OPTIMIZER = False
    distributed.HAVE_APEX_OR_TE = distributed.USING_APEX_OPTIMIZER = True
    load_optimizer_without_gradient(distributed)


class CpuFusedAdam(torch.optim.Optimizer):
    """Adam/AdamW with the conventions of TE's and Apex's FusedAdam.

    State of a parameter: `exp_avg`, `exp_avg_sq`, made at the first step; `step` is an int in the
    param group.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        adam_w_mode=True,
        bias_correction=True,
        capturable=False,
        **_unused,
    ):
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, bias_correction=bias_correction
        )
        super().__init__(params, defaults)
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure=None, **_unused):
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = step = int(group.get("step", 0)) + 1
            beta1, beta2 = group["betas"]
            lr, weight_decay = group["lr"], group["weight_decay"]
            correction1 = 1 - beta1**step if group["bias_correction"] else 1.0
            correction2 = 1 - beta2**step if group["bias_correction"] else 1.0
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                if self.adam_w_mode:
                    parameter.mul_(1 - lr * weight_decay)
                elif weight_decay:
                    gradient = gradient + weight_decay * parameter
                state["exp_avg"].lerp_(gradient, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                denominator = (state["exp_avg_sq"] / correction2).sqrt_().add_(group["eps"])
                parameter.addcdiv_(state["exp_avg"] / correction1, denominator, value=-lr)
