# SPDX-License-Identifier: Apache-2.0
"""Chat templates and raw text to token ids, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_data import (
    ASSISTANT,
    BARE,
    BOS,
    END,
    LINE,
    QWEN_THINKING,
    R1_THINKING,
    START,
    SYSTEM,
    THINK,
    UNTHINK,
    USER,
    A,
    B,
    C,
    D,
    E,
    byte_tokenizer,
    record,
    word_tokenizer,
)

from t3s_megatron.data.tokenizing import load_tokenizer, tokenize
from t3s_megatron.errors import DataError, T3SError


def chat(*pairs) -> dict:
    return {"messages": tuple({"role": role, "content": text} for role, text in pairs)}


HEADER = [START, ASSISTANT, LINE]


def check(made, prompt: list[int], response: list[int]) -> None:
    assert made.tokens.tolist() == prompt + response
    assert made.tokens.dtype == np.int32 and made.is_target.dtype == np.bool_
    assert made.is_target.tolist() == [False] * len(prompt) + [True] * len(response)
    assert made.prompt_length == len(prompt) and made.n_targets == len(response)


# ------------------------------------------------------------------------------------------- chat


def test_chat_cuts_what_the_template_writes_after_the_end_token():
    made = tokenize(record("a b", "c d"), word_tokenizer(), prompt_format="chat")
    check(made, [START, USER, LINE, A, B, END, LINE, *HEADER], [C, D, END])


def test_chat_learns_the_last_message_only():
    pairs = [("system", "e"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    made = tokenize(record(**chat(*pairs)), word_tokenizer(), prompt_format="chat")
    context = [START, SYSTEM, LINE, E, END, LINE, START, USER, LINE, A, END, LINE]
    context += [*HEADER, B, END, LINE, START, USER, LINE, C, END, LINE]
    check(made, [*context, *HEADER], [D, END])


def test_thinking_of_the_response_is_learned_and_that_of_earlier_turns_is_gone():
    pairs = [("user", "a"), ("assistant", "<think>b</think>c")]
    pairs += [("user", "d"), ("assistant", "<think>e</think>c")]
    made = tokenize(record(**chat(*pairs)), word_tokenizer(QWEN_THINKING), prompt_format="chat")
    context = [START, USER, LINE, A, END, LINE, *HEADER, C, END, LINE, START, USER, LINE, D, END]
    check(made, [*context, LINE, *HEADER], [THINK, E, UNTHINK, C, END])


def test_an_end_token_is_added_where_the_template_has_none():
    made = tokenize(record("a", "c"), word_tokenizer(BARE), prompt_format="chat")
    check(made, [USER, LINE, A, ASSISTANT, LINE], [C, END])


@pytest.mark.parametrize("response", ["c<|im_end|>", "c <|im_end|>\n<|im_end|> \n"])
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_one_end_token_is_the_last_target_whatever_the_response_ends_with(response, prompt_format):
    made = tokenize(record("a", response), word_tokenizer(), prompt_format=prompt_format)
    assert made.tokens[made.prompt_length :].tolist() == [C, END]


@pytest.mark.parametrize("response", ["c <|im_end|> d", "c<|im_start|>", "c<|im_start|><|im_end|>"])
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_a_control_token_inside_a_response(response, prompt_format):
    with pytest.raises(DataError, match=r"line of r: .*control token '<\|im_\w+\|>' inside"):
        tokenize(record("a", response), word_tokenizer(), prompt_format=prompt_format)


def test_no_special_tokens_are_added_to_what_the_template_renders():
    made = tokenize(record("a", "c"), word_tokenizer(bos=True), prompt_format="chat")
    assert BOS not in made.tokens


def test_the_prompt_is_what_generation_is_given():
    """Byte-level BPE merges over boundaries: the prompt has to be tokenised on its own."""
    tokenizer = byte_tokenizer()
    one = record("Was ist zwei und drei? \u4e94", "five, \U0001f600 the sum\n")
    made = tokenize(one, tokenizer, prompt_format="chat")
    prompt = tokenizer.apply_chat_template(
        [one.messages[0]], tokenize=False, add_generation_prompt=True
    )
    assert made.tokens[: made.prompt_length].tolist() == tokenizer.encode(prompt)
    whole = tokenizer.apply_chat_template(list(one.messages), tokenize=False)
    assert tokenizer.decode(made.tokens) + "\n" == whole


def test_fields_are_handed_on():
    one = record(uid="u", answer="7", teacher="R1", metadata={"k": 1})
    made = tokenize(one, word_tokenizer(), prompt_format="chat")
    given = (one.uid, one.answer, one.teacher, one.metadata, one.where)
    assert (made.uid, made.answer, made.teacher, made.metadata, made.where) == given


# -------------------------------------------------------------------------------------------- raw


def test_raw_is_the_text_and_an_end_token():
    check(tokenize(record(), word_tokenizer(None), prompt_format="raw"), [A, B], [C, D, END])


def test_raw_begins_with_the_tokenizers_bos():
    made = tokenize(record(), word_tokenizer(None, bos=True), prompt_format="raw")
    check(made, [BOS, A, B], [C, D, END])


def test_raw_has_one_bos_where_the_prompt_brings_it():
    one = record("<bos>a b")
    made = tokenize(one, word_tokenizer(None, bos=True), prompt_format="raw")
    check(made, [BOS, A, B], [C, D, END])


def test_raw_goes_on_in_thinking_that_the_prompt_opens():
    one = record("a <think>", "<think>\nb\n</think>\n\nc")  # as a record of "b</think>c" has it
    made = tokenize(one, word_tokenizer(None), prompt_format="raw")
    check(made, [A, THINK], [B, LINE, UNTHINK, LINE, LINE, C, END])


def test_a_template_that_opens_the_thinking_only_for_generation():
    """R1-Distill's: behind its prompt the student says what the template leaves out of answers."""
    tokenizer = word_tokenizer(R1_THINKING)
    made = tokenize(record("a", "<think>b</think>c"), tokenizer, prompt_format="chat")
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, return_dict=False
    )
    assert THINK in given
    check(made, given, [B, LINE, UNTHINK, LINE, LINE, C, END])
    assert made.opens_thinking


