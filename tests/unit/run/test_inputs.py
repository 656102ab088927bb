# SPDX-License-Identifier: Apache-2.0
"""Bad input ends before a model is built: each kind of it, with a real tokenizer and real files,
is refused with what is wrong, where, and what to do. Good input comes out ready to train on."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer

from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import DataError, MismatchError, T3SError
from t3s_megatron.run.inputs import Inputs, check_tokenizer_argument, read_inputs
from tests.support.arguments import namespace
from tests.support.task import CHAT_TEMPLATE, make_samples, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    """Folder of a tokenizer of 21 single characters and words, with a chat template."""
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    make_tokenizer(folder)
    return folder


@pytest.fixture
def ready(tmp_path, tokenizer):
    """ready(line, samples=..., **megatron): `prepare` of a run on 8 samples."""

    def run(line: str = "", samples: list | None = None, **megatron) -> Inputs:
        path = write(tmp_path / "train.jsonl", make_samples(8, 0) if samples is None else samples)
        folder = megatron.pop("tokenizer_model", tokenizer)
        return read_inputs(
            namespace(f"--t3s-data {path} {line}", tokenizer_model=folder, **megatron)
        )

    return run


def write(path, samples: list) -> str:
    """One line each: an object as JSON, a text as it is."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in samples]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def changed(number: int, **fields) -> list[dict]:
    """8 samples, one of them with other fields (None: without the field)."""
    samples = make_samples(8, 0)
    samples[number].update(fields)
    samples[number] = {k: v for k, v in samples[number].items() if v is not None}
    return samples


# --------------------------------------------------------------------------------------- good input


def test_good_input_comes_out_ready_to_train_on(ready):
    made = ready()
    assert len(made.corpus.samples) == 8 and made.corpus.counts["records"] == 8
    assert made.heldout is None and made.selection is None
    first, whole = made.corpus.samples[0], make_samples(8, 0)[0]
    assert made.tokenizer.decode(first.tokens[: first.prompt_length]) == (
        f"<user>{whole['prompt']}<assistant>"
    )
    assert made.unusable_gold == frozenset() and made.askable(made.corpus) == made.corpus.samples
    assert (made.config.budget, made.config.teachers) == (50, ())


def test_answers_may_fill_what_the_longest_prompt_leaves_of_a_row(ready):
    made = ready()
    longest = max(sample.prompt_length for sample in made.corpus.samples)
    # A row of 48 predicts 49 tokens: the last answer token is never fed.
    assert made.max_new_tokens == 48 + 1 - longest
    assert ready("--t3s-max-new-tokens 5").max_new_tokens == 5


def test_the_heldout_samples_count_for_the_longest_prompt(ready, tmp_path):
    sample = {"prompt": "1+" * 15 + "1", "response": "<answer>16</answer>", "answer": "16"}
    path = write(tmp_path / "heldout.jsonl", [sample])
    made = ready(f"--t3s-heldout-data {path} --t3s-report-temperatures 0")
    assert len(made.heldout.samples) == 1
    assert made.max_new_tokens == 48 + 1 - (31 + 2)


def test_rows_are_padded_with_the_pad_token_or_else_the_end_token(ready, tmp_path, tokenizer):
    assert ready().pad_token == 0
    bare = AutoTokenizer.from_pretrained(tokenizer)
    bare.pad_token = None
    bare.save_pretrained(tmp_path / "bare")
    assert ready(tokenizer_model=str(tmp_path / "bare")).pad_token == bare.eos_token_id == 1


def test_nothing_is_verified_where_nothing_is_generated(ready):
    made = ready("--t3s-simple --t3s-verifier nonsense")
    assert made.max_new_tokens == 0


def test_a_saved_selection_is_loaded_in_the_order_of_this_data(ready, tmp_path):
    made = ready()
    keep = np.random.default_rng(0).random(made.corpus.n_targets) < 0.5
    path = str(tmp_path / "selection.safetensors")
    Selection(keep, made.corpus, "t3s", 3).save(path)
    again = ready(f"--t3s-selection-load {path}", samples=make_samples(8, 0)[::-1])
    parts = [keep[made.corpus.target_slice(i)] for i in reversed(range(8))]
    assert np.asarray(again.selection.keep).tolist() == np.concatenate(parts).tolist()
    assert again.config.starts_targeted


# ------------------------------------------------------------------------------------------ samples


def test_arguments_come_before_the_data(ready):
    with pytest.raises(T3SError, match="--t3s-simple-step"):
        ready("--t3s-simple-step 60", samples=["no JSON"])


