# SPDX-License-Identifier: Apache-2.0
"""One declaration is the whole of an argument: parser, bounds, resume and documentation."""

from __future__ import annotations

import argparse
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest

from t3s_megatron.config import T3SConfig
from t3s_megatron.errors import T3SError
from t3s_megatron.options import (
    FILLED_IN,
    LARGEST,
    add_arguments,
    all_values,
    argument_name,
    check_bounds,
    fixed_values,
    option,
    options_of,
    table,
    values_of,
)


@dataclass(frozen=True, kw_only=True)
class Some:
    """One option of each kind."""

    quick: bool = option(False, "do not wait")
    steps: int = option(3, "how many", at_least=1)
    level: float = option(0.0, "of a test", at_least=0, below=1)
    share: float | None = option(None, "how much", above=0, below=1, free=True)
    seconds: float = option(5.0, "how long", above=0, at_most=60)
    places: tuple[float, ...] = option((), "where", at_least=0)
    files: tuple[str, ...] = option((), "what", needed=True, free=True)
    kind: str = option(FILLED_IN, "which (default: as the rest)", choices=("a", "b"))
    budget: int


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group("some"), Some)
    return parser.parse_args(words)


def made(**changed) -> Some:
    return Some(**{"kind": "a", "budget": 1} | changed)


def test_values_have_the_types_of_their_fields():
    given = parse("--t3s-quick", "--t3s-steps", "7", "--t3s-share", "0.5", "--t3s-places", "0", "2",
                  "--t3s-files", "x", "y", "--t3s-kind", "b")  # fmt: skip
    assert values_of(Some, given) == {
        "quick": True, "steps": 7, "level": 0.0, "share": 0.5, "seconds": 5.0,
        "places": (0.0, 2.0), "files": ("x", "y"), "kind": "b",
    }  # fmt: skip


def test_what_is_not_given_has_its_default_or_is_still_to_be_filled_in():
    assert values_of(Some, parse()) == {
        "quick": False, "steps": 3, "level": 0.0, "share": None, "seconds": 5.0,
        "places": (), "files": (), "kind": None,
    }  # fmt: skip


@pytest.mark.parametrize("words", [["--t3s-steps", "x"], ["--t3s-kind", "c"], ["--t3s-files"]])
def test_words_of_another_kind_are_a_usage_error(words):
    with pytest.raises(SystemExit):
        parse(*words)


def test_an_option_that_is_filled_in_has_to_be():
    with pytest.raises(TypeError, match="kind"):
        Some(budget=1)
    with pytest.raises(FrozenInstanceError):
        made().steps = 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (dict(steps=0), "--t3s-steps 0: must be at least 1"),
        (dict(steps=LARGEST + 1), f"--t3s-steps {LARGEST + 1}: must be at most {LARGEST}"),
        (dict(level=-0.5), "--t3s-level -0.5: must not be negative"),
        (dict(level=1.0), "--t3s-level 1.0: must be less than 1"),
        (dict(level=float("nan")), "--t3s-level nan: has to be a finite number"),
        (dict(share=0.0), "--t3s-share 0.0: must lie between 0 and 1"),
        (dict(share=1.0), "--t3s-share 1.0: must lie between 0 and 1"),
        (dict(seconds=0.0), "--t3s-seconds 0.0: must be more than 0"),
        (dict(seconds=61.0), "--t3s-seconds 61.0: must be at most 60"),
        (dict(places=(1.0, -1.0)), "--t3s-places -1.0: must not be negative"),
    ],
)
def test_bounds_are_those_of_the_declaration(changed, said):
    with pytest.raises(T3SError) as caught:
        check_bounds(made(**changed))
    assert str(caught.value) == said


def test_bounds_hold_at_their_ends_and_not_for_what_is_not_given():
    check_bounds(made(steps=1, level=0.0, seconds=60.0, share=None, places=(0.0,), quick=True))


def test_a_resumed_run_has_to_have_again_what_is_not_free():
    assert fixed_values(made(places=(1.0,), share=0.5, files=("x",))) == {
        "--t3s-quick": False, "--t3s-steps": 3, "--t3s-level": 0.0, "--t3s-seconds": 5.0,
        "--t3s-places": [1.0], "--t3s-kind": "a",
    }  # fmt: skip
    assert "budget" not in all_values(made()) and all_values(made())["share"] is None


def test_the_table_has_a_line_for_each():
    assert table(Some).splitlines()[2:] == [
        "| `--t3s-quick` |  |  | do not wait |",
        "| `--t3s-steps` | `3` | >= 1 | how many |",
        "| `--t3s-level` | `0.0` | >= 0, < 1 | of a test |",
        "| `--t3s-share` ° |  | > 0, < 1 | how much |",
        "| `--t3s-seconds` | `5.0` | > 0, <= 60 | how long |",
        "| `--t3s-places` |  | >= 0 | where |",
        "| `--t3s-files` ° |  |  | what |",
        "| `--t3s-kind` `a`, `b` |  |  | which (default: as the rest) |",
    ]


# ------------------------------------------------------------------------- those of the package


def test_every_field_of_the_config_is_an_argument_but_for_what_others_say():
    arguments = [declared.name for declared, _ in options_of(T3SConfig)]
    others = {declared.name for declared in fields(T3SConfig)} - set(arguments)
    assert others == {"budget", "teachers"}, "--train-iters, and the data"


def test_every_argument_is_declared_by_one_room():
    rooms = [room for room in T3SConfig.__mro__ if "__annotations__" in vars(room)]
    for declared, _ in options_of(T3SConfig):
        declaring = [
            room.__name__ for room in rooms if declared.name in vars(room)["__annotations__"]
        ]
        assert len(declaring) == 1, f"{argument_name(declared.name)}: {declaring}"


def test_what_a_run_is_does_not_change_when_it_goes_on():
    """The list as it stands, so that a new argument's author decides."""
    free = {declared.name for declared, about in options_of(T3SConfig) if about.free}
    assert free == {
        "data", "data_cache", "heldout_data", "heldout_interval", "ignore_fields", "show_samples",
        "reference", "selection_load",
        "diffusion_attention", "selector", "selector_tokenizer",
        "selection_save", "dir", "device",
        "generation_batch_size", "generation_timeout", "verify_timeout", "verify_workers",
        "verify_memory", "hf_model", "hf_export", "keep_checkpoints", "non_finite", "server_url",
        "server_model",
        "server_colocated", "server_weights", "server_reload", "server_reload_command",
        "server_reload_timeout", "server_concurrency", "server_timeout", "server_retries",
        "server_agreement",
    }  # fmt: skip
