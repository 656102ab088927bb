# SPDX-License-Identifier: Apache-2.0
"""What the data of a large run cost: host memory of a node, disk, and seconds (Appendix H.1).

    python benchmarks/scale.py corpus TARGETS [--ranks 8] [--folder DIR]
    python benchmarks/scale.py tokenising MEGABYTES [--tokenizer DIR] [--folder DIR]

`corpus`: synthetic samples of 10,000 targets, written straight into the form of the cache. Then as
many processes as a node has ranks open it, as a run does, and go through all that a run does
without a model: rows of an epoch and of a scoring pass, log-probs of theta_0 and theta_b collected,
stored and looked up, the selection made, stored and mapped, rows with it. Prints for each part, of
the memory above that of the imports:

    root_held, another_held     the most that a rank had allocated itself during the part
    mapped                      pages of files that the ranks have looked into, each counted once,
                                at its end; the system may take them back at any time
    node                        both, of all ranks
    bound                       1.2 x the tokens in int32, and 8 bytes a target on the root

`tokenising`: prose of so many megabytes, one sample in 10,000 words, through the real cache; prints
the tokens a second and core, and the seconds in which a second run opens it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator

import numpy as np

PROMPT, TARGETS_A_SAMPLE = 100, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("corpus", "tokenising"))
    parser.add_argument("size", type=float)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--folder", default="runs/scale")
    parser.add_argument("--tokenizer")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    os.makedirs(options.folder)
    try:
        measure = {"corpus": corpus, "tokenising": tokenising}[options.what]
        print(json.dumps(measure(options)), flush=True)
    finally:
        shutil.rmtree(options.folder)


# ------------------------------------------------------------------------------------ tokenising


def tokenising(options) -> dict:
    from t3s_megatron.data.corpus_cache import CorpusCache
    from t3s_megatron.data.teachers import datasets_of, named_records
    from t3s_megatron.data.tokenizing import load_tokenizer

    draw = np.random.default_rng(0)
    words = np.array(
        ["".join(draw.choice(list("etaoinshrdlu"), n)) for n in draw.integers(2, 9, 5000)]
    )
    path = os.path.join(options.folder, "samples.jsonl")
    size = 0
    with open(path, "w") as file:
        number = 0
        while size < options.size * 1e6:
            text = " ".join(draw.choice(words, TARGETS_A_SAMPLE))
            row = {"id": f"s{number}", "prompt": f"Say {number}.", "response": text, "answer": "1"}
            size += file.write(json.dumps(row) + "\n")
            number += 1
    tokenizer = load_tokenizer(options.tokenizer)
    how = {"seq_length": 10**6, "prompt_format": "raw", "overlong": "error", "vocab_size": None}
    cache = CorpusCache(os.path.join(options.folder, "cache"))
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        made, _ = cache.corpus(datasets_of([path]), "train", [], tokenizer, how, named_records)
        seconds.append(time.perf_counter() - started)
    cores = len(os.sched_getaffinity(0))
    tokens = made.counts["tokens"]
    return {
        "megabytes": round(size / 1e6, 1),
        "samples": number,
        "tokens": tokens,
        "cores": cores,
        "seconds": round(seconds[0], 1),
        "tokens_per_second_and_core": round(tokens / seconds[0] / cores),
        "seconds_to_open_again": round(seconds[1], 2),
    }


# ---------------------------------------------------------------------------------------- corpus


def corpus(options) -> dict:
    folder, n = options.folder, max(1, int(options.size) // TARGETS_A_SAMPLE)
    started = time.perf_counter()
    made = os.path.join(folder, "corpus")
    os.makedirs(made)
    # In a process of its own: what it has allocated is not the ranks' to have.
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write, args=(made, n))
    writer.start()
    writer.join()
    written = time.perf_counter() - started
    barrier = context.Barrier(options.ranks)
    results = context.Queue()
    ranks = [
        context.Process(target=rank, args=(i, options.ranks, folder, barrier, results))
        for i in range(options.ranks)
    ]
    for process in ranks:
        process.start()
    targets = n * TARGETS_A_SAMPLE
    int32 = 4 * n * (PROMPT + TARGETS_A_SAMPLE)
    bound = 1.2 * int32 + 8 * targets
    parts: dict[str, dict] = {}
    reports: dict[str, dict[int, tuple]] = {}
    running = options.ranks
    while running:
        report = results.get()
        if report is None:
            running -= 1
            continue
        number, name, *figures = report
        of_part = reports.setdefault(name, {})
        of_part[number] = tuple(figures)
        if len(of_part) < options.ranks:
            continue
        held = [of_part[k][0] for k in range(options.ranks)]
        mapped = sum(of_part[k][1] for k in range(options.ranks))
        parts[name] = {
            "root_held_bytes_a_target": round(held[0] / targets, 2),
            "another_held_megabytes": round(max(held[1:], default=0) / 1e6, 1),
            "mapped_over_corpus": round(mapped / int32, 3),
            "node_over_corpus": round((sum(held) + mapped) / int32, 3),
            "node_over_bound": round((sum(held) + mapped) / bound, 3),
            "seconds": of_part[0][2],
        }
        print(name, json.dumps(parts[name]), flush=True)
    for process in ranks:
        process.join()
    return {
        "targets": targets,
        "ranks": options.ranks,
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(load, 1) for load in os.getloadavg()],
        "corpus_int32_bytes": int32,
        "bound_over_corpus": round(bound / int32, 3),
        "write_seconds": round(written, 1),
        "parts": parts,
        "disk_bytes": disk(folder),
    }


def write(folder: str, n: int) -> None:
    from t3s_megatron.data.stored_samples import seal, write_samples
    from t3s_megatron.data.tokenizing import Sample

    def samples() -> Iterator[Sample]:
        draw = np.random.default_rng(0)
        length = PROMPT + TARGETS_A_SAMPLE
        is_target = np.arange(length) >= PROMPT
        for i in range(n):
            tokens = draw.integers(0, 150_000, length, dtype=np.int32)
            yield Sample(f"s{i}", tokens, is_target, PROMPT, "1", None, None, f"made, row {i}")

    write_samples(folder, samples())
    counts = {"records": n, "dropped_overlong": 0, "truncated_overlong": 0}
    seal(folder, "t" * 64, counts, [None], None)


def rank(number: int, ranks: int, folder: str, barrier, results) -> None:
    """What one rank of a data-parallel run on one node does, as far as it needs no model."""
    import torch

    from t3s_megatron.data.arrangement import Arrangement, TrainingRows
    from t3s_megatron.data.order import EpochOrder
    from t3s_megatron.data.rows import row
    from t3s_megatron.data.selection_file import (
        map_kept,
        packed,
        save_selection,
        selection_info,
    )
    from t3s_megatron.data.stored_samples import open_corpus
    from t3s_megatron.data.stores import LogProbStore
    from t3s_megatron.data.tables import corpus_keys, mapped_values
    from t3s_megatron.data.teachers import whole
    from t3s_megatron.method.selection import delta_c, keep_mask
    from t3s_megatron.method.selection_counts import SelectionCounts

    torch.set_num_threads(1)  # as torchrun's OMP_NUM_THREADS says where a node has several ranks
    watch = Watch()
    last = time.perf_counter()

    def done(what: str) -> None:
        nonlocal last
        barrier.wait()
        seconds = round(time.perf_counter() - last, 2)
        results.put((number, what, *watch.since(), seconds))
        barrier.wait()
        last = time.perf_counter()

    corpus, _ = open_corpus(os.path.join(folder, "corpus"))
    part = whole(corpus)
    done("open")
    arrangement = Arrangement("own", 2**15, ranks=ranks)
    plans = TrainingRows(EpochOrder(len(corpus.samples), 0), corpus.lengths, arrangement, 64)

    def rows(micro_batches, keep=None) -> None:
        for of_ranks in micro_batches:
            for arranged in of_ranks[number]:
                for sample in arranged.samples:
                    some = None if keep is None else keep[corpus.target_slice(sample)]
                    row(corpus.samples[sample], arranged.length, some, 0)

    for step in range(-(-len(corpus.samples) // 64)):
        rows(plans.at(64 * step).micro_batches)
    done("rows of an epoch")
    paths = {tag: os.path.join(folder, f"c_{tag}.safetensors") for tag in ("theta_b", "theta_0")}
    scored = arrangement.arrange(part.samples, corpus.lengths)
    rows(scored)
    done("rows of a scoring pass")
    for tag, path in paths.items():
        if number == 0:  # what the ranks send is collected in pieces
            draw = np.random.default_rng(len(tag) + ord(tag[-1]))
            flat = np.full(corpus.n_targets, np.nan, dtype=np.float32)
            for i in range(len(corpus.samples)):
                flat[corpus.target_slice(i)] = -draw.random(TARGETS_A_SAMPLE, dtype=np.float32)
            LogProbStore(flat, corpus, tag=tag, step=0).save(path)
            del flat
        done(f"collect and store {tag}")
    del scored
    c_b, c_0 = (mapped_values(path) for path in paths.values())
    selected = os.path.join(folder, "selection.safetensors")
    if number == 0:  # as `run.selector` does it
        kept, counts = [], SelectionCounts()
        for samples in part.corpus.in_pieces():
            some = part.corpus.targets_of(samples)
            keep = keep_mask("t3s", n=some.stop - some.start, c_0=c_0[some], c_b=c_b[some])
            counts.add(keep, delta_c(c_b[some], c_0[some]))
            kept += [packed(of_sample) for of_sample in np.split(keep, len(samples))]
        info = selection_info("t3s", 1, counts.to_dict(), {})
        save_selection(selected, kept, corpus_keys(corpus), info)
        del kept
    done("select")
    kept = map_kept(selected, corpus)
    first = corpus.target_slice(len(corpus.samples) // 2)
    assert (kept[first] == (c_b[first] <= c_0[first])).all()
    for step in range(-(-len(corpus.samples) // 64)):
        rows(plans.at(64 * step).micro_batches, kept)
    done("rows of the selection")
    results.put(None)


class Watch:
    """The memory of this process above what it has now: held, the most that it has allocated
    itself since it was last asked, looked at 20 times a second; mapped, its share of the files
    that it has looked into, as it is when asked, which the system may take back."""

    def __init__(self):
        self._held_before = self._most = held()
        self._mapped_before = pss() - anonymous()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self._most = max(self._most, held())
            time.sleep(0.05)

    def since(self) -> tuple[int, int]:
        most, self._most = max(self._most, held()), held()
        return most - self._held_before, pss() - anonymous() - self._mapped_before


def held() -> int:
    """Bytes that this process has allocated itself."""
    return _kilobytes("/proc/self/status", "RssAnon")


def pss() -> int:
    """Bytes of this process, with its share of what is mapped by several."""
    return _kilobytes("/proc/self/smaps_rollup", "Pss")


def anonymous() -> int:
    return _kilobytes("/proc/self/smaps_rollup", "Anonymous")


def _kilobytes(path: str, name: str) -> int:
    with open(path) as file:
        for line in file:
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
    raise OSError(f"{path}: no {name}")


def disk(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(where, name))
        for where, _, names in os.walk(folder)
        for name in names
    )


if __name__ == "__main__":
    main()
