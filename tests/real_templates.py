# SPDX-License-Identifier: Apache-2.0
"""Random conversations through the published chat templates of some twenty families:

    .venv/bin/python -m tests.real_templates [--conversations 300] [--tokenizer DIR ...]

Slow and not part of the suite: it downloads the source distribution of llama-cpp-python (50 MB),
which carries templates as their models' authors published them. `--tokenizer` adds folders with a
tokenizer and a template of their own. The suite has templates that behave alike
(tests/unit/data/made_families.py).

A template says itself what has to come out: it is rendered, by transformers, with a word that
stands nowhere else for each text; then every text has to stand in the place of its word, whole but
for blanks around it, and nothing else may differ, nor any control token come in. Where the template
leaves a word out, writes it twice or raises, the record has to be refused; and nothing else may be,
but for control tokens in a response. Status 1 where one of this is not so.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections import Counter
from dataclasses import dataclass

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from t3s_megatron.data.records import Record
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.data.tokenizing import Tokenization
from t3s_megatron.errors import DataError
from tests.support.byte_level import byte_level

SOURCE = "llama-cpp-python==0.3.16"

#: (in the file's name, first token, end token), as the models' tokenizer_config.json have them.
TOKENS = [
    ("c4ai-command", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    ("Mistral-Small", "<s>", "</s>"),
    ("Mistral-Nemo", "<s>", "</s>"),
    ("Devstral", "<s>", "</s>"),
    ("Hermes-2", "<|begin_of_text|>", "<|im_end|>"),
    ("Hermes-3", "<|begin_of_text|>", "<|im_end|>"),
    ("QwQ", None, "<|im_end|>"),
    ("Qwen2.5", None, "<|im_end|>"),
    ("Qwen3", None, "<|im_end|>"),
    ("deepseek", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    ("llama-3-firefunction", "<|begin_of_text|>", "<|eot_id|>"),
    ("gemma-2", "<bos>", "<eos>"),
    ("granite", "<|end_of_text|>", "<|end_of_text|>"),
    ("functionary", "<|begin_of_text|>", "<|eot_id|>"),
    ("meta-llama", "<|begin_of_text|>", "<|eot_id|>"),
    ("Phi-3.5", "<s>", "<|end|>"),
    ("Kimi-K2", "[BOS]", "<|im_end|>"),
    ("gpt-oss", "<|startoftext|>", "<|return|>"),
]
_CONTROL = re.compile(
    r"<[|｜][^<>|｜]{1,40}[|｜]>|<(?:start|end)_of_turn>|</?s>|<bos>|<eos>"  # noqa: RUF001
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
_PIECES = """
user system assistant model the.sum 4 é e\u0301 ∑五 😀 \u200b {{x}} {%endfor%} ' \\boxed{4} <b>
[INST </answer>
""".split() + [" ", "\n", "\n\n", "\r\n"]  # fmt: skip

Turn = tuple[str, str | None, str]


@dataclass(frozen=True)
class Family:
    name: str
    tokenizer: PreTrainedTokenizerFast
    control: frozenset[str]


# ------------------------------------------------------------------------------------- families


def published(folder: str) -> list[Family]:
    """Of the templates in the source distribution, downloaded into `folder`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         "--disable-pip-version-check", "--dest", folder, SOURCE], check=True,
    )  # fmt: skip
    (archive,) = glob.glob(f"{folder}/*.tar.gz")
    found = []
    with tarfile.open(archive) as file:
        for member in sorted(file.getmembers(), key=lambda member: member.name):
            name = os.path.basename(member.name)
            if "/models/templates/" not in member.name or not name.endswith(".jinja"):
                continue
            tokens = next((rest for part, *rest in TOKENS if part in name), None)
            if tokens is None:
                print(f"{name}: its end token is not known here, left out")
                continue
            template = file.extractfile(member).read().decode()  # type: ignore[union-attr]
            found.append(made(name.removesuffix(".jinja"), template, *tokens))
    return found


