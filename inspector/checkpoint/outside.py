"""Where something may be written: anywhere but in the checkpoint that is looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from inspector.checkpoint.storage.base import is_url, why
from inspector.checkpoint.text import printable
from inspector.errors import UsageError

__all__ = ["lies_inside", "outermost", "refuse_inside", "without_scheme"]


def without_scheme(path: str) -> str:
    """The local path that a `file://` address names; any other path as it is."""
    return path[7:] if path[:7].lower() == "file://" else path


def outermost(local: str | None, path: str) -> str | None:
    """The folder that nothing is written to: the one that was named, if the checkpoint lies in it.

    Args:
        local: The checkpoint's folder on this machine, if it is on this machine.
        path: What was given; it may be a folder around that (NeMo's, Megatron's run).
    """
    if local is None:
        return None
    given = os.path.abspath(path)
    if path and os.path.isdir(given):
        inner, outer = Path(os.path.realpath(local)), Path(os.path.realpath(given))
        if inner.is_relative_to(outer):
            return given
    return local


def lies_inside(place: str | Path, folder: str | Path) -> bool:
    """Whether a place, be it there or not, is a folder or lies in it, whatever links lead to it.

    Raises:
        OSError, ValueError: One of them is no path.
    """
    path = Path(os.path.realpath(place))
    for part in (path, *path.parents):
        try:
            if os.path.samefile(part, folder):
                return True
        except (FileNotFoundError, NotADirectoryError):
            continue  # It is not there yet.
    return False


def refuse_inside(option: str, place: str, folders: Iterable[str]) -> None:
    """Say no to a place in one of the folders, however it is written.

    Args:
        option: What names the place, such as `--report`.
        place: The place; empty for none.
        folders: Checkpoints' folders; those that are not on this machine hold no place of it.

    Raises:
        UsageError: The place lies there, or is no path at all.
    """
    if not place:
        return
    shown = printable(place)
    for folder in map(without_scheme, folders):
        if not folder or is_url(folder):
            continue
        try:
            # Where a link leads, and where it lies: either may be what is written.
            parent = os.path.dirname(os.path.abspath(place))
            is_inside = lies_inside(place, folder) or lies_inside(parent, folder)
        except (OSError, ValueError) as error:
            reason = why(error) if isinstance(error, OSError) else "it is no valid path"
            raise UsageError(f"{option} {shown} cannot be written to: {reason}") from error
        if is_inside:
            raise UsageError(
                f"{option} {shown} lies in the checkpoint folder, and nothing is written there",
                f"{option} takes a path outside of it",
            )
