# SPDX-License-Identifier: Apache-2.0
"""What a family of students is made of: a table of arguments and a table of tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from t3s_megatron.huggingface.packing import Packing

#: Options of Megatron's command line and their values: True for a flag that is given, None and
#: False for an option that is not. A name without hyphens before it is a field of Megatron's config
#: that has no option: it is taken from the namespace of the arguments all the same.
Options = dict[str, Any]


def _equal(wanted, found) -> bool:
    if isinstance(wanted, float) and isinstance(found, float | int):
        return math.isclose(wanted, found, rel_tol=1e-9)
    return wanted == found


@dataclass(frozen=True)
class Argument:
    """One fact about the model, as config.json has it and as Megatron's arguments have it.

    `said`: what to call it in config.json; `option`: in Megatron. `wanted` of a config and `found`
    in Megatron's validated namespace are the same exactly if the two describe the same model;
    `options` of a config make them so. `written`: fields of a config.json for the arguments, where
    the fact can be read backwards.
    """

    said: str
    option: str
    wanted: Callable[[Any], Any]
    found: Callable[[Any], Any]
    options: Callable[[Any], Options]
    written: Callable[[Any], dict]
    holds: Callable[[Any, Any], bool] = _equal


@dataclass(frozen=True)
class Limit:
    """A field of config.json that has to have one of some values, Megatron (or this project) having
    nothing for the others."""

    said: str
    found: Callable[[Any], Any]
    supported: tuple


@dataclass(frozen=True)
class Tensor:
    """One kind of parameter. `megatron`: its name, of local layers, with {layer} and {expert};
    `names`: of the tensors in the folder that make it up, in the order that `packing` wants."""

    megatron: str
    names: tuple[str, ...]
    packing: Packing


@dataclass(frozen=True)
class Family:
    """Students of one `model_type`.

    `arguments`: all that decides what the weights mean. `unless_asked`: options that the
    architecture leaves open, and what they are where the command line does not say.
    `predicts_ahead`: the field with the number of layers for multi-token prediction, which are left
    out; they follow the others in a folder, or (`ahead`) the names of their tensors begin so.
    `stacked`: the folder has all experts of a layer in one tensor, the first dimension of which
    counts them. `defaults`: the fields a config.json may leave out, for a model_type that
    transformers does not know. `architecture`: the class in transformers, for a config.json that is
    made of arguments.
    """

    model_type: str
    arguments: tuple[Argument, ...]
    tensors: tuple[Tensor, ...]
    limits: tuple[Limit, ...] = ()
    unless_asked: Options = field(default_factory=dict)
    predicts_ahead: str | None = None
    stacked: bool = False
    ahead: str | None = None
    defaults: dict | None = None
    architecture: str | None = None

    def options(self, config) -> Options:
        """Megatron's options for the model of `config`, and what goes with it unless asked."""
        options = dict(self.unless_asked)
        for argument in self.arguments:
            options |= argument.options(config)
        return options

    def tensor(self, parameter: str) -> tuple[Tensor, tuple[str, ...]] | None:
        """(kind of a parameter, its names in the folder), or None where the family has no such.

        `parameter`: its name in Megatron's local layers, with the layer's number in the model and
        the expert's number in the layer.
        """
        found = _NUMBERED.match(parameter)
        if found is None:
            tensor, numbers = self._by_name.get(parameter), {}
        else:
            layer, expert = found["layer"], found["expert"]
            name = f"decoder.layers.{{layer}}.{found['rest']}"
            if expert is not None:
                name = f"decoder.layers.{{layer}}.mlp.experts.{{expert}}.{found['rest']}"
            tensor, numbers = self._by_name.get(name), {"layer": layer, "expert": expert}
        if tensor is None:
            return None
        return tensor, tuple(name.format(**numbers) for name in tensor.names)

    def is_ahead(self, name: str, layers: int) -> bool:
        """Whether a tensor of the folder is one for multi-token prediction of a model of so many
        layers."""
        if self.ahead is not None:
            return name.startswith(self.ahead)
        layer = _FOLDER_LAYER.match(name)
        return self.predicts_ahead is not None and layer is not None and int(layer[1]) >= layers

    @cached_property
    def _by_name(self) -> dict[str, Tensor]:
        return {tensor.megatron: tensor for tensor in self.tensors}


_NUMBERED = re.compile(
    r"decoder\.layers\.(?P<layer>\d+)\.(mlp\.experts\.(?P<expert>\d+)\.)?(?P<rest>.+)"
)
_FOLDER_LAYER = re.compile(r"model\.layers\.(\d+)\.")


# ------------------------------------------------------------------------- rows of the first table


def same(said: str, option: str, dest: str | None = None, kind: Callable = lambda x: x) -> Argument:
    """A field and an argument that say the same."""
    dest = dest or _dest(option)
    return Argument(
        said,
        option,
        wanted=lambda config: kind(getattr(config, said)),
        found=lambda args: getattr(args, dest),
        options=lambda config: {option: kind(getattr(config, said))},
        written=lambda args: {said: getattr(args, dest)},
    )


def flag(said: str, option: str, dest: str | None = None, *, opposite: bool = False) -> Argument:
    """A field that is true exactly if a flag is given, or (`opposite`) is not."""
    dest = dest or _dest(option)
    return Argument(
        said,
        f"the opposite of {option}" if opposite else option,
        wanted=lambda config: bool(getattr(config, said)),
        found=lambda args: bool(getattr(args, dest)) != opposite,
        options=lambda config: {option: bool(getattr(config, said)) != opposite},
        written=lambda args: {said: bool(getattr(args, dest)) != opposite},
    )


def fixed(option: str, value: Any, dest: str | None = None) -> Argument:
    """What config.json does not say, because it is part of the architecture."""
    argument = unused(option, value, dest)
    return replace(argument, options=lambda config: {option: value})


def unused(option: str, value: Any = False, dest: str | None = None) -> Argument:
    """An option of Megatron's that has to stay at its default, `value`."""
    dest = dest or _dest(option)
    return Argument(
        f"architecture: {dest}",
        option,
        wanted=lambda config: value,
        found=lambda args: getattr(args, dest, value),  # older releases have not every option
        options=lambda config: {},
        written=lambda args: {},
    )


def _dest(option: str) -> str:
    return option.lstrip("-").replace("-", "_")
