# SPDX-License-Identifier: Apache-2.0
"""What T3S costs beside plain Megatron training, as ratios within one run.

    bash benchmarks/overhead.sh            # makes the data, chooses the model, writes the result

A T3S-simple run in which every second step is plain Megatron: the original `train_step`, without
the seam and with the optimizer as Megatron made it, on the same model, data and process. After the
run, on the same weights:

    step, profile / targeted    T3S step / plain step, median over pairs
    scoring                     tokens/s of a scoring pass / of Megatron's `evaluate`, same rows
    rewind                      seconds / those of a plain copy of the bytes that it restores
    host memory                 theta_0 and one candidate / float32 main parameters of the rank
    device memory               peak of a T3S step - peak of a plain step (CUDA only)

The first pairs of each phase are left out: they hold the snapshot, the scoring and the rewind.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time

import torch
import torch.distributed as dist

WARM_UP_PAIRS = 3
REPEATS = 7


def main() -> None:
    from t3s_megatron import pretrain

    pretrain.main(run=measured, needs_student=False)  # no number is looked at


def now() -> float:
    """Seconds, once every rank and its device have got here."""
    torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter()


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
                kind = ("t3s", "plain")[len(self.steps) % 2]
                torch.cuda.reset_peak_memory_stats()
                if kind == "t3s":
                    started = now()
                    result = through_seam(*args, **kwargs)
                    seconds = now() - started
                else:
                    observer, self.forward.observer = self.forward.observer, None
                    self.guard.remove()
                    started = now()
                    result = original(*args, **kwargs)
                    seconds = now() - started
                    self.guard.install()
                    self.forward.observer = observer
                phase = self.machine.phase.value
                peak = None if on_cpu else torch.cuda.max_memory_allocated()
                self.steps.append({"kind": kind, "phase": phase, "s": seconds, "peak": peak})
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
            # A plain step is labelled with the phase its T3S step ended in; the pair that ends
            # the profile and the one that begins the targeted phase fall to the warm-up.
            for phase in ("profile", "targeted"):
                of = [s for s in self.steps if s["phase"] == phase]
                t3s = [s for s in of if s["kind"] == "t3s"][WARM_UP_PAIRS:]
                plain = [s for s in of if s["kind"] == "plain"][WARM_UP_PAIRS:]
                pairs = list(zip(t3s, plain, strict=False))
                ratios = [a["s"] / b["s"] for a, b in pairs]
                low, middle, high = statistics.quantiles(ratios, n=4)
                out[f"step_{phase}"] = {
                    "ratio": round(middle, 4),
                    "quartiles": [round(low, 4), round(high, 4)],
                    "pairs": len(pairs),
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
