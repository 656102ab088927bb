# SPDX-License-Identifier: Apache-2.0
"""python -m tests.gpu.check STEP: one step of the check. Prints a line `ROW<tab>figure<tab>
bound<tab>ok` for each thing that it found; ok is yes, no, or - where nothing is demanded.

DEVICE: cuda, or cpu for the steps that have such a form. KIT: what kit.sh has made. OUT: a folder.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.gpu.jobs import LAYOUTS, TE, TE_LAYOUTS, arguments, run_job, sharing_a_gpu
from tests.support.launch import ROOT
from tests.support.ports import free_port
from tests.support.resumable import assert_same

DEVICE = os.environ.get("DEVICE", "cuda")
KIT = os.environ.get("KIT", f"{ROOT}/.gpu")
OUT = os.environ.get("OUT", "/tmp/t3s_gpu_check")
REFERENCE = f"{KIT}/reference"
ON_CUDA = DEVICE == "cuda"
MATH = ["--no-masked-softmax-fusion"]


def row(figure: str, bound: str = "", ok: bool | None = None) -> None:
    print("ROW", figure, bound, {True: "yes", False: "no", None: "-"}[ok], sep="\t", flush=True)


def job(name: str, **how):
    """A finished job and its folder; a row and the end of this step where it failed."""
    folder = f"{OUT}/{name}"
    done = run_job(name, folder, REFERENCE, device=DEVICE, **how)
    if done.returncode:
        end = " / ".join(line for line in done.output.splitlines()[-60:] if "rror" in line)
        row(f"{name}: exit status {done.returncode} {end[-300:]}", "0", False)
        raise SystemExit(1)
    return done, Path(folder)


# ------------------------------------------------------------------------------------ the steps


def start() -> None:
    """F1: from the wheel, whose datasets folder has no Makefile."""
    import importlib.util

    found = importlib.util.find_spec("megatron.core")
    assert found is not None and found.submodule_search_locations
    where = f"{found.submodule_search_locations[0]}/datasets"
    make = subprocess.run(["make", "-C", where], capture_output=True)
    row(f"make in megatron/core/datasets: {make.returncode}", "2 without the mend ends a run")
    began = time.perf_counter()
    job("start", extra=["--exit-interval", "1"])
    row(f"a job starts and makes a step in {time.perf_counter() - began:.0f} s", "starts", True)


def units() -> None:
    import torch

    device = torch.device("cuda" if ON_CUDA else "cpu")
    n = 2_200_000_000 if ON_CUDA else 22_000_000
    found, took = _seek_a_nan(torch, torch.zeros(n, device=device))
    row(f"one NaN in {n:,} float32 is found: {found}", "True", found)
    row(f"in {1e3 * took:.1f} ms", "5 ms", took < 5e-3 if ON_CUDA else None)
    losses = torch.arange(1 << 20, device=device, dtype=torch.float32)
    copied = losses.to("cpu", non_blocking=True)
    if ON_CUDA:
        torch.cuda.synchronize()
    expected = np.arange(1 << 20)
    row("an asynchronous copy of losses is what they were", "equal",
        bool((copied.numpy() == expected).all()))  # fmt: skip
    state = torch.cuda.get_rng_state() if ON_CUDA else torch.get_rng_state()
    first = torch.rand(1000, device=device)
    (torch.cuda.set_rng_state if ON_CUDA else torch.set_rng_state)(state)
    row("draws after the random state is restored", "equal",
        bool(torch.equal(first, torch.rand(1000, device=device))))  # fmt: skip
    _pinned(torch)


def _seek_a_nan(torch, buffer) -> tuple[bool, float]:
    """As the guard does it: (found, seconds)."""
    buffer[-3] = float("nan")

    def seek() -> bool:
        return not bool(torch.stack(torch.aminmax(buffer)).isfinite().all())

    return seek(), _seconds(seek)


def _pinned(torch) -> None:
    from t3s_megatron.planning.pinned import pinned_bytes

    sizes = [50_331_648, 25_165_824] * 8
    asked, planned = sum(sizes), pinned_bytes(sizes)
    if not ON_CUDA:
        row(f"{asked / 2**20:.0f} MiB of weights take {planned / 2**20:.0f} pinned (planned)")
        return
    from t3s_megatron.megatron.weights import free_host_memory, host_tensors

    def held() -> int:
        return torch.cuda.host_memory_stats()["allocated_bytes.current"]

    before = held()
    copies = host_tensors([torch.empty(s, dtype=torch.uint8, device="cuda") for s in sizes],
                          pin=True)  # fmt: skip
    taken = held() - before
    row(f"{asked / 2**20:.0f} MiB of weights take {taken / 2**20:.0f} pinned",
        f"{planned / 2**20:.0f}", taken <= planned)  # fmt: skip
    del copies
    free_host_memory()
    row(f"after they are freed {(held() - before) / 2**20:.0f} MiB", "0", held() <= before)


def _seconds(work, repeats: int = 3) -> float:
    import torch

    times = []
    for _ in range(repeats):
        if ON_CUDA:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if ON_CUDA:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def fp32() -> None:
    """A whole job in float32 against the CPU's."""
    done, folder = job("fp32", extra=MATH)
    _against_reference("fp32", folder, "dense")
    said = [line for line in done.output.splitlines() if "scored twice" in line]
    row(said[0].split("] ")[1] if said else "the noise of c_t is not reported", "", bool(said))


