# SPDX-License-Identifier: Apache-2.0
"""Samples with gold answers; their tokens do not matter to a verifier."""

from __future__ import annotations

import numpy as np

from t3s_megatron.data.tokenizing import Sample


def gold(answer: str | None, metadata: dict | None = None, uid: str = "s") -> Sample:
    tokens, is_target = np.array([1, 2], dtype=np.int32), np.array([False, True])
    return Sample(uid, tokens, is_target, 1, answer, metadata, None, f"f.jsonl, line of {uid}")
