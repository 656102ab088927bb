# SPDX-License-Identifier: Apache-2.0
"""What T3S costs beside plain Megatron training, as ratios within one run.

    bash benchmarks/overhead.sh            # makes the data, chooses the model, writes the result

A T3S-simple run in which every second step is plain Megatron: the original `train_step`, without
the seam and with the optimizer as Megatron made it, on the same model, data and process. After the
run, on the same weights:

    step, profile / targeted    T3S step / plain step: of processor time, all ranks together, and of
                                wall time; median over pairs with its 95 % interval (bootstrap)
    scoring                     tokens/s of a scoring pass / of Megatron's `evaluate`, same rows
    rewind                      seconds / those of a plain copy of the bytes that it restores
    host memory                 theta_0 and one candidate / float32 main parameters of the rank
    device memory               peak of a T3S step - peak of a plain step (CUDA only)

A pair is two steps that follow one another, now the one first, now the other, so that neither a
drift of the machine nor being second decides. Other work on the machine makes wall time longer by
what it takes; processor time it only makes longer by what it does to caches.

The first pairs of each phase are left out: they hold the snapshot, the scoring and the rewind.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time

import numpy as np
import torch
import torch.distributed as dist

WARM_UP_PAIRS = 3
REPEATS = 7
RESAMPLES = 4000


def main() -> None:
    from t3s_megatron import pretrain

    pretrain.main(run=measured, needs_student=False)  # no number is looked at


def now() -> float:
    """Seconds, once every rank and its device have got here."""
    torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter()


def spent() -> float:
    """Seconds of processor time of all threads of all ranks so far."""
    seconds = torch.tensor(
        [time.process_time()], dtype=torch.float64, device=torch.cuda.current_device()
    )
    dist.all_reduce(seconds)
    return seconds.item()


def with_interval(ratios: list[float]) -> dict:
    """Their median, with the interval in which it lies in 95 % of all samples drawn from them."""
    draw = np.random.default_rng(0)
    drawn = draw.choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return {
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "quartiles": [round(one, 4) for one in statistics.quantiles(ratios, n=4)[::2]],
    }


def measured(inputs, rows, forward):
    """A T3SRun that alternates with plain steps and measures at its end; made once Megatron may be
    imported."""
    import megatron.training.training as training
    from megatron.training import get_args

    from t3s_megatron.megatron.batches import scoring_batches
    from t3s_megatron.megatron.device import is_cpu_layer_active
    from t3s_megatron.megatron.forward import TrainingForward
    from t3s_megatron.megatron.scoring import score_corpus
    from t3s_megatron.megatron.weights import WeightSnapshot, inner_optimizers, main_parameters
    from t3s_megatron.run.t3s import T3SRun

    on_cpu = is_cpu_layer_active()

    class MeasuredRun(T3SRun):
        def __init__(self, inputs, rows, forward):
            super().__init__(inputs, rows, forward)
            self.steps: list[dict] = []

        def on_train_start(self, context):
            super().on_train_start(context)
            through_seam, original = training.train_step, self.seam._originals["train_step"]

            def train_step(*args, **kwargs):
                kind = ("t3s", "plain", "plain", "t3s")[len(self.steps) % 4]
                torch.cuda.reset_peak_memory_stats()
                if kind == "t3s":
                    before, started = spent(), now()
                    result = through_seam(*args, **kwargs)
                    seconds, cpu = now() - started, spent() - before
                else:
                    observer, self.forward.observer = self.forward.observer, None
                    self.guard.remove()
                    before, started = spent(), now()
                    result = original(*args, **kwargs)
                    seconds, cpu = now() - started, spent() - before
                    self.guard.install()
                    self.forward.observer = observer
                phase = self.machine.phase.value
                peak = None if on_cpu else torch.cuda.max_memory_allocated()
                self.steps.append(
                    {"kind": kind, "phase": phase, "s": seconds, "cpu": cpu, "peak": peak}
                )
                return result

            training.train_step = train_step

        def set_train_iters(self):
            # Each T3S step is followed by a plain one: Megatron's loop runs twice as long.
            get_args().train_iters = 2 * self.train_iters

        def _select(self, context, action):
            self.start = self.state.theta_0  # let go of by the run, wanted below
            super()._select(context, action)

        def on_train_end(self, context):
            super().on_train_end(context)
            summary = self.journal.to_state()
            result = {
                "machine": machine(on_cpu),
                "load": [round(load, 1) for load in os.getloadavg()],
                "versions": summary["versions"],
                "layout": summary["layout"],
                "model": summary["model"],
                **self._step_ratios(),
                **self._scoring(context),
                **self._rewind_and_memory(context),
            }
            if self.is_root:
                with open(os.environ["RESULT"], "w") as file:
                    json.dump(result, file, indent=1)
                print(json.dumps(result, indent=1))

        def _step_ratios(self) -> dict:
            out = {}
            # A step is labelled with the phase it ended in.
            neighbours = [
                {one["kind"]: one for one in self.steps[first : first + 2]}
                for first in range(0, len(self.steps) - 1, 2)
            ]
            for phase in ("profile", "targeted"):
                pairs = [
                    (both["t3s"], both["plain"])
                    for both in neighbours
                    if both["t3s"]["phase"] == both["plain"]["phase"] == phase
                ][WARM_UP_PAIRS:]
                out[f"step_{phase}"] = {
                    "processor_time": with_interval([a["cpu"] / b["cpu"] for a, b in pairs]),
                    "wall_time": with_interval([a["s"] / b["s"] for a, b in pairs]),
                    "pairs": len(pairs),
                    "plain_processor_ms": round(
                        1e3 * statistics.median(b["cpu"] for _, b in pairs), 2
                    ),
                    "plain_ms": round(1e3 * statistics.median(b["s"] for _, b in pairs), 2),
                    "extra_device_bytes": None
                    if on_cpu
                    else max(a["peak"] for a, _ in pairs) - max(b["peak"] for _, b in pairs),
                }
            return out

        def _scoring(self, context) -> dict:
            args = get_args()
            self.rows.use_selection(None)
            micro = args.eval_global_batch_size // (
                args.eval_micro_batch_size * args.data_parallel_size
            )
            ratios, ours = [], []
            for _ in range(REPEATS):
                started = now()
                score_corpus(context, self.rows)
                mine = now() - started
                chunks = len(context.model)
                iterators = []
                for _ in range(chunks):
                    count, batches = scoring_batches(self.rows)
                    iterators.append(batches)
                assert count % micro == 0, "choose a number of samples that fills whole batches"
                started = now()
                training.evaluate(
                    TrainingForward(),
                    iterators if chunks > 1 else iterators[0],
                    context.model,
                    None,
                    context.config,
                    eval_iters=count // micro,
                )
                theirs = now() - started
                ratios.append(theirs / mine)  # of rates
                ours.append(mine)
            tokens = len(self.inputs.corpus.samples) * args.seq_length
            return {
                "scoring": {
                    "ratio_of_tokens_per_second": round(statistics.median(ratios), 4),
                    "repeats": REPEATS,
                    "tokens_per_second": round(tokens / statistics.median(ours)),
                }
            }

        def _rewind_and_memory(self, context) -> dict:
            main = main_parameters(context.optimizer)
            moments = [
                value
                for one in inner_optimizers(context.optimizer)
                for state in one.optimizer.state.values()
                for value in state.values()
                if torch.is_tensor(value) and value.numel() > 1
            ]
            buffers = self.start.weights.buffers
            on_device = [torch.empty_like(t.detach()) for t in (*main, *moments)]
            on_host = [t.cpu().clone() for t in on_device]
            if not on_cpu:
                on_host = [t.pin_memory() for t in on_host]
            rewinds, ratios = [], []
            for _ in range(REPEATS):
                started = now()
                self.start.rewind(context)
                rewind = now() - started
                started = now()
                for device, host in zip(on_device, on_host, strict=True):
                    device.copy_(host, non_blocking=True)
                copy = now() - started
                rewinds.append(rewind)
                ratios.append(rewind / copy)
            main_bytes = sum(4 * p.numel() for p in main)
            before = resident_bytes()
            kept = [WeightSnapshot(context), WeightSnapshot(context)]
            grown = resident_bytes() - before
            return {
                "rewind": {
                    "ratio_to_a_copy_of_weights_and_moments": round(statistics.median(ratios), 3),
                    "bytes": sum(t.numel() * t.element_size() for t in (*on_device, *buffers)),
                    "seconds": round(statistics.median(rewinds), 5),
                },
                "host_memory": {
                    "main_parameter_bytes": main_bytes,
                    "theta_0_and_candidate_over_main_parameters": round(
                        sum(one.nbytes for one in kept) / main_bytes, 4
                    ),
                    "resident_growth_over_main_parameters": round(grown / main_bytes, 3),
                },
            }

    return MeasuredRun(inputs, rows, forward)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine(on_cpu: bool) -> str:
    if not on_cpu:
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
