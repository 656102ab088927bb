# SPDX-License-Identifier: Apache-2.0
"""Any command line, through Megatron's own parser and all that is checked before a model is built:
a run that is ready to start, a usage message, or an error that a person can act on."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.child

numbers = st.integers(-2, 60).map(str) | st.sampled_from(
    ["1e999", "nan", "-inf", "1" * 5_000, "9" * 400, "1e-400", "0x10", "1_0", "-0", "", " 3", "٣"]
    + [str(2**32 - 1), str(2**32), str(2**63), str(2**64), "0.5", "1e3"]
)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
odd_words = words | st.sampled_from(
    ["t3s", "sft", "rrt", "simple", "stop", "both", "random", "chat", "raw"]
    + ["drop", "truncate", "numeric", "reasoning-gym", "os:abort", "builtins:exit", "a:b:c", ":"]
    + ["sys.path:append", "json:JSONDecoder", "\udcff", "/", ".", "..", "//", "~", "mask-share"]
)


def command_lines(paths: list[str]):
    from t3s_megatron.config import T3SConfig
    from t3s_megatron.options import argument_name, options_of

    known = [argument_name(f.name) for f, _ in options_of(T3SConfig)]
    flags = st.sampled_from(["--t3s-simple", "--t3s", "--fp16", "--exit-signal-handler"])
    values = numbers | odd_words | st.sampled_from(paths)
    pairs = st.tuples(st.sampled_from(known), values).map(list)
    megatron = st.tuples(
        st.sampled_from(["--seed", "--train-iters", "--seq-length", "--tokenizer-model", "--save"])
        | st.sampled_from(["--tokenizer-type", "--vocab-size", "--phase-transition-iterations"]),
        values,
    ).map(list)
    several = st.tuples(st.just(["--t3s-report-temperatures"]), st.lists(numbers, max_size=3))
    return st.lists(
        pairs
        | pairs
        | megatron
        | several.map(lambda both: both[0] + both[1])
        | flags.map(lambda f: [f]),
        max_size=4,
    ).map(lambda parts: [word for part in parts for word in part])


def test_any_command_line(task, tmp_path):
    """Megatron's parser for the words, its defaults for what it validates, and our checks."""
    from megatron.training.arguments import add_megatron_arguments

    from t3s_megatron.errors import T3SError
    from t3s_megatron.plugin import T3S
    from t3s_megatron.run.inputs import Inputs, check_tokenizer_argument, read_inputs
    from tests.support.launch import MODEL

    # Once, since it takes a tenth of a second. What validation fills in has its default here.
    parser = argparse.ArgumentParser("pretrain", allow_abbrev=False)
    parser = T3S().add_arguments(add_megatron_arguments(parser))
    parser.set_defaults(
        padded_vocab_size=None, data_parallel_size=1, virtual_pipeline_model_parallel_size=None
    )
    plain = [*MODEL, "--train-iters", "20", "--save", str(tmp_path), "--tokenizer-model", task[1]]
    plain += ["--t3s", "--t3s-data", task[0]]
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"\xff\n")
    loop = tmp_path / "loop"
    os.symlink(loop, loop)
    paths = [task[0], task[1], str(tmp_path), str(bad), str(loop), f"{tmp_path}/gone.parquet"]
    ends = {"ready": 0, "usage": 0, "refused": 0}

    @settings(max_examples=1000, database=None, deadline=None)
    @given(command_lines(paths))
    @example(["--t3s-seed", "1" * 5_000])
    @example(["--t3s-patience", "9" * 400])
    @example(["--t3s-verifier", "builtins:exit"])
    @example(["--tokenizer-model", str(loop)])
    @example(["--phase-transition-iterations", "3"])
    def check(line):
        sys.argv = ["pretrain", *plain, *line]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                check_tokenizer_argument(sys.argv[1:])
                args = parser.parse_args(sys.argv[1:])
                found = read_inputs(args)
        except SystemExit as end:
            assert end.code == 2 and "error: " in said.getvalue()
            ends["usage"] += 1
        except T3SError as error:
            assert len(str(error)) > 20
            ends["refused"] += 1
        else:
            assert isinstance(found, Inputs)
            found.config.check()
            ends["ready"] += 1

    check()
    assert all(ends.values()), ends
