# SPDX-License-Identifier: Apache-2.0
"""README and docs say what the code does: the argument table is the parser's, files are there."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from t3s_megatron.config import T3SConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
    page = (ROOT / "docs/arguments.md").read_text()
    assert argument_table() in page, f"the table has to be:\n{argument_table()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_argument_that_is_mentioned_exists(page):
    known = {f"--t3s-{f.name.replace('_', '-')}" for f in fields(T3SConfig)} | {"--t3s"}
    assert set(re.findall(r"--t3s(?:-[a-z]+)*", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_mentioned_exists(page):
    text = page.read_text()
    links = {x for x in re.findall(r"\]\(([^)#]+)\)", text) if not x.startswith("http")}
    commands = re.findall(r"bash ([\w/]+\.sh)", text)
    paths = re.findall(r"`((?:tests|benchmarks|examples|t3s_megatron)/[\w/.]*)`", text)
    missing = [x for x in sorted({*commands, *paths}) if not os.path.exists(ROOT / x)]
    missing += [x for x in sorted(links) if not os.path.exists(page.parent / x)]
    assert missing == []
