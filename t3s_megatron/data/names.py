# SPDX-License-Identifier: Apache-2.0
"""Names that stand for a local path or for something on the Hugging Face hub."""

from __future__ import annotations

import os

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def is_missing_path(name: str) -> bool:
    """Whether `name` can only be a local path, and nothing is there.

    The hub is asked about every name that is not a local path, which takes most of a minute
    without a network: a mistyped path is better found here. `name` and `owner/name` may be on the
    hub, but not `owner/name` where a local folder `owner` is.
    """
    if os.path.exists(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    folder = os.path.dirname(name)
    return bool(folder) and os.path.isdir(folder)
