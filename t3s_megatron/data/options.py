# SPDX-License-Identifier: Apache-2.0
"""Arguments about the samples: where they are, how they are read, in which rows they stand."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.data.arrangement import ARRANGEMENTS
from t3s_megatron.options import FILLED_IN, option


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is trained on."""

    data: tuple[str, ...] = option(
        (),
        "training samples: .jsonl, .json, .csv, .parquet (docs/data.md), a saved Hugging Face "
        "dataset or a dataset name; several: each without a `teacher` field is a teacher's, named "
        "after the file; shards of one dataset are one",
        needed=True,
        free=True,
    )
    data_split: str = option("train", "split to read when --t3s-data is a Hugging Face dataset")
    data_cache: str | None = option(
        None,
        "where large data are kept once they are tokenised, for all ranks and for a restart, on a "
        "shared file system or on each node (default: corpus in --t3s-dir)",
        free=True,
    )
    heldout_data: str | None = option(
        None,
        "samples that are never trained on, for the accuracies of --t3s-report-temperatures and "
        "--t3s-heldout-interval",
        free=True,
    )
    heldout_data_split: str = option(
        "test", "split to read when --t3s-heldout-data is a Hugging Face dataset"
    )
    ignore_fields: tuple[str, ...] = option(
        (),
        "fields of a row that are no part of its conversation: text in a field that is not read is "
        "refused otherwise (docs/data.md)",
        free=True,
    )
    show_samples: int = option(
        1,
        "print the first N training samples as they are learned, target against context (0: none)",
        at_least=0,
        free=True,
    )
    prompt_format: str = option(
        "chat",
        "chat: render with the tokenizer's chat template; raw: prompt and response as they are",
        choices=("chat", "raw"),
    )
    overlong: str = option(
        "error",
        "samples longer than --seq-length: refuse to start, drop them, or cut their end; "
        "dropped and cut samples are counted in the summary",
        choices=("error", "drop", "truncate"),
    )
    arrangement: str = option(
        FILLED_IN,
        "own: every sample in a row of its own length, sorted within a step so that data-parallel "
        "ranks work in step; padded: every row --seq-length long; packed: several samples in one "
        "row, of at most --seq-length (default: own at --micro-batch-size 1, else padded)",
        choices=ARRANGEMENTS,
    )
