"""Where something may be written: anywhere but in the checkpoint that is looked at."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from inspector.checkpoint.text import printable
from inspector.errors import UsageError

__all__ = [
    "is_inspected",
    "lies_inside",
    "mounts",
    "note_inspected",
    "on_disk",
    "outermost",
    "place_of_output",
    "refuse_inside",
    "sync_to_disk",
    "without_scheme",
]

#: Folders that were named to be looked at, by device and inode, with their paths.
_inspected: dict[tuple[int, int], str] = {}
_MAX_NOTED = 64
#: A folder with more files than this is not searched for another name of a file.
_MAX_LINKS_SOUGHT = 20_000


def note_inspected(path: str) -> None:
    """Let nothing of our own be written below a path of this machine that is looked at.

    A folder that the user's home lies in is not meant as a whole.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        folder = path if is_folder else os.path.dirname(os.path.abspath(path))
        info = os.stat(folder)
        if lies_inside(os.path.expanduser("~"), folder):
            return
    except (OSError, ValueError):
        return
    _inspected.pop((info.st_dev, info.st_ino), None)
    _inspected[info.st_dev, info.st_ino] = folder
    if len(_inspected) > _MAX_NOTED:
        del _inspected[next(iter(_inspected))]


def is_inspected(place: str | Path) -> bool:
    """Whether a place lies in a folder that is looked at."""
    return any(lies_inside(place, folder) for folder in [*_inspected.values()])


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
    """Whether a place, be it there or not, is a folder or lies in it, whatever leads to it.

    That is links, and on Linux a part of the folder that is mounted elsewhere as well.

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
    table = mounts()
    there = on_disk(str(path), table)
    here = on_disk(os.path.realpath(folder), table)
    return there is not None and here is not None and _is_below(there, here)


def _is_below(there: tuple[str, str], here: tuple[str, str]) -> bool:
    return there[0] == here[0] and PurePosixPath(there[1]).is_relative_to(here[1])


def on_disk(path: str, table: list[tuple[str, str, str]]) -> tuple[str, str] | None:
    """The device of an absolute path without links, and the path on it; None if nobody says."""
    best: tuple[str, str, str] | None = None
    for mount in table:
        # Of two mounts at one point the later one is seen. Plain text on both sides, as there may
        # be hundreds of mounts.
        point = mount[2].rstrip("/")
        is_below = path == point or path.startswith(point + "/")
        if is_below and (best is None or len(mount[2]) >= len(best[2])):
            best = mount
    if best is None:
        return None
    device, root, point = best
    return device, str(PurePosixPath(root) / PurePosixPath(path).relative_to(point))


def mounts() -> list[tuple[str, str, str]]:
    """Device, path on it and mount point of all that is mounted; empty where nobody says."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(" ") for line in file]
    except OSError:
        return []
    return [(f[2], _unescaped(f[3]), _unescaped(f[4])) for f in lines if len(f) > 4]


def _unescaped(text: str) -> str:
    """A path of the kernel's table, in which blanks and backslashes are octal."""
    if "\\" not in text:
        return text
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


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
    # lazy: the screen's first frame does without
    from inspector.checkpoint.storage.base import is_url, why

    shown = printable(place)
    for folder in map(without_scheme, folders):
        if not folder or is_url(folder):
            continue
        try:
            # Where a link leads, and where it lies: either may be what is written.
            parent = os.path.dirname(os.path.abspath(place))
            is_inside = lies_inside(place, folder) or lies_inside(parent, folder)
            is_inside = is_inside or _is_linked(place, folder)
        except (OSError, ValueError) as error:
            raise UsageError(f"{option} {shown} cannot be written to: {why(error)}") from error
        if is_inside:
            raise UsageError(
                f"{option} {shown} lies in the checkpoint folder, and nothing is written there",
                f"{option} takes a path outside of it",
            )


def _is_linked(place: str, folder: str) -> bool:
    """Whether a file has a second name (a hard link) below a folder."""
    try:
        info = os.stat(place)
    except OSError:
        return False  # It is not there yet.
    if not stat.S_ISREG(info.st_mode) or info.st_nlink < 2:
        return False
    files = (e for _, _, names, at in os.fwalk(folder) for e in _stats(names, at))
    return any(
        os.path.samestat(info, other) for other in itertools.islice(files, _MAX_LINKS_SOUGHT)
    )


def _stats(names: list[str], folder: int) -> Iterator[os.stat_result]:
    for name in names:
        try:
            yield os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            continue  # It is gone.


def place_of_output(output: str, folders: Iterable[str]) -> str:
    """The absolute path of what is to be made anew, in a folder that may be written to.

    Args:
        output: What was given for it.
        folders: What is looked at, and not written into.

    Raises:
        UsageError: It is empty, remote, in one of them, no path, or in no such folder.
    """
    # lazy: as above
    from inspector.checkpoint.storage.base import is_url

    shown = printable(output)
    if not output:
        raise UsageError("OUT is empty", "OUT is a local path")
    if is_url(output):
        raise UsageError(f"{shown} is not on this machine", "OUT is a local path")
    refuse_inside("OUT", output, folders)
    try:
        # A slash at the end would hide a file, and a link to a folder.
        place = os.path.abspath(output)
        parent = os.path.dirname(place)
        if not os.path.isdir(parent):
            raise UsageError(f"cannot write {shown}: there is no folder {printable(parent)}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {shown}: permission denied in {printable(parent)}")
        os.path.lexists(place)  # Raises ValueError where no path can be so.
    except ValueError as error:
        raise UsageError(f"cannot write {shown}: it is no valid path") from error
    return place


def sync_to_disk(path: str) -> None:
    """Have the disk remember a file, or the names in a folder, where it can."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