def made(name: str, template: str, bos: str | None, eos: str) -> Family:
    """Byte-level BPE with the control tokens that the template names: any text has tokens."""
    control = frozenset({*_CONTROL.findall(template), eos, *([bos] if bos else [])})
    texts = ["the sum of two and three", "user system\n\n think"]
    special = ["<|pad|>", *sorted(control)]
    inner = byte_level(special, texts, 600, ("<think>", "</think>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, bos_token=bos, pad_token="<|pad|>"
    )
    tokenizer.chat_template = template
    return Family(name, tokenizer, control)


def real(folder: str) -> Family:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    named = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return Family(f"{os.path.basename(os.path.normpath(folder))} (its tokenizer)", tokenizer,
                  frozenset(named))  # fmt: skip


# -------------------------------------------------------------------------------- conversations


def conversation(draw: random.Random, control: list[str]) -> list[Turn]:
    """System or not, one question and answer or several, thinking or not; a question may quote
    control tokens, and sometimes a response does."""

    def text(marks: bool) -> str:
        pieces = _PIECES + (control[:4] if marks else [])
        while not (said := "".join(draw.choices(pieces, k=draw.randrange(1, 7)))).strip():
            pass
        return said

    def thinking() -> str | None:
        return text(False) if draw.random() < 0.5 else None

    turns: list[Turn] = []
    if draw.random() < 0.4:
        turns.append(("system", None, text(True)))
    for _ in range(draw.randrange(3)):
        turns += [("user", None, text(True)), ("assistant", thinking(), text(False))]
    last = text(draw.random() < 0.05)
    return [*turns, ("user", None, text(True)), ("assistant", thinking(), last)]


def messages_of(turns: list[Turn], field: str | None = None) -> list[dict[str, str]]:
    """`field`: the key of a message that holds thinking; None: in tags in its text."""
    made = []
    for role, thinking, text in turns:
        if thinking is None or field is None:
            text = text if thinking is None else join_thinking(thinking, text)
            made.append({"role": role, "content": text})
        else:
            made.append({"role": role, "content": text, field: thinking})
    return made


# ------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Wanted:
    """What the tokens of a sample have to read, and the control tokens among them."""

    text: re.Pattern
    control: Counter


def wanted(family: Family, turns: list[Turn], field: str | None) -> Wanted | None:
    """None where the template raises, leaves a text out (thinking of an earlier answer aside, which
    no student is given back) or writes it twice, or begins the response as no student does."""
    texts: list[str] = []

    def word(text: str) -> str:
        texts.append(text)
        return f"wörd{len(texts) - 1}x"

    shape = [
        (role, None if thinking is None else word(thinking), word(text))
        for role, thinking, text in turns
    ]
    render = family.tokenizer.apply_chat_template
    try:
        frame = render(messages_of(shape, field), tokenize=False)
        asked = render(messages_of(shape[:-1], field), tokenize=False, add_generation_prompt=True)
    except Exception:  # what a template raises is its own
        return None
    eos = family.tokenizer.eos_token
    _, thinks, answers = shape[-1]
    closing, _, _ = frame.partition(answers)[2].partition(eos)
    frame = frame[: frame.find(answers) + len(answers)] + closing.rstrip() + eos
    if thinks is not None and thinks not in frame and asked.rstrip().endswith("<think>"):
        frame = f"{asked}{thinks}</think>{answers}{closing.rstrip()}{eos}"
    if not frame.startswith(asked):
        return None
    found = re.findall(r"wörd\d+x", frame)
    may_go = {thinking for _, thinking, _ in shape[:-1]}
    every = [name for _, *names in shape for name in names if name is not None]
    if found != [name for name in every if name in found or name not in may_go]:
        return None
    # Blanks around a text may be its own or the template's, which may strip it.
    first, *rest = (re.escape(_on_a_fixed_day(x.strip())) for x in re.split(r"wörd\d+x", frame))
    pattern = first
    for name, part in zip(found, rest, strict=True):
        text = unicodedata.normalize("NFC", texts[int(name[4:-1])].strip())
        pattern += rf"\s*{re.escape(text)}\s*{part}"
    control = Counter(token for token in _tokens(family, frame) if token in family.control)
    return Wanted(re.compile(pattern), control)


def _on_a_fixed_day(text: str) -> str:
    """A template that writes the date writes that of Llama's fallback, so that samples stay."""
    today, fixed = datetime.date.today(), datetime.date(2024, 7, 26)
    for form in ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%B %d, %Y"):
        text = text.replace(today.strftime(form), fixed.strftime(form))
    return text


def _tokens(family: Family, text: str) -> list[str]:
    tokenizer = family.tokenizer
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def judge(family: Family, tokenization: Tokenization, turns: list[Turn]) -> tuple[str, str]:
    """("learned", ""), ("refused", why), or ("WRONG", how)."""
    record = Record("r", tuple(messages_of(turns)), None, None, None, "f.jsonl, line 7")
    fields = ("reasoning_content", "thinking", None)
    allowed = list(filter(None, (wanted(family, turns, field) for field in fields)))
    said = (turns[-1][1] or "") + turns[-1][2]
    quotes = any(token in said for token in family.control)
    try:
        sample = tokenization(record)
    except DataError as error:
        right = not allowed or quotes
        return "refused" if right else "WRONG", f"refused: {error}"
    if quotes and not turns[-1][2].rstrip().endswith(tuple(family.control)):
        return "WRONG", "a response with a control token is learned"
    if quotes:
        return "learned", ""  # its own end tokens, which are taken off
    tokenizer = family.tokenizer
    tokens = sample.tokens.tolist()
    names = Counter(tokenizer.convert_ids_to_tokens(tokens))
    control = Counter({name: n for name, n in names.items() if name in family.control})
    text = unicodedata.normalize("NFC", tokenizer.decode(tokens))  # as Qwen's tokenizers make it
    if not any(one.text.fullmatch(text) and one.control == control for one in allowed):
        wants = " or ".join(f"{one.text.pattern!r}, {one.control}" for one in allowed)
        return "WRONG", f"{text!r}, {control}, instead of {wants or 'a refusal'}"
    learned = unicodedata.normalize("NFC", tokenizer.decode(tokens[sample.prompt_length :]))
    if unicodedata.normalize("NFC", turns[-1][2].strip()) not in learned:
        return "WRONG", "the answer is not all learned"
    return "learned", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--conversations", type=int, default=300)
    parser.add_argument("--tokenizer", nargs="*", default=[], metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        families = [*published(folder), *map(real, options.tokenizer)]
    wrong = 0
    print("| template | learned | refused | wrong |\n|---|---|---|---|")
    for family in families:
        draw = random.Random(options.seed)
        tokenization = Tokenization(family.tokenizer, "chat")
        control = sorted(family.control)
        verdicts, examples = Counter(), []
        for _ in range(options.conversations):
            turns = conversation(draw, control)
            verdict, how = judge(family, tokenization, turns)
            verdicts[verdict] += 1
            if verdict == "WRONG":
                examples.append(f"{turns}\n    {how}")
        wrong += verdicts["WRONG"]
        print(f"| {family.name} | {verdicts['learned']} | {verdicts['refused']} | "
              f"{verdicts['WRONG']} |", flush=True)  # fmt: skip
        for example in examples[:3]:
            print(f"  {example}", file=sys.stderr, flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
