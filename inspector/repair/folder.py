"""The new folder: made beside its place, of hard links where the disk allows it, and then renamed.

The rule this module keeps: the checkpoint that is repaired is never written to, and at the new
place there is nothing, or the whole.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from inspector.checkpoint.outside import lies_inside, place_of_output, sync_to_disk
from inspector.checkpoint.storage.base import why
from inspector.checkpoint.text import format_bytes, printable
from inspector.errors import StorageError, UsageError
from inspector.repair.plan import RepairPlan, TakenPayload

__all__ = ["CarriedFiles", "NewFolder", "refuse_output"]

_MARK = ".repair-tmp"
_BLOCK_BYTES = 8 << 20
_METADATA = ".metadata"


@dataclass(frozen=True, slots=True)
class CarriedFiles:
    """How the files came into the new folder: by hard links, by copies, and the copies' bytes."""

    num_linked: int
    num_copied: int
    copied_bytes: int


def refuse_output(output: str, folders: Iterable[str]) -> None:
    """Say no to a place that may not be written.

    Raises:
        UsageError: It is remote, lies in one of them or around it, is taken, or no path.
    """
    folders = list(folders)
    place, shown = place_of_output(output, folders), printable(output)
    try:
        if os.path.lexists(place):
            is_folder = os.path.isdir(place) and not os.path.islink(place)
            if not is_folder or os.listdir(place):
                raise UsageError(f"{shown} is there already", "OUT is a folder that is not there")
            if any(lies_inside(folder, place) for folder in folders):
                raise UsageError(f"{shown} holds the checkpoint itself")
    except OSError as error:
        raise UsageError(f"cannot write {shown}: {why(error)}") from error


def _hold(path: str) -> int | None:
    """A folder's descriptor, locked for as long as it is open; None if it cannot be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        import fcntl  # lazy: not on every system

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        os.close(descriptor)
        return None
    return descriptor


class NewFolder:
    """A folder on its way; gone at the end if it was not moved to its place.

    Raises:
        StorageError: It cannot be made.
    """

    def __init__(self, output: str, *, is_copy: bool = False) -> None:
        self._output = os.path.abspath(output)
        self._shown = printable(output)
        self._may_link = not is_copy
        parent, name = os.path.split(self._output)
        # Hidden, so that a run that it lies in does not take it for a step.
        self._stem = os.path.join(parent, f".{name}.")
        self.path = f"{self._stem}{secrets.token_hex(4)}{_MARK}"
        self._held: int | None = None
        self._linked = self._copied = self._copied_bytes = 0

    def __enter__(self) -> NewFolder:
        try:
            self._remove_left()
            os.mkdir(self.path)
            self._held = _hold(self.path)
        except OSError as error:
            raise StorageError(f"cannot write {self._shown}: {why(error)}") from error
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            shutil.rmtree(self.path)
        if self._held is not None:
            os.close(self._held)

    def _remove_left(self) -> None:
        """Remove what a killed repair to the same place left; one that runs holds its own."""
        parent, start = os.path.split(self._stem)
        for name in os.listdir(parent):
            rest = name.removeprefix(start).removesuffix(_MARK)
            if name != f"{start}{rest}{_MARK}" or len(rest) != 8 or not rest.isalnum():
                continue
            path = os.path.join(parent, name)
            held = _hold(path)
            if held is not None:
                with suppress(OSError):
                    shutil.rmtree(path)
                os.close(held)

    @property
    def carried(self) -> CarriedFiles:
        """What was done so far."""
        return CarriedFiles(self._linked, self._copied, self._copied_bytes)

    def fill(self, plan: RepairPlan, root: str) -> None:
        """Bring the checkpoint's files in, each under the name that the plan gives it.

        Metadata is left out if the plan makes it anew.

        Raises:
            StorageError: There is no room, or it cannot be written.
        """
        try:
            files = _carried(plan, root)
            for name, source in files.items():
                self._bring(name, source, files.values())
            if plan.taken:
                self._write_taken(plan.taken_name, plan.taken)
        except OSError as error:
            raise StorageError(f"cannot write {self._shown}: {why(error)}") from error

    def _bring(self, name: str, source: str, all_of_them: Iterable[str]) -> None:
        target = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if self._may_link:
            try:
                os.link(os.path.realpath(source), target)
                self._linked += 1
                return
            except OSError:
                # Another disk, a file system without links, another user's file.
                self._may_link = False
        if not self._copied:
            self._look_for_room(sum(os.path.getsize(path) for path in all_of_them))
        shutil.copyfile(source, target)
        shutil.copystat(source, target)
        sync_to_disk(target)
        self._copied += 1
        self._copied_bytes += os.path.getsize(target)

    def _look_for_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise StorageError(
                f"{self._shown} needs up to {format_bytes(needed)}; {format_bytes(free)} are free",
                "write to the checkpoint's own disk: hard links take no room",
            )

    def _write_taken(self, name: str, taken: Iterable[TakenPayload]) -> None:
        taken = list(taken)
        self._look_for_room(sum(payload.byte_length for payload in taken))
        target = os.path.join(self.path, name)
        with open(target, "xb") as out:
            for payload in taken:
                for block in _blocks(payload):
                    out.write(block)
                    self._copied_bytes += len(block)
            out.flush()
            os.fsync(out.fileno())
        self._copied += 1

    def publish(self) -> None:
        """Move it to its place.

        Raises:
            StorageError: It cannot be moved, or something is there by now.
        """
        try:
            sync_to_disk(self.path)
            # An empty folder is replaced; one that holds something, or a file, is not.
            os.rename(self.path, self._output)
            sync_to_disk(os.path.dirname(self._output))
        except OSError as error:
            raise StorageError(f"cannot write {self._shown}: {why(error)}") from error


def _carried(plan: RepairPlan, root: str) -> dict[str, str]:
    """The files of the new folder: name in it, and path of what it is made of."""
    renamed = {os.path.normpath(file) for file in plan.links.values()}
    anew = plan.metadata is not None and (
        plan.edits
        or plan.is_other_save
        or os.path.abspath(plan.metadata) != os.path.abspath(os.path.join(root, _METADATA))
    )
    left = set(plan.links) | renamed
    if anew:
        left |= {_METADATA, _METADATA + ".tmp"}
        if plan.metadata is not None:
            left.add(os.path.relpath(os.path.abspath(plan.metadata), os.path.abspath(root)))
    files = {}
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            if relative not in left and _is_file(path):
                files[relative] = path
    for name, file in plan.links.items():
        files[os.path.normpath(name)] = os.path.join(root, file)
    if anew and not plan.edits and not plan.is_other_save and plan.metadata is not None:
        files[_METADATA] = plan.metadata
    return files


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _blocks(payload: TakenPayload) -> Iterator[bytes]:
    left = payload.byte_length
    with open(payload.path, "rb") as file:
        file.seek(payload.byte_offset)
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise StorageError(f"{printable(payload.path)} was cut short meanwhile")
            yield block
            left -= len(block)
