# SPDX-License-Identifier: Apache-2.0
"""Which samples are whose: training data of one teacher, or of several (section 4.2).

Teachers are named by the `teacher` field of their samples. Of several sources, each without that
field is a teacher's that is named after it: `traces/r1.jsonl` is r1's. The shards of one dataset
(`train-00000-of-00002.parquet`, ...) are one source. One name, or none, is one teacher, and nothing
is told apart.

The traces of two teachers for one prompt are two samples. They may have the same id: with several
teachers, what a sample is called everywhere else is "teacher/id".
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

import numpy as np

from t3s_megatron.data.corpus import Corpus, build_corpus, how_to_build
from t3s_megatron.data.corpus_cache import CorpusCache
from t3s_megatron.data.files import without_endings
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.records import Record, load_records
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import DataError

#: As the hub names the files of one dataset: train-00000-of-00002.parquet.
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=(?:\.[a-z0-9]+)*$)", re.IGNORECASE)
_LONGEST_NAME = 100  # it is part of file names


def load_training_records(
    sources: tuple[str, ...], *, split: str = "train", ignored: Collection[str] = ()
) -> list[Record]:
    """All records of `sources`, in their order; with several teachers each has one.

    Shards of one dataset are one source. `ignored`: fields of a row that are as if they were not
    there. DataError, naming file and line, for a sample without a teacher where others have one,
    for two sources that would have the same name, and for an id that a teacher has twice.
    """
    refuse_twice(sources)
    return named_records(
        {
            name: load_records(*files, split=split, ignored=ignored)
            for name, files in datasets_of(sources).items()
        }
    )


def refuse_twice(sources: tuple[str, ...]) -> None:
    """DataError for a source that is given twice."""
    twice = next((source for source in sources if sources.count(source) > 1), None)
    if twice is not None:
        raise DataError(f"--t3s-data: {twice} is given twice")


def named_records(by_source: dict[str, list[Record]]) -> list[Record]:
    """The records of all sources, each with its teacher and a name of its own, as
    `load_training_records` has them. Errors as there."""
    if len(by_source) > 1:
        by_source = _named_after_their_source(by_source)
    records = [record for of_source in by_source.values() for record in of_source]
    teachers = {record.teacher for record in records}
    if len(teachers) < 2:
        return _unique(records)
    nameless = next((record for record in records if record.teacher is None), None)
    if nameless is not None:
        named = next(record for record in records if record.teacher is not None)
        raise DataError(
            f"{nameless.where}: no `teacher`, while {named.where} has {named.teacher!r}. Each "
            "teacher has a profile of its own, so every sample needs one, or none of them"
        )
    for teacher in sorted(filter(None, teachers)):
        if len(quote(teacher, safe="")) > _LONGEST_NAME:
            raise DataError(
                f"teacher {teacher!r}: the name is too long for a file name; give a shorter one"
            )
    return _unique([replace(one, uid=f"{one.teacher}/{one.uid}") for one in records])


def _named_after_their_source(by_source: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Where not one record of a source has a teacher, all get the name of the source."""
    named: dict[str, str] = {}
    made = {}
    for source, records in by_source.items():
        if all(record.teacher is None for record in records):
            name = named_after(source)
            if name in named:
                raise DataError(
                    f"{named[name]} and {source} would both be the traces of teacher {name!r}: "
                    "rename one, or give their samples a `teacher`"
                )
            named[name] = source
            records = [replace(record, teacher=name) for record in records]
        made[source] = records
    return made


def datasets_of(sources: Sequence[str]) -> dict[str, list[str]]:
    """The files of each dataset, by its name: a source, or what its shards are called without
    their numbers."""
    found: dict[str, list[str]] = {}
    for source in sources:
        found.setdefault(_SHARD.sub("", source), []).append(source)
    return found


def named_after(source: str) -> str:
    """The teacher whose traces `source` holds, if its samples do not say."""
    name = os.path.basename(_SHARD.sub("", source).rstrip("/"))
    return without_endings(name)


def _unique(records: list[Record]) -> list[Record]:
    """DataError for two records of one uid: they may come from two sources."""
    places: dict[str, str] = {}
    for record in records:
        if record.uid in places:
            raise DataError(
                f"{record.where}: id {record.uid!r} was already used by {places[record.uid]}; ids "
                "have to be unique"
            )
        places[record.uid] = record.where
    return records


@dataclass(frozen=True)
class Part:
    """The samples of one teacher within the corpus of a run; `teacher` None: all of it.

    `samples`: their indices in the whole corpus, in its order. `targets` takes their targets out of
    a flat array of its: a slice where they stand together, else their numbers int64[n]. `corpus`:
    these samples alone.
    """

    teacher: str | None
    samples: Sequence[int]
    targets: slice | np.ndarray
    corpus: Corpus

    def path(self, folder: str, name: str) -> str:
        """Where a run keeps this teacher's table of that name, in its folder."""
        return os.path.join(folder, f"{self.file_name(name)}.safetensors")

    def file_name(self, name: str) -> str:
        """Of a file that is this teacher's; with one teacher there is only one of it."""
        return name if self.teacher is None else f"{name}-{quote(self.teacher, safe='')}"