def test_a_file_that_is_not_there(tmp_path, tokenizer):
    args = namespace(f"--t3s-data {tmp_path}/gone.jsonl", tokenizer_model=tokenizer)
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        read_inputs(args)


def test_a_file_without_samples(ready):
    with pytest.raises(DataError, match=r"train\.jsonl: no samples in it"):
        ready(samples=[])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": None}, "needs `messages`, or `prompt` and `response`; found answer, id, resp"),
        ({"response": None}, "needs `messages`, or `prompt` and `response`"),
        ({"response": " "}, "the response is empty"),
        ({"prompt": ""}, "a message of role user is empty"),
        ({"answer": ""}, "`answer` is empty; leave it out if there is none"),
        ({"answer": []}, "`answer` has to be text or a finite number"),
        ({"id": "s0"}, "id 's0' was already used by .*line 1"),
        ({"metadata": "x"}, "`metadata` is not JSON"),
    ],
)
def test_a_field_that_is_missing_or_empty_is_named_with_its_line(ready, fields, said):
    with pytest.raises(DataError, match=rf"train\.jsonl, line 4: {said}"):
        ready(samples=changed(3, **fields))


def test_a_line_that_is_not_json_is_named(ready):
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: not a line of JSON"):
        ready(samples=[make_samples(1, 0)[0], "{'prompt': '1'}"])


def test_a_response_that_the_template_cuts_away(ready, tmp_path, tokenizer):
    cutting = AutoTokenizer.from_pretrained(tokenizer)
    cutting.chat_template = CHAT_TEMPLATE.replace("m['content']", "m['content'].strip(';')")
    cutting.save_pretrained(tmp_path / "cutting")
    with pytest.raises(DataError, match=r"line 6: the chat template changes the response"):
        ready(samples=changed(5, response=";;"), tokenizer_model=str(tmp_path / "cutting"))


# -------------------------------------------------------------------------------- gold and verifier


def test_missing_gold_answers_where_accuracy_is_needed(ready):
    samples = changed(2, answer=None)
    samples[6].pop("answer")
    with pytest.raises(DataError) as caught:
        ready(samples=samples)
    said = str(caught.value)
    assert said.startswith("2 samples have no gold `answer`, which measuring accuracy needs: ")
    assert "train.jsonl, line 3; " in said and "train.jsonl, line 7" in said
    assert "--t3s-simple" in said


def test_missing_gold_answers_are_fine_where_nothing_is_measured(ready):
    made = ready("--t3s-simple", samples=changed(2, answer=None))
    assert len(made.corpus.samples) == 8


def test_missing_gold_answers_of_the_heldout_samples(ready, tmp_path):
    path = write(tmp_path / "heldout.jsonl", changed(1, answer=None))
    with pytest.raises(DataError, match=r"1 samples have no gold .*heldout\.jsonl, line 2"):
        ready(f"--t3s-heldout-data {path} --t3s-report-temperatures 0")


def test_a_gold_answer_that_the_verifier_cannot_compare_with(ready):
    with pytest.raises(DataError, match=r"--t3s-verifier numeric: 1 .*line 5: 'many' is not a num"):
        ready(samples=changed(4, answer="many"))
    ready("--t3s-verifier exact", samples=changed(4, answer="many"))


def test_a_gold_answer_that_math_cannot_read_is_trained_on_and_not_asked(ready):
    made = ready("--t3s-verifier math", samples=changed(4, answer="{"))
    asked = made.askable(made.corpus)
    assert len(made.corpus.samples) == 8 and len(asked) == 7
    assert made.unusable_gold == {made.corpus.samples[4].uid}
    assert made.corpus.samples[4] not in asked


def test_an_unknown_verifier(ready):
    with pytest.raises(T3SError, match=r"--t3s-verifier fuzzy: unknown\. Choose exact, numeric"):
        ready("--t3s-verifier fuzzy")


def test_a_verifier_that_cannot_be_imported(ready):
    with pytest.raises(T3SError, match=r"--t3s-verifier no\.such:thing: cannot be imported"):
        ready("--t3s-verifier no.such:thing")


def test_heldout_samples_that_nothing_would_look_at(ready, tmp_path):
    path = write(tmp_path / "heldout.jsonl", make_samples(2, 5))
    with pytest.raises(T3SError, match="--t3s-heldout-data is only used with --t3s-report-temp"):
        ready(f"--t3s-heldout-data {path}")


def test_heldout_samples_that_are_not_there(ready):
    with pytest.raises(T3SError, match="give --t3s-heldout-data, or drop it"):
        ready("--t3s-heldout-interval 2")


