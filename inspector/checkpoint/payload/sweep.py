"""Reading many payloads once, in the order of their bytes, by a few threads.

What is done with a payload is the caller's; this is who reads what when, how far it is, and how
it stops. Reading and most of numpy run outside the interpreter's lock, so two threads use two
cores. Memory is one block for each thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.plan import PayloadPlan, Task
from inspector.checkpoint.payload.source import (
    BLOCK_BYTES,
    DataHandle,
    RangeSource,
    num_readers,
    open_file,
)
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.workers import BytesProgress, Stop, run_workers
from inspector.errors import StorageError

__all__ = ["PayloadProgress", "Sweep"]


@dataclass(frozen=True, slots=True)
class PayloadProgress(BytesProgress):
    """How far the reading is.

    Attributes:
        file: Raw path of a file that is being read.
        num_wrong: Payloads in which whoever reads found something wrong by now.
    """

    payloads_done: int
    payloads_total: int
    file: str
    num_wrong: int = 0


class Sweep:
    """One reading of a plan's places.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        plan: What to read.
        visit: Called with each place and its bytes, in a worker's thread.
        skip: Called instead, with the first place, the last one (exclusive) and why, for those
            that cannot be read: their file does not open, or too many entries claim their bytes.
        may_repeat: Whether a place is known to share its bytes rightly (tensors in one blob), so
            that reading them again does not count.
        workers: Threads; more of them for a remote storage.
        places: Which of them (default: all).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        storage: Storage,
        plan: PayloadPlan,
        visit: Callable[[int, RangeSource], None],
        skip: Callable[[int, int, str], None],
        *,
        may_repeat: Callable[[int], bool] = lambda place: False,
        workers: int = 2,
        places: range | None = None,
    ) -> None:
        self.checkpoint, self.storage, self.plan = checkpoint, storage, plan
        self._places = range(plan.num_places) if places is None else places
        self.visit, self.skip = visit, skip
        self.may_repeat = may_repeat
        self.stop = Stop()
        self._lock = threading.Lock()
        self._tasks = list(plan.tasks(self._places))
        self._num_workers = max(1, min(num_readers(storage, workers), len(self._tasks)))
        self._workers: list[_Worker] = []
        self._bytes_total = int(plan.length[self._places.start : self._places.stop].sum())
        # Entries of a sound checkpoint share no bytes; hostile ones may ask for the same
        # gigabytes a million times. What may be read twice is as much again as the file.
        self._overlap_left = [f.num_bytes or 0 for f in checkpoint.files]

    def run(self, progress: Callable[[PayloadProgress], bool] | None = None) -> bool:
        """Read everything; False if it was stopped before.

        Args:
            progress: Called about ten times a second and at the end, in the calling thread; True
                stops. So does Ctrl+C, and setting `stop`.
        """
        run_workers(
            self._tasks,
            self._worker,
            self.stop,
            num_workers=self._num_workers,
            poll=None if progress is None else lambda: progress(self._progress()),
        )
        return sum(worker.payloads_done for worker in self._workers) == len(self._places)

    def _worker(self) -> _Worker:
        self._workers.append(_Worker(self))
        return self._workers[-1]

    def may_read_again(self, file: int, num_bytes: int) -> bool:
        """Whether bytes that were read for another entry may be read once more."""
        with self._lock:
            self._overlap_left[file] -= num_bytes
            return self._overlap_left[file] >= 0

    def _progress(self) -> PayloadProgress:
        done = sum(w.bytes_done + w.bytes_inside for w in self._workers)
        return PayloadProgress(
            min(done, self._bytes_total),
            self._bytes_total,
            sum(w.payloads_done for w in self._workers),
            len(self._places),
            next((w.file for w in self._workers if w.file), ""),
        )


class _Worker:
    """One thread's reading: its open file, its buffer, how far it is."""

    def __init__(self, sweep: Sweep) -> None:
        self.file = ""
        self.bytes_done = self.bytes_inside = self.payloads_done = 0
        self._sweep = sweep
        self._buffer = bytearray(BLOCK_BYTES)
        self._index = -1
        self._handle: DataHandle | None = None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        self._index = -1
        self.file = ""

    def run(self, task: Task) -> None:
        """Read the places of a task."""
        sweep, plan = self._sweep, self._sweep.plan
        handle = self._handle
        if self._index != task.file or handle is None:
            self.close()
            path = sweep.checkpoint.files[task.file].path
            try:
                handle = self._handle = open_file(sweep.storage, path)
            except StorageError as error:
                sweep.skip(task.first, task.last, error.message)
                self._advance(task.first, task.last)
                return
            self._index, self.file = task.file, path
        places = slice(task.first, task.last)
        handle.announce(
            zip(plan.offset[places].tolist(), plan.length[places].tolist(), strict=True)
        )
        for place in range(task.first, task.last):
            sweep.stop.check()
            offset, length = int(plan.offset[place]), int(plan.length[place])
            repeats = plan.overlaps[place] and not sweep.may_repeat(place)
            if repeats and not sweep.may_read_again(task.file, length):
                sweep.skip(place, place + 1, "other entries claim their bytes too")
            else:
                source = RangeSource(handle, offset, length, self._buffer, self._tick)
                sweep.visit(place, source)
            self._advance(place, place + 1)

    def _advance(self, first: int, last: int) -> None:
        self.bytes_done += int(self._sweep.plan.length[first:last].sum())
        self.payloads_done += last - first
        self.bytes_inside = 0

    def _tick(self, num_bytes: int) -> bool:
        self.bytes_inside += num_bytes
        return self._sweep.stop.is_set
