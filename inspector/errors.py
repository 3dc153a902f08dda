"""Every error that hsdp-inspect raises on purpose.

    InspectError                 base; `hint` says what to do next, `exit_code` what a shell sees
      StorageError               a path or URL that cannot be listed, opened or read
        UnreachableError         a remote storage that did not answer, though asked several times
      NotACheckpointError        the path is readable, but no checkpoint lies there
      MetadataError              `.metadata` is there and cannot be read; `code` is the finding code
      KilledError                a process of ours was killed from outside, twice
      UsageError                 arguments that cannot be meant
      Cancelled                  the user stopped it

Anything else that reaches the command line is a bug, and is reported as one.
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "InspectError",
    "KilledError",
    "MetadataError",
    "NotACheckpointError",
    "StorageError",
    "UnreachableError",
    "UsageError",
]


class InspectError(Exception):
    """An expected failure: one plain line, a hint, and an exit code.

    Args:
        message: What is wrong and where, in one line, already safe to print.
        hint: What to do next, in one line; may be empty.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StorageError(InspectError):
    """A path or URL that cannot be listed, opened or read."""


class UnreachableError(StorageError):
    """A remote storage that did not answer, though it was asked several times.

    It says nothing of the checkpoint.
    """


class NotACheckpointError(InspectError):
    """The path can be read, but there is no checkpoint in it.

    `code` is the finding code of the contract (`metadata-missing`, `save-unfinished`).
    """

    def __init__(self, message: str, hint: str = "", *, code: str = "metadata-missing") -> None:
        super().__init__(message, hint)
        self.code = code


class MetadataError(InspectError):
    """`.metadata` is there but cannot be read.

    `code` is the finding code of the contract: `metadata-truncated`, `metadata-unreadable` or
    `metadata-unsafe`.
    """

    def __init__(self, message: str, hint: str = "", *, code: str = "metadata-unreadable") -> None:
        super().__init__(message, hint)
        self.code = code


class KilledError(InspectError):
    """A process that read something was killed from outside (out of memory, say), twice.

    It says nothing of the checkpoint.
    """


class UsageError(InspectError):
    """Arguments that cannot be meant (an unknown mesh, a filter that matches nothing)."""


class Cancelled(InspectError):
    """The user stopped it before it was done."""