# ---------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("folder", [None, ""])
def test_no_tokenizer_named(ready, folder):
    with pytest.raises(T3SError, match="--tokenizer-model is missing: a folder with"):
        ready(tokenizer_model=folder)


def test_a_tokenizer_folder_that_does_not_exist(ready, tmp_path):
    with pytest.raises(T3SError, match=r"--tokenizer-model .*/gone: no such folder"):
        ready(tokenizer_model=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("--t3s-data d --tokenizer-model ./gone", True),
        ("--t3s-data d e --tokenizer-model ./gone", True),
        ("--tokenizer-model=/gone/too --num-layers 2 --t3s-data=d", True),
        ("--t3s-data d --tokenizer-model Qwen/Qwen3-8B", False),
        ("--t3s-data d --tokenizer-model /", False),
        ("--t3s-data d", False),
        ("--tokenizer-model ./gone", False),
        ("--t3s-data d --tokenizer-model", False),
    ],
)
def test_a_tokenizer_path_is_looked_at_before_megatron_asks_the_hub(line, refused):
    """Only for jobs on our data: other tokenizers of Megatron are not ours to judge."""
    with pytest.raises(T3SError, match="--tokenizer-model .*gone") if refused else nullcontext():
        check_tokenizer_argument(line.split())


def test_the_split_of_the_heldout_data_is_its_own(ready, tmp_path):
    """The same data set for both would otherwise measure on what was trained on."""
    path = str(tmp_path / "saved")
    splits = {name: Dataset.from_list(make_samples(n, n)) for name, n in (("test", 3), ("dev", 2))}
    DatasetDict(splits).save_to_disk(path)
    line = f"--t3s-heldout-data {path} --t3s-report-temperatures 0"
    assert len(ready(line).heldout.samples) == 3
    assert len(ready(f"{line} --t3s-heldout-data-split dev").heldout.samples) == 2
    with pytest.raises(DataError, match="has no split 'train', only test, dev"):
        ready(f"{line} --t3s-heldout-data-split train")


