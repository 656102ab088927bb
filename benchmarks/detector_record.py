# SPDX-License-Identifier: Apache-2.0
"""The record of `benchmarks/detector_record.sh`: what became of each answer at each step of SFT.

python benchmarks/detector_record.py runs/detector

One entry a run: seed, learning rate, answers a prompt, and for each step the mean tokens of an
answer and the marks of all answers, "1" for a right one, in bits and base64.
"""

from __future__ import annotations

import base64
import json
import pathlib
import sys

import numpy as np

from t3s_megatron.method.outcome import RIGHT, WRONG

RECORD = pathlib.Path(__file__).parent / "data" / "detector_tiny.json"


def main(folder: str) -> None:
    runs = []
    for path in sorted(pathlib.Path(folder).glob("seed-*/sft/t3s/summary.json")):
        summary = json.loads(path.read_text())
        measured = summary["measurements"]
        seed, rate = path.parts[-4].removeprefix("seed-").split("-lr-")
        if any(set(m["marks"]) - {RIGHT, WRONG} for m in measured):
            raise SystemExit(f"{path}: answers have failed: record it again")
        runs.append(
            {
                "seed": int(seed),
                "lr": rate,
                "samples": measured[0]["samples_per_prompt"],
                "answers": measured[0]["total"],
                "tokens": [round(m["generated_tokens"] / m["total"], 2) for m in measured],
                "marks": [pack(m["marks"]) for m in measured],
            }
        )
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(runs, indent=1) + "\n")
    print(f"{RECORD}: {len(runs)} runs, {RECORD.stat().st_size / 1000:.0f} kB")


def pack(marks: str) -> str:
    bits = np.frombuffer(marks.encode(), np.uint8) == ord(RIGHT)
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def read() -> list[dict]:
    """The runs, `marks` as bool[steps, prompts, samples]."""
    runs = json.loads(RECORD.read_text())
    for run in runs:
        packed = [np.frombuffer(base64.b64decode(one), np.uint8) for one in run["marks"]]
        bits = np.unpackbits(np.stack(packed), axis=1, count=run["answers"]).astype(bool)
        run["marks"] = bits.reshape(len(packed), -1, run["samples"])
    return runs


if __name__ == "__main__":
    main(sys.argv[1])
