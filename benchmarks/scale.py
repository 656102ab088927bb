# SPDX-License-Identifier: Apache-2.0
"""What the data of a large run cost: host memory of a node, disk, and seconds (Appendix H.1).

    python benchmarks/scale.py corpus TARGETS [--ranks 8] [--folder DIR]
    python benchmarks/scale.py tokenising MEGABYTES [--tokenizer DIR] [--folder DIR]

`corpus`: synthetic samples of 10,000 targets, written straight into the form of the cache. Then as
many processes as a node has ranks open it, as a run does, and go through all that a run does
without a model: rows of an epoch and of a scoring pass, log-probs of theta_0 and theta_b collected,
stored and looked up, the selection made, stored and mapped, rows with it. Prints a line of figures:

    bytes a target of all processes (PSS, what they have mapped included), above those of the
    imports; of the first alone what it has allocated; seconds of each part

`tokenising`: prose of so many megabytes, one sample in 10,000 words, through the real cache; prints
the tokens a second and core, and the seconds in which a second run opens it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
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
    write(made, n)
    written = time.perf_counter() - started
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(options.ranks)
    results = context.Queue()
    ranks = [
        context.Process(target=rank, args=(i, options.ranks, folder, barrier, results))
        for i in range(options.ranks)
    ]
    for process in ranks:
        process.start()
    found = sorted((results.get() for _ in ranks), key=lambda one: one["rank"])
    for process in ranks:
        process.join()
    targets = n * TARGETS_A_SAMPLE
    int32 = 4 * n * (PROMPT + TARGETS_A_SAMPLE)
    others = [one["peak_private"] for one in found[1:]]
    parts = found[0]["seconds"]
    node = {name: sum(one["pss"][name] for one in found) for name in found[0]["pss"]}
    return {
        "targets": targets,
        "ranks": options.ranks,
        "corpus_int32_bytes": int32,
        "node_pss_over_corpus": {k: round(v / int32, 3) for k, v in node.items()},
        "root_peak_private_bytes_a_target": round(found[0]["peak_private"] / targets, 2),
        "others_peak_private_bytes": max(others, default=0),
        "node_without_root_private_over_corpus": round(
            (max(node.values()) - found[0]["private_at_peak_pss"]) / int32, 3
        ),
        "seconds": {"write": round(written, 1)} | parts,
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
    from t3s_megatron.data.arrangement import Arrangement, TrainingRows
    from t3s_megatron.data.order import EpochOrder
    from t3s_megatron.data.rows import row
    from t3s_megatron.data.selection_file import Selection, map_kept
    from t3s_megatron.data.stored_samples import open_corpus
    from t3s_megatron.data.stores import LogProbStore
    from t3s_megatron.data.tables import mapped_values
    from t3s_megatron.method.selection import delta_c, keep_mask, selection_counts

    base, seconds, pss = memory(), {}, {}
    private_then = {}
    last = time.perf_counter()

    def done(what: str) -> None:
        nonlocal last
        barrier.wait()
        now = memory()
        pss[what] = now["Pss"] - base["Pss"]
        private_then[what] = now["Private"] - base["Private"]
        barrier.wait()
        seconds[what] = round(time.perf_counter() - last, 2)
        last = time.perf_counter()

    corpus, _ = open_corpus(os.path.join(folder, "corpus"))
    done("open")
    arrangement = Arrangement("own", 2**15, ranks=ranks)
    plans = TrainingRows(EpochOrder(len(corpus.samples), 0), corpus.lengths, arrangement, 64)

    def rows(micro_batches, keep=None) -> Iterator[int]:
        for of_ranks in micro_batches:
            for arranged in of_ranks[number]:
                for sample in arranged.samples:
                    some = None if keep is None else keep[corpus.target_slice(sample)]
                    row(corpus.samples[sample], arranged.length, some, 0)
                    yield sample

    for step in range(-(-len(corpus.samples) // 64)):
        for _ in rows(plans.at(64 * step).micro_batches):
            pass
    done("rows of an epoch")
    scored = arrangement.arrange(range(len(corpus.samples)), corpus.lengths)
    paths = {tag: os.path.join(folder, f"c_{tag}.safetensors") for tag in ("theta_0", "theta_b")}
    for tag, path in paths.items():
        for _ in rows(scored):
            pass
        if number == 0:  # what the ranks send is collected in pieces
            draw = np.random.default_rng(len(tag))
            flat = np.full(corpus.n_targets, np.nan, dtype=np.float32)
            for i in range(len(corpus.samples)):
                flat[corpus.target_slice(i)] = -draw.random(TARGETS_A_SAMPLE, dtype=np.float32)
            peak_here = memory()["Private"] - base["Private"]
            LogProbStore(flat, corpus, tag=tag, step=0).save(path)
            del flat
        done(f"score {tag}")
    c_0, c_b = (mapped_values(path) for path in paths.values())
    selected = os.path.join(folder, "selection.safetensors")
    if number == 0:
        keep = keep_mask("t3s", n=corpus.n_targets, c_0=c_0, c_b=c_b, seed=0, share=None, tau=0.0)
        delta = delta_c(c_b, c_0)
        counts = selection_counts(keep, delta)
        peak_here = max(peak_here, memory()["Private"] - base["Private"])
        Selection(keep, corpus, "t3s", 1, counts).save(selected)
        del keep, delta
    done("select")
    kept = map_kept(selected, corpus)
    for step in range(-(-len(corpus.samples) // 64)):
        for sample in rows(plans.at(64 * step).micro_batches, kept):
            target = np.arange(corpus.offsets[sample], corpus.offsets[sample + 1])
            assert kept[target].sum() == (c_b[target] <= c_0[target]).sum()
    done("rows of the selection")
    top = max(pss, key=lambda name: pss[name])
    results.put(
        {
            "rank": number,
            "pss": pss,
            "private_at_peak_pss": private_then[top],
            "peak_private": peak_here if number == 0 else max(private_then.values()),
            "seconds": seconds,
        }
    )


def memory() -> dict[str, int]:
    """Bytes of this process: Pss, its share of what is mapped by several included; Private, what it
    has allocated itself."""
    found = {}
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            name, _, value = line.partition(":")
            if value.strip().endswith("kB"):
                found[name] = 1024 * int(value.split()[0])
    return {"Pss": found["Pss"], "Private": found["Anonymous"]}


def disk(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(where, name))
        for where, _, names in os.walk(folder)
        for name in names
    )


if __name__ == "__main__":
    main()
