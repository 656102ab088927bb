# SPDX-License-Identifier: Apache-2.0
"""Layouts that Megatron's arguments can ask of up to 4 processes: each works or is refused by name.

    .venv/bin/python -m tests.layouts --launches 24       (slow; not part of the suite)

Of all combinations of the factors below, those are started that bring the most pairs of values
together which were not together yet; then every argument of EXTRA on a layout of its own. A job
trains two steps, scores, rewinds, trains two masked ones and measures. It works when it ends, its
log-probs at theta_0 are those of one process to 1e-5, and the loss and the gradient norm that each
step printed are those of one process to 1e-3 (in bfloat16 only these, to 0.15: rounding alone
makes gradient norms differ by up to 0.08). It is refused by name when T3S ends it with an error
that a person can act on, or Megatron's own check of the arguments or of what is installed does.
Anything else is a fault, and the exit status is 1. With --folder, what worked or was refused in an
earlier call is not started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator

import numpy as np
from transformers import AutoTokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from t3s_megatron.data.stores import LogProbStore
from tests.conftest import pretrain_student
from tests.support.launch import FRESH, MOE, Job, run
from tests.support.task import write_task

METHOD = """
--global-batch-size 8 --train-iters 2 --lr 1e-3 --t3s --t3s-simple --t3s-simple-step 2
--t3s-targeted-accuracy-interval 1 --t3s-max-new-tokens 8 --t3s-accuracy-prompts 8
--t3s-temperature 1 --save-interval 2
""".split()

OPTIMIZERS = {
    "": "",
    "distributed": "--use-distributed-optimizer",
    "overlapping": "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
    "reducing": "--overlap-grad-reduce",
}

FACTORS: dict[str, tuple] = {
    "experts": (False, True),
    "world": (1, 2, 4),
    "tensor": (1, 2, 4),
    "sequence": (False, True),
    "pipeline": (1, 2, 4),
    "virtual": (False, True),
    "context": (1, 2, 4),
    "expert": (1, 2, 4),
    "expert_tensor": (None, 1, 2),
    "optimizer": tuple(OPTIMIZERS),
    "rows": ("own", "packed", "padded"),
    "precision": ("", "--bf16"),
}

#: (processes, with experts, arguments)
EXTRA: list[tuple[int, bool, str]] = [
    (2, False, "--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 1"),
    (2, False, "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et|tttL"),
    (2, False, "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Ett|tt|L|"),
    (2, False, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1 "
               "--microbatch-group-size-per-virtual-pipeline-stage 3"),
    (2, False, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1 "
               "--overlap-p2p-communication-warmup-flush"),
    (2, False, "--pipeline-model-parallel-size 2 --defer-embedding-wgrad-compute"),
    (4, False, "--use-distributed-optimizer --num-distributed-optimizer-instances 2 "
               "--overlap-grad-reduce --overlap-param-gather"),
    (4, False, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 "
               "--use-tp-pp-dp-mapping"),
    (2, False, "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params "
               "--use-distributed-optimizer --ckpt-format fsdp_dtensor"),
    (2, False, "--use-megatron-fsdp --data-parallel-sharding-strategy no_shard"),
    (2, False, "--use-torch-fsdp2 --ckpt-format torch_dist"),
    (2, False, "--context-parallel-size 2 --cp-comm-type a2a"),
    (4, False, "--context-parallel-size 4 --cp-comm-type a2a+p2p "
               "--hierarchical-context-parallel-sizes 2 2"),
    (2, False, "--tensor-model-parallel-size 2 --recompute-granularity full --recompute-method "
               "uniform --recompute-num-layers 1 --distribute-saved-activations"),
    (2, False, "--ddp-average-in-collective"),
    (2, False, "--use-distributed-optimizer --bf16 --grad-reduce-in-bf16"),
    (2, False, "--use-distributed-optimizer --bf16 --use-precision-aware-optimizer"),
    (2, False, "--use-distributed-optimizer --optimizer-cpu-offload"),
    (2, False, "--use-distributed-optimizer --ddp-reduce-scatter-with-fp32-accumulation"),
    (2, False, "--disable-gloo-process-groups"),
    (2, False, "--tensor-model-parallel-size 2 --tensor-parallel-num-weight-shards 2"),
    (2, False, "--optimizer dist_muon"),
    (2, True, "--expert-model-parallel-size 2 --moe-token-dispatcher-type allgather"),
    (2, True, "--expert-model-parallel-size 2 --moe-token-dispatcher-type flex"),
    (2, True, "--expert-model-parallel-size 2 --overlap-moe-expert-parallel-comm"),
    (2, True, "--expert-model-parallel-size 2 --moe-expert-capacity-factor 1.0 "
              "--moe-pad-expert-input-to-capacity"),
    (2, True, "--expert-model-parallel-size 2 --recompute-granularity selective "
              "--recompute-modules moe"),
    (1, False, "--ckpt-format torch"),
    (2, False, "--use-distributed-optimizer --ckpt-assume-constant-structure "
               "--ckpt-fully-parallel-load"),
    (2, False, "--use-distributed-optimizer --async-save"),
    (2, False, "--deterministic-mode"),
]  # fmt: skip


def layouts() -> Iterator[dict]:
    """Combinations of the factors that share out the processes and do not say nothing."""
    for values in itertools.product(*FACTORS.values()):
        layout = dict(zip(FACTORS, values, strict=True))
        dense = layout["tensor"] * layout["pipeline"] * layout["context"]
        split = (layout["expert_tensor"] or layout["tensor"]) * layout["expert"]
        if (
            layout["world"] % dense == 0
            and not (layout["sequence"] and layout["tensor"] == 1)
            and not (layout["context"] > 1 and layout["rows"] == "packed")
            and not (layout["virtual"] and layout["pipeline"] != 2)
            and not (layout["experts"] and layout["world"] % (split * layout["pipeline"]))
            and not (layout["experts"] and layout["tensor"] > 1 and not layout["sequence"])
            and (layout["experts"] or (layout["expert"] == 1 and layout["expert_tensor"] is None))
        ):
            yield layout


def covering(launches: int) -> list[dict]:
    """Each layout brings the most new pairs of values together."""
    left = [(layout, set(itertools.combinations(layout.items(), 2))) for layout in layouts()]
    seen: set = set()
    chosen = []
    for _ in range(launches):
        layout, pairs = max(left, key=lambda one: len(one[1] - seen))
        if not pairs - seen:
            break
        chosen.append(layout)
        seen |= pairs
    return chosen


def arguments_of(layout: dict) -> list[str]:
    found = f"--tensor-model-parallel-size {layout['tensor']} "
    found += f"--pipeline-model-parallel-size {layout['pipeline']} "
    found += f"--context-parallel-size {layout['context']} "
    found += f"--t3s-arrangement {layout['rows']} {OPTIMIZERS[layout['optimizer']]} "
    found += f"{layout['precision']} "
    if layout["sequence"]:
        found += "--sequence-parallel "
    if layout["virtual"]:
        found += "--num-layers-per-virtual-pipeline-stage 1 "
    if layout["experts"]:
        found += f"--expert-model-parallel-size {layout['expert']} "
        if layout["expert_tensor"]:
            found += f"--expert-tensor-parallel-size {layout['expert_tensor']} "
    micro = 2 if layout["rows"] == "padded" and layout["world"] < 4 else 1
    return [*found.split(), "--micro-batch-size", str(micro)]


_BY_MEGATRON = re.compile(r"in (validate_args|__post_init__|parse_args|validate_\w+)\b")


def verdict(output: str, code: int) -> tuple[str, str]:
    """(works, refused by T3S, refused by Megatron or FAULT; the line that says why)."""
    if code == 0:
        return "works", ""
    lines = output.splitlines()
    said = [line for line in lines if "t3s-megatron: error:" in line]
    if said:
        return "refused by T3S", said[0].split("error: ")[-1]
    last = [line for line in lines if re.match(r"(\[rank\d\]: ?)?\S*(Error|Exception)\b", line)]
    why = last[0] if last else "\n".join(lines[-5:])
    if re.search(r"ImportError: \S+ is not installed\. Please install", why):
        return "refused by Megatron", why
    if _BY_MEGATRON.search(output) and "number of parameters" not in output:
        return "refused by Megatron", why
    if "unrecognized arguments" in output or "invalid choice" in output:
        return "refused by Megatron", lines[-1]
    return "FAULT", why


def steps(output: str) -> np.ndarray:
    """(loss, gradient norm) of each step that Megatron's lines of a job tell, in their order."""
    line = re.compile(r" iteration .* lm loss: (\S+) .* grad norm: (\S+) ")
    return np.array(
        [found.groups() for found in map(line.search, output.splitlines()) if found], float
    )


