# SPDX-License-Identifier: Apache-2.0
"""A job whose data are large enough to be tokenised once for all of its ranks, and for its restart.

The text is that of the other jobs; what makes it large is metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

from t3s_megatron.data.corpus_cache import SMALL
from tests.support.launch import FRESH, run
from tests.support.reference import read_tensors

SIMPLE = "--t3s-simple --t3s-simple-step 2 --t3s-profile-iters 3".split()
SCHEDULE = "--train-iters 4 --lr 2e-3 --min-lr 1e-4 --save-interval 1".split()


def test_it_is_the_job_on_the_same_text_and_a_restart_tokenises_nothing(tmp_path, task, student):
    rows = [json.loads(line) for line in Path(task[0]).read_text().splitlines()]
    padding = {"padding": "x" * (SMALL // len(rows))}
    folders = [tmp_path / name / "data.jsonl" for name in ("small", "large")]
    for path, more in zip(folders, ({}, {"metadata": padding}), strict=True):
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row | more) + "\n" for row in rows))

    def job(path: Path, *more, **how) -> str:
        out = path.parent / "out"
        return run(
            ["--t3s-data", path, "--tokenizer-model", task[1], "--t3s", *SIMPLE, *SCHEDULE,
             "--save", out, *more],
            processes=2,
            **how,
        ).output  # fmt: skip

    small, large = (path.parent / "out" for path in folders)
    start = ["--load", student, *FRESH]
    assert "tokenising" not in job(folders[0], *start)
    first = job(folders[1], *start, "--exit-interval", 4)
    assert first.count("once for all ranks") == 1
    again = job(folders[1], "--load", large)
    assert "once for all ranks" not in again and "resumed at iteration 4" in again
    (made,) = (path for path in (large / "t3s/corpus").iterdir() if path.is_dir())
    assert {path.name for path in made.iterdir()} == {"corpus.json", "samples.arrow"}
    for name in ("selection", "c_theta_0", "c_theta_b"):
        one, other = (f / f"t3s/{name}.safetensors" for f in (small, large))
        assert one.read_bytes() == other.read_bytes(), name
    tensors, expected = read_tensors(str(large)), read_tensors(str(small))
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor == expected[name]).all(), name