def layout(name: str) -> None:
    how = LAYOUTS[name]
    _, folder = job(name, ranks=how.ranks, student=how.student, extra=[*MATH, *how.arguments])
    _against_reference(name, folder, how.student)


def te_layout(name: str) -> None:
    """A whole job as the scripts train: bfloat16 and Transformer Engine."""
    how = TE_LAYOUTS[name]
    done, folder = job(name, ranks=how.ranks, student=how.student, extra=[*TE, *how.arguments])
    far = np.abs(_c(folder, "theta_0") - _c(f"{REFERENCE}/{how.student}", "theta_0"))
    row(f"{name}: log-probs of theta_0 differ from float32's by {np.median(far):.0e} (median), "
        f"{far.max():.2f} at most", "0.01, 0.5",
        bool(np.median(far) < 0.01 and far.max() < 0.5))  # fmt: skip
    same, all_ = _equal_greedy(folder, how.student)
    row(f"{name}: greedy answers equal float32's, {same} of {all_}")
    _rewound(name, folder, demanded=False)
    for said in [line for line in done.output.splitlines() if "scored twice" in line][:1]:
        row(f"{name}: {said.split('] ')[1]}")


def _against_reference(name: str, folder: Path, student: str) -> None:
    reference, bound = f"{REFERENCE}/{student}", 1e-4
    far = float(np.abs(_c(folder, "theta_0") - _c(reference, "theta_0")).max())
    row(f"{name}: log-probs of theta_0 differ by at most {far:.1e}", f"{bound:g}", far < bound)
    same, all_ = _equal_greedy(folder, student)
    row(f"{name}: greedy answers equal, {same} of {all_}", "all", same == all_)
    steps = [_content(w, "t3s/summary.json")["theta_b_step"] for w in (folder, reference)]
    row(f"{name}: theta_b at step {steps[0]}", str(steps[1]), steps[0] == steps[1])
    delta = _c(reference, "theta_b") - _c(reference, "theta_0")
    keeps = [_keep(w) for w in (folder, reference)]
    differ = int((keeps[0] != keeps[1])[np.abs(delta) >= bound].sum())
    row(f"{name}: selections differ in {differ} tokens with |delta_c| above {bound:g}", "0",
        differ == 0)  # fmt: skip
    _rewound(name, folder, demanded=not ON_CUDA)


@functools.cache
def _corpus():
    from t3s_megatron.data.corpus import Corpus
    from t3s_megatron.data.records import load_records
    from t3s_megatron.data.tokenizing import load_tokenizer

    tokenizer = load_tokenizer(f"{REFERENCE}/task/tokenizer")
    return Corpus.build(load_records(f"{REFERENCE}/task/train.jsonl"), tokenizer, seq_length=48)


