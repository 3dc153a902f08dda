"""`export`: tensors of a checkpoint, checked while they are read, into files of another format.

The rule this module keeps: nothing is filled in and nothing is passed over in silence. What is
damaged is named and, unless it may be left out, nothing is written; what was written is read again
and held against the source before it takes the name that was asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import psutil

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import MissingPackageError, num_readers
from inspector.checkpoint.storage.base import Storage, why
from inspector.checkpoint.text import printable
from inspector.checkpoint.workers import Stop, run_workers
from inspector.errors import Cancelled, InspectError, StorageError, UnreachableError, UsageError
from inspector.export.copying import Buffers, TensorCopy, WrittenBytes
from inspector.export.formats.files import ExportItem, PlannedFile
from inspector.export.outcome import ExportReport, Omission, WrittenFile, WrittenTensor
from inspector.export.pieces import PieceReader, UnexportableError
from inspector.export.selection import ExportSelection
from inspector.export.target import OpenTarget, TargetFile

__all__ = [
    "DEFAULT_MEMORY_BYTES",
    "ExportProgress",
    "export",
    "stream",
]


DEFAULT_MEMORY_BYTES = 300 * 10**6
# What the rest of the process may grow by meanwhile.
_SPARE_BYTES = 48 << 20
_MIN_BLOCK_BYTES = 1 << 20
_MAX_BLOCK_BYTES = 64 << 20
# A thread has a block and two pieces of it, at most as large.
_BUFFERS = 3
_MAX_ATTEMPTS = 3
_CHANGED = "a file that it lies in was written to while it was read"


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far it is: bytes that were copied, and bytes that were read again."""

    bytes_done: int
    bytes_total: int


Tell: TypeAlias = Callable[[ExportProgress], bool]


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
        attempt = _Attempt(checkpoint, storage, files, *_limits(storage, memory_bytes))
        with OpenTarget(output, files) as target:
            attempt.into(target)
            found = attempt.run(progress)
            if not found:
                target.publish(overwrite=overwrite)
                return attempt.report(selection, output, left)
        left += found
        bad = {item.fqn for item in found}
        items = [item for item in items if item.tensor.fqn not in bad]
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
    attempt = _Attempt(checkpoint, storage, files, block_bytes, workers)
    attempt.read_only()
    found = [*selection.left_out, *attempt.run(progress)]
    refused = ExportReport(checkpoint.path, "-", selection.form, "refused", left_out=tuple(found))
    if refused.exit_code:
        return refused
    for _, data in files[0].frame([]):
        write(data)
    second = _Attempt(checkpoint, storage, files, block_bytes, 1)
    again = second.run_in_order(write)
    if again:
        return replace(refused, left_out=(*found, *again))
    return second.report(selection, "-", found)


