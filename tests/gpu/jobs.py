# SPDX-License-Identifier: Apache-2.0
"""Whole T3S jobs on the device of the check, their ranks started by hand: all of them may have to
share one GPU, which torchrun would not let them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from tests.support.launch import MODEL, MOE, ROOT
from tests.support.ports import free_port

SECONDS = 100


@dataclass(frozen=True)
class Layout:
    """`student`: that of the reference which it starts from, "dense" or "moe"."""

    arguments: tuple[str, ...]
    ranks: int = 2
    student: str = "dense"


#: In float32, by Megatron's own modules: equal to the CPU's.
LAYOUTS = {
    "tp2": Layout(("--tensor-model-parallel-size", "2")),
    "pp2": Layout(("--pipeline-model-parallel-size", "2")),
    "pp2-vpp2": Layout(("--pipeline-model-parallel-size", "2",
                        "--num-layers-per-virtual-pipeline-stage", "1")),
    "dp2": Layout(("--overlap-grad-reduce",)),
    "moe": Layout((), ranks=1, student="moe"),
    "ep2": Layout(("--expert-model-parallel-size", "2"), student="moe"),
}  # fmt: skip

#: In bfloat16 by Transformer Engine, as the scripts train.
TE_LAYOUTS = {
    "te": Layout(("--t3s-arrangement", "packed"), ranks=1),
    "te_tp2": Layout(("--tensor-model-parallel-size", "2", "--sequence-parallel")),
    "te_cp2": Layout(("--context-parallel-size", "2")),
    "te_dp2": Layout(("--use-distributed-optimizer", "--overlap-grad-reduce",
                      "--overlap-param-gather")),
    "te_ep2": Layout(("--expert-model-parallel-size", "2", "--moe-grouped-gemm",
                      "--moe-permute-fusion"), student="moe"),
}  # fmt: skip

#: After the model's own arguments, which name Megatron's modules. The student is one of those:
#: what Transformer Engine keeps beside its weights is not in its checkpoint.
TE = """
--bf16 --transformer-impl transformer_engine --attention-backend auto
--dist-ckpt-strictness log_all
""".split()

_METHOD = """
--t3s --t3s-patience 2 --t3s-max-new-tokens 16 --t3s-profile-iters 5 --t3s-simple-step 3
--t3s-temperature 1 --train-iters 5 --lr 1e-3 --min-lr 1e-4 --lr-warmup-iters 1 --micro-batch-size 1
--global-batch-size 8 --save-interval 1000
""".split()


@dataclass
class Finished:
    """`output` of all ranks, `returncode` of the first that failed; 124 when one took too long."""

    returncode: int
    output: str


def arguments(
    reference: str, folder: str, device: str, extra: list[str], student: str = "dense"
) -> list[str]:
    """Command line of a whole job over the reference's task and student; `extra` comes last."""
    model = [word for word in MODEL if not (device == "cuda" and word == "gloo")]
    if device == "cuda":
        model.remove("--distributed-backend")
    task = f"{reference}/task"
    return [
        *model, "--t3s-device", device, "--t3s-data", f"{task}/train.jsonl",
        "--tokenizer-model", f"{task}/tokenizer",
        "--pretrained-checkpoint", f"{reference}/{student}/student",
        "--load", folder, "--save", folder, *(MOE if student == "moe" else []), *_METHOD, *extra,
    ]  # fmt: skip


def sharing_a_gpu() -> dict[str, str]:
    """What the environment of several ranks on one GPU has to say."""
    if library := os.environ.get("NCCL_OF_MANY"):
        return {"LD_PRELOAD": library, "NCCL_MULTI_RANK_GPU_ENABLE": "1"}
    return {}


def run_job(
    name: str,
    folder: str,
    reference: str,
    *,
    device: str,
    ranks: int = 1,
    extra: list[str] | None = None,
    student: str = "dense",
    module: str = "tests.parallel.probed_job",
    environment: dict[str, str] | None = None,
) -> Finished:
    """To its end, or to `SECONDS`; the output of rank r is in folder/NAME.r.log."""
    os.makedirs(folder, exist_ok=True)
    common = os.environ | {
        "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks if device == "cpu" else 1),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()),
        "CUDA_DEVICE_MAX_CONNECTIONS": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
        "PROBE_FILE": f"{folder}/probe.json", "LOSS_FILE": f"{folder}/losses.json",
    }  # fmt: skip
    if ranks > 1:
        common |= sharing_a_gpu()
    given = arguments(reference, folder, device, extra or [], student)
    command = [sys.executable, "-m", module, *given]
    running = []
    for rank in range(ranks):
        local = rank if device == "cpu" else 0  # there is one GPU
        mine = common | {"RANK": str(rank), "LOCAL_RANK": str(local)} | (environment or {})
        with open(f"{folder}/{name}.{rank}.log", "w") as log:
            running.append(
                subprocess.Popen(command, env=mine, stdout=log, stderr=subprocess.STDOUT)
            )
    returncode = 0
    try:
        for process in running:
            returncode = returncode or process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        returncode = 124
    finally:
        for process in running:
            process.kill()
            process.wait()
    output = ""
    for rank in range(ranks):
        with open(f"{folder}/{name}.{rank}.log") as log:
            output += log.read()
    return Finished(returncode, output)
