# SPDX-License-Identifier: Apache-2.0
"""The model of a Hugging Face folder in Megatron's arguments, and whether given ones describe it.

`options` are the arguments that a folder asks for. `check` compares every figure that changes what
the weights mean before any weight is read, and names all differences at once. Read backwards, the
same tables make the config.json of a model that has no folder to take it from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from t3s_megatron.data.corpus import vocabulary_of
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.huggingface.config import read_config
from t3s_megatron.huggingface.families.family import Family, Options
from t3s_megatron.huggingface.families.table import FAMILIES


@dataclass(frozen=True)
class Difference:
    """One field of config.json and the Megatron argument that should say the same."""

    field: str
    wanted: object
    argument: str
    found: object

    def __str__(self) -> str:
        return f"{self.field} is {self.wanted}, but {self.argument} is {self.found}"


def family_of(config, where: str) -> Family:
    """The family of a config. T3SError for one that is not supported, or not with these figures."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise T3SError(
            f"{where}: model_type {config.model_type} is not supported: "
            f"{', '.join(sorted(FAMILIES))} are"
        )
    wrong = [limit for limit in family.limits if limit.found(config) not in limit.supported]
    if wrong:
        lines = "".join(
            f"\n  {limit.said} is {limit.found(config)}; supported: "
            f"{', '.join(map(str, limit.supported))}"
            for limit in wrong
        )
        raise T3SError(f"{where}: a {config.model_type} that is not supported:{lines}")
    return family


def options(config, where: str) -> Options:
    """Megatron's options for the model of a config, and what goes with it unless asked otherwise.
    Raises as `family_of`."""
    return family_of(config, where).options(config)


def check(config, args, where: str) -> None:
    """Compare a config with Megatron's validated namespace.

    MismatchError that names every difference; T3SError for an architecture that is not supported.
    """
    different = differences(family_of(config, where), config, args)
    if different:
        lines = "".join(f"\n  {difference}" for difference in different)
        raise MismatchError(
            f"{where} is not the model that the arguments describe:{lines}\n"
            "Leave these arguments out (the folder says them), or give the folder that they "
            "describe."
        )


def differences(family: Family, config, args) -> list[Difference]:
    """Where the arguments describe another model than the config of this family."""
    found = [
        Difference(argument.said, argument.wanted(config), argument.option, argument.found(args))
        for argument in family.arguments
    ]
    return [
        difference
        for difference, argument in zip(found, family.arguments, strict=True)
        if not argument.holds(difference.wanted, difference.found)
    ]


def fit_to_folder(args, folder: str):
    """The config of the `--t3s-hf-model` folder; `args.vocab_size` becomes what it says, and
    `args.padded_vocab_size` what that takes. Raises as `read_config` and `check`."""
    config = read_config(folder)
    args.vocab_size = config.vocab_size
    args.padded_vocab_size = vocabulary_rows(config, args.tensor_model_parallel_size)
    check(config, args, f"--t3s-hf-model {folder}")
    return config


def vocabulary_rows(config, tensor_parallel: int) -> int:
    """Rows of the embedding in Megatron: those of the folder, and no more than it takes to divide
    them over the tensor-parallel ranks.

    Megatron would pad what the tokenizer knows (151,669 tokens for Qwen3) instead of what the
    folder has (151,936 rows).
    """
    return math.ceil(config.vocab_size / tensor_parallel) * tensor_parallel


def config_from_arguments(args, tokenizer, where: str) -> tuple[object, dict]:
    """(transformers config, its JSON) of the model that Megatron's arguments describe: of a student
    that never was a Hugging Face folder. MismatchError that says what is in the way of the nearest
    family, when no family has such a model.
    """
    from transformers import AutoConfig

    nearest: list[Difference] | None = None
    for family in FAMILIES.values():
        if family.architecture is None:
            continue
        written: dict = {
            "architectures": [family.architecture],
            "model_type": family.model_type,
            # Megatron 0.17 decides on padding later than this is first asked.
            "vocab_size": vocabulary_of(args) or len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        for argument in family.arguments:
            facts = argument.written(args)
            written |= {field: value for field, value in facts.items() if value is not None}
        config = AutoConfig.for_model(**written)
        different = differences(family, config, args)
        if not different:
            return config, written
        if nearest is None or len(different) < len(nearest):
            nearest, name = different, family.model_type
    assert nearest is not None
    lines = "".join(f"\n  {difference}" for difference in nearest)
    raise MismatchError(
        f"{where}: the arguments describe no model that transformers has; nearest is {name}:{lines}"
    )