def _c(where: Path | str, tag: str) -> np.ndarray:
    from t3s_megatron.data.stores import LogProbStore

    return LogProbStore.load(f"{where}/t3s/c_{tag}.safetensors", _corpus()).c


def _keep(where: Path | str) -> np.ndarray:
    from t3s_megatron.data.selection_file import Selection

    return Selection.load(f"{where}/t3s/selection.safetensors", _corpus()).keep


def _content(where: Path | str, file: str):
    return json.loads((Path(where) / file).read_text())


def _equal_greedy(folder: Path, student: str) -> tuple[int, int]:
    mine, theirs = (_content(w, "probe.json")["greedy"] for w in (folder, f"{REFERENCE}/{student}"))
    return sum(a == b for a, b in zip(mine, theirs, strict=True)), len(theirs)


def _rewound(name: str, folder: Path, *, demanded: bool) -> None:
    from tests.parallel.probed_job import PROBE_STEPS

    losses, summary = _content(folder, "losses.json"), _content(folder, "t3s/summary.json")
    again_at = summary["phases"][0]["last_iteration"]
    first, again = losses[:PROBE_STEPS], losses[again_at : again_at + PROBE_STEPS]
    numbers = [[float.fromhex(x) for x in step] for step in (*first, *again)]
    pairs = zip(numbers[:PROBE_STEPS], numbers[PROBE_STEPS:], strict=True)
    far = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
    row(f"{name}: the first steps after the rewind differ from the profile's by {far:.1e}",
        "0" if demanded else "", again == first if demanded else None)  # fmt: skip


def det() -> None:
    """bf16, first as it is and then in Megatron's deterministic mode."""
    bf16 = [*MATH, "--bf16"]
    _, folder = job("bf16", extra=bf16)
    _rewound("bf16", folder, demanded=False)
    environment = {"NCCL_ALGO": "Ring", "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
                   "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # fmt: skip
    mode = ["--deterministic-mode"] if ON_CUDA else []
    _, folder = job("det", extra=[*bf16, *mode], environment=environment)
    _rewound("det", folder, demanded=True)


def syncs() -> None:
    """F15: lines of ours at which the host waits for the device, in a targeted step."""
    done, _ = job("syncs", extra=[*MATH, "--bf16"], module="tests.gpu.synced_job",
                  environment={"PYTHONWARNINGS": "default"})  # fmt: skip
    lines = re.findall(r"(\S+\.py:\d+): UserWarning: called a synchronizing", done.output)
    ours = sorted({line.split("/t3s_megatron/")[1] for line in lines if "/t3s_megatron/" in line})
    row(f"{len(set(lines))} lines wait in three steps, of ours {', '.join(ours) or 'none'}",
        "meter, guard, layout", None)  # fmt: skip


def kill_resume() -> None:
    """SIGKILL in targeted training, and the same command again."""
    extra = [*MATH, "--save-interval", "2", *(["--deterministic-mode"] if ON_CUDA else [])]
    how = {"extra": extra, "module": "tests.jobs.killed_job"}
    job("whole", **how)
    killed = {"KILL_AT": "in targeted training", "KILL_MARK": f"{OUT}/killed"}
    done = run_job("resumed", f"{OUT}/resumed", REFERENCE, device=DEVICE, environment=killed, **how)
    row(f"killed: exit status {done.returncode}", "-9", done.returncode == -9)
    job("resumed", **how)
    try:
        assert_same(f"{OUT}/whole", f"{OUT}/resumed")
    except AssertionError as error:
        row(f"killed and gone on with: {str(error)[:200]}", "as one that never died", False)
    else:
        row("weights, moments, selection, summary, killed and gone on with", "equal bits", True)


def sigterm() -> None:
    """F4: SIGTERM to torchrun in a measurement that takes longer than its own 30 s."""
    helps = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--help"],
                           capture_output=True, text=True).stdout  # fmt: skip
    if "--shutdown-timeout" not in helps:
        row("this torch has no torchrun --shutdown-timeout: ranks are killed after 30 s")
        return
    folder = f"{OUT}/sigterm"
    # All prompts: a start at nothing is refused, and the verifier is slow about three answers only.
    slow = ["--t3s-verifier", "tests.jobs.slow_verifier:check", "--t3s-verify-workers", "1",
            "--exit-signal-handler"]  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--shutdown-timeout", "90",
        "-m", "t3s_megatron.pretrain", *arguments(REFERENCE, folder, DEVICE, [*MATH, *slow]),
    ]  # fmt: skip
    os.makedirs(folder)
    with open(f"{folder}/log", "w") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, "SLOW": f"{folder}/slow"},
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{folder}/slow") and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    began = time.perf_counter()
    running.wait(120)
    took = time.perf_counter() - began
    saved = os.path.exists(f"{folder}/latest_checkpointed_iteration.txt")
    row(f"torchrun has SIGTERM; {took:.0f} s later the job has left, saved: {saved}",
        "more than 30 s, and saved", saved and took > 30)  # fmt: skip


