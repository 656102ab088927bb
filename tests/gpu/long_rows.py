# SPDX-License-Identifier: Apache-2.0
"""Plain training of a random model of 1.7B parameters on long rows with Transformer Engine: what it
holds, against its plan, and how long a step takes at the first and the second visit of a length."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from tests.support.launch import ROOT
from tests.support.task import make_tokenizer

_LENGTHS = (32_000, 30_000, 24_000, 20_000)
_MODEL = """
--num-layers 28 --hidden-size 2048 --ffn-hidden-size 6144 --num-attention-heads 16
--group-query-attention --num-query-groups 8 --kv-channels 128 --qk-layernorm
--normalization RMSNorm --norm-epsilon 1e-6 --swiglu --disable-bias-linear
--position-embedding-type rope
--rotary-base 1000000 --max-position-embeddings 40960 --untie-embeddings-and-output-weights
--attention-dropout 0 --hidden-dropout 0 --make-vocab-size-divisible-by 151936 --bf16
--transformer-impl transformer_engine --attention-backend fused --no-gradient-accumulation-fusion
--cross-entropy-loss-fusion --cross-entropy-fusion-impl native --use-distributed-optimizer
--recompute-granularity full --recompute-method uniform --recompute-num-layers 1
--micro-batch-size 1 --global-batch-size 4 --seq-length 32768 --train-iters 4 --lr 1e-5
--lr-decay-style constant --calculate-per-token-loss --tokenizer-type HuggingFaceTokenizer
--log-interval 1 --eval-interval 1000 --eval-iters 0 --num-workers 0 --t3s-arrangement own
--t3s-prompt-format raw
""".split()


def memory_and_steps(out: str) -> Iterator[tuple[str, str, bool | None]]:
    folder = f"{out}/te_own"
    os.makedirs(folder, exist_ok=True)
    make_tokenizer(f"{folder}/tokenizer")
    with open(f"{folder}/long.jsonl", "w") as file:
        for number, length in enumerate(_LENGTHS):
            sample = {"id": f"l{number}", "prompt": "1+2", "response": "7" * length, "answer": "3"}
            file.write(json.dumps(sample) + "\n")
    arguments = [*_MODEL, "--t3s-data", f"{folder}/long.jsonl",
                 "--tokenizer-model", f"{folder}/tokenizer"]  # fmt: skip
    plan = subprocess.run(
        [sys.executable, "-m", "t3s_megatron.cli", "plan", "--world-size", "1", "--json",
         f"{folder}/plan.json", "--", *arguments],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    yield f"plan: exit status {plan.returncode} {plan.stderr[-200:]!r}", "0", plan.returncode == 0
    with open(f"{folder}/plan.json") as file:
        planned = json.load(file)["gpus"][0]["total"]
    environment = os.environ | {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29655", "PYTHONPATH": os.pathsep.join([ROOT, os.environ["PYTHONPATH"]]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "t3s_megatron.pretrain", *arguments, "--t3s-device", "cuda"],
        capture_output=True, text=True, cwd=folder, env=environment,
    )  # fmt: skip
    with open(f"{folder}/log", "w") as file:
        file.write(done.stdout + done.stderr)
    yield (
        f"training: exit status {done.returncode} {done.stderr[-200:]!r}",
        "0",
        not done.returncode,
    )
    if found := re.search(r"max allocated: ([\d.]+)", done.stdout):
        peak = float(found[1]) * 2**20
        yield (
            f"{peak / 2**30:.1f} GiB allocated at the most, {planned / 2**30:.1f} planned with the "
            "reserve", "planned", peak <= planned,
        )  # fmt: skip
    steps = re.findall(r"elapsed time per iteration \(ms\): ([\d.]+)", done.stdout)
    yield f"ms a step: {', '.join(steps)} (the first one visits every length)", "", None
