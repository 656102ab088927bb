# SPDX-License-Identifier: Apache-2.0
"""GSM8K problems through a byte-level BPE and a chat template that behaves like Qwen3's.

The tokenizer is trained here; its merges reach over word boundaries and its vocabulary has thinking
tags, as the real one's. Where the tests say what a rendered conversation is, they say it in full,
without the code under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from t3s_megatron.accuracy.gold import check_gold
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.accuracy.verifiers import make_verifier
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.errors import DataError
from tests.support.byte_level import byte_level

GSM8K = Path(__file__).parents[2] / "data" / "gsm8k.jsonl"

#: What Qwen3's template does: thinking of earlier turns is dropped, that of the last is set between
#: tags of its own lines, and a last answer without thinking gets empty tags.
QWEN3 = """
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}
{%- set answer = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- if loop.last %}
{%- set thought = '' %}
{%- if '</think>' in m.content %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- endif %}
{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
{%- endif %}
{{- answer }}
{%- else %}
{{- m.content }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""


@pytest.fixture(scope="module")
def problems() -> list[dict]:
    """question, solution (the worked steps) and answer (the number) of each problem."""
    found = []
    for line in GSM8K.read_text().splitlines():
        raw = json.loads(line)
        solution, answer = raw["answer"].split("\n#### ")
        found.append({"question": raw["question"], "solution": solution, "answer": answer})
    assert len(found) == 60
    return found


@pytest.fixture(scope="module")
def tokenizer(problems, tmp_path_factory) -> PreTrainedTokenizerFast:
    """Saved and loaded, as a run meets it."""
    inner = byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        [p["question"] + p["solution"] for p in problems],
        1000,
        ("<think>", "</think>"),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.chat_template = QWEN3
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def build(tmp_path, rows: list[dict], tokenizer, **how) -> Corpus:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus.build(load_records(str(path)), tokenizer, **{"seq_length": 4096} | how)


def halves(sample, tokenizer) -> tuple[str, str]:
    """(text of the prompt, text of the targets)."""
    assert not sample.is_target[: sample.prompt_length].any()
    assert sample.is_target[sample.prompt_length :].all()
    head, tail = sample.tokens[: sample.prompt_length], sample.tokens[sample.prompt_length :]
    return tokenizer.decode(head), tokenizer.decode(tail)


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


HEADER = "<|im_start|>assistant\n"


def test_targets_are_the_response_and_its_end_token(tmp_path, problems, tokenizer):
    rows = [
        {"prompt": p["question"], "response": _thought(p), "answer": p["answer"]} for p in problems
    ]
    corpus = build(tmp_path, rows, tokenizer)
    longest = 0
    for sample, row in zip(corpus.samples, rows, strict=True):
        prompt, targets = halves(sample, tokenizer)
        assert prompt == turn("user", row["prompt"]) + HEADER
        assert targets == row["response"] + "<|im_end|>"
        assert sample.tokens[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(sample.tokens[sample.prompt_length]) == "<think>"
        longest = max(longest, len(sample.tokens))
    assert corpus.counts["target_tokens"] == sum(s.n_targets for s in corpus.samples)
    # Merges are really used: far fewer tokens than bytes.
    assert longest < max(len(r["prompt"] + r["response"]) for r in rows) / 2


def test_a_trace_that_was_put_together_is_what_the_template_writes(tmp_path, problems, tokenizer):
    """As `prepare` puts thinking back in front of an answer, whatever line breaks a server left."""
    row = {"prompt": "1 + 1?", "response": join_thinking("\nTwo.\n\nSure?\n", "\n\n\\boxed{2}\n")}
    (sample,) = build(tmp_path, [row], tokenizer).samples
    _, targets = halves(sample, tokenizer)
    assert targets == row["response"] + "<|im_end|>"
    assert row["response"] == "<think>\nTwo.\n\nSure?\n</think>\n\n\\boxed{2}"


def test_the_gold_answers_verify(tmp_path, problems, tokenizer):
    rows = [
        {"prompt": p["question"], "response": _thought(p), "answer": p["answer"]} for p in problems
    ]
    corpus = build(tmp_path, rows, tokenizer)
    check_gold("numeric", corpus.samples)
    verify = make_verifier("numeric")
    for sample in corpus.samples:
        text = halves(sample, tokenizer)[1].removesuffix("<|im_end|>")
        assert verify(text, sample.answer, None) is Verdict.CORRECT, sample.where


def test_empty_tags_that_the_record_does_not_have_are_context(tmp_path, problems, tokenizer):
    """The student is asked with them too: nobody teaches it not to think."""
    rows = [{"prompt": p["question"], "response": p["solution"]} for p in problems]
    for sample, row in zip(build(tmp_path, rows, tokenizer).samples, rows, strict=True):
        prompt, targets = halves(sample, tokenizer)
        assert prompt == turn("user", row["prompt"]) + HEADER + "<think>\n\n</think>\n\n"
        assert targets == row["response"] + "<|im_end|>"


def test_empty_tags_of_the_record_are_learned(tmp_path, problems, tokenizer):
    rows = [{"prompt": "q", "response": "<think>\n\n</think>\n\n4"}]
    (sample,) = build(tmp_path, rows, tokenizer).samples
    assert halves(sample, tokenizer) == (
        turn("user", "q") + HEADER,
        rows[0]["response"] + "<|im_end|>",
    )


def test_system_prompt_and_earlier_turns_are_context(tmp_path, problems, tokenizer):
    rows = []
    for first, second in zip(problems[::2], problems[1::2], strict=True):
        rows.append({"messages": [
            {"role": "system", "content": "Solve the problem step by step."},
            {"role": "user", "content": first["question"]},
            {"role": "assistant", "content": _thought(first)},
            {"role": "user", "content": second["question"]},
            {"role": "assistant", "content": _thought(second)},
        ]})  # fmt: skip
    for sample, row in zip(build(tmp_path, rows, tokenizer).samples, rows, strict=True):
        prompt, targets = halves(sample, tokenizer)
        system, asked, answered, again, response = (m["content"] for m in row["messages"])
        without_thinking = answered.split("</think>\n\n")[1]
        assert prompt == (
            turn("system", system)
            + turn("user", asked)
            + turn("assistant", without_thinking)
            + turn("user", again)
            + HEADER
        )
        assert targets == response + "<|im_end|>"


def test_raw_text_needs_no_template(tmp_path, problems, tokenizer):
    bare = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    bare.chat_template = None
    rows = [{"prompt": p["question"] + "\n", "response": p["solution"]} for p in problems]
    for sample, row in zip(
        build(tmp_path, rows, bare, prompt_format="raw").samples, rows, strict=True
    ):
        assert halves(sample, bare) == (row["prompt"], row["response"] + "<|im_end|>")
    with pytest.raises(DataError, match="no chat template.*--t3s-prompt-format raw"):
        build(tmp_path, rows, bare)


def test_overlong_samples(tmp_path, problems, tokenizer):
    rows = [{"prompt": p["question"], "response": _thought(p)} for p in problems]
    whole = build(tmp_path, rows, tokenizer)
    lengths = sorted(len(sample.tokens) for sample in whole.samples)
    limit = lengths[len(lengths) // 2] - 1  # the median sample is the longest one that fits
    fitting = [s for s in whole.samples if len(s.tokens) - 1 <= limit]
    assert 0 < len(fitting) < len(rows)
    with pytest.raises(DataError, match=f"do not fit --seq-length {limit}: .*line"):
        build(tmp_path, rows, tokenizer, seq_length=limit)

    dropped = build(tmp_path, rows, tokenizer, seq_length=limit, overlong="drop")
    assert [s.uid for s in dropped.samples] == [s.uid for s in fitting]
    assert dropped.counts["dropped_overlong"] == len(rows) - len(fitting)

    cut = build(tmp_path, rows, tokenizer, seq_length=limit, overlong="truncate")
    by_uid = {sample.uid: sample for sample in whole.samples}
    assert cut.counts["truncated_overlong"] > 0
    for sample in cut.samples:
        original = by_uid[sample.uid]
        n = min(len(original.tokens), limit + 1)
        assert sample.tokens.tolist() == original.tokens[:n].tolist()
        # A cut response does not end: nothing teaches the student to stop there.
        ends = sample.tokens[-1] == tokenizer.eos_token_id
        assert ends == (len(original.tokens) <= limit + 1)


@pytest.mark.parametrize("response", ["<|im_end|>", " \n", "<|im_end|><|im_end|>\n"])
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_a_response_that_says_nothing(response, prompt_format, tmp_path, problems, tokenizer):
    rows = [{"prompt": problems[0]["question"], "response": "fine"}]
    rows.append({"prompt": problems[1]["question"], "response": response})
    with pytest.raises(DataError, match="line 2: the (response|last message)"):
        build(tmp_path, rows, tokenizer, prompt_format=prompt_format)


def _thought(problem: dict) -> str:
    return (
        f"<think>\n{problem['solution']}\n</think>\n\nThe answer is \\boxed{{{problem['answer']}}}."
    )
