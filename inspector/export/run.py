"""`export`: tensors of a checkpoint, checked while they are read, into files of another format.

The rule this module keeps: nothing is filled in and nothing is passed over in silence. What is
damaged is named and, unless it may be left out, nothing is written; what was written is read again
and held against the source before it takes the name that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psutil

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import num_readers
from inspector.checkpoint.storage.base import Storage
from inspector.export.attempt import Attempt, Tell
from inspector.export.outcome import ExportReport
from inspector.export.pieces import MAX_OPEN_REMOTE
from inspector.export.selection import ExportSelection
from inspector.export.target import OpenTarget

__all__ = ["DEFAULT_MEMORY_BYTES", "export", "stream"]


DEFAULT_MEMORY_BYTES = 300 * 10**6
# What the rest of the process may grow by meanwhile.
_SPARE_BYTES = 64 << 20
_WINDOW_BYTES = 8 << 20
_MIN_BLOCK_BYTES = 1 << 20
_MAX_BLOCK_BYTES = 64 << 20
# A thread has a block and two pieces of it, at most as large.
_BUFFERS = 3
_MAX_ATTEMPTS = 3


def export(
    checkpoint: Checkpoint,
    storage: Storage,
    selection: ExportSelection,
    output: str,
    *,
    allow_damaged: bool = False,
    overwrite: bool = False,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Tell | None = None,
) -> ExportReport:
    """Write the selected tensors.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder, which is not written to.
        selection: What to write, and in which format.
        output: Where to; the caller has asked `refuse_target`.
        allow_damaged: Leave out what is damaged, and write the rest.
        overwrite: Replace what is there.
        memory_bytes: What the process may take, about; what it takes already counts.
        progress: Called about ten times a second, in the calling thread; True cancels.

    Raises:
        UsageError: Nothing is selected, or a name or dtype that the format does not hold.
        StorageError: It cannot be written, or a remote storage did not answer.
        Cancelled: `progress` said so, or Ctrl+C.
    """
    left = list(selection.left_out)
    items = list(selection.items)
    # What is known before a byte is read need not be waited for.
    is_refused = not allow_damaged and any(item.kind == "damaged" for item in left)
    for _ in range(0 if is_refused else _MAX_ATTEMPTS):
        if not items:
            break
        files = selection.files(items)
        attempt = Attempt(checkpoint, storage, selection, files, *_limits(storage, memory_bytes))
        with OpenTarget(output, files) as target:
            attempt.into(target)
            found = attempt.run(progress)
            if not found:
                target.publish(overwrite=overwrite)
                return attempt.report(output, left)
        left += found
        bad = {item.fqn for item in found}
        items = [item for item in items if item.fqn not in bad]
        if not allow_damaged or any(item.kind == "not-exportable" for item in found):
            break
    return ExportReport(checkpoint.path, output, selection.form, "refused", left_out=tuple(left))


def stream(
    checkpoint: Checkpoint,
    storage: Storage,
    selection: ExportSelection,
    write: Callable[[bytes | memoryview], object],
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Tell | None = None,
) -> ExportReport:
    """As `export`, for one file that goes to a pipe: read once to judge it, and then once more.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        selection: What to write; one file.
        write: Takes the bytes, in order.
        memory_bytes: As for `export`.
        progress: As for `export`.
    """
    if any(item.kind == "damaged" for item in selection.left_out):
        left = selection.left_out
        return ExportReport(checkpoint.path, "-", selection.form, "refused", left_out=left)
    files = selection.files(selection.items)
    block_bytes, workers = _limits(storage, memory_bytes)
    attempt = Attempt(checkpoint, storage, selection, files, block_bytes, workers)
    attempt.may_write = False
    found = [*selection.left_out, *attempt.run(progress)]
    refused = ExportReport(checkpoint.path, "-", selection.form, "refused", left_out=tuple(found))
    if refused.exit_code:
        return refused
    for _, data in files[0].frame([]):
        write(data)
    second = Attempt(checkpoint, storage, selection, files, block_bytes, 1)
    again = second.run_in_order(write)
    if again:
        return replace(refused, left_out=(*found, *again))
    return second.report("-", found)


def _limits(storage: Storage, memory_bytes: int) -> tuple[int, int]:
    """Bytes of the largest block, and how many threads read."""
    workers = num_readers(storage, 2)
    room = memory_bytes - psutil.Process().memory_info().rss - _SPARE_BYTES
    if storage.local_path("") is None:
        room -= workers * MAX_OPEN_REMOTE * _WINDOW_BYTES
    block = room // (workers * _BUFFERS)
    return min(max(block, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES), workers
