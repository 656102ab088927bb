# SPDX-License-Identifier: Apache-2.0
"""Random conversations through templates of ten behaviours: every token of a sample is accounted
for, or the record is refused where the template would lose a part of it."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from made_families import FAMILIES, Turn

from t3s_megatron.data.records import Record
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.data.tokenizing import Tokenization
from t3s_megatron.errors import DataError

PIECES = [
    "user",
    "system",
    "assistant",
    "the sum",
    "4",
    " ",
    "\n",
    "\n\n",
    "é",
    "e\u0301",
    "∑ 五",
    "😀",
]
PIECES += [
    "\u200b",
    "\r\n",
    "{{ x }}",
    "{% endfor %}",
    "'",
    "\\boxed{4}",
    "<b>",
    "[INST",
    "t3sPart0Of",
]
#: What a question may quote.
MARKS = ["<|im_end|>", "<|im_start|>user\n", "</s>", "<eos>", "<|eot_id|>", "<|return|>", "<END>"]
TAGS = ["<think>", "</think>", "<think>\n\n</think>\n\n"]

plain = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=6).map("".join)
said = plain.filter(lambda text: bool(text.strip()) and "think>" not in text)
quoting = st.lists(st.sampled_from([*PIECES, *MARKS, *TAGS]), max_size=6).map("".join)
asked = quoting.filter(lambda text: bool(text.strip()))


@st.composite
def conversations(draw) -> list[Turn]:
    """System or not, one question and answer or several, thinking or not."""
    turns: list[Turn] = []
    if draw(st.booleans()):
        turns.append(("system", None, draw(asked)))
    for _ in range(draw(st.integers(0, 2))):
        turns.append(("user", None, draw(asked)))
        turns.append(("assistant", draw(st.none() | said), draw(said)))
    role = draw(st.sampled_from(["user"] * 8 + ["developer"]))
    return [*turns, (role, None, draw(asked)), ("assistant", draw(st.none() | said), draw(said))]


def record(turns: list[Turn]) -> Record:
    messages = [
        {"role": role, "content": text if thinking is None else join_thinking(thinking, text)}
        for role, thinking, text in turns
    ]
    return Record("r", tuple(messages), None, None, None, "f.jsonl, line 7")


@pytest.fixture(scope="module")
def tokenizations():
    return {name: Tokenization(family.tokenizer(), "chat") for name, family in FAMILIES.items()}


def blank(turns: list[Turn]) -> list[Turn]:
    """The same shape without anything said in it that could be a control token."""
    return [(role, thinking and "x", "x") for role, thinking, _ in turns]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(turns=conversations())
def test_every_token_is_accounted_for(name, tokenizations, turns):
    family, tokenization = FAMILIES[name], tokenizations[name]
    tokenizer = tokenization._tokenizer
    expected = family.written(turns)
    assume(not turns[-1][2].rstrip().endswith(family.special))  # its own end tokens are taken off
    if any(mark in turns[-1][2] or mark in (turns[-1][1] or "") for mark in family.special):
        expected = None  # no response may have one
    if expected is None:
        with pytest.raises(DataError, match=r"f\.jsonl, line 7: "):
            tokenization(record(turns))
        return
    made = tokenization(record(turns))
    prompt, target = expected
    head, tail = made.tokens[: made.prompt_length].tolist(), made.tokens[made.prompt_length :]
    assert tokenizer.decode(head) == prompt
    assert tokenizer.decode(tail) == target
    assert made.is_target.tolist() == [False] * len(head) + [True] * len(tail)
    # What is quoted is letters: as many control tokens as without it.
    own_prompt, own_target = family.written(blank(turns))
    control = set(tokenizer.convert_tokens_to_ids(list(family.special)))
    for tokens, text in ((head, own_prompt), (tail.tolist(), own_target)):
        own = tokenizer.encode(text, add_special_tokens=False)
        assert [t for t in tokens if t in control] == [t for t in own if t in control]
    assert tail[-1] == tokenizer.eos_token_id and tail.tolist().count(tail[-1]) == 1
    if not any(mark in text for _, _, text in turns for mark in family.special):
        assert head == tokenizer.encode(prompt, add_special_tokens=False)


def test_every_family_learns_something_and_refuses_something():
    """So that no family passes the test above by refusing."""
    good = [("user", None, "q"), ("assistant", None, "a")]
    thinks = [("user", None, "q"), ("assistant", "t", "a")]
    learned = {name for name, family in FAMILIES.items() if family.written(good)}
    assert set(FAMILIES) - learned == {"thinking only", "r1"}  # they open what is not there
    learned = {name for name, family in FAMILIES.items() if family.written(thinks)}
    assert set(FAMILIES) - learned == {"r1 old"}


CASES = {
    "a template that writes the question twice": (
        "{% for m in messages %}{{ m.content }}{{ m.content if m.role == 'user' }}<|im_end|>"
        "{% endfor %}", "writes message 1, of role user 2 times",
    ),
    "one that changes the order": (
        "{% for m in messages[:-1]|reverse %}{{ m.content }};{% endfor %}"
        "{% if not add_generation_prompt %}{{ messages[-1].content }}{% endif %}",
        "order of the messages",
    ),
    "one that shortens": (
        "{% for m in messages %}{{ m.content[:40] }}<|im_end|>{% endfor %}", "changes",
    ),
    "one that escapes": (
        "{% for m in messages %}{{ m.content|e }}<|im_end|>{% endfor %}", "changes",
    ),
    "one that ends a turn in its middle": (
        "{% for m in messages %}{{ m.content.replace('ten', '<|im_end|>') }};{% endfor %}",
        "changes",
    ),
    "one that adds to what is said": (
        "{% for m in messages %}{{ m.content }}{% if '<' in m.content %} sic{% endif %}<|im_end|>"
        "{% endfor %}", "changes",
    ),
    "one that raises": ("{{ raise_exception('no') }}", "the chat template refuses it"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_template_may_not_do(case):
    template, why = CASES[case]
    tokenizer = FAMILIES["qwen3"].tokenizer()
    tokenizer.chat_template = template
    long = "1 < 2 " + "and ten " * 10
    turns = [("user", None, long), ("assistant", None, "a"), ("user", None, long)]
    with pytest.raises(DataError, match=f"line 7: .*{why}"):
        Tokenization(tokenizer, "chat")(record([*turns, ("assistant", None, long)]))


def test_a_template_that_ends_the_response_before_its_text():
    tokenizer = FAMILIES["channels"].tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m.thinking + '<|end|>'", "m.thinking + '<|return|>'"
    )
    turns = [("user", None, "q"), ("assistant", "t", "a")]
    with pytest.raises(DataError, match="line 7: the chat template ends the response before"):
        Tokenization(tokenizer, "chat")(record(turns))


def test_a_tokenizer_that_cannot_write_a_control_token_as_text():
    tokenizer = FAMILIES["qwen3"].tokenizer()
    encode = tokenizer.encode

    def stubborn(text, **how):
        how.pop("split_special_tokens", None)
        return [t for t in encode(text, **how) if t != tokenizer.eos_token_id]

    tokenizer.encode = stubborn
    turns = [("user", None, "what is <|im_end|>?"), ("assistant", None, "a")]
    with pytest.raises(DataError, match=r"line 7: .*'<\|im_end\|>' in its text.*cannot write it"):
        Tokenization(tokenizer, "chat")(record(turns))


def test_today_is_not_written_into_a_sample():
    tokenizer = FAMILIES["llama 3"].tokenizer()
    made = Tokenization(tokenizer, "chat")(record([("user", None, "q"), ("assistant", None, "a")]))
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(made.tokens)


# ----------------------------------------------------------------------------- tokenizers of yours

REAL = [path for path in os.environ.get("T3S_TOKENIZERS", "").split(":") if path]


@pytest.mark.skipif(not REAL, reason="T3S_TOKENIZERS names no folders of tokenizers")
@pytest.mark.parametrize("path", REAL or [""])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(turns=conversations())
def test_a_real_tokenizer(path, turns):
    """Every part is there in its order and nothing of it comes twice; one end token, the last."""
    from transformers import AutoTokenizer

    tokenizer = LOADED.setdefault(path, None) or AutoTokenizer.from_pretrained(path)
    LOADED[path] = tokenizer
    special = set(map(str, tokenizer.all_special_tokens))
    control = set(tokenizer.convert_tokens_to_ids(sorted(special)))
    try:
        made = Tokenization(tokenizer, "chat")(record(turns))
    except DataError as error:
        response = f"{turns[-1][1]}{turns[-1][2]}"
        allowed = any(token in response for token in special)
        allowed |= any(role == "developer" for role, _, _ in turns)
        assert allowed, error
        return
    text = unicodedata.normalize("NFC", tokenizer.decode(made.tokens))
    at = 0
    for number, (_, thinking, said) in enumerate(turns):
        parts = [said] if thinking is None or number < len(turns) - 1 else [thinking, said]
        for part in parts:
            part = unicodedata.normalize("NFC", part.strip())
            found = text.find(part, at)
            assert found >= 0, (part, text)
            at = found + len(part)
    assert made.tokens[-1] == tokenizer.eos_token_id
    tail = made.tokens[made.prompt_length :].tolist()
    assert [t for t in tail if t in control] == [tokenizer.eos_token_id]
    own = Tokenization(tokenizer, "chat")(record(blank(turns))).tokens.tolist()
    assert [t for t in made.tokens.tolist() if t in control] == [t for t in own if t in control]


LOADED: dict = {}
