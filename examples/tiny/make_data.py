# SPDX-License-Identifier: Apache-2.0
"""Data of the tiny example: reasoning-gym problems, solved by a student and by a teacher.

    python examples/tiny/make_data.py --out runs/tiny/data

Prompts, gold answers and the scorer are reasoning-gym's `chain_sum` (others wrote them). The traces
are scripted in two styles that say the same thing:

  terse (the student's own)      4+1=5;5+7=12;...
  wordy (the teacher's)          add 1 to 4 gives 5. so add 7 to 5 gives 12. ...

The student is pre-trained on mostly terse traces, and then fine-tuned on a few hundred wordy ones:
it knows how to reach the answers, and has to say so in another way.

Writes pretrain.jsonl, train.jsonl, heldout.jsonl and tokenizer/. Same arguments, same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random

import reasoning_gym
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<user>", "<assistant>", "<answer>", "</answer>"]
FILLERS = ["so", "now", "then", "well", "ok", "next"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<user>' if m['role'] == 'user' else '<assistant>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Where an answer begins, for `transformers serve`: by the tags of Qwen3, for which it would look
# otherwise, it finds none here, and hands the prompt back as part of the answer.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<assistant>",
    "fields": {"content": {"close": "<eos>", "content": "text"}},
}
# Words and signs with their leading space; digits one by one, so that numbers are compositional.
TOKEN_PATTERN = r"</?[a-z]+>| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]"


def running_steps(expression: str, rng: random.Random | None, slip: float):
    """[(total, operator, term, new total)] of "4 + 1 - 7"; a share `slip` of the steps is off."""
    words = expression.split()
    total, steps = int(words[0]), []
    for operator, term in zip(words[1::2], map(int, words[2::2]), strict=True):
        result = total + term if operator == "+" else total - term
        if slip and rng.random() < slip:
            result += rng.choice((-1, 1))
        steps.append((total, operator, term, result))
        total = result
    return steps, total


def terse(expression: str, rng: random.Random, slip: float = 0.0) -> str:
    steps, total = running_steps(expression, rng, slip)
    text = "".join(f"{a}{op}{b}={c};" for a, op, b, c in steps)
    return f"{text}<answer>{total}</answer>"


def wordy(
    expression: str, rng: random.Random, filler: float, check: float, slip: float = 0.0
) -> str:
    steps, total = running_steps(expression, rng, slip)
    text = "let us see." if rng.random() < filler else ""
    for a, op, b, c in steps:
        if rng.random() < filler:
            text += f" {rng.choice(FILLERS)}"
        text += f" add {b} to {a}" if op == "+" else f" take {b} from {a}"
        text += f" gives {c}."
        if rng.random() < check:
            text += f" check {a}{op}{b} is {c} yes."
    return f"{text.strip()} therefore<answer>{total}</answer>"


def problems(count: int, seed: int, terms: int):
    """Distinct problems of reasoning-gym's chain_sum with one-digit terms."""
    found, seen = [], set()
    dataset = reasoning_gym.create_dataset(
        "chain_sum", size=2 * count, seed=seed, min_terms=terms, max_terms=terms,
        min_digits=1, max_digits=1,
    )  # fmt: skip
    for entry in dataset:
        if entry["question"] not in seen:
            seen.add(entry["question"])
            found.append(entry)
        if len(found) == count:
            return found
    raise SystemExit(f"only {len(found)} distinct problems of {terms} terms; ask for fewer")


def sample(entry: dict, number: str, response: str, teacher: str) -> dict:
    metadata = {"source_dataset": "chain_sum", "expression": entry["metadata"]["expression"]}
    return {
        "id": number,
        "prompt": entry["question"],
        "response": response,
        "answer": entry["answer"],
        "teacher": teacher,
        "metadata": metadata,
    }


def make_tokenizer(texts: list[str], folder: str, mask: bool) -> None:
    """A word-level tokenizer over everything the example can say; decoding is exact. `mask`: with a
    mask token, which a student needs that learns by block diffusion."""
    splitter = pre_tokenizers.Split(Regex(TOKEN_PATTERN), behavior="isolated")
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    words += [p + d for p in ("", " ") for d in "0123456789"]
    words += ["<mask>"] if mask else []
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(SPECIAL + words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    if mask:
        wrapped.mask_token = "<mask>"
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.response_template = RESPONSE_TEMPLATE
    wrapped.save_pretrained(folder)


def write(path: str, samples: list[dict]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the 200 training traces")
    parser.add_argument("--terms", type=int, default=6)
    parser.add_argument("--pretrain-samples", type=int, default=45000)
    parser.add_argument("--train-samples", type=int, default=200)
    parser.add_argument("--heldout-samples", type=int, default=200)
    parser.add_argument("--wordy-share", type=float, default=0.15, help="of pre-training")
    parser.add_argument("--slip", type=float, default=0.0, help="wrong steps in pre-training")
    parser.add_argument("--filler", type=float, nargs=2, default=(0.3, 0.6), metavar=("PRE", "SFT"))
    parser.add_argument("--check", type=float, nargs=2, default=(0.03, 0.1), metavar=("PRE", "SFT"))
    parser.add_argument("--mask-token", action="store_true", help="the tokenizer has one")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    needed = args.pretrain_samples + args.heldout_samples
    common = problems(needed, seed=12345, terms=args.terms)
    rng = random.Random(2024)
    pretrain = []
    for i, entry in enumerate(common[args.heldout_samples :]):
        expression = entry["metadata"]["expression"]
        if rng.random() < args.wordy_share:
            text = wordy(expression, rng, args.filler[0], args.check[0], args.slip)
            pretrain.append(sample(entry, f"pre-{i}", text, "wordy"))
        else:
            pretrain.append(sample(entry, f"pre-{i}", terse(expression, rng, args.slip), "terse"))

    def traces(entries, name, rng):
        return [
            sample(e, f"{name}-{i}", wordy(e["metadata"]["expression"], rng, args.filler[1],
                                           args.check[1]), "wordy")
            for i, e in enumerate(entries)
        ]  # fmt: skip

    heldout = traces(common[: args.heldout_samples], "heldout", random.Random(7))
    unseen = {entry["question"] for entry in common[: args.heldout_samples]}
    own = [e for e in problems(2 * args.train_samples, 777 + args.seed, args.terms)
           if e["question"] not in unseen][: args.train_samples]  # fmt: skip
    train = traces(own, "train", random.Random(1000 + args.seed))

    for name, samples in (("pretrain", pretrain), ("train", train), ("heldout", heldout)):
        write(os.path.join(args.out, f"{name}.jsonl"), samples)
    said = [s["prompt"] + s["response"] for s in pretrain + train]
    make_tokenizer(said, os.path.join(args.out, "tokenizer"), args.mask_token)
    print(f"wrote {len(pretrain)} + {len(train)} + {len(heldout)} samples to {args.out}")


if __name__ == "__main__":
    main()
