# SPDX-License-Identifier: Apache-2.0
"""Folders as runs leave them: stores, a selection, a summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from made_data import byte_tokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import ENTROPY, LogProbStore
from t3s_megatron.data.teachers import load_training_records, parts_of
from t3s_megatron.method.selection import delta_c, keep_mask
from t3s_megatron.method.selection_counts import selection_counts
from t3s_megatron.monitor.report import _KEYS
from t3s_megatron.monitor.summary import FORMAT

SUMMARY = {"format": FORMAT, "measurements": [], "evaluations": [], "tokens": {}, "phases": []}


class Folder:
    """What a run has left, and what it was made of. `c_0`, `c_b`: float32[n] in corpus order."""

    def __init__(
        self,
        path: Path,
        teachers: list[str | None],
        method="t3s",
        tau=0.0,
        share=None,
        temperature=None,
    ):
        self.path, self.t3s = path, path / "t3s"
        self.t3s.mkdir(parents=True)
        self.data = path / "train.jsonl"
        self.data.write_text(
            "".join(json.dumps(self._row(i, t)) + "\n" for i, t in enumerate(teachers))
        )
        self.tokenizer = path / "tokenizer"
        byte_tokenizer().save_pretrained(self.tokenizer)
        records = load_training_records((str(self.data),))
        self.corpus = Corpus.build(records, byte_tokenizer(), seq_length=10**6)
        self.parts = parts_of(self.corpus, records)
        draw, n = np.random.default_rng(0), self.corpus.n_targets
        self.c_0, self.c_b = (-draw.random(n).astype(np.float32).round(1) for _ in range(2))
        self.c_ref, self.entropy = (-self.c_0[::-1], np.abs(self.c_b[::-1]))
        self.keep = self.select(method, tau, share, temperature)
        steps = {part.teacher: 3 for part in self.parts}
        self.references = []
        scored = [("theta_0", self.c_0, 0), ("theta_b", self.c_b, 3), ("ref", self.c_ref, 0)]
        if method == "keep-top-entropy":
            scored.append((ENTROPY, self.entropy, 0))
        for part in self.parts:
            for tag, c, step in scored:
                store = LogProbStore(c[part.targets], part.corpus, tag, step, {"num_layers": 2})
                name = part.file_name(tag if tag == ENTROPY else f"c_{tag}")
                folder = self.path if tag == "ref" else self.t3s
                store.save(str(folder / f"{name}.safetensors"))
            self.references.append(str(path / f"{part.file_name('c_ref')}.safetensors"))
        counts = selection_counts(self.keep, delta_c(self.c_b, self.c_0), tau)
        step = 3 if len(self.parts) == 1 else steps
        made = Selection(self.keep, self.corpus, method, step, counts, {"num_layers": 2})
        made.save(str(self.t3s / "selection.safetensors"))
        self.summarise(seed=7)

    @staticmethod
    def _row(i: int, teacher: str | None) -> dict:
        row = {"id": f"s{i}", "prompt": f"what is {i} and {i}?", "response": f"five {'or ' * i}six"}
        return row if teacher is None else row | {"teacher": teacher}

    def select(
        self, method: str, tau: float, share: float | None, temperature: float | None
    ) -> np.ndarray:
        """As `run.selector`: each teacher's tokens among themselves."""
        keep = np.ones(self.corpus.n_targets, dtype=np.float32 if temperature else bool)
        for part in self.parts:
            keep[part.targets] = keep_mask(
                method, n=part.corpus.n_targets, c_0=self.c_0[part.targets],
                c_b=self.c_b[part.targets], seed=7, share=share, tau=tau, temperature=temperature,
                c_ref=self.c_ref[part.targets], entropy=self.entropy[part.targets],
            )  # fmt: skip
        return keep

    def summarise(self, **arguments) -> None:
        asked = {"data_split": "train", "prompt_format": "chat", "overlong": "error",
                 "ignore_fields": []} | arguments  # fmt: skip
        summary = dict.fromkeys(_KEYS) | SUMMARY | {"method": "t3s", "arguments": asked}
        (self.t3s / "summary.json").write_text(json.dumps(summary))

    @property
    def samples(self) -> list[str]:
        """The arguments for the data."""
        return ["--data", str(self.data), "--tokenizer-model", str(self.tokenizer)]

    def load(self, path: Path) -> Selection:
        return Selection.load(str(path), self.corpus)


ONE, TWO = [None] * 5, ["r1", "qwq", "r1", "qwq", "r1"]  # two teachers' samples, mixed