# --------------------------------------------------------------------------------------- refusals


def test_no_template():
    with pytest.raises(DataError, match="no chat template.*--t3s-prompt-format raw"):
        tokenize(record(), word_tokenizer(None), prompt_format="chat")


def test_a_template_that_refuses():
    template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(DataError, match="line of r: .*template refuses it.*no system messages"):
        tokenize(record(), word_tokenizer(template), prompt_format="chat")


@pytest.mark.parametrize(
    "pairs",
    [
        [("system", "e"), ("user", "a"), ("assistant", "b")],
        [("system", "e"), ("assistant", "b")],
    ],
)
def test_raw_takes_one_prompt_and_one_response(pairs):
    found = ", ".join(role for role, _ in pairs)
    with pytest.raises(DataError, match=f"line of r: .*one assistant message, found {found}"):
        tokenize(record(**chat(*pairs)), word_tokenizer(None), prompt_format="raw")


@pytest.mark.parametrize("response", ["   ", "<|im_end|>"])
def test_nothing_to_learn(response):
    with pytest.raises(DataError, match="line of r: the response has no tokens"):
        tokenize(record("a", response), word_tokenizer(None), prompt_format="raw")


def test_nothing_to_generate_from():
    with pytest.raises(DataError, match="line of r: the prompt has no tokens"):
        tokenize(record("  ", "c"), word_tokenizer(None), prompt_format="raw")


def test_token_ids_beyond_the_vocabulary():
    def made(vocab_size):
        return tokenize(
            record("a", "e"), word_tokenizer(None), prompt_format="raw", vocab_size=vocab_size
        )

    check(made(E + 1), [A], [E, END])
    with pytest.raises(DataError, match=f"line of r: token id {E} .* vocabulary of {E}"):
        made(E)


def test_a_tokenizer_without_an_end_token():
    tokenizer = word_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token"):
        tokenize(record(), tokenizer, prompt_format="chat")


def test_unknown_prompt_format():
    with pytest.raises(ValueError, match="chat or raw, not 'alpaca'"):
        tokenize(record(), word_tokenizer(), prompt_format="alpaca")


def test_a_tokenizer_that_is_code_is_refused_and_never_run(tmp_path):
    """As Kimi-K2's; transformers would ask at the terminal whether to run it."""
    said = {"AutoTokenizer": ["tokenization_mine.Mine", None]}
    config = {"tokenizer_class": "Mine", "auto_map": said, "eos_token": "[EOS]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "tokenization_mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(
        T3SError, match=r"code that comes with the folder \(tokenization_mine.Mine\)"
    ):
        load_tokenizer(str(tmp_path))
    assert not ran.exists()
    byte_tokenizer().save_pretrained(tmp_path)  # the same as a table
    assert load_tokenizer(str(tmp_path)).eos_token_id is not None
