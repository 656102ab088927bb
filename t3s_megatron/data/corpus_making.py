# SPDX-License-Identifier: Apache-2.0
"""From files to tokenised samples in a folder, in three passes of bounded memory.

    texts.arrow      the records, as they are read and checked, one process
    tokens*.arrow    what the tokenizer makes of them, on all cores, by `datasets`
    samples.arrow    with their names, without those that are too long (`stored_samples`)

What is wrong with the data is found as early as in `Corpus.build`, and told in the same words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa

from t3s_megatron.data.corpus import LengthLimit, tokenizer_fingerprint
from t3s_megatron.data.records import Record, read_records
from t3s_megatron.data.stored_samples import seal, write_samples
from t3s_megatron.data.tokenizing import Sample, Tokenization

_TEXTS = pa.schema(
    [
        ("messages", pa.string()),
        ("answer", pa.string()),
        ("metadata", pa.string()),
        ("where", pa.string()),
    ]
)
_TOKENS = datasets.Features(
    {
        "tokens": datasets.List(datasets.Value("int32")),
        "prompt_length": datasets.Value("int32"),
        "opens_thinking": datasets.Value("bool"),
    }
)
#: Characters and records of a piece of text, records of a piece of tokens.
_CHARACTERS, _RECORDS, _AT_ONCE = 2**22, 1000, 32
#: Bytes of text for which another process is worth its start.
_A_PROCESS = 4 * 2**20


def make_corpus(
    folder: str,
    sources: Mapping[str, Sequence[str]],
    split: str,
    ignored: Collection[str],
    tokenizer,
    how: dict,
    naming: Callable[[dict[str, list[Record]]], list[Record]],
    say: Callable[[str], None],
) -> None:
    """Make `folder`, which is there and empty, what `stored_samples.open_corpus` opens. Arguments
    and errors as of `CorpusCache.corpus`."""
    texts = os.path.join(folder, "texts.arrow")
    with pa.OSFile(texts, "wb") as sink, pa.ipc.new_stream(sink, _TEXTS) as writer:
        write = _TextWriter(writer)
        by_source = {}
        for name, files in sources.items():
            records = read_records(*files, split=split, ignored=ignored)
            by_source[name] = [write(record) for record in records]
        write.rest()
    named = naming(by_source)
    tokens = _tokenise(folder, texts, tokenizer, how, say)
    limit = LengthLimit(how["seq_length"], how["overlong"], how["block_size"])
    samples = limit.applied_to(_samples(datasets.Dataset.from_file(texts), tokens, named))
    write_samples(folder, samples)
    teachers = list(dict.fromkeys(record.teacher for record in named))
    seal(folder, tokenizer_fingerprint(tokenizer), limit.counts, teachers, how["block_size"])
    for name in os.listdir(folder):
        if name.startswith(("texts", "tokens")):
            os.unlink(os.path.join(folder, name))


class _TextWriter:
    """Writes records; returns them without what has been written."""

    def __init__(self, writer):
        self._writer = writer
        self._rows: list[dict] = []
        self._characters = 0

    def __call__(self, record: Record) -> Record:
        messages = json.dumps(record.messages, ensure_ascii=False)
        metadata = None if record.metadata is None else json.dumps(record.metadata, default=str)
        self._rows.append(
            {
                "messages": messages,
                "answer": record.answer,
                "metadata": metadata,
                "where": record.where,
            }
        )
        self._characters += len(messages) + len(metadata or "")
        if self._characters > _CHARACTERS or len(self._rows) == _RECORDS:
            self.rest()
        return replace(record, messages=(), answer=None, metadata=None)

    def rest(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=_TEXTS))
        self._rows, self._characters = [], 0


def _tokenise(
    folder: str, texts: str, tokenizer, how: dict, say: Callable[[str], None]
) -> datasets.Dataset:
    cores = len(os.sched_getaffinity(0))
    processes = max(1, min(cores, os.path.getsize(texts) // _A_PROCESS))
    found = datasets.Dataset.from_file(texts)
    say(f"{len(found)} samples on {processes} of {cores} cores")
    return found.map(
        _Tokenise(tokenizer, how["prompt_format"], how["vocab_size"]),
        batched=True,
        batch_size=_AT_ONCE,
        writer_batch_size=_AT_ONCE,
        remove_columns=found.column_names,
        features=_TOKENS,
        num_proc=processes if processes > 1 else None,
        load_from_cache_file=False,
        cache_file_name=os.path.join(folder, "tokens.arrow"),
        new_fingerprint="tokens",  # this folder's name says what they are
        desc="tokenising",
    )


class _Tokenise:
    """From columns of texts to columns of tokens; sent to other processes as it is."""

    def __init__(self, tokenizer, prompt_format: str, vocab_size: int | None):
        self._made = tokenizer, prompt_format, vocab_size
        self._tokenization: Tokenization | None = None

    def __call__(self, texts: dict) -> dict:
        if self._tokenization is None:
            self._tokenization = Tokenization(*self._made)
        samples = [
            self._tokenization(Record("", tuple(json.loads(messages)), None, None, None, where))
            for messages, where in zip(texts["messages"], texts["where"], strict=True)
        ]
        return {
            "tokens": [sample.tokens for sample in samples],
            "prompt_length": [sample.prompt_length for sample in samples],
            "opens_thinking": [sample.opens_thinking for sample in samples],
        }


def _samples(
    texts: datasets.Dataset, tokens: datasets.Dataset, named: list[Record]
) -> Iterator[Sample]:
    names = iter(named)
    columns = ["answer", "metadata", "where"]
    of_texts = texts.select_columns(columns).with_format("arrow").iter(_AT_ONCE)
    of_tokens = tokens.with_format("arrow").iter(_AT_ONCE)
    for said, made in zip(of_texts, of_tokens, strict=True):
        rows = said.to_pylist()
        ids = made.column("tokens").combine_chunks()
        ends, values = ids.offsets.to_numpy(), ids.values.to_numpy()
        prompts = made.column("prompt_length").to_pylist()
        opens = made.column("opens_thinking").to_pylist()
        for i, row in enumerate(rows):
            record = next(names)
            ids_of_row = values[ends[i] : ends[i + 1]]
            yield Sample(
                record.uid,
                ids_of_row,
                np.arange(len(ids_of_row)) >= prompts[i],
                prompts[i],
                row["answer"],
                None if row["metadata"] is None else json.loads(row["metadata"]),
                record.teacher,
                row["where"],
                opens_thinking=opens[i],
            )
