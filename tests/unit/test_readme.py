# SPDX-License-Identifier: Apache-2.0
"""README and docs say what the code does: the argument table is the parser's, files are there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from t3s_megatron.config import T3SConfig
from t3s_megatron.method.selection import METHODS
from t3s_megatron.options import argument_name, options_of, table
from tests.support import argument_table

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_argument_table_is_the_declarations():
    page = (ROOT / "docs/arguments.md").read_text()
    assert argument_table.in_page(page) == page, "python -m tests.support.argument_table writes it"


def test_every_method_is_among_the_arguments():
    row = next(line for line in table(T3SConfig).splitlines() if "`--t3s-method`" in line)
    assert all(f"`{method.name}`" in row and method.help in row for method in METHODS.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_argument_that_is_mentioned_exists(page):
    known = {argument_name(f.name) for f, _ in options_of(T3SConfig)} | {"--t3s"}
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
