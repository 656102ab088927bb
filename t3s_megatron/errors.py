# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on. Messages say what is wrong, where, and what to do."""


class T3SError(ValueError):
    """A T3S run cannot start or go on."""

    def __init__(self, message: str):
        # A name quoted from damaged input may hold half a surrogate pair, which cannot be printed.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class DataError(T3SError):
    """A sample, or a file of samples, cannot be used."""


class VoidMeasurementError(T3SError):
    """So much of generation or verification failed that the method has nothing to go by."""


class NoReferenceError(T3SError):
    """Accuracy before training is no reference: nothing could be seen to fall below it."""


class WriteError(T3SError):
    """A file cannot be written: a full disk, a folder without permission or that has gone."""


class MismatchError(T3SError):
    """A file is damaged or belongs to something else."""