def prefill() -> None:
    """F7: what the logits of a batch of prompts take."""
    import torch

    sys.path.insert(0, f"{ROOT}/benchmarks")
    from tiny_model import context_of, gpt
    from tiny_model import start as start_model

    start_model(DEVICE)
    from t3s_megatron.accuracy.answers import Sampling
    from t3s_megatron.megatron import generation

    vocabulary, batch, length = (151_936, 32, 512) if ON_CUDA else (512, 4, 32)
    model = gpt(vocabulary, length + 2, torch.bfloat16, num_layers=1, hidden_size=256,
                num_attention_heads=4, num_query_groups=2, ffn_hidden_size=256).eval()  # fmt: skip
    positions: list[int] = []
    model.output_layer.register_forward_pre_hook(lambda m, x: positions.append(len(x[0])))
    prompts = torch.randint(1, vocabulary, (batch, length)).tolist()
    decoder = generation.Decoder(context_of(model), Sampling(0.0, 2, 0, 7, vocabulary, batch), None)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        decoder.decode(prompts, list(range(batch)), length, length)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    all_logits = batch * length * vocabulary * 2 / 2**20
    row(f"{max(positions)} position of a prompt has logits", "1", max(positions) == 1)
    row(f"peak {peak:,.0f} MiB; logits of all positions would be {all_logits:,.0f}",
        "less" if ON_CUDA else "", peak < all_logits if ON_CUDA else None)  # fmt: skip


def te_own() -> None:
    """Transformer Engine at 32,768 positions: memory against the plan, first and second visits of a
    row length. 1.7B parameters of Qwen3's shape, random."""
    from tests.gpu.long_rows import memory_and_steps

    for figure, bound, ok in memory_and_steps(OUT):
        row(figure, bound, ok)


