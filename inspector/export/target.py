"""Where an export is written: beside its place under a name of its own, and moved there when whole.

The rule this module keeps: at the place that was named there is what was there before, or all of
what was asked for; never a part of it. What a killed export leaves is a temporary file whose name
the next one tells.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from inspector.checkpoint.outside import outermost, place_of_output, sync_to_disk
from inspector.checkpoint.storage.base import Storage, why
from inspector.checkpoint.text import format_bytes, printable
from inspector.errors import StorageError, UsageError
from inspector.export.formats.files import PlannedFile
from inspector.export.formats.safetensors import is_shard_name

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OpenTarget", "TargetFile", "leftovers", "refuse_target"]

_MARK = ".export-tmp"
_PART = ".part"

# What is being written: a thread of the screen may still be at it when the program ends.
_under_way: set[OpenTarget] = set()


@atexit.register
def _remove_all() -> None:
    for target in list(_under_way):
        target.remove()


def refuse_target(
    storage: Storage, path: str, output: str, *, is_folder: bool, overwrite: bool
) -> None:
    """Say no to a place that may not be written, before anything is read.

    Args:
        storage: The checkpoint's folder, which is not written to.
        path: What was given for it.
        output: Where the export goes.
        is_folder: Whether it is a folder of shards.
        overwrite: Whether what is there may be replaced.

    Raises:
        UsageError: The place is remote, in the checkpoint, no path, or taken.
    """
    shown = printable(output)
    local = outermost(storage.local_path(""), path)
    output = place_of_output(output, [] if local is None else [local])
    is_there = os.path.lexists(output)
    if not is_there:
        return
    if not overwrite:
        raise UsageError(f"{shown} is there already", "--overwrite replaces it when all is written")
    is_dir = os.path.isdir(output) and not os.path.islink(output)
    if not is_folder:
        if is_dir:
            raise UsageError(f"{shown} is a folder", "OUT names a file; shards go into a folder")
        if not (os.path.islink(output) or os.path.isfile(output)):
            raise UsageError(f"{shown} is a device, a pipe or a socket", "OUT names a file")
        return
    _refuse_foreign(output, shown)


def _refuse_foreign(folder: str, shown: str) -> None:
    """Say no to replacing a folder that holds more than shards."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        raise UsageError(f"{shown} is no folder", "shards go into a folder")
    foreign = [name for name in sorted(os.listdir(folder)) if not is_shard_name(name)]
    if foreign:
        raise UsageError(
            f"{shown} holds other files ({printable(foreign[0], 80)}), and is not replaced",
            "give a folder that is not there",
        )


def leftovers(output: str) -> list[str]:
    """Temporary files of exports to this place that were killed, or are still running."""
    parent, name = os.path.split(os.path.abspath(output))
    pattern = re.compile(re.escape(name) + r"\.[0-9a-f]{8}" + re.escape(_MARK) + r"\Z")
    try:
        found = sorted(entry for entry in os.listdir(parent) if pattern.match(entry))
    except OSError:
        return []
    return [os.path.join(parent, entry) for entry in found]


class TargetFile:
    """One file that is being written, from any thread."""

    def __init__(self, path: str, num_bytes: int) -> None:
        self._shown = printable(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.ftruncate(self._fd, num_bytes)

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of it at an offset."""
        view = memoryview(data)
        while len(view):
            count = os.pwrite(self._fd, view, offset)
            view = view[count:]
            offset += count

    def readinto(self, offset: int, out: memoryview) -> None:
        """Read it again.

        Raises:
            StorageError: It is not there.
        """
        while len(out):
            count = os.preadv(self._fd, [out], offset)
            if not count:
                raise StorageError(f"{self._shown} is shorter than it was written")
            out = out[count:]
            offset += count

    def sync(self) -> None:
        """Wait until the disk has it."""
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OpenTarget:
    """The files of an export under their temporary name; gone at the end if they were not moved.

    Raises:
        StorageError: There is no room, or it cannot be written.
    """

    def __init__(self, output: str, files: Sequence[PlannedFile]) -> None:
        # A slash at the end would put the temporary name into the folder.
        self._output = os.path.abspath(output)
        self.shown = printable(output)
        self._is_folder = bool(files[0].name)
        self.path = f"{self._output}.{secrets.token_hex(4)}{_MARK}"
        self.files: list[TargetFile] = []
        needed = sum(file.num_bytes for file in files)
        parent = os.path.dirname(self._output)
        free = shutil.disk_usage(parent).free
        if needed > free:
            raise StorageError(
                f"{printable(output)} needs {format_bytes(needed)}, and {format_bytes(free)} are "
                f"free in {printable(parent)}",
                "free some room, or write to another place",
            )
        _under_way.add(self)
        try:
            if self._is_folder:
                os.mkdir(self.path)
            for file in files:
                # Not yet under its name: half a folder of shards looks like a checkpoint.
                name = os.path.join(self.path, file.name + _PART)
                place = name if self._is_folder else self.path
                self.files.append(TargetFile(place, file.num_bytes))
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError):
                raise StorageError(f"cannot write {printable(output)}: {why(error)}") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take it away, if it is still there."""
        _under_way.discard(self)
        for file in self.files:
            file.close()
        self.files = []
        with suppress(OSError):
            if self._is_folder:
                shutil.rmtree(self.path)
            else:
                os.unlink(self.path)

    def publish(self, *, overwrite: bool) -> None:
        """Move it to its place.

        Raises:
            UsageError: Something is there by now.
            StorageError: It cannot be moved.
        """
        output = self._output
        for file in self.files:
            file.close()
        self.files = []
        # A folder that is not empty cannot be replaced: it steps aside.
        old = f"{output}.{secrets.token_hex(4)}{_MARK}" if self._is_folder else ""
        try:
            if self._is_folder:
                for name in os.listdir(self.path):
                    place = os.path.join(self.path, name)
                    os.rename(place, place.removesuffix(_PART))
                sync_to_disk(self.path)
            if os.path.lexists(output):
                if not overwrite:
                    raise UsageError(f"{printable(output)} is there by now, and stays as it is")
                if old:
                    os.rename(output, old)
                    # Somebody may have put a file there while the export ran.
                    _refuse_foreign(old, printable(output))
            os.replace(self.path, output)
            sync_to_disk(os.path.dirname(output))
        except OSError as error:
            raise StorageError(f"cannot write {printable(output)}: {why(error)}") from error
        finally:
            # Whatever went wrong, a signal between the two names too, what was there is back.
            if old and os.path.lexists(old):
                if not os.path.lexists(self.path):
                    shutil.rmtree(old, ignore_errors=True)
                elif not os.path.lexists(output):
                    os.rename(old, output)
