"""Every stored byte, read once: CRC32 of every record, and each header against the metadata.

torch writes a CRC32 for every record and is built not to read it (cmake/Dependencies.cmake,
`MINIZ_DISABLE_ZIP_READER_CRC32_CHECKS`): a flipped bit in a tensor's data loads without a word.
The same pass counts NaN and infinities if it is asked to. Memory is a few MiB for each worker,
whatever a tensor's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload_plan import Task, plan_payloads
from inspector.checkpoint.payload_source import (
    BLOCK_BYTES,
    DataHandle,
    RangeSource,
    num_readers,
    open_file,
)
from inspector.checkpoint.payload_sweep import PayloadProgress
from inspector.checkpoint.stopping import until
from inspector.checkpoint.storage import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Coverage, Finding, NotChecked
from inspector.checks.payload_judge import Judgement, Note, judge, subject_of
from inspector.checks.values import value_findings
from inspector.errors import Cancelled, StorageError
from inspector.values.nonfinite import NonFinite

__all__ = ["PayloadProgress", "PayloadReport", "check_payloads"]

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PayloadReport:
    """What reading the payloads found, and what was read."""

    findings: tuple[Finding, ...]
    checked: Coverage
    is_cancelled: bool = False


def check_payloads(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    values: bool = False,
    progress: Callable[[PayloadProgress], bool] | None = None,
    workers: int = 2,
) -> PayloadReport:
    """Read every payload of a checkpoint once, in the order of its bytes in each file.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        values: Also look for NaN and infinite values.
        progress: Called about ten times a second, in the calling thread; True cancels.
        workers: Threads; more of them for a remote storage. Reading runs outside the
            interpreter's lock.

    Returns:
        All findings, by file and offset; what was covered. Cancelling, by `progress` or by
        Ctrl+C, returns what was found until then, and says what was left out.
    """
    run = _Run(checkpoint, storage, values)
    run.start(num_readers(storage, workers))
    try:
        while not run.ended.wait(_POLL_S):
            if progress is not None and progress(run.progress()):
                run.stop.set()
    except KeyboardInterrupt:
        run.stop.set()
    finally:
        run.join()
    if run.crash is not None:
        raise run.crash
    if progress is not None:
        progress(run.progress())
    return run.report()


class _Run:
    """One reading of a checkpoint: what its workers share, and the sum of what they found."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage, values: bool) -> None:
        self.checkpoint = checkpoint
        self.storage = storage
        self.values = values
        self.plan = plan_payloads(checkpoint)
        self.stop = threading.Event()
        self.ended = threading.Event()
        self.crash: BaseException | None = None
        self.blobs: dict[tuple[int, int], int] = {}
        self._tried = np.zeros(self.plan.num_places, np.bool_)
        self._read = np.zeros(self.plan.num_places, np.bool_)
        self._findings: list[tuple[int, list[Finding]]] = []
        self._notes: dict[Note, list[int]] = {}
        self._values: dict[int, NonFinite] = {}
        self._skipped: dict[tuple[str, str], int] = dict(self.plan.left_out)
        self._lock = threading.Lock()
        self._tasks = list(self.plan.tasks())
        self._next = iter(self._tasks)
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._num_running = 0
        self._bytes_total = int(self.plan.length.sum())
        # Entries of a sound checkpoint share no bytes; hostile ones may ask for the same
        # gigabytes a million times. What may be read twice is as much again as the file.
        self._overlap_left = [f.num_bytes or 0 for f in checkpoint.files]

    def start(self, workers: int) -> None:
        self._num_running = max(1, min(workers, len(self._tasks)))
        self._workers = [_Worker(self) for _ in range(self._num_running)]
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        if not self.ended.is_set():
            self.stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, worker: _Worker) -> None:
        try:
            with until(self.stop.is_set):
                while not self.stop.is_set():
                    with self._lock:
                        task = next(self._next, None)
                    if task is None:
                        break
                    worker.read(task)
        except Cancelled:
            pass
        except BaseException as error:  # a bug: raised again where the check was called
            self.crash = error
            self.stop.set()
        finally:
            worker.close()
            with self._lock:
                self._num_running -= 1
                if not self._num_running:
                    self.ended.set()

    # --- what workers tell

    def may_overlap(self, file: int, length: int) -> bool:
        """Whether a payload that shares bytes with another may still be read."""
        with self._lock:
            self._overlap_left[file] -= length
            return self._overlap_left[file] >= 0

    def skip(self, first: int, last: int, reason: str) -> None:
        """Places that could not be read."""
        with self._lock:
            self._tried[first:last] = True
            starts = self.plan.owner_start
            self._skip(first, reason, int(starts[last] - starts[first]))

    def keep(self, place: int, judgement: Judgement, tensor: int, offsets: tuple[int, ...]) -> None:
        """What came out of a place."""
        self._tried[place] = True
        self._read[place] = judgement.is_read
        plain = not (judgement.findings or judgement.notes or judgement.values)
        if plain and not judgement.not_checked and not judgement.is_blob:
            return
        with self._lock:
            if judgement.findings:
                self._findings.append((place, judgement.findings))
            for note in judgement.notes:
                self._notes.setdefault(note, []).append(place)
            if judgement.values is not None:
                found = judgement.values.moved(offsets)
                self._values[tensor] = self._values.get(tensor, NonFinite()) + found
            if judgement.not_checked:
                self._skip(place, judgement.not_checked, 1)
            if judgement.is_blob:
                key = int(self.plan.file[place]), int(self.plan.offset[place])
                starts = self.plan.owner_start
                count = int(starts[place + 1] - starts[place])
                self.blobs[key] = self.blobs.get(key, 0) + count

    def _skip(self, place: int, reason: str, count: int) -> None:
        key = self.checkpoint.files[int(self.plan.file[place])].path, reason
        self._skipped[key] = self._skipped.get(key, 0) + count

    # --- what comes out

    def progress(self) -> PayloadProgress:
        done = sum(w.bytes_done + w.bytes_inside for w in self._workers)
        return PayloadProgress(
            min(done, self._bytes_total),
            self._bytes_total,
            sum(w.payloads_done for w in self._workers),
            self.plan.num_places,
            next((w.file for w in self._workers if w.file), ""),
        )

    def report(self) -> PayloadReport:
        findings = [f for _, found in sorted(self._findings, key=lambda x: x[0]) for f in found]
        findings += [_blob(self.checkpoint, *key, n) for key, n in sorted(self.blobs.items())]
        findings += [self._note(note, places) for note, places in self._notes.items()]
        for index, found in sorted(self._values.items()):
            tensor = self.checkpoint.columns.tensor(index)
            findings += value_findings(tensor, found, _file_at(self.checkpoint, tensor))
        return PayloadReport(tuple(findings), self._coverage(), not bool(self._tried.all()))

    def _note(self, note: Note, places: list[int]) -> Finding:
        example = subject_of(
            self.checkpoint, int(self.plan.owner[self.plan.owner_start[min(places)]])
        )
        is_one = len(places) == 1
        subject = example.shown
        if not is_one:
            subject = f"{plural(len(places), 'payload')} ({printable(example.fqn, 80)} is one)"
        return Finding(
            note.code,
            "note",
            f"{subject}: {note.what}",
            note.torch_does,
            note.hint,
            fqn=example.fqn if is_one else None,
            file=example.file if is_one else None,
        )

    def _coverage(self) -> Coverage:
        plan, columns = self.plan, self.checkpoint.columns
        owners = plan.owner[np.repeat(self._read, np.diff(plan.owner_start))]
        read = np.zeros(columns.num_chunks, np.bool_)
        read[owners[owners < columns.num_chunks]] = True
        totals = np.concatenate([[0], np.cumsum(read)])
        whole = totals[columns.chunk_start[1:]] - totals[columns.chunk_start[:-1]]
        wanted = columns.num_chunks_of
        incomplete = set(np.unique(plan.file[~self._read]).tolist())
        left_out = {path for path, _ in plan.left_out}
        files = [
            index
            for index in np.unique(plan.file).tolist()
            if index not in incomplete and self.checkpoint.files[index].path not in left_out
        ]
        not_checked = [
            NotChecked(f"{plural(count, 'payload')} of {printable(path, 120)}", reason)
            for (path, reason), count in sorted(self._skipped.items())
        ]
        left = np.flatnonzero(~self._tried)
        if len(left):
            num_bytes = int(plan.length[left].sum())
            what = f"{len(left):,} of {plan.num_places:,} payloads ({num_bytes:,} bytes)"
            not_checked.append(NotChecked(what, "it was cancelled"))
        return Coverage(
            tensors=int(np.count_nonzero((whole == wanted) & (wanted > 0))),
            chunks=int(np.count_nonzero(read)),
            files=len(files),
            payloads=int(np.count_nonzero(self._read)),
            payload_bytes=int(plan.length[self._read].sum()),
            not_checked=tuple(not_checked),
        )