def _limits(storage: Storage, memory_bytes: int) -> tuple[int, int]:
    """Bytes of the largest block, and how many threads read."""
    workers = num_readers(storage, 2)
    room = memory_bytes - psutil.Process().memory_info().rss - _SPARE_BYTES
    block = room // (workers * _BUFFERS)
    return min(max(block, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES), workers


@dataclass(slots=True, eq=False)
class _Job:
    """One tensor on its way."""

    item: ExportItem
    copy: TensorCopy
    place: _Place | None
    file: int
    error: Omission | None = None
    is_differing: bool = False


class _Place:
    """A tensor's part of a file."""

    def __init__(self, file: TargetFile, offset: int) -> None:
        self._file = file
        self._offset = offset

    def write(self, offset: int, data: memoryview) -> None:
        self._file.write(self._offset + offset, data)

    def readinto(self, offset: int, out: memoryview) -> None:
        self._file.readinto(self._offset + offset, out)


class _Attempt:
    """One reading of the tensors, into files or into nothing."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        storage: Storage,
        files: Sequence[PlannedFile],
        block_bytes: int,
        workers: int,
    ) -> None:
        self.checkpoint, self.storage = checkpoint, storage
        self.stop = Stop()
        self.jobs: list[_Job] = []
        self.may_write = True
        self.failure: InspectError | None = None
        self._files = files
        self._workers = workers
        self._target: OpenTarget | None = None
        self._readers: list[_Copier] = []
        for number, file in enumerate(files):
            for region in file.regions:
                item = region.item
                copy = TensorCopy(item.tensor, item.dtype, block_bytes)
                self.jobs.append(_Job(item, copy, None, number))
        self._bytes_total = sum(job.copy.num_bytes for job in self.jobs)

    def into(self, target: OpenTarget) -> None:
        """Write what is read into these files."""
        self._target = target
        regions = (
            (target.files[number], region.offset)
            for number, file in enumerate(self._files)
            for region in file.regions
        )
        for job, (file, offset) in zip(self.jobs, regions, strict=True):
            job.place = _Place(file, offset)

    def read_only(self) -> None:
        """Write nothing: only say what is damaged."""
        self.may_write = False

    def add(self, reader: _Copier) -> None:
        """A thread's work; it tells how far it is."""
        self._readers.append(reader)

    def run(self, progress: Tell | None) -> list[Omission]:
        """Copy all, and verify it; what is damaged or cannot be exported.

        Raises:
            StorageError: It cannot be written, or a remote storage did not answer.
            Cancelled: It was told to stop.
        """
        phases = 2 if self._target is not None else 1

        def poll() -> bool:
            done = sum(reader.bytes_done for reader in self._readers)
            total = phases * self._bytes_total
            return progress is not None and progress(ExportProgress(min(done, total), total))

        try:
            self._work(lambda: _Copier(self), poll)
            found = self._found()
            if self._target is None or found:
                return found
            self._finish(self._target, poll)
        except OSError as error:
            self.stop.set()
            shown = self._target.shown if self._target is not None else "it"
            raise StorageError(f"cannot write {shown}: {why(error)}") from error
        differing = [job for job in self.jobs if job.is_differing]
        if differing:
            name = printable(differing[0].item.tensor.fqn, 200)
            raise StorageError(
                f"what was written of {name} is not what was read: the memory or the disk of this "
                "machine changed it",
                "write to another disk, or run it on another machine",
            )
        return found

    def run_in_order(self, write: Callable[[bytes | memoryview], object]) -> list[Omission]:
        """Copy the blocks of all tensors one after the other to whoever takes them."""
        copier = _Copier(self)
        try:
            for job in self.jobs:
                job.place = None
                for number in range(job.copy.plan.num_blocks):
                    copier.copy(job, number, _Sink(write))
        finally:
            copier.close()
        return self._found()

    def _work(self, start: Callable[[], _Copier], poll: Callable[[], bool]) -> None:
        tasks = ((job, number) for job in self.jobs for number in range(job.copy.plan.num_blocks))
        run_workers(tasks, start, self.stop, num_workers=self._workers, poll=poll)
        if self.failure is not None:
            raise self.failure
        if self.stop.is_set:
            raise Cancelled("the export was stopped, and nothing was written")

    def _finish(self, target: OpenTarget, poll: Callable[[], bool]) -> None:
        """Write what stands around the tensors, and read all again while the disk takes it."""
        for number, file in enumerate(self._files):
            crcs = [job.copy.crc for job in self.jobs if job.file == number]
            for offset, data in file.frame(crcs):
                target.files[number].write(offset, data)
        errors: list[OSError] = []
        syncing = threading.Thread(target=_sync, args=(target.files, errors), daemon=True)
        syncing.start()
        try:
            self._work(lambda: _Verifier(self), poll)
            for number, file in enumerate(self._files):
                crcs = [job.copy.crc for job in self.jobs if job.file == number]
                for offset, data in file.frame(crcs):
                    again = bytearray(len(data))
                    target.files[number].readinto(offset, memoryview(again))
                    if again != data:
                        raise StorageError("what was written is not there: the disk changed it")
        finally:
            # The files are closed after this.
            syncing.join()
        if errors:
            raise errors[0]

    def _found(self) -> list[Omission]:
        found = [job.error for job in self.jobs if job.error is not None]
        changed = self._changed()
        for job in self.jobs:
            files = job.item.tensor.file
            if job.error is None and changed and not changed.isdisjoint(files.tolist()):
                found.append(Omission(job.item.tensor.fqn, "damaged", _CHANGED))
        return found

    def _changed(self) -> set[int]:
        """Files that somebody wrote to since the checkpoint was opened.

        A remote storage tells by itself.
        """
        if self.storage.local_path("") is None:
            return set()
        used = {n for job in self.jobs for n in set(job.item.tensor.file.tolist()) if n >= 0}
        changed = set()
        for index in used:
            file = self.checkpoint.files[index]
            if file.num_bytes is None or file.modified_s is None:
                continue
            try:
                now = self.storage.stat(file.path)
            except StorageError:
                now = None
            if now is None or (now.num_bytes, now.modified_s) != (file.num_bytes, file.modified_s):
                changed.add(index)
        return changed

    def report(
        self, selection: ExportSelection, output: str, left: Iterable[Omission]
    ) -> ExportReport:
        """What was written."""
        left = tuple(left)
        is_partial = any(item.kind != "bytes" for item in left)
        return ExportReport(
            self.checkpoint.path,
            output,
            selection.form,
            "partial" if is_partial else "written",
            tuple(WrittenFile(f.name, f.num_bytes, len(f.regions)) for f in self._files),
            tuple(
                WrittenTensor(
                    job.item.tensor.fqn,
                    job.item.name,
                    job.item.dtype,
                    job.item.tensor.dtype,
                    job.item.tensor.shape,
                    job.item.num_bytes,
                    self._files[job.file].name,
                    job.copy.num_lost,
                )
                for job in self.jobs
            ),
            left,
            sum(job.copy.num_checked for job in self.jobs),
            sum(job.copy.num_unchecked for job in self.jobs),
            stored_dtypes=selection.stored_dtypes,
        )


def _sync(files: Sequence[TargetFile], errors: list[OSError]) -> None:
    for file in files:
        try:
            file.sync()
        except OSError as error:
            errors.append(error)


class _Sink:
    """Takes blocks in order."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write

    def write(self, offset: int, data: memoryview) -> None:
        self._write(data)

    def readinto(self, offset: int, out: memoryview) -> None:
        raise StorageError("a pipe cannot be read again")


class _Copier:
    """One thread that copies blocks."""

    def __init__(self, attempt: _Attempt) -> None:
        self.bytes_done = 0
        self._attempt = attempt
        self._reader = PieceReader(attempt.checkpoint, attempt.storage)
        self._buffers = Buffers()
        attempt.add(self)

    def close(self) -> None:
        self._reader.close()

    def run(self, task: tuple[_Job, int]) -> None:
        """Copy one block."""
        job, number = task
        self._attempt.stop.check()
        self.copy(job, number, job.place if self._attempt.may_write else None)

    def copy(self, job: _Job, number: int, place: WrittenBytes | None) -> None:
        """Copy a block to a place; what is damaged is noted with the tensor."""
        if job.error is not None:
            return
        fqn = job.item.tensor.fqn
        try:
            self.bytes_done += job.copy.copy(number, self._reader, self._buffers, place)
        except (Cancelled, UsageError):
            raise
        except UnreachableError as error:
            self._attempt.failure = error
            self._attempt.stop.set()
        except (UnexportableError, MissingPackageError) as error:
            hint = f" ({error.hint})" if error.hint else ""
            job.error = Omission(fqn, "not-exportable", printable(error.message, 400) + hint)
        except InspectError as error:
            self._attempt.may_write = False
            code = getattr(error, "code", "payload-unreadable")
            job.error = Omission(fqn, "damaged", printable(error.message, 400), code)


class _Verifier(_Copier):
    """One thread that reads again what was written."""

    def run(self, task: tuple[_Job, int]) -> None:
        """Hold one block against what was read."""
        job, number = task
        self._attempt.stop.check()
        if job.place is None:
            return
        if not job.copy.verify(number, self._buffers, job.place, self._tick):
            job.is_differing = True
            self._attempt.stop.check()

    def _tick(self, num_bytes: int) -> None:
        self.bytes_done += num_bytes
