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
import glob
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from t3s_megatron.data.records import Record
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.data.tokenizing import Tokenization
from t3s_megatron.errors import DataError

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
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|pad|>", *sorted(control)], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(["the sum of two and three", "user system\n\n think"], trainer)
    inner.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>")])
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


def messages_of(turns: list[Turn]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text if thinking is None else join_thinking(thinking, text)}
        for role, thinking, text in turns
    ]


# ------------------------------------------------------------------------------------- verdicts


def expected(family: Family, turns: list[Turn]) -> tuple[re.Pattern, Counter] | None:
    """What the tokens of the sample have to read, and its control tokens; None where the template
    raises, or a text has no place, or two."""
    texts: list[str] = []

    def word(text: str) -> str:
        texts.append(text)
        return f"wörd{len(texts) - 1}x"

    shape = [
        (role, None if thinking is None else word(thinking), word(text))
        for role, thinking, text in turns
    ]
    try:
        frame = family.tokenizer.apply_chat_template(messages_of(shape), tokenize=False)
    except Exception:  # what a template raises is its own
        return None
    if re.findall(r"wörd(\d+)x", frame) != [str(number) for number in range(len(texts))]:
        return None
    last = f"wörd{len(texts) - 1}x"
    head, behind = frame.split(last)
    closing, _, _ = behind.partition(family.tokenizer.eos_token)
    frame = head + last + closing.rstrip() + family.tokenizer.eos_token
    # Blanks around a text may be its own or the template's, which may strip it.
    first, *rest = (re.escape(part.strip()) for part in re.split(r"wörd\d+x", frame))
    pairs = zip(texts, rest, strict=True)
    pattern = first + "".join(rf"\s*{re.escape(text.strip())}\s*{part}" for text, part in pairs)
    control = Counter(token for token in _tokens(family, frame) if token in family.control)
    return re.compile(pattern), control


def _tokens(family: Family, text: str) -> list[str]:
    tokenizer = family.tokenizer
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def judge(family: Family, tokenization: Tokenization, turns: list[Turn]) -> tuple[str, str]:
    """("learned", ""), ("refused", why), or ("WRONG", how)."""
    record = Record("r", tuple(messages_of(turns)), None, None, None, "f.jsonl, line 7")
    wanted = expected(family, turns)
    said = (turns[-1][1] or "") + turns[-1][2]
    quotes = any(token in said for token in family.control)
    try:
        sample = tokenization(record)
    except DataError as error:
        if wanted is None or quotes:
            return "refused", str(error)
        return "WRONG", f"refused: {error}"
    if quotes:
        return "WRONG", "a response with a control token is learned"
    if wanted is None:
        return "WRONG", "learned, though the template leaves a part of it out"
    pattern, control = wanted
    tokenizer = family.tokenizer
    text = tokenizer.decode(sample.tokens.tolist())
    if not pattern.fullmatch(text):
        return "WRONG", f"{text!r} is not {pattern.pattern!r}"
    tokens = tokenizer.convert_ids_to_tokens(sample.tokens.tolist())
    if (mine := Counter(token for token in tokens if token in family.control)) != control:
        return "WRONG", f"control tokens {mine} instead of {control}"
    if turns[-1][2].strip() not in tokenizer.decode(sample.tokens[sample.prompt_length :].tolist()):
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
