# SPDX-License-Identifier: Apache-2.0
"""What is published: a source distribution, the wheel built from it, and that wheel installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from t3s_megatron import __version__
from tests.support.launch import ROOT

PUBLISHED = ("t3s_megatron", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel, built from a copy, so that nothing is left here."""
    copy = tmp_path_factory.mktemp("source")
    for name in PUBLISHED:
        source = Path(ROOT, name)
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "dist")]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "dist"


def modules() -> set[str]:
    return {str(p.relative_to(ROOT)) for p in Path(ROOT, "t3s_megatron").rglob("*.py")}


def test_the_wheel_has_every_module_the_marker_of_types_and_no_tests(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"t3s_megatron-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    information = {name for name in names if ".dist-info/" in name}
    assert names - information == modules() | {"t3s_megatron/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in information)


def test_the_source_distribution_has_what_the_wheel_is_built_from(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert modules() | {"t3s_megatron/py.typed", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_metadata_never_asks_for_the_apex_of_pypi(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    required = {re.match(r"[\w.-]+", line)[0].lower() for line in metadata.get_all("Requires-Dist")}
    assert {"torch", "megatron-core", "transformers"} <= required and "apex" not in required
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"gpu", "test", "tiny"} <= set(metadata.get_all("Provides-Extra"))


def test_the_citation_names_the_paper_as_the_readme_does():
    cited = yaml.safe_load(Path(ROOT, "CITATION.cff").read_text())["preferred-citation"]
    entry = Path(ROOT, "README.md").read_text().partition("```bibtex")[2].partition("```")[0]
    authors = [f"{one['family-names']}, {one['given-names']}" for one in cited["authors"]]
    assert len(authors) == 10 and f"{{{' and '.join(authors)}}}" in entry
    assert all(str(cited[key]) in entry for key in ("title", "collection-title", "year"))


def test_the_installed_wheel_runs_outside_of_the_repository(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--no-deps", "--target", str(target), str(wheel)], check=True)
    done = subprocess.run(
        [str(target / "bin" / "t3s-megatron"), "report", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "summary.json" in done.stdout, done.stderr
    where = [sys.executable, "-c", "import t3s_megatron.cli as cli; print(cli.__file__)"]
    found = subprocess.run(
        where,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str(target / "t3s_megatron" / "cli" / "__init__.py")