def price() -> None:
    """What T3S costs beside plain training: the benchmark, on a model of 1B parameters."""
    result = f"{OUT}/overhead.json"
    environment = {"DEVICE": DEVICE, "STEPS": "14", "RESULT": result, "PYTHON": sys.executable,
                   "WORK": f"{OUT}/overhead", "DATA": f"{REFERENCE}/task"}  # fmt: skip
    done = subprocess.run(["bash", f"{ROOT}/benchmarks/overhead.sh"], env=os.environ | environment,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        row(f"overhead.sh: exit status {done.returncode} {done.stderr[-300:]!r}", "0", False)
        return
    found = json.loads(Path(result).read_text())
    for phase in ("profile", "targeted"):
        step = found[f"step_{phase}"]
        wall = step["wall_time"]
        row(f"a step of {step['plain_ms']:.0f} ms, {phase}: {wall['ratio']:.3f} x plain "
            f"({wall['interval'][0]:.3f} to {wall['interval'][1]:.3f})", "1.01",
            wall["interval"][0] <= 1.01 if ON_CUDA else None)  # fmt: skip
        if ON_CUDA:
            beside = step["extra_device_bytes"] / 2**20
            row(f"device memory of a step beside plain, {phase}: {beside:.2f} MiB", "1", beside < 1)
    rate = found["scoring"]["ratio_of_tokens_per_second"]
    row(f"scoring at {found['scoring']['tokens_per_second']:,} tokens/s: {rate:.3f} x evaluate",
        "0.97", rate >= 0.97 if ON_CUDA else None)  # fmt: skip
    rewind = found["rewind"]
    ratio = rewind["ratio_to_a_copy_of_weights_and_moments"]
    row(f"a rewind of {rewind['bytes'] / 2**30:.2f} GiB takes {rewind['seconds']:.3f} s: "
        f"{ratio:.2f} x a copy", "1.5", ratio <= 1.5 if ON_CUDA else None)  # fmt: skip


def two_ranks() -> None:
    """Collectives of our own between two ranks on one device."""
    import torch.multiprocessing as multiprocessing

    os.environ.update(sharing_a_gpu())
    multiprocessing.spawn(_collectives, args=(free_port(),), nprocs=2)
    row("all_reduce, send, objects gathered and broadcast over two ranks", "work", True)


def _collectives(rank: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", 0) if ON_CUDA else torch.device("cpu")
    if ON_CUDA:
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if ON_CUDA else "gloo", init_method=f"tcp://localhost:{port}",
                            rank=rank, world_size=2)  # fmt: skip
    x = torch.full((1024,), float(rank), device=device)
    dist.all_reduce(x)
    assert bool((x == 1).all())
    dist.send(x, 1) if rank == 0 else dist.recv(x, 0)
    parts: list = [None, None]
    dist.all_gather_object(parts, {"rank": rank})
    assert [part["rank"] for part in parts] == [0, 1]
    gathered: list | None = [None, None] if rank == 0 else None
    dist.gather_object(rank, gathered, dst=0)
    box = ["said" if rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    assert box == ["said"]
    dist.destroy_process_group()


def decode() -> None:
    """Milliseconds a token of live decoding, now and before."""
    size = "--batch 4 --limit 32 --repeats 1 --layers 2".split()
    if ON_CUDA:
        size = """--device cuda --bf16 --layers 28 --hidden 2048 --heads 16 --groups 8 --ffn 6144
            --vocabulary 151936 --batch 32 --prompt 256 --limit 256 --repeats 1""".split()
    _script("decoding.py", *size, "--json", f"{OUT}/decode.json")
    found = json.loads(Path(f"{OUT}/decode.json").read_text())
    now, before = found["now"], found["before"]
    row(f"{now['ms_a_step']} ms a token, {now['ms_a_step_and_layer']} a layer; "
        f"{now['tokens_s']:.0f} tokens/s; before {before['ms_a_step']} ms")  # fmt: skip
    row(f"equal answers {found['equal_answers']}", "all" if not ON_CUDA else "", None)
    planned = 0.7
    row(f"the plan's {planned} ms a layer holds", f"{planned} ms",
        now["ms_a_step_and_layer"] <= planned if ON_CUDA else None)  # fmt: skip


def noise() -> None:
    """Wrong signs of delta_c, with logits as computed and in float32."""
    extra = ["--device", "cuda"] if ON_CUDA else ["--steps", "20", "--rows", "16", "--lr", "1e-5"]
    lines = [json.loads(x) for x in _script("scoring_noise.py", *extra).splitlines() if x[0] == "{"]
    for line in lines:
        was, is_ = line["as computed"]["wrong_signs"], line["float32"]["wrong_signs"]
        row(f"{line['model']}, lr {line['lr']:g}: wrong signs {was:.1%}, with float32 logits "
            f"{is_:.1%}", "no more" if line["model"] == "bf16" else "the same",
            is_ <= was + 0.02)  # fmt: skip


def _script(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, f"{ROOT}/benchmarks/{name}", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])},
    )
    if done.returncode:
        row(f"{name}: exit status {done.returncode} {done.stderr[-300:]!r}", "0", False)
        raise SystemExit(1)
    return done.stdout


STEPS = {
    step.__name__: step
    for step in (
        start,
        units,
        fp32,
        det,
        syncs,
        kill_resume,
        sigterm,
        two_ranks,
        decode,
        prefill,
        noise,
        te_own,
        price,
    )  # fmt: skip
}
STEPS |= {name: functools.partial(layout, name) for name in LAYOUTS}
STEPS |= {name: functools.partial(te_layout, name) for name in TE_LAYOUTS}


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    STEPS[sys.argv[1]]()
