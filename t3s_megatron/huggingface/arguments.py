# SPDX-License-Identifier: Apache-2.0
"""The student's arguments, from its folder: what `--t3s-hf-model DIR` says of the model need not be
said again.

The folder's figures become the defaults of Megatron's parser, so that whatever the command line
gives stands, and is refused where it describes another model.
"""

from __future__ import annotations

import argparse
import os
from itertools import groupby

from t3s_megatron.data.tokenizing import refuse_code
from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.architecture import check, options
from t3s_megatron.huggingface.config import read_config
from t3s_megatron.huggingface.families.family import Options
from t3s_megatron.huggingface.hub import local_folder

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def take_from_folder(
    parser: argparse.ArgumentParser, command_line: list[str]
) -> argparse.ArgumentParser:
    """Megatron's `parser`, with the defaults that the folder on the command line asks for.

    A student of the hub is fetched, but for its weights, and the parser hands out its folder. A
    folder that is not here changes nothing: whoever needs it says so. MismatchError when the
    command line describes another model, with both values; T3SError for a folder that cannot be a
    student, one that cannot be fetched, or an option that this Megatron has not.
    """
    given_as = _folder_of(command_line)
    if given_as is None:
        return parser
    folder = local_folder(given_as)
    if not os.path.isdir(folder):
        return parser
    config, where = read_config(folder), f"--t3s-hf-model {folder}"
    defaults = {}
    for option, value in (options(config, where) | _tokenizer(folder)).items():
        if not option.startswith("--"):
            defaults[option] = value
            continue
        action = parser._option_string_actions.get(option)
        if action is None:
            raise T3SError(f"{where}: this release of Megatron has no {option}, which it needs")
        if action.nargs != 0:
            defaults[action.dest] = value
        elif value:
            defaults[action.dest] = action.const
    parser.set_defaults(**defaults)
    parser._option_string_actions["--t3s-hf-model"].type = lambda word: folder
    given, _ = parser.parse_known_args(command_line)
    if given.tokenizer_model == folder:
        refuse_code(folder)
    check(config, given, where)
    return parser


def words(config, where: str) -> list[str]:
    """The model of a config as words of Megatron's command line, as far as it has options. T3SError
    as `options`."""
    found: list[str] = []
    for option, value in options(config, where).items():
        if not option.startswith("--"):
            continue
        if value is True:
            found.append(option)
        elif value is not None and value is not False:
            found += [option, _text(value)]
    return found


def _text(value) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if not isinstance(value, list):
        return str(value)
    runs = ((number, len(list(run))) for number, run in groupby(value))
    return "(" + "+".join(f"[{number}]*{length}" for number, length in runs) + ")"


def _folder_of(command_line: list[str]) -> str | None:
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--t3s-hf-model", nargs="?")
    return peek.parse_known_args(command_line)[0].t3s_hf_model


def has_tokenizer(folder: str) -> bool:
    """Whether a folder has a tokenizer beside its config.json."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in _TOKENIZER_FILES)


def _tokenizer(folder: str) -> Options:
    if not has_tokenizer(folder):
        return {}
    return {"--tokenizer-type": "HuggingFaceTokenizer", "--tokenizer-model": folder}