class _Worker:
    """One thread's reading: its open file, its buffer, how far it is."""

    def __init__(self, run: _Run) -> None:
        self.file = ""
        self.bytes_done = self.bytes_inside = self.payloads_done = 0
        self._run = run
        self._buffer = bytearray(BLOCK_BYTES)
        self._index = -1
        self._handle: DataHandle | None = None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        self._index = -1
        self.file = ""

    def read(self, task: Task) -> None:
        """Read the places of a task."""
        run, plan = self._run, self._run.plan
        handle = self._handle
        if self._index != task.file or handle is None:
            self.close()
            path = run.checkpoint.files[task.file].path
            try:
                handle = self._handle = open_file(run.storage, path)
            except StorageError as error:
                run.skip(task.first, task.last, error.message)
                self._advance(task.first, task.last)
                return
            self._index, self.file = task.file, path
        places = slice(task.first, task.last)
        handle.announce(
            zip(plan.offset[places].tolist(), plan.length[places].tolist(), strict=True)
        )
        for place in range(task.first, task.last):
            if run.stop.is_set():
                raise Cancelled("reading the payloads was cancelled")
            offset, length = int(plan.offset[place]), int(plan.length[place])
            is_blob = (task.file, offset) in run.blobs
            if plan.overlaps[place] and not is_blob and not run.may_overlap(task.file, length):
                run.skip(place, place + 1, "other entries claim their bytes too")
            else:
                self._read_place(
                    place, RangeSource(handle, offset, length, self._buffer, self._tick)
                )
            self._advance(place, place + 1)

    def _read_place(self, place: int, source: RangeSource) -> None:
        run, starts = self._run, self._run.plan.owner_start
        owners = run.plan.owner[starts[place] : starts[place + 1]].tolist()
        subjects = [subject_of(run.checkpoint, owner) for owner in owners]
        is_safetensors = run.checkpoint.format == "safetensors"
        judgement = judge(
            source,
            subjects,
            is_safetensors=is_safetensors,
            values=run.values,
            stop=run.stop.is_set,
        )
        run.keep(place, judgement, subjects[0].tensor, subjects[0].offsets or ())

    def _advance(self, first: int, last: int) -> None:
        self.bytes_done += int(self._run.plan.length[first:last].sum())
        self.payloads_done += last - first
        self.bytes_inside = 0

    def _tick(self, num_bytes: int) -> bool:
        self.bytes_inside += num_bytes
        return self._run.stop.is_set()


def _blob(checkpoint: Checkpoint, file: int, offset: int, count: int) -> Finding:
    path = checkpoint.files[file].path
    return Finding(
        "payload-unreadable",
        "error",
        f"{plural(count, 'chunk')} of {printable(path, 120)} lie in one safetensors blob at byte "
        f"{offset:,} (written with SerializationFormat.SAFETENSORS), where payloads should be",
        "raises an error while unpickling: no torch can load such a checkpoint",
        "the values are there: cut the file at that byte and open the rest with safetensors",
        file=path,
    )


def _file_at(checkpoint: Checkpoint, tensor: Tensor) -> Callable[[tuple[int, ...]], str | None]:
    """Finds the file with the chunk that holds an element."""

    def find(index: tuple[int, ...]) -> str | None:
        at = np.array(index, np.int64)
        holds = ((tensor.offsets <= at) & (at - tensor.offsets < tensor.sizes)).all(axis=1)
        chunks = np.flatnonzero(holds & (tensor.file >= 0))
        return checkpoint.files[int(tensor.file[chunks[0]])].path if len(chunks) else None

    return find
