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
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from t3s_megatron import __version__
from tests.support.launch import ROOT

PUBLISHED = (
    "t3s_megatron", "examples", "patches", "docs", "pyproject.toml", "MANIFEST.in", "README.md",
    "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "constraints.txt",
)  # fmt: skip


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


def files_of(folder: str) -> set[str]:
    found = {p for p in Path(ROOT, folder).rglob("*") if p.is_file()}
    return {str(p.relative_to(ROOT)) for p in found if "__pycache__" not in p.parts}


def test_the_wheel_has_every_module_the_marker_of_types_the_run_scripts_and_no_tests(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"t3s_megatron-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    information = {name for name in names if ".dist-info/" in name}
    shared = {name for name in names if ".data/data/share/" in name}
    assert names - information - shared == modules() | {"t3s_megatron/py.typed"}
    scripts = {name.partition("/share/t3s-megatron/")[2] for name in shared}
    # Not those that install the project from its folder, nor what only they use.
    installing = (
        "run_t3s_tiny_", "run_t3s_smollm2_cpu.sh", "lib/python.sh", "models/", "tiny/", "smollm2/",
    )  # fmt: skip
    assert scripts == {
        name
        for name in files_of("examples")
        if not name.removeprefix("examples/").startswith(installing)
    }
    for script in scripts:
        for sourced in re.findall(r"(?m)^ *source .*?/(\S+)\"$", Path(ROOT, script).read_text()):
            assert any(name.endswith(sourced) for name in scripts), f"{script}: {sourced}"
    assert any(name.endswith("licenses/LICENSE") for name in information)


def test_the_source_distribution_has_what_the_wheel_and_every_example_are_made_of(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert modules() | {"t3s_megatron/py.typed", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert files_of("examples") | files_of("patches") | {"constraints.txt", "Dockerfile"} <= names


def test_the_metadata_never_asks_for_the_apex_of_pypi(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        about = Parser().parsestr(archive.read(name).decode())
    required = {re.match(r"[\w.-]+", line)[0].lower() for line in about.get_all("Requires-Dist")}
    assert {"torch", "megatron-core", "transformers"} <= required and "apex" not in required
    assert about["License-Expression"] == "Apache-2.0"
    extras = {"gpu", "pictures", "reasoning-gym", "server", "test", "verification"}
    assert extras == set(about.get_all("Provides-Extra"))


def test_the_extra_for_gpus_is_that_of_megatron_core(built):
    """Transformer Engine without its compiled core is not one."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        ours = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    megatrons = metadata.requires("megatron-core") or []

    def parts(lines, extra: str) -> set[str]:
        """What is asked for of Transformer Engine."""
        requirements = map(Requirement, lines)
        (found,) = (
            r
            for r in requirements
            if r.name == "transformer-engine" and r.marker and r.marker.evaluate({"extra": extra})
        )
        return found.extras

    assert parts(ours, "gpu") == parts(megatrons, "te")


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
    script = ["bash", str(target / "share/t3s-megatron/examples/run_t3s_qwen3_8b.sh")]
    done = subprocess.run(script, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 2 and "HF_MODEL is not set" in done.stderr, done.stderr