def whole(corpus: Corpus) -> Part:
    """All samples together."""
    return Part(None, range(len(corpus.samples)), slice(0, corpus.n_targets), corpus)


def parts_of(corpus: Corpus, records: list[Record]) -> list[Part]:
    """One for each teacher, in the order in which they come; with one teacher, the whole.

    `records`: what the corpus was made of. DataError for a teacher of whom it holds nothing.
    """
    return parts_by_teacher(corpus, list(dict.fromkeys(record.teacher for record in records)))


def parts_by_teacher(corpus: Corpus, teachers: list[str | None]) -> list[Part]:
    """As `parts_of`, of a corpus made of the samples of these."""
    if len(teachers) < 2:
        return [whole(corpus)]
    for teacher in set(teachers) - set(corpus.teachers):
        raise DataError(
            f"not one sample of teacher {teacher!r} fits --seq-length, and --t3s-overlong leaves "
            "them out: raise --seq-length, or leave out the teacher"
        )
    return [_part(corpus, teacher) for teacher in teachers]


def load_training_corpus(
    args, tokenizer, cache: CorpusCache | None = None
) -> tuple[Corpus, list[Part]]:
    """The samples of --t3s-data, all together and by teacher. `cache`: where they are kept once
    they are tokenised; None: in memory. Errors as `load_training_records`, `build_corpus` and
    `parts_of`."""
    sources = tuple(args.t3s_data)
    if cache is not None and cache.is_worth_it(sources):
        refuse_twice(sources)
        corpus, teachers = cache.corpus(
            datasets_of(sources),
            args.t3s_data_split,
            args.t3s_ignore_fields,
            tokenizer,
            how_to_build(args, tokenizer),
            named_records,
        )
        return corpus, parts_by_teacher(corpus, teachers)
    records = load_training_records(
        tuple(args.t3s_data), split=args.t3s_data_split, ignored=args.t3s_ignore_fields
    )
    corpus = build_corpus(records, args, tokenizer)
    return corpus, parts_of(corpus, records)


def load_heldout_corpus(args, tokenizer, cache: CorpusCache | None = None) -> Corpus | None:
    """The samples of --t3s-heldout-data, None where it is not given. `cache`: as in
    `load_training_corpus`. Errors as `load_records` and `build_corpus`."""
    source = args.t3s_heldout_data
    if not source:
        return None
    if cache is not None and cache.is_worth_it([source]):
        corpus, _ = cache.corpus(
            {source: [source]},
            args.t3s_heldout_data_split,
            args.t3s_ignore_fields,
            tokenizer,
            how_to_build(args, tokenizer),
            lambda by_source: by_source[source],
        )
        return corpus
    records = load_records(
        args.t3s_heldout_data, split=args.t3s_heldout_data_split, ignored=args.t3s_ignore_fields
    )
    return build_corpus(records, args, tokenizer)


def asked_once(by_teacher: list[list[Sample]]) -> list[Sample]:
    """The samples of all, in order, but for those whose question an earlier teacher answered."""
    asked: list[Sample] = []
    known: set[tuple] = set()
    for samples in by_teacher:
        asked += [sample for sample in samples if question(sample) not in known]
        known.update(map(question, samples))
    return asked


def question(sample: Sample) -> tuple:
    """What is equal where two samples ask the same: prompt, gold answer, and metadata for the
    verifier."""
    prompt = sample.tokens[: sample.prompt_length].tobytes()
    return prompt, sample.answer, repr(sample.metadata)


def _part(corpus: Corpus, teacher: str | None) -> Part:
    return _part_of(corpus, teacher, [i for i, t in enumerate(corpus.teachers) if t == teacher])


def drawn_from(corpus: Corpus, part: Part, count: int, seed: int) -> Part:
    """`count` samples of a part of `corpus`, in its order: those with which an epoch of all of them
    would begin. A pure function of their number and the seed; the part itself where `count` is 0 or
    there are no more."""
    n = len(part.samples)
    if not 0 < count < n:
        return part
    order = EpochOrder(n, seed)
    places = sorted(order.sample_at(position) for position in range(count))
    return _part_of(corpus, part.teacher, [part.samples[place] for place in places])


def _part_of(corpus: Corpus, teacher: str | None, indices: Sequence[int]) -> Part:
    """The part with these samples, in ascending order."""
    samples = tuple(indices)
    slices = [corpus.target_slice(i) for i in samples]
    targets: slice | np.ndarray = slice(slices[0].start, slices[-1].stop)
    if samples != tuple(range(samples[0], samples[-1] + 1)):
        targets = np.concatenate([np.arange(one.start, one.stop) for one in slices])
    return Part(teacher, samples, targets, corpus.subset(samples))
