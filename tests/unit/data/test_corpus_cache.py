# SPDX-License-Identifier: Apache-2.0
"""Samples that are tokenised once: those that would be in memory, for whoever comes, and whoever
is killed."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from made_data import BARE, QWEN, byte_tokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.corpus_cache import SMALL, CorpusCache, cache_of
from t3s_megatron.data.stored_samples import open_corpus
from t3s_megatron.data.teachers import datasets_of, load_training_records, named_records
from t3s_megatron.errors import DataError, MismatchError

HOW = {"seq_length": 60, "prompt_format": "chat", "overlong": "drop", "vocab_size": None,
       "block_size": None}  # fmt: skip
TOKENIZER = byte_tokenizer()
COLONS = QWEN.replace("m['role'] }}", "m['role'] }}:").replace("assistant\n", "assistant:\n")


def rows(n: int = 40, **more) -> list[dict]:
    thoughts = [" and ".join(["think"] * (1 + 4 * k)) for k in range(5)]
    return [
        {
            "id": f"s{i}",
            "prompt": f"the sum of {i} and {i}",
            "response": f"<think>\n{thoughts[i % 5]}\n</think>\n\nis {2 * i}",
            "answer": str(2 * i),
            "metadata": {"number": i, "of": ["ä", None]} if i % 2 else None,
        }
        | more
        for i in range(n)
    ]


def write(path, made: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def build(cache, *sources: str, tokenizer=TOKENIZER, how=HOW, naming=named_records, ignored=()):
    """The corpus of a cache in this folder, or of this cache."""
    if not isinstance(cache, CorpusCache):
        cache = CorpusCache(str(cache), lambda line: None)
    return cache.corpus(datasets_of(sources), "train", ignored, tokenizer, how, naming)


def never(by_source):
    raise AssertionError("it was read again")


def folders(cache) -> list[str]:
    return sorted(str(path) for path in cache.iterdir() if path.is_dir())


def everything(corpus: Corpus) -> list:
    return [
        corpus.fingerprint, corpus.counts, corpus.lengths, corpus.offsets.tolist(), corpus.teachers,
        corpus.tokenizer_fingerprint,
    ] + [
        (s.uid, s.tokens.tolist(), s.tokens.dtype, s.is_target.tolist(), s.prompt_length, s.answer,
         s.metadata, s.teacher, s.where, s.opens_thinking)
        for s in corpus.samples
    ]  # fmt: skip


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_it_is_the_corpus_that_would_be_in_memory(overlong, block_size, tmp_path):
    sources = tuple(write(tmp_path / f"{name}.jsonl", rows()) for name in ("r1", "qwq"))
    how = HOW | {"overlong": overlong, "block_size": block_size}
    made, teachers = build(tmp_path / "cache", *sources, how=how)
    expected = Corpus.build(load_training_records(sources), TOKENIZER, **how)
    assert everything(made) == everything(expected)
    assert teachers == ["r1", "qwq"]
    assert made.counts["dropped_overlong"] + made.counts["truncated_overlong"] > 0
    some = list(range(3, len(made.samples), 2))
    assert everything(made.subset(some)) == everything(expected.subset(some))


def test_what_is_there_is_not_made_again(tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    made, _ = build(tmp_path / "cache", source)
    again, teachers = build(tmp_path / "cache", source, naming=never)
    assert everything(again) == everything(made) and teachers == [None]
    assert len(folders(tmp_path / "cache")) == 1
    assert sorted(os.listdir(folders(tmp_path / "cache")[0])) == ["corpus.json", "samples.arrow"]


@pytest.mark.parametrize(
    "changed",
    [
        {"how": HOW | {"seq_length": 61}},
        {"how": HOW | {"prompt_format": "raw"}},
        {"how": HOW | {"overlong": "truncate"}},
        {"how": HOW | {"vocab_size": 400}},
        {"how": HOW | {"block_size": 4}},
        {"tokenizer": byte_tokenizer(COLONS)},
        {"ignored": ("note",)},
        {"source": rows(39)},
        {"source": rows(answer="7")},
    ],
    ids=lambda changed: " ".join(map(str, changed)),
)
def test_whatever_the_tokens_depend_on_makes_another(changed, tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    build(tmp_path / "cache", source)
    made = changed.pop("source", None) if "source" in changed else None
    if made is not None:
        write(tmp_path / "a.jsonl", made)
    build(tmp_path / "cache", source, **changed)
    assert len(folders(tmp_path / "cache")) == 2


def test_wrong_data_leave_nothing_and_are_told_as_ever(tmp_path):
    source = write(tmp_path / "a.jsonl", [*rows(3), {"prompt": "a", "response": "b <|im_end|> c"}])
    with pytest.raises(DataError, match="line 4: the response has the control token"):
        build(tmp_path / "cache", source)
    assert folders(tmp_path / "cache") == []
    with pytest.raises(DataError, match="of 3 samples do not fit --seq-length 9") as told:
        build(tmp_path / "cache", write(tmp_path / "b.jsonl", rows(3)),
              how=HOW | {"seq_length": 9, "overlong": "error"})  # fmt: skip
    assert "line 1" in str(told.value)
    with pytest.raises(DataError, match="already used by"):
        build(tmp_path / "cache", write(tmp_path / "c.jsonl", rows(3) + rows(3)))
    assert folders(tmp_path / "cache") == []


def test_a_wrong_sample_is_named_by_the_process_that_met_it(tmp_path):
    """Enough text for two processes, where there are two cores."""
    padded = [row | {"metadata": {"long": "x" * 2**18}} for row in rows(40)]
    source = write(tmp_path / "a.jsonl", padded)
    bare = byte_tokenizer(BARE)
    with pytest.raises(DataError, match=r"a\.jsonl, line \d+: "):
        build(tmp_path / "cache", source, tokenizer=bare, how=HOW | {"vocab_size": 5})
    made, _ = build(tmp_path / "cache", source)
    expected = Corpus.build(load_training_records((source,)), TOKENIZER, **HOW)
    assert everything(made) == everything(expected)
    assert CorpusCache.is_worth_it([source]) == (os.path.getsize(source) > SMALL) is True


# ---------------------------------------------------------------------------------------- damage


def flip(path: str, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_damaged_token_is_found_when_its_sample_is_read(tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    made, _ = build(tmp_path / "cache", source)
    path = os.path.join(folders(tmp_path / "cache")[0], "samples.arrow")
    content = Path(path).read_bytes()
    tokens = made.samples[7].tokens.tobytes()
    assert content.count(tokens) == 1
    flip(path, content.index(tokens) + 4)
    again, _ = build(tmp_path / "cache", source, naming=never)
    assert again.samples[6].uid == made.samples[6].uid
    with pytest.raises(MismatchError, match=f"damaged, sample {made.samples[7].uid!r}"):
        again.samples[7]


@pytest.mark.parametrize("damage", ["cut", "emptied", "header", "no header", "names"])
def test_a_damaged_folder_is_made_again(damage, tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    made, _ = build(tmp_path / "cache", source)
    expected = everything(made)
    (folder,) = folders(tmp_path / "cache")
    samples, header = (os.path.join(folder, name) for name in ("samples.arrow", "corpus.json"))
    content = Path(samples).read_bytes()
    if damage == "cut":
        os.truncate(samples, len(content) // 2)
    elif damage == "emptied":
        os.truncate(samples, 0)
    elif damage == "header":
        flip(header, 30)
    elif damage == "no header":
        os.unlink(header)
    else:
        flip(samples, content.index("".join(made.uids[:3]).encode()) + 1)
    with pytest.raises(MismatchError):
        open_corpus(folder)
    again, _ = build(tmp_path / "cache", source)
    assert everything(again) == expected


# ------------------------------------------------------------------------------------- processes


def _build_in_process(folder: str, source: str, dies: bool, results) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if dies and "cores" in line:  # the texts are written, the tokens are not
            os.kill(os.getpid(), signal.SIGKILL)

    made, _ = build(CorpusCache(folder, say), source)
    results.put((made.fingerprint, said))


def _start(folder, source: str, dies: bool = False):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(
        target=_build_in_process, args=(str(folder), source, dies, results), daemon=True
    )
    process.start()
    return process, results


def test_of_several_processes_one_makes_it_and_all_have_it(tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    started = [_start(tmp_path / "cache", source) for _ in range(3)]
    found = [results.get(timeout=60) for _, results in started]
    assert len({fingerprint for fingerprint, _ in found}) == 1
    assert sum("tokenising" in line for _, said in found for line in said) == 1
    assert len(folders(tmp_path / "cache")) == 1


def test_one_that_is_killed_leaves_nothing_in_the_way(tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    killed, _ = _start(tmp_path / "cache", source, dies=True)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    (left,) = folders(tmp_path / "cache")
    assert ".tmp-" in left
    made, _ = build(tmp_path / "cache", source)
    assert everything(made)[6:] and folders(tmp_path / "cache") == [left.split(".tmp-")[0]]


def test_without_locks_the_first_to_be_done_has_made_it(tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", rows())

    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    def overtaken(by_source):  # in the middle of the one, another does it all
        _, results = _start(tmp_path / "cache", source)
        results.get(timeout=60)
        return named_records(by_source)

    made, _ = build(tmp_path / "cache", source, naming=overtaken)
    assert len(made.samples) and len(folders(tmp_path / "cache")) == 1


# ------------------------------------------------------------------------------------ what is where


def test_tokens_are_views_of_the_file_and_cannot_be_written(tmp_path):
    made, _ = build(tmp_path / "cache", write(tmp_path / "a.jsonl", rows()))
    sample = made.samples[0]
    for values in (sample.tokens, sample.is_target):
        assert not values.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0
    assert made.samples[-1].uid == made.samples[len(made.samples) - 1].uid
    with pytest.raises(IndexError):
        made.samples[len(made.samples)]


def test_small_data_are_read_by_each_rank_for_itself(tmp_path):
    assert not CorpusCache.is_worth_it([write(tmp_path / "a.jsonl", rows())])
    assert CorpusCache.is_worth_it(["openai/gsm8k"])  # of the hub
    assert not CorpusCache.is_worth_it([str(tmp_path / "a.jsonl"), str(tmp_path / "gone.jsonl")])
    (tmp_path / "loop").symlink_to("loop")  # the reader says what that is
    assert not CorpusCache.is_worth_it([str(tmp_path)])


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"t3s_data_cache": "c", "t3s_dir": "d", "save": "s"}, "c"),
        ({"t3s_data_cache": None, "t3s_dir": "d", "save": "s"}, "d/corpus"),
        ({"t3s_data_cache": None, "t3s_dir": None, "save": "s"}, "s/t3s/corpus"),
        ({"t3s_data_cache": None, "t3s_dir": None, "save": None}, None),
    ],
)
def test_it_is_beside_the_other_files_of_the_run(given, folder):
    import argparse

    cache = cache_of(argparse.Namespace(**given))
    assert (cache and cache.folder) == folder


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    source = write(tmp_path / "a.jsonl", rows())
    (tmp_path / "cache").write_text("a file")
    from t3s_megatron.errors import WriteError

    with pytest.raises(WriteError, match="--t3s-data-cache"):
        build(tmp_path / "cache", source)


def test_targets_that_are_not_what_follows_the_prompt_are_refused(tmp_path):
    from made_data import sample

    from t3s_megatron.data.stored_samples import write_samples

    odd = sample([1, 2, 3, 4], 2)
    odd = type(odd)(**{**vars(odd), "is_target": np.array([False, False, True, False])})
    with pytest.raises(ValueError, match="its targets are not what follows its prompt"):
        write_samples(str(tmp_path), [odd])