def test_a_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(T3SError, match="not a Hugging Face tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_an_end_token(ready, tmp_path, tokenizer):
    endless = AutoTokenizer.from_pretrained(tokenizer)
    endless.eos_token = None
    endless.save_pretrained(tmp_path / "endless")
    with pytest.raises(T3SError, match=r"/endless: the tokenizer has no end-of-text token"):
        ready(tokenizer_model=str(tmp_path / "endless"))


def test_a_tokenizer_without_a_chat_template(ready, tmp_path, tokenizer):
    plain = AutoTokenizer.from_pretrained(tokenizer)
    plain.chat_template = None
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(DataError, match="no chat template: .*--t3s-prompt-format raw"):
        ready(tokenizer_model=str(tmp_path / "plain"))
    made = ready("--t3s-prompt-format raw", tokenizer_model=str(tmp_path / "plain"))
    first = made.corpus.samples[0]
    assert (
        made.tokenizer.decode(first.tokens[: first.prompt_length])
        == make_samples(1, 0)[0]["prompt"]
    )


@pytest.mark.parametrize("name", ["vocab_size", "padded_vocab_size"])
def test_a_model_with_fewer_words_than_the_tokenizer(ready, tokenizer, name):
    size = len(AutoTokenizer.from_pretrained(tokenizer))
    ready(**{name: size})
    said = rf"vocabulary has {size - 1} rows, .* has {size}: raise --vocab-size or change tokenizer"
    with pytest.raises(T3SError, match=said):
        ready(**{name: size - 1})


def test_rows_that_only_pad_the_vocabulary_are_for_no_token(ready, tokenizer):
    size = len(AutoTokenizer.from_pretrained(tokenizer))
    ready(vocab_size=size, padded_vocab_size=128)
    with pytest.raises(T3SError, match=f"vocabulary has {size - 1} rows"):
        ready(vocab_size=size - 1, padded_vocab_size=128)


# ------------------------------------------------------------------------------------------ lengths


def test_answers_that_may_run_beyond_the_models_positions(ready):
    longest = max(sample.prompt_length for sample in ready().corpus.samples)
    # Position 64 would be needed by the token after the last one that is fed.
    ready(f"--t3s-max-new-tokens {65 - longest}")
    with pytest.raises(T3SError) as caught:
        ready(f"--t3s-max-new-tokens {66 - longest}")
    said = str(caught.value)
    assert f"longest prompt has {longest} tokens and answers may have {66 - longest}" in said
    assert "--max-position-embeddings 64. Lower --t3s-max-new-tokens." in said


def overlong() -> list[dict]:
    """8 samples; the 2nd and the 5th are longer than a row, the 5th already by its prompt."""
    samples = make_samples(8, 0)
    samples[1]["response"] = "0+0=0; " * 12 + "<answer>1</answer>"
    samples[4]["prompt"] = "1+" * 30 + "1"
    return samples


def test_overlong_samples_are_refused_unless_a_policy_is_chosen(ready):
    with pytest.raises(DataError) as caught:
        ready(samples=overlong())
    said = str(caught.value)
    assert re.match(r"2 of 8 samples do not fit --seq-length 48: .*line 2 \(\d+ tokens\); ", said)
    assert "line 5 (" in said and "--t3s-overlong drop or --t3s-overlong truncate" in said


def test_overlong_samples_are_dropped_and_counted(ready):
    made = ready("--t3s-overlong drop", samples=overlong())
    assert [sample.uid for sample in made.corpus.samples] == ["s0", "s2", "s3", "s5", "s6", "s7"]
    assert made.corpus.counts["dropped_overlong"] == 2
    assert made.corpus.counts["truncated_overlong"] == 0


def test_overlong_samples_are_cut_and_counted_or_dropped_without_a_target(ready):
    made = ready("--t3s-overlong truncate", samples=overlong())
    assert [sample.uid for sample in made.corpus.samples] == [
        f"s{i}" for i in (0, 1, 2, 3, 5, 6, 7)
    ]
    assert len(made.corpus.samples[1].tokens) == 49
    counts = made.corpus.counts
    assert (counts["dropped_overlong"], counts["truncated_overlong"]) == (1, 1)


@pytest.mark.parametrize("policy", ["drop", "truncate"])
def test_a_policy_that_leaves_no_sample(ready, policy):
    with pytest.raises(DataError, match=f"--t3s-overlong {policy} leaves none of 8; raise --seq-l"):
        ready(f"--t3s-overlong {policy} --t3s-simple", seq_length=2)


# --------------------------------------------------------------------------------- loaded selection


@pytest.fixture
def selection(ready, tmp_path) -> str:
    made = ready()
    path = str(tmp_path / "selection.safetensors")
    Selection(np.ones(made.corpus.n_targets, dtype=bool), made.corpus, "t3s", 3).save(path)
    return f"--t3s-selection-load {path}"


def test_a_selection_of_another_tokenizer(ready, selection, tmp_path, tokenizer):
    other = AutoTokenizer.from_pretrained(tokenizer)
    other.add_tokens(["<think>"])
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(MismatchError, match=r"selection\.safetensors: made with another tokenizer"):
        ready(selection, tokenizer_model=str(tmp_path / "other"))


def test_a_selection_of_other_data(ready, selection):
    with pytest.raises(MismatchError, match=r"nothing for sample 'new' \(.*train.jsonl, line 8\)"):
        ready(selection, samples=changed(7, id="new"))
    with pytest.raises(MismatchError, match=r"sample 's7' .*has other tokens or targets"):
        ready(selection, samples=changed(7, response="<answer>0</answer>"))


def test_a_selection_that_is_not_there(ready, tmp_path):
    with pytest.raises(MismatchError, match=r"/gone: cannot be read, it is missing or damaged"):
        ready(f"--t3s-selection-load {tmp_path}/gone")


# ------------------------------------------------------------------------------ several teachers


def of_teachers(**counts) -> list[dict]:
    """Samples of these teachers, who answered the same prompts, in turn."""
    made = make_samples(8, 0)
    return [
        sample | {"teacher": teacher}
        for i, sample in enumerate(made)
        for teacher, count in counts.items()
        if i < count
    ]


def test_two_teachers_have_a_profile_each(ready):
    made = ready(samples=of_teachers(r1=8, qwq=5), train_iters=100)
    assert made.config.teachers == made.config.profiles == ("r1", "qwq")
    assert (made.config.budget, made.config.profile_iters) == (100, 50)
    assert [part.teacher for part in made.parts] == ["r1", "qwq"]
    assert made.rows_of("qwq").order.n == 5 and made.rows_of(None).order.n == 13
    assert (
        ready("--t3s-profile-iters 40", samples=of_teachers(r1=8, qwq=5)).config.profile_iters == 40
    )


def test_each_is_asked_its_own_prompts_and_all_of_them_every_prompt_once(ready):
    made = ready(samples=of_teachers(qwq=5, r1=8))
    asked = {whose: [s.uid for s in made.asked(whose)] for whose in ("qwq", "r1", None)}
    assert asked["qwq"] == [f"qwq/s{i}" for i in range(5)]
    assert asked["r1"] == [f"r1/s{i}" for i in range(8)]
    assert asked[None] == asked["qwq"] + asked["r1"][5:]
    assert [s.uid for s in made.asked(None, first=2)] == asked["qwq"][:2]


def test_several_files(ready, tmp_path, tokenizer):
    other = write(tmp_path / "qwq.jsonl", make_samples(4, 0))
    made = ready(f"--t3s-data {tmp_path}/train.jsonl {other}")
    assert made.config.teachers == ("train", "qwq") and len(made.corpus.samples) == 12


def test_a_teacher_of_whom_nothing_can_be_asked_is_refused_where_its_profile_is_measured(ready):
    samples = [
        sample | ({"answer": "{"} if sample["teacher"] == "qwq" else {})
        for sample in of_teachers(r1=8, qwq=3)
    ]
    line = "--t3s-verifier math --t3s-targeted-accuracy-interval 1"
    with pytest.raises(DataError, match=r"3 gold answers cannot be used, first .*line 2: "):
        ready(line, samples=samples)
    made = ready(f"{line} --t3s-signal confidence", samples=samples)
    assert [sample.teacher for sample in made.asked(None)] == ["r1"] * 8


def test_what_one_teacher_alone_can_do_is_refused_for_two(ready):
    two = of_teachers(r1=8, qwq=8)
    for line, reason in {
        "--t3s-method rrt": "with 2 teachers: .* the paper defines it for one teacher only",
        "--t3s-no-shock sft --t3s-profile-iters 9 --t3s-simple-step 5": "--t3s-no-shock sft with 2",
        "--t3s-simple-step 30": "--t3s-simple-step 30 lies beyond --t3s-profile-iters 25",
    }.items():
        ready(line)
        with pytest.raises(T3SError, match=reason):
            ready(line, samples=two)
    assert ready("--t3s-method sft", samples=two).config.profiles == (None,)
    with pytest.raises(DataError, match="train.jsonl, line 2: no `teacher`"):
        ready(samples=[two[0], *make_samples(8, 0)[1:]])


# -------------------------------------------------------------------------- samples of a profile


def samples_of_steps(rows, steps: int) -> set[int]:
    """Corpus indices of the samples of the first steps."""
    size = rows.global_batch_size
    return {sample for step in range(steps) for sample in rows.at(step * size).samples}


def test_a_profile_takes_some_samples_and_the_rest_of_the_run_all(ready):
    inputs = ready("--t3s-profile-samples 3 --t3s-accuracy-prompts 2")
    taken = inputs.profile_parts[None].samples
    assert len(taken) == 3 and list(taken) == sorted(taken)
    assert samples_of_steps(inputs.rows_of(None), 4) == set(taken)
    assert samples_of_steps(inputs.training_rows, 8) == set(range(8))
    uids = inputs.corpus.uids
    assert [sample.uid for sample in inputs.asked_in_training(None)] == [
        uids[sample] for sample in taken[:2]
    ]
    assert len(inputs.asked(None)) == 8
    (part,) = inputs.parts
    assert len(part.samples) == 8  # what is scored


def test_they_are_a_function_of_seed_and_number_alone(ready):
    def taken(count: int, seed: int) -> set[int]:
        inputs = ready(f"--t3s-profile-samples {count} --t3s-seed {seed}")
        return set(inputs.profile_parts[None].samples)

    assert taken(3, 1) == taken(3, 1)
    assert taken(3, 1) < taken(5, 1)
    assert any(taken(3, 1) != taken(3, seed) for seed in (2, 3, 4))


@pytest.mark.parametrize("count", [0, 8, 9])
def test_a_profile_that_takes_all_is_as_without_the_argument(ready, count):
    inputs = ready(f"--t3s-profile-samples {count}")
    assert inputs.profile_parts[None] is inputs.parts[0]
    assert inputs.rows_of(None) is inputs.training_rows


def test_of_several_teachers_a_profile_takes_as_many_of_its_own(ready):
    samples = [
        one | {"id": f"{teacher}{i}", "teacher": teacher}
        for teacher in ("a", "b")
        for i, one in enumerate(make_samples(6, 0))
    ]
    inputs = ready("--t3s-profile-samples 4", samples=samples)
    for part in inputs.parts:
        profile = inputs.profile_parts[part.teacher]
        assert len(profile.samples) == 4 and set(profile.samples) < set(part.samples)
        assert samples_of_steps(inputs.rows_of(part.teacher), 4) == set(profile.samples)
        assert profile.corpus.uids == [inputs.corpus.uids[i] for i in profile.samples]
