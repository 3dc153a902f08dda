"""One reading of the selected tensors, into files or into nothing.

Tensors come one after the other, their blocks to whichever thread is free; what was copied is read
again before the next one begins, so that only those under way are held in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.find.changes import rewritten
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import MissingPackageError
from inspector.checkpoint.storage.base import Storage, why
from inspector.checkpoint.text import printable
from inspector.checkpoint.workers import BytesProgress, Stop, run_workers
from inspector.errors import Cancelled, InspectError, StorageError, UnreachableError, UsageError
from inspector.export.copying import Buffers, TensorCopy, WrittenBytes
from inspector.export.formats.files import ExportItem, PlannedFile
from inspector.export.outcome import ExportReport, Omission, WrittenFile, WrittenTensor
from inspector.export.pieces import PieceReader, UnexportableError
from inspector.export.selection import ExportSelection
from inspector.export.target import OpenTarget, TargetFile

__all__ = ["Attempt", "Tell"]

_CHANGED = "a file that it lies in was written to while it was read"


#: Told how far it is: bytes that were copied, and bytes that were read again.
Tell: TypeAlias = Callable[[BytesProgress], bool]


@dataclass(slots=True, eq=False)
class _Job:
    """One tensor on its way; `copy` is there while it is at it, and its figures after."""

    item: ExportItem
    place: _Place | None
    file: int
    copy: TensorCopy | None = None
    blocks_left: int = 0
    error: Omission | None = None
    is_differing: bool = False
    crc: int = 0
    num_lost: int = 0
    num_checked: int = 0
    num_unchecked: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """One block of a tensor: to be copied, or to be read again."""

    job: _Job
    number: int
    is_again: bool = False


class _Place:
    """A tensor's part of a file."""

    def __init__(self, file: TargetFile, offset: int) -> None:
        self._file = file
        self._offset = offset

    def write(self, offset: int, data: memoryview) -> None:
        self._file.write(self._offset + offset, data)

    def readinto(self, offset: int, out: memoryview) -> None:
        self._file.readinto(self._offset + offset, out)


