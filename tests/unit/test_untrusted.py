# SPDX-License-Identifier: Apache-2.0
"""No file that a run is given can make it run code: nothing in the package unpickles, evaluates,
or lets a dataset or tokenizer bring code of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "t3s_megatron"
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def unsafe(source: str) -> list[str]:
    """What in a module could run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loads = name in (
                "torch.load",
                "torch.jit.load",
                "yaml.load",
                "load_state_dict_from_url",
            )
            if name in ("eval", "exec") or (loads and given.get("weights_only") != "True"):
                found.append(name)
            for keyword in ("allow_pickle", "trust_remote_code"):
                if given.get(keyword, "False") != "False":
                    found.append(f"{name}({keyword})")
    return found


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import pickle", ["pickle"]),
        ("from joblib import load", ["joblib"]),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=safe)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(path)", []),
        ("np.load(path, allow_pickle=True)", ["np.load(allow_pickle)"]),
        ("AutoTokenizer.from_pretrained(p, trust_remote_code=x)", None),
        ("eval(text)", ["eval"]),
        ("model.eval()", []),
    ],
)
def test_the_check_sees_it(source, says):
    assert unsafe(source) == says if says is not None else unsafe(source)


FILES = sorted(PACKAGE.rglob("*.py"))
#: A verifier's process takes its work from the rank that started it, over a socket of their own;
#: the rank never unpickles what comes back.
OWN_SOCKET = {"accuracy/pool.py": ["pickle"], "accuracy/worker.py": ["pickle"]}
#: Answers that are programs, which `--t3s-verifier code` runs in a sandbox and nowhere else.
SANDBOX = {"accuracy/code/inside.py": ["exec"]}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_evaluated(path):
    allowed = (OWN_SOCKET | SANDBOX).get(str(path.relative_to(PACKAGE)), [])
    assert [one for one in unsafe(path.read_text()) if one not in allowed] == []
