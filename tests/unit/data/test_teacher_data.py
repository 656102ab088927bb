# SPDX-License-Identifier: Apache-2.0
"""Whose sample is whose: the `teacher` column, several files, and everything that does not go."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import corpus as made_corpus
from made_data import sample as made_sample

from t3s_megatron.data.arrangement import ARRANGEMENTS, Arrangement, TrainingRows
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.records import load_records
from t3s_megatron.data.teachers import asked_once, load_training_records, parts_of
from t3s_megatron.errors import DataError


def write(path, samples: list[dict]) -> str:
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return str(path)


def trace(number: int, **fields) -> dict:
    return {"prompt": f"{number}?", "response": f"{number}.", "answer": f"{number}"} | fields


def named(records) -> list[tuple]:
    return [(record.teacher, record.uid) for record in records]


def test_one_file_without_the_column_is_read_as_ever(tmp_path):
    path = write(tmp_path / "r1.jsonl", [trace(1, id="a"), trace(2), trace(2)])
    assert load_training_records((path,)) == load_records(path)


def test_one_name_is_one_teacher(tmp_path):
    path = write(tmp_path / "x.jsonl", [trace(1, id="a", teacher="r1"), trace(2, teacher="r1")])
    assert load_training_records((path,)) == load_records(path)


def test_the_column_tells_teachers_apart_and_each_has_ids_of_its_own(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        [trace(1, id="a", teacher="r1"), trace(1, id="a", teacher="qwq"),
         trace(2, id="b", teacher="r1")],
    )  # fmt: skip
    assert named(load_training_records((path,))) == [
        ("r1", "r1/a"), ("qwq", "qwq/a"), ("r1", "r1/b"),
    ]  # fmt: skip


def test_files_without_the_column_are_teachers_named_after_them(tmp_path):
    r1 = write(tmp_path / "r1.jsonl", [trace(1, id="a"), trace(2, id="b")])
    qwq = write(tmp_path / "qwq-32b.traces.jsonl", [trace(1, id="a")])
    assert named(load_training_records((r1, qwq))) == [
        ("r1", "r1/a"), ("r1", "r1/b"), ("qwq-32b.traces", "qwq-32b.traces/a"),
    ]  # fmt: skip


def test_the_same_trace_without_an_id_is_a_sample_of_each(tmp_path):
    first = write(tmp_path / "one.jsonl", [trace(1)])
    second = write(tmp_path / "two.jsonl", [trace(1)])
    uids = [record.uid for record in load_training_records((first, second))]
    assert [uid.split("/")[0] for uid in uids] == ["one", "two"]
    assert uids[0].split("/")[1] == uids[1].split("/")[1]


def test_columns_and_names_of_files_may_meet(tmp_path):
    column = write(tmp_path / "mixed.jsonl", [trace(1, teacher="r1"), trace(2, teacher="qwq")])
    plain = write(tmp_path / "r1.jsonl", [trace(3)])
    teachers = [record.teacher for record in load_training_records((column, plain))]
    assert teachers == ["r1", "qwq", "r1"]


REFUSED = {
    "a sample without a teacher": (
        {"x": [trace(1, teacher="r1"), trace(2), trace(3, teacher="qwq")]},
        r"x\.jsonl, line 2: no `teacher`, while .*line 1 has 'r1'",
    ),
    "one name and none": (
        {"x": [trace(1, teacher="r1"), trace(2)]}, r"line 2: no `teacher`",
    ),
    "a file with both": (
        {"x": [trace(1, teacher="r1"), trace(2)], "y": [trace(3)]}, r"x\.jsonl, line 2: no `teach",
    ),
    "an id twice by one teacher": (
        {"x": [trace(1, id="a", teacher="r1")], "y": [trace(2, id="a", teacher="r1")]},
        r"y\.jsonl, line 1: id 'a' was already used by .*x\.jsonl, line 1",
    ),
    "two files of one name": ({"a/x": [trace(1)], "b/x": [trace(2)]}, "both be the traces of teac"),
    "a name that fits no file": (
        {"x": [trace(1, teacher="r" * 200), trace(2, teacher="qwq")]}, "too long for a file name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, tmp_path):
    files, reason = REFUSED[case]
    paths = []
    for name, samples in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        paths.append(write(tmp_path / f"{name}.jsonl", samples))
    with pytest.raises(DataError, match=reason):
        load_training_records(tuple(paths))


def test_one_file_twice(tmp_path):
    path = write(tmp_path / "x.jsonl", [trace(1)])
    with pytest.raises(DataError, match=r"x\.jsonl is given twice"):
        load_training_records((path, path))


# -------------------------------------------------------------------------------------------- parts

#: Of two teachers in turn, with 2, 1, 3, 1 and 2 targets.
LENGTHS, OWNERS = (4, 3, 5, 3, 4), ("r1", "qwq", "r1", "qwq", "r1")


def mixed():
    return made_corpus(
        *(
            made_sample(list(range(1, n + 1)), 2, f"{teacher}/{i}", teacher=teacher)
            for i, (n, teacher) in enumerate(zip(LENGTHS, OWNERS, strict=True))
        )
    )


def test_a_part_knows_its_samples_and_their_targets_in_the_whole():
    corpus = mixed()
    r1, qwq = parts_of(corpus, corpus.samples)
    assert (r1.teacher, r1.samples, r1.targets.tolist()) == ("r1", (0, 2, 4), [0, 1, 3, 4, 5, 7, 8])
    assert (qwq.teacher, qwq.samples, qwq.targets.tolist()) == ("qwq", (1, 3), [2, 6])
    assert r1.corpus.samples == [corpus.samples[i] for i in (0, 2, 4)]
    assert r1.corpus.n_targets == len(r1.targets) == 7
    assert r1.corpus.counts == {"samples": 3, "tokens": 13, "target_tokens": 7}
    assert r1.corpus.fingerprint == made_corpus(*r1.corpus.samples).fingerprint


@pytest.mark.parametrize("owners", [OWNERS, ("r1", "r1", "r1", "qwq", "qwq"), ("r1",) * 5])
def test_targets_take_a_part_out_of_the_whole(owners):
    """A range where they stand together: no number for each of them is kept then."""
    corpus = made_corpus(
        *(
            made_sample(list(range(1, n + 1)), 2, f"{teacher}/{i}", teacher=teacher)
            for i, (n, teacher) in enumerate(zip(LENGTHS, owners, strict=True))
        )
    )
    numbers = np.arange(corpus.n_targets)
    for part in parts_of(corpus, corpus.samples):
        assert isinstance(part.targets, slice) == (owners != OWNERS)
        of_part = numbers[part.targets]
        assert set(corpus.sample_index(of_part)) == set(part.samples)


def test_one_teacher_is_the_corpus_itself():
    alone = made_corpus(made_sample([1, 2, 3], 1, teacher="r1"))
    (part,) = parts_of(alone, alone.samples)
    assert part.teacher is None and part.corpus is alone
    assert part.file_name("c_theta_b") == "c_theta_b"


def test_file_names_of_two_teachers_differ_and_stay_in_their_folder():
    names = ["a/b", "a_b", "..", "a%2Fb", "A B"]
    samples = [made_sample([1, 2, 3], 1, name, teacher=name) for name in names]
    parts = parts_of(made_corpus(*samples), samples)
    files = [part.file_name("c_theta_b") for part in parts]
    assert len(set(files)) == len(names) and not any("/" in name for name in files)
    assert files[0] == "c_theta_b-a%2Fb"


def test_a_teacher_whose_samples_were_all_left_out_is_named():
    corpus = mixed()
    gone = made_sample([1, 2, 3], 2, "235b/0", teacher="235b")
    with pytest.raises(DataError, match="not one sample of teacher '235b' fits --seq-length"):
        parts_of(corpus, [*corpus.samples, gone])


@given(seed=st.integers(0, 99), batch=st.integers(1, 12), kind=st.sampled_from(ARRANGEMENTS))
def test_a_profile_reads_its_teachers_samples_as_a_run_with_them_alone(seed, batch, kind):
    """Smaller than a batch, too: a step then has samples of several epochs."""
    corpus = mixed()
    for part in parts_of(corpus, corpus.samples):
        n = len(part.samples)
        arrangement = Arrangement(kind, 8, multiple=2, micro_batch_size=1)
        mine = TrainingRows(
            EpochOrder(n, seed), corpus.lengths, arrangement, batch, samples=part.samples
        )
        alone = TrainingRows(EpochOrder(n, seed), part.corpus.lengths, arrangement, batch)
        for consumed in range(0, 5 * batch, batch):
            rows, wanted = (
                [row for ranks in plans.at(consumed).micro_batches for row in ranks[0]]
                for plans in (mine, alone)
            )
            assert [row.length for row in rows] == [row.length for row in wanted]
            assert [row.samples for row in rows] == [
                tuple(part.samples[i] for i in row.samples) for row in wanted
            ]


def test_what_two_teachers_answered_is_asked_once():
    first = [made_sample([1, 2, 3], 2, "r1/a"), made_sample([1, 2, 4], 2, "r1/b")]
    same = made_sample([1, 2, 9, 9], 2, "qwq/a")
    other_gold = made_sample([1, 2, 9], 2, "qwq/b", answer="2")
    other_data = made_sample([1, 2, 9], 2, "qwq/c", metadata={"source_dataset": "x"})
    other_prompt = made_sample([1, 3, 9], 2, "qwq/d")
    # Within one teacher nothing is taken away.
    assert asked_once([first]) == first
    others = [other_gold, other_data, other_prompt]
    assert asked_once([first, [same, *others]]) == [*first, *others]