class Attempt:
    """One reading of the tensors, into files or into nothing."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        storage: Storage,
        selection: ExportSelection,
        files: Sequence[PlannedFile],
        block_bytes: int,
        workers: int,
    ) -> None:
        self.checkpoint, self.storage = checkpoint, storage
        self._selection = selection
        self._block_bytes = block_bytes
        self._lock = threading.Lock()
        # Tensors that were copied, and are not yet read again.
        self._ready: deque[_Job] = deque()
        self.stop = Stop()
        self.jobs: list[_Job] = []
        #: False where it is only said what is damaged.
        self.may_write = True
        self.failure: InspectError | None = None
        self._files = files
        self._workers = workers
        self._target: OpenTarget | None = None
        self.readers: list[_Copier] = []
        for number, file in enumerate(files):
            for region in file.regions:
                self.jobs.append(_Job(region.item, None, number))
        self._bytes_total = sum(job.item.num_bytes for job in self.jobs)

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

    def run(self, progress: Tell | None) -> list[Omission]:
        """Copy all, and verify it; what is damaged or cannot be exported.

        Raises:
            StorageError: It cannot be written, or a remote storage did not answer.
            Cancelled: It was told to stop.
        """
        phases = 2 if self._target is not None else 1

        def poll() -> bool:
            done = sum(reader.bytes_done for reader in self.readers)
            total = phases * self._bytes_total
            if progress is not None and progress(BytesProgress(min(done, total), total)):
                # What is said after the last block counts, too.
                self.stop.set()
            return self.stop.is_set

        try:
            self._work(self._tasks(), poll)
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
            name = printable(differing[0].item.fqn, 200)
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
                copy = self._begin(job)
                for number in range(copy.plan.num_blocks):
                    copier.copy(job, copy, number, _Sink(write))
                self._end(job)
        finally:
            copier.close()
        return self._found()

    def _begin(self, job: _Job) -> TensorCopy:
        """A tensor's turn. Of the others nothing but a line is kept, for there may be many."""
        tensor = self._selection.columns.tensor(job.item.index)
        copy = job.copy = TensorCopy(tensor, job.item.dtype, self._block_bytes)
        job.blocks_left = copy.plan.num_blocks
        return copy

    def _tasks(self) -> Iterator[_Task]:
        """All blocks, tensor by tensor; what was copied is read again before the next begins."""
        for job in self.jobs:
            yield from self._again()
            for number in range(self._begin(job).plan.num_blocks):
                yield _Task(job, number)
            if not job.item.num_elements:
                self._end(job)
        yield from self._again()

    def _again(self) -> Iterator[_Task]:
        while self._ready:
            job = self._ready.popleft()
            if job.copy is not None:
                job.blocks_left = job.copy.plan.num_blocks
                for number in range(job.blocks_left):
                    yield _Task(job, number, is_again=True)

    def block_done(self, task: _Task) -> None:
        """A block was copied or read again; after the last one the tensor is."""
        job = task.job
        with self._lock:
            job.blocks_left -= 1
            if job.blocks_left or job.copy is None:
                return
            is_lost = job.error is not None or not self.may_write
            if task.is_again or is_lost or self._target is None:
                self._end(job)
            else:
                job.crc = job.copy.crc
                self._ready.append(job)

    def _end(self, job: _Job) -> None:
        if job.copy is not None:
            job.num_lost = job.copy.num_lost
            job.num_checked, job.num_unchecked = job.copy.num_checked, job.copy.num_unchecked
        job.copy = None

    def _work(self, tasks: Iterable[_Task], poll: Callable[[], bool]) -> None:
        run_workers(tasks, lambda: _Copier(self), self.stop, num_workers=self._workers, poll=poll)
        if self.failure is not None:
            raise self.failure
        if self.stop.is_set:
            raise Cancelled("the export was stopped, and nothing was written")

    def _finish(self, target: OpenTarget, poll: Callable[[], bool]) -> None:
        """Write what stands around the tensors; read the rest again while the disk takes it."""
        crcs_of: list[list[int]] = [[] for _ in self._files]
        for job in self.jobs:
            crcs_of[job.file].append(job.crc)
        for number, file in enumerate(self._files):
            for offset, data in file.frame(crcs_of[number]):
                target.files[number].write(offset, data)
        errors: list[OSError] = []
        syncing = threading.Thread(target=_sync, args=(target.files, errors), daemon=True)
        syncing.start()
        try:
            self._work(self._again(), poll)
            for number, file in enumerate(self._files):
                for offset, data in file.frame(crcs_of[number]):
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
        if changed:
            for job in self.jobs:
                files = self._files_of(job)
                if job.error is None and not changed.isdisjoint(files.tolist()):
                    found.append(Omission(job.item.fqn, "damaged", _CHANGED))
        return found

    def _files_of(self, job: _Job) -> npt.NDArray[np.int32]:
        """The files that a tensor lies in, by index."""
        columns, index = self._selection.columns, job.item.index
        chunks = slice(int(columns.chunk_start[index]), int(columns.chunk_start[index + 1]))
        return columns.file[chunks]

    def _changed(self) -> set[int]:
        """Files that somebody wrote to since the checkpoint was opened."""
        is_used = np.zeros(len(self.checkpoint.files) + 1, np.bool_)
        for job in self.jobs:
            # -1, of what is stored nowhere, is the last one, which is no file.
            is_used[self._files_of(job)] = True
        used = np.flatnonzero(is_used[:-1]).tolist()
        return set(rewritten(self.checkpoint, self.storage, used))

    def report(self, output: str, left: Iterable[Omission]) -> ExportReport:
        """What was written."""
        left, selection = tuple(left), self._selection
        is_partial = any(item.kind != "bytes" for item in left)
        return ExportReport(
            self.checkpoint.path,
            output,
            selection.form,
            "partial" if is_partial else "written",
            tuple(WrittenFile(f.name, f.num_bytes, len(f.regions)) for f in self._files),
            tuple(
                WrittenTensor(
                    job.item.fqn,
                    job.item.name,
                    job.item.dtype,
                    job.item.stored_dtype,
                    job.item.shape,
                    job.item.num_bytes,
                    self._files[job.file].name,
                    job.num_lost,
                )
                for job in self.jobs
            ),
            left,
            sum(job.num_checked for job in self.jobs),
            sum(job.num_unchecked for job in self.jobs),
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

    def __init__(self, attempt: Attempt) -> None:
        self.bytes_done = 0
        self._attempt = attempt
        self._reader = PieceReader(attempt.checkpoint, attempt.storage)
        self._buffers = Buffers()
        attempt.readers.append(self)

    def close(self) -> None:
        self._reader.close()

    def run(self, task: _Task) -> None:
        """Copy one block, or read it again."""
        attempt, job = self._attempt, task.job
        attempt.stop.check()
        copy = job.copy
        if copy is not None and task.is_again and job.place is not None:
            if not copy.verify(task.number, self._buffers, job.place, self._tick):
                job.is_differing = True
        elif copy is not None:
            self.copy(job, copy, task.number, job.place if attempt.may_write else None)
        attempt.block_done(task)

    def _tick(self, num_bytes: int) -> None:
        self.bytes_done += num_bytes

    def copy(self, job: _Job, copy: TensorCopy, number: int, place: WrittenBytes | None) -> None:
        """Copy a block to a place; what is damaged is noted with the tensor."""
        if job.error is not None:
            return
        fqn = job.item.fqn
        try:
            self.bytes_done += copy.copy(number, self._reader, self._buffers, place)
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
