# SPDX-License-Identifier: Apache-2.0
"""docs/arguments.md holds the table of all arguments: `python -m tests.support.argument_table`
writes it anew from their declarations."""

from __future__ import annotations

import re
from pathlib import Path

from t3s_megatron.config import T3SConfig
from t3s_megatron.options import table

PAGE = Path(__file__).parents[2] / "docs/arguments.md"


def in_page(text: str) -> str:
    """The page with the table as it has to be."""
    return re.sub(r"(?m)(^\|.*\n)+", lambda _: table(T3SConfig) + "\n", text, count=1)


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text()))
