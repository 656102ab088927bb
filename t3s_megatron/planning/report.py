# SPDX-License-Identifier: Apache-2.0
"""A plan as text for a person and as JSON for a program."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from t3s_megatron.planning.colocated import answers_at_once, room_for_answers, weights_of
from t3s_megatron.planning.facts import Answers, Layout, Model, Samples, Servers
from t3s_megatron.planning.measurements import Measuring
from t3s_megatron.planning.memory import Disk, GpuMemory, HostMemory
from t3s_megatron.planning.walk import Walk
from t3s_megatron.planning.work import Speed, Work, host_bound

GIB = 2**30

#: Servers are proposed where the whole run then takes less than this share of the time.
_WORTH_A_SERVER = 0.8


@dataclass(frozen=True)
class PlannedRun:
    """Everything that was found out about one run. `work`: by part, (expected, at most)."""

    release: str
    layout: Layout
    gpus_per_node: int
    model: Model
    samples: Samples
    answers: Answers | None
    gpus: list[GpuMemory]
    gpu_limit: int
    host: HostMemory
    disk: Disk
    expected: Walk
    longest: Walk
    work: dict[str, tuple[Work, Work]]
    measuring: Measuring | None
    speed: Speed
    notes: list[str]
    advice: list[str]

    @property
    def worst(self) -> GpuMemory:
        return max(self.gpus, key=lambda gpu: gpu.total)

    @property
    def fits(self) -> bool:
        return self.worst.total <= self.gpu_limit and self.answers_at_once != 0

    @property
    def answers_at_once(self) -> int | None:
        """Of a server on the training GPUs; None without one."""
        if self.answers is None or self.answers.colocated is None:
            return None
        return answers_at_once(self.model, self.answers.colocated, self.answers)

    def to_dict(self) -> dict:
        """JSON-able. Sizes in bytes, times in seconds."""
        found = asdict(self)
        found["fits"] = self.fits
        found["parameters"] = self.model.parameters
        for gpu, known in zip(found["gpus"], self.gpus, strict=True):
            gpu["total"] = known.total
        found["disk"]["total"] = self.disk.total
        found["host"]["total"] = self.host.total
        found["samples"] = _lengths(self.samples)
        for name in ("expected", "longest"):
            found[name]["steps"] = getattr(self, name).steps
            del found[name]["events"]
        return found


def text(planned: PlannedRun) -> str:
    parts = [_head(planned), _gpus(planned), _elsewhere(planned), _work(planned)]
    if planned.measuring is not None:
        parts.append(_measuring(planned, planned.measuring))
    if planned.notes:
        parts.append("\n".join(f"note: {note}" for note in planned.notes))
    parts.append(_verdict(planned))
    return "\n\n".join(parts)


def _head(planned: PlannedRun) -> str:
    layout, model, samples = planned.layout, planned.model, planned.samples
    nodes = -(-layout.world_size // planned.gpus_per_node)
    sizes = {
        "TP": layout.tensor,
        "PP": layout.pipeline,
        "virtual": layout.virtual,
        "CP": layout.context,
        "EP": layout.expert,
        "DP": layout.data,
    }
    split = ", ".join(f"{name} {n}" for name, n in sizes.items() if n > 1 or name in ("TP", "PP"))
    lengths = _lengths(samples)
    teachers = ", ".join(f"{one.name} {len(one.samples)}" for one in samples.teachers)
    counted = "counted in the data" if samples.counted else "the data is not here: upper bounds"
    return "\n".join(
        [
            f"planned with megatron-core {planned.release} on a CPU; nothing was run on a GPU",
            f"GPUs     {layout.world_size} on {nodes} nodes: {split}; {layout.micro_batches} "
            f"micro-batches a step, pipeline bubble {layout.bubble:.0%}",
            f"model    {_billions(model.parameters)} parameters, a token is multiplied with "
            f"{_billions(model.matrix_parameters)}; {model.layers} layers",
            f"samples  {lengths['samples']} of {lengths['mean']:,.0f} tokens, at most "
            f"{lengths['longest']:,} ({counted})",
            *([f"teachers {teachers} samples"] if teachers else []),
        ]
    )


def _gpus(planned: PlannedRun) -> str:
    header = [
        "GiB a GPU, by stage", "layers", "parameters", "weights", "gradients", "optimizer",
        "activations", "generation", "a server", "reserve", "total",
    ]  # fmt: skip
    rows = [
        [
            _stages(gpu.stages),
            str(gpu.layers),
            _billions(gpu.parameters),
            *(
                f"{size / GIB:.1f}"
                for size in (gpu.weights, gpu.gradients, gpu.optimizer, gpu.activations,
                             gpu.generation, gpu.serving, gpu.reserve, gpu.total)
            ),
        ]
        for gpu in planned.gpus
    ]  # fmt: skip
    served = any(gpu.serving for gpu in planned.gpus)
    if not served:
        column = header.index("a server")
        header, *rows = ([*row[:column], *row[column + 1 :]] for row in [header, *rows])
    said = (
        "\nactivations in training and generation during a measurement are never there together; "
        "the total has the larger"
        + ("; generation is of the probes only" if _servers(planned) is not None else "")
    )
    if served:
        asleep = planned.worst.asleep / GIB
        said += (
            f".\nThe server sleeps in training, and keeps {asleep:.1f} GiB; while it answers, "
            "torch has given back what it holds for activations"
        )
    return _table([header, *rows]) + said


def _room(planned: PlannedRun) -> str | None:
    """What a server on the training GPUs has room for."""
    if planned.answers is None or planned.answers.colocated is None:
        return None
    model, server = planned.model, planned.answers.colocated
    return (
        f"servers  {planned.layout.world_size // server.gpus} of {server.gpus} of these GPUs, "
        f"{server.memory / GIB:.1f} GiB of each: weights {weights_of(model, server) / GIB:.1f}, "
        f"{server.reserve / GIB:.1f} set aside, keys and values "
        f"{max(0, room_for_answers(model, server)) / GIB:.1f}: {planned.answers_at_once} answers "
        f"of {planned.answers.expected:,.0f} tokens at once"
    )


def _servers(planned: PlannedRun) -> Servers | None:
    return None if planned.answers is None else planned.answers.servers


def _elsewhere(planned: PlannedRun) -> str:
    disk, run = planned.disk, planned.longest
    kept = ["theta_0"] * run.keeps_theta_0 + ["the candidate"] * run.keeps_candidate
    kept += [f"{run.in_flight} with a measurement in flight"] * (run.in_flight > 0)
    copies = " and ".join([", ".join(kept[:-1]), kept[-1]] if kept[1:] else kept) or "no copy"
    lines = [
        f"host     {planned.host.total / GIB:,.0f} GiB a node: {planned.host.copies / GIB:,.0f} "
        f"pinned ({copies} of the weights)"
        + (
            f", {planned.host.saving / GIB:,.0f} while a checkpoint is written or read"
            if planned.host.saving
            else ""
        )
        + (
            f", {planned.host.served / GIB:,.0f} in shared memory for its servers, twice that "
            "while they are written"
            if planned.host.served
            else ""
        ),
        f"disk     {disk.total / GIB:,.0f} GiB at the most: {disk.checkpoints} checkpoints of "
        f"{disk.checkpoint / GIB:,.0f}, state {disk.state / GIB:,.0f}, log-probs and selection "
        f"{disk.stores / GIB:.2f}"
        + (f", export {disk.export / GIB:,.0f}" if disk.export else "")
        + (f", {disk.served} for servers of {disk.served_size / GIB:,.0f}" if disk.served else ""),
    ]
    if (room := _room(planned)) is not None:
        lines.append(room)
    return "\n".join(lines)


def _passes(run: Walk) -> int:
    return run.scoring_passes + run.watching_passes


def _work(planned: PlannedRun) -> str:
    expected, longest = planned.expected, planned.longest
    counts = {
        "profile": (expected.profile_steps, longest.profile_steps, "steps"),
        "scoring": (_passes(expected), _passes(longest), "passes"),
        "targeted": (expected.targeted_steps, longest.targeted_steps, "steps"),
        "generation": (expected.measurements, longest.measurements, "measurements"),
    }
    if planned.measuring is not None and planned.measuring.exports is not None:
        counts["export"] = (*planned.measuring.exports, "exports")
    rows = [["part", "", "tokens", "FLOPs", "time", "at most:", "tokens", "time"]]
    for name, (likely, most) in planned.work.items():
        few, many, what = counts[name]
        rows.append(
            [
                name, f"{few} {what}", _count(likely.tokens), f"{likely.flops:.2g}",
                _time(likely.seconds), f"{many} {what}", _count(most.tokens), _time(most.seconds),
            ]
        )  # fmt: skip
    total = [sum(works[i].seconds for works in planned.work.values()) for i in (0, 1)]
    flops = sum(works[0].flops for works in planned.work.values())
    rows.append(["all", "", "", f"{flops:.2g}", _time(total[0]), "", "", _time(total[1])])
    speed = planned.speed
    where = f"theta_b at step {expected.theta_b_step}" if expected.theta_b_step else "no theta_b"
    if expected.profiles > 1:
        where += f" of each of {expected.profiles} profiles"
    assumed = (
        f"estimated, not measured: {where}; {speed.mfu:.0%} MFU of {speed.peak_flops / 1e12:.0f} "
        "TFLOP/s while the pipeline is full, recomputation not counted as useful"
    )
    if "generation" in planned.work:
        servers = _servers(planned)
        if speed.generation is not None:
            assumed += f"; generation as given, {speed.generation:,.0f} tokens/s a " + (
                "data-parallel rank" if servers is None else f"server of {servers.urls}"
            )
        else:
            if servers is not None:
                like = "on the same GPUs" if servers.colocated else "each like the GPUs of a "
                like += "" if servers.colocated else "data-parallel rank"
                once = servers.concurrency
                if planned.answers_at_once is not None:
                    once = min(once, planned.answers_at_once)
                assumed += f"; {servers.urls} servers, {like}, with {once} answers at once"
            assumed += (
                f"; generation reads weights and cache at {speed.memory_bandwidth / 1e12:.2f} TB/s "
                "for each token"
            )
            if servers is None:
                host = 1e3 * host_bound(planned.model, speed)
                assumed += (
                    f", or waits for Python, {speed.host * 1e3:g} ms a layer: no token in less "
                    f"than {host:.0f} ms"
                )
            assumed += ": a lower bound"
    return _table(rows) + "\n" + assumed


def _measuring(planned: PlannedRun, found: Measuring) -> str:
    """What a measurement is, what all of them are, and how they would be fewer or cheaper."""
    answers = planned.answers
    assert answers is not None
    profile = found.measurements - found.targeted
    in_profile = f"{profile} in the profile, by which theta_b is found"
    lines = [
        f"one measurement  {found.prompts:,} prompts, {answers.asked:,} answers of "
        f"{answers.expected:,.0f} tokens: {_count(found.one.tokens)} tokens, "
        f"{_time(found.one.seconds)}",
        f"all of them      {found.measurements}, {found.share:.0%} of the run's time: "
        f"{in_profile if profile else 'none in the profile'}; {found.targeted} later, by which "
        "nothing is",
    ]
    if answers.servable:
        lines.append(_served(planned, found))
    if found.dominates:
        whole = sum(work[0].seconds for work in planned.work.values())
        lines.append(f"measuring is most of these {_time(whole)}. What makes it less:")
        lines += [
            f"  {other.change}: measured {other.measurements} times, {_time(other.seconds)} in all"
            for other in found.alternatives
        ]
    return "\n".join(lines)


def _served(planned: PlannedRun, found: Measuring) -> str:
    export = f"{found.exported / GIB:,.0f} GiB and {_time(found.export)} to export the weights"
    if found.beside is not None:
        other = found.beside
        overlapped = (
            f", {_time(other.overlapped)} with --t3s-accuracy-overlap 1"
            if other.overlapped is not None
            else ""
        )
        live = sum(work[0].seconds for work in planned.work.values())
        here = "no room for a server"
        if other.colocated is not None:
            here = f"a server finds room: {_time(other.colocated)} for the whole run"
        if other.colocated is not None and other.colocated < _WORTH_A_SERVER * live:
            choice = (
                f"choose           servers on these GPUs (SERVE=colocate): "
                f"{_time(other.colocated)} in place of {_time(live)}; in the job Python launches "
                "every layer of every token"
            )
        elif other.waits < _WORTH_A_SERVER * live:
            choice = (
                f"choose           servers elsewhere: {_time(other.waits)} in place of "
                f"{_time(live)}; in the job Python launches every layer of every token"
            )
        else:
            choice = (
                f"choose           --t3s-generation live: {_time(live)}, with servers "
                f"{_time(other.waits)}"
            )
        return (
            f"by a server      on as many GPUs more: {_time(other.waits)} for the whole run when "
            f"training waits for it{overlapped}; {export} each time\n"
            f"on these GPUs    {here}\n{choice}"
        )
    waits = planned.work["generation"][0].seconds
    line = (
        f"by servers       {_time(found.generating)} of answering, of which training waits for "
        f"{_time(waits)}; {export} each time, before which the live weights answer probes (not "
        "counted)"
    )
    discarded = planned.expected.discarded_steps
    return line + (f"; {discarded} profile steps are thrown away" if discarded else "")


def _verdict(planned: PlannedRun) -> str:
    worst, limit = planned.worst, planned.gpu_limit / GIB
    needs = f"{worst.total / GIB:.1f} GiB of {limit:.0f} on stage {_stages(worst.stages)}"
    if planned.fits:
        return f"fits: {needs}"
    if worst.total <= planned.gpu_limit:
        return (
            "does not fit: a server has no room for one answer. Give it more of a GPU "
            "(--server-memory, SERVE_MEMORY), more GPUs (--server-gpus, SERVE_TP), or have servers "
            "elsewhere (SERVE=URLs)"
        )
    lines = [f"does not fit: {needs}. What helps:"]
    lines += [f"  {line}" for line in planned.advice] or ["  a smaller model or larger GPUs"]
    return "\n".join(lines)


def _lengths(samples: Samples) -> dict:
    return {
        "counted": samples.counted,
        "samples": len(samples.lengths),
        "mean": sum(samples.lengths) / len(samples.lengths),
        "longest": max(samples.lengths),
        "targets": samples.targets,
        "teachers": {one.name: len(one.samples) for one in samples.teachers},
    }


def _stages(numbers: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) as "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _billions(number: int) -> str:
    if number < 1e8:
        return f"{number / 1e6:.2f}M"
    return f"{number / 1e9:.2f}B"


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