def off_by(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest relative difference; infinite between other numbers of steps."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((np.abs(found - wanted) / wanted).max())


def same_rows(arguments: list[str]) -> list[str]:
    """Arguments with which the vocabulary is padded to as many rows in every layout."""
    at = "--tensor-model-parallel-size"
    tensor = int(arguments[arguments.index(at) + 1]) if at in arguments else 1
    return ["--make-vocab-size-divisible-by", str(8 // tensor)]


class Trial:
    """The students and data that all layouts start from, in `folder`."""

    def __init__(self, folder: str, timeout: float):
        self.folder = folder
        data, self.tokenizer = write_task(f"{folder}/task")
        self.data = ["--t3s-data", data, "--tokenizer-model", self.tokenizer]
        self.corpus = Corpus.build(
            load_records(data), AutoTokenizer.from_pretrained(self.tokenizer), seq_length=48
        )
        self.timeout = timeout
        self.references: dict[tuple[bool, bool], tuple[str, np.ndarray, np.ndarray]] = {}

    def reference(self, experts: bool, half: bool) -> tuple[str, np.ndarray, np.ndarray]:
        """(student, its log-probs at one process, its steps there), in bfloat16 when `half`."""
        if (experts, half) not in self.references:
            student = f"{self.folder}/student-{experts}"
            if not os.path.exists(f"{student}/latest_checkpointed_iteration.txt"):
                pretrain_student(
                    student, self.tokenizer, [*(MOE if experts else []), *same_rows([])]
                )
            arguments = ["--micro-batch-size", "1", *(["--bf16"] if half else [])]
            job, out = self.whole(1, experts, student, arguments)
            assert job.returncode == 0, job.output[-3000:]
            self.references[experts, half] = student, self.log_probs(out), steps(job.output)
        return self.references[experts, half]

    def start(
        self, processes: int, experts: bool, student: list[str], arguments: list[str], out: str
    ) -> Job:
        return run(
            [*self.data, *student, *(MOE if experts else []), *METHOD, *same_rows(arguments),
             "--save", out, "--t3s-dir", f"{out}/t3s", *arguments],
            processes=processes, expect=None, timeout=self.timeout,
        )  # fmt: skip

    def whole(
        self, processes: int, experts: bool, student: str, arguments: list[str]
    ) -> tuple[Job, str]:
        """(job, its folder). Where the arguments are about checkpoints, the job is left in its
        targeted phase and gone on with."""
        out = tempfile.mkdtemp(dir=self.folder)
        first = ["--load", student, *FRESH]
        if not re.search("--(ckpt|async)", " ".join(arguments)):
            return self.start(processes, experts, first, arguments, out), out
        job = self.start(processes, experts, first, [*arguments, "--exit-interval", "3"], out)
        if job.returncode:
            return job, out
        rest = self.start(processes, experts, ["--load", out], arguments, out)
        return Job(rest.returncode, job.output + rest.output), out

    def log_probs(self, out: str) -> np.ndarray:
        return LogProbStore.load(f"{out}/t3s/c_theta_0.safetensors", self.corpus).c

    def tried(self, processes: int, experts: bool, arguments: list[str]) -> tuple[str, str]:
        half = "--bf16" in arguments
        student, log_probs, wanted_steps = self.reference(experts, half)
        try:
            job, out = self.whole(processes, experts, student, arguments)
        except (subprocess.TimeoutExpired, TimeoutError):
            return "FAULT", "did not end"
        found, why = verdict(job.output, job.returncode)
        with open(f"{out}/log", "w") as file:
            file.write(job.output)
        if found == "FAULT":
            why += f"   ({out}/log)"
        if found == "works" and "capacity" not in str(arguments):
            off = 0.0 if half else float(np.abs(self.log_probs(out) - log_probs).max())
            of_steps = off_by(steps(job.output), wanted_steps)
            why = f"steps within {of_steps:.1e}" + ("" if half else f", log-probs {off:.1e}")
            if not (off < 1e-5 and of_steps < (0.15 if half else 1e-3)):
                return "FAULT", f"another result than one process: {why}   ({out}/log)"
        return found, why


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--launches", type=int, default=24, help="of combinations")
    parser.add_argument("--no-extra", action="store_true", help="leave EXTRA out")
    parser.add_argument("--only", default="", help="only layouts whose arguments match this")
    parser.add_argument("--folder", help="keep students and logs here")
    parser.add_argument("--timeout", type=float, default=300, help="seconds of one launch")
    options = parser.parse_args()
    folder = options.folder or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    trial = Trial(folder, options.timeout)
    wanted = [
        (one["world"], one["experts"], arguments_of(one)) for one in covering(options.launches)
    ]
    if not options.no_extra:
        wanted += [
            (n, experts, [*(["--micro-batch-size", "1"]), *arguments.split()])
            for n, experts, arguments in EXTRA
        ]
    results = f"{folder}/results.jsonl"
    known = {}
    if os.path.exists(results):
        with open(results) as file:
            known = {what: (found, why) for what, found, why in map(json.loads, file)}
    counts: dict[str, int] = {}
    for processes, experts, arguments in wanted:
        if not re.search(options.only, " ".join(arguments)):
            continue
        what = f"{processes} {'experts ' if experts else ''}{' '.join(arguments)}"
        found, why = known.get(what, ("FAULT", ""))
        if found == "FAULT":
            found, why = trial.tried(processes, experts, arguments)
            with open(results, "a") as file:
                print(json.dumps([what, found, why]), file=file)
        counts[found] = counts.get(found, 0) + 1
        print(f"{found}: {what}: {why}", flush=True)
    print(", ".join(f"{count} {found}" for found, count in sorted(counts.items())))
    if counts.get("FAULT"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
