# SPDX-License-Identifier: Apache-2.0
"""One declaration an argument: a dataclass field that says all there is to say about it.

    patience: int = option(5, "measurements without a new minimum after which ...", at_least=1)

is `--t3s-patience`: what it defaults to, what `--help` and docs/arguments.md say of it, which
values are refused, and (`free`) whether a resumed run may have another one. Each room declares its
own in a dataclass; `t3s_megatron.config` joins them. Fields that are not made by `option` are no
arguments.
"""

from __future__ import annotations

import argparse
import math
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from t3s_megatron.errors import T3SError

#: Bound of all integers. Samplers are seeded with a multiple of the seed, which has to fit 64 bits.
LARGEST = 2**32 - 1

#: Default of an argument that `T3SConfig.from_args` fills in from others where it is not given.
FILLED_IN: Any = MISSING


@dataclass(frozen=True)
class Option:
    """What is known of an argument beside its name, type and default; see `option`."""

    help: str
    at_least: float | None
    above: float | None
    at_most: float | None
    below: float | None
    free: bool
    choices: tuple[str, ...] | None
    needed: bool

    def check(self, argument: str, value: float) -> None:
        """T3SError for a number outside the bounds, or one that is none."""
        given = f"{argument} {value}"
        if isinstance(value, int) and value > LARGEST:
            raise T3SError(f"{given}: must be at most {LARGEST}")
        if not math.isfinite(value):
            raise T3SError(f"{given}: has to be a finite number")
        if self.at_least is not None and value < self.at_least:
            must = "not be negative" if self.at_least == 0 else f"be at least {self.at_least}"
            raise T3SError(f"{given}: must {must}")
        low = self.above is not None and value <= self.above
        high = self.below is not None and value >= self.below
        if (low or high) and self.above is not None and self.below is not None:
            raise T3SError(f"{given}: must lie between {self.above} and {self.below}")
        if low:
            raise T3SError(f"{given}: must be more than {self.above}")
        if high:
            raise T3SError(f"{given}: must be less than {self.below}")
        if self.at_most is not None and value > self.at_most:
            raise T3SError(f"{given}: must be at most {self.at_most}")

    @property
    def range(self) -> str:
        """Bounds in few characters, for a table; empty without any."""
        bounds = ((">=", self.at_least), (">", self.above), ("<=", self.at_most), ("<", self.below))
        return ", ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


def option(
    default: Any,
    help_text: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    free: bool = False,
    choices: tuple[str, ...] | None = None,
    needed: bool = False,
) -> Any:
    """A dataclass field that is a `--t3s-` argument of the field's name and type.

    The type is `bool` (a switch), `str`, `int` or `float`, one of these `| None`, or a tuple of
    one of them, which takes several words. `default`: also FILLED_IN, for an argument that depends
    on others; its field has no default of its own. `at_least`, `above`, `at_most`, `below`: bounds
    of a number, or of each of a tuple. `free`: a resumed run may be given another value. `needed`:
    a tuple, once given, has at least one entry.
    """
    about = Option(help_text, at_least, above, at_most, below, free, choices, needed)
    return field(default=default, metadata={"option": about})


def options_of(group: type) -> Iterator[tuple[Field, Option]]:
    """The arguments among the fields of a dataclass, in their order."""
    for declared in fields(group):
        if "option" in declared.metadata:
            yield declared, declared.metadata["option"]


def argument_name(name: str) -> str:
    """What a user types for the field `name`."""
    return "--t3s-" + name.replace("_", "-")


def default_of(declared: Field) -> Any:
    """What the parser has for an argument that is not given; None where it is filled in later."""
    return None if declared.default is MISSING else declared.default


def add_arguments(parser: argparse._ArgumentGroup, group: type) -> None:
    """Declare the options of `group` to argparse."""
    types = typing.get_type_hints(group)
    for declared, about in options_of(group):
        name, hint = argument_name(declared.name), types[declared.name]
        if hint is bool:
            parser.add_argument(name, action="store_true", help=about.help)
            continue
        several = typing.get_origin(hint) is tuple
        one = next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
        how: dict[str, Any] = {"nargs": "+" if about.needed else "*"} if several else {}
        if about.choices:
            how["choices"] = about.choices
        parser.add_argument(name, default=default_of(declared), type=one, help=about.help, **how)


def values_of(group: type, args: argparse.Namespace) -> dict[str, Any]:
    """Values of the options of `group` as they were parsed, by field; None where one is to be
    filled in."""
    values = {
        declared.name: getattr(args, f"t3s_{declared.name}") for declared, _ in options_of(group)
    }
    several = {name for name, hint in typing.get_type_hints(group).items()
               if typing.get_origin(hint) is tuple}  # fmt: skip
    return {name: tuple(v or ()) if name in several else v for name, v in values.items()}


def check_bounds(options: Any) -> None:
    """T3SError, naming argument and value, for a number that is out of its bounds."""
    for declared, about in options_of(type(options)):
        value = getattr(options, declared.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                about.check(argument_name(declared.name), number)


def all_values(options: Any) -> dict[str, Any]:
    """The value of every option by field, for a summary."""
    return {
        declared.name: getattr(options, declared.name) for declared, _ in options_of(type(options))
    }


def fixed_values(options: Any) -> dict[str, Any]:
    """By argument name, the values that a resumed run has to have again; tuples as lists, as JSON
    has them."""
    fixed = {}
    for declared, about in options_of(type(options)):
        if not about.free:
            value = getattr(options, declared.name)
            fixed[argument_name(declared.name)] = list(value) if isinstance(value, tuple) else value
    return fixed


def table(group: type) -> str:
    """The options of `group` as the Markdown table of docs/arguments.md."""
    rows = ["| argument | default | range | |", "|---|---|---|---|"]
    for declared, about in options_of(group):
        default = default_of(declared)
        unset = default is None or default is False or default == ()
        shown = "" if unset else f"`{default}`"
        name = f"`{argument_name(declared.name)}`"
        if about.free:
            name += " °"
        if about.choices:
            name += " " + ", ".join(f"`{choice}`" for choice in about.choices)
        rows.append(f"| {name} | {shown} | {about.range} | {about.help} |")
    return "\n".join(rows)
