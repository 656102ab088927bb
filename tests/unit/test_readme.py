# SPDX-License-Identifier: Apache-2.0
"""The README says what the code does: its argument table is the parser's, its files are there."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

from t3s_megatron.config import T3SConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def argument_table() -> str:
    rows = []
    for f in fields(T3SConfig):
        unset = f.default is None or f.default is False or f.default == ()
        default = "" if unset else f"`{f.default}`"
        choices = f.metadata["argparse"].get("choices")
        name = f"`--t3s-{f.name.replace('_', '-')}`"
        if choices:
            name += " " + ", ".join(f"`{choice}`" for choice in choices)
        rows.append(f"| {name} | {default} | {f.metadata['help']} |")
    return "\n".join(rows)


def test_the_argument_table_is_the_parsers():
    assert argument_table() in README, f"the table has to be:\n{argument_table()}"


def test_every_argument_that_is_mentioned_exists():
    known = {f"--t3s-{f.name.replace('_', '-')}" for f in fields(T3SConfig)} | {"--t3s"}
    assert set(re.findall(r"--t3s(?:-[a-z]+)*", README)) <= known


def test_every_file_that_is_mentioned_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    commands = re.findall(r"bash ([\w/]+\.sh)", README)
    paths = re.findall(r"`((?:tests|benchmarks|examples|t3s_megatron)/[\w/.]*)`", README)
    mentioned = {x for x in (*links, *commands, *paths) if not x.startswith("http")}
    assert len(mentioned) > 8
    assert [x for x in sorted(mentioned) if not os.path.exists(ROOT / x)] == []
