# SPDX-License-Identifier: Apache-2.0
"""Students of the Hugging Face hub: fetched into its cache, by one process of a node.

`owner/name`, or `owner/name@REVISION`, where no such folder is here. First only what says what the
student is (config, tokenizer, the index of the weights: megabytes), so that a plan costs no more;
the weights when a run, or a conversion, is about to read them, and of the same commit.
"""

from __future__ import annotations

import json
import os
import re

from filelock import FileLock

from t3s_megatron.data.names import is_missing_path
from t3s_megatron.errors import DataError, T3SError
from t3s_megatron.huggingface.folder import INDEX

#: The tokenizer of a model that transformers does not know, and the code beside it, included: both
#: are copied into an export, and the code is never run.
_ABOUT = ("*.json", "*.txt", "*.jinja", "*.model", "*.py")
_WEIGHTS = ("*.safetensors",)
#: Folders inside, and what Mistral's own readers take: the same weights a second time.
_NEVER = ("*/*", "consolidated*")

_SNAPSHOT = re.compile(r".*/models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>\w+)/?")


def local_folder(name: str) -> str:
    """The folder of a student: `name` where that is not of the hub's form or is here, else the
    snapshot in the hub's cache, which may still lack the weights.

    T3SError when the hub has no such student, asks who one is, or cannot be reached.
    """
    repo, _, revision = name.partition("@")
    if os.path.exists(name) or repo.count("/") != 1 or is_missing_path(repo):
        return name
    return _fetch(repo, revision or None, _ABOUT)


def fetch_weights(folder: str) -> None:
    """The weights of a snapshot that `local_folder` has made, unless they are there; any other
    folder is left as it is. T3SError as `local_folder`."""
    found = _SNAPSHOT.fullmatch(os.path.abspath(folder))
    if found is not None and not _has_weights(folder):
        _fetch(f"{found['owner']}/{found['name']}", found["commit"], _ABOUT + _WEIGHTS)


def _has_weights(folder: str) -> bool:
    names = os.listdir(folder)
    if INDEX not in names:
        return any(name.endswith(".safetensors") for name in names)
    try:
        with open(os.path.join(folder, INDEX)) as file:
            return set(json.load(file)["weight_map"].values()) <= set(names)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}/{INDEX}: not an index of safetensors files ({error})") from error


def _fetch(repo: str, revision: str | None, patterns: tuple[str, ...]) -> str:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repo}@{revision}" if revision else repo
    locks = os.path.join(constants.HF_HUB_CACHE, ".locks")
    try:
        os.makedirs(locks, exist_ok=True)
        # The first process of a node downloads; the others then find everything there.
        with FileLock(os.path.join(locks, f"t3s--{repo.replace('/', '--')}.lock")):
            return snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(_NEVER),
            )
    except GatedRepoError as error:
        raise T3SError(
            f"{where}: the hub gives it only to those who have accepted its terms: accept them "
            "there, then hf auth login, or HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise T3SError(f"{where}: the hub has {repo}, and no revision {revision} of it") from error
    except RepositoryNotFoundError as error:
        raise T3SError(
            f"{where}: no such folder, and the hub has no such model, or only for those who are "
            "logged in (hf auth login, or HF_TOKEN)"
        ) from error
    except LocalEntryNotFoundError as error:
        first = str(error).splitlines()[0]
        raise T3SError(
            f"{where}: no such folder, not whole in the hub's cache {constants.HF_HUB_CACHE}, and "
            f"the hub cannot be asked from here ({first}). Where there is a network: hf download "
            f"{repo} --local-dir DIR, and give DIR; or fetch it into a cache that this machine "
            "shares (HF_HOME)"
        ) from error
    except Exception as error:  # a full disk, or one of the HTTP client's, which changes its name
        raise T3SError(
            f"{where}: cannot be fetched into {constants.HF_HUB_CACHE} ({error}). The same command "
            "again goes on where it broke off"
        ) from error
