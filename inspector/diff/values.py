"""The values of two checkpoints, compared block by block: `compare_values`.

The rule this module keeps: neither side is put together. A block of a megabyte or less is
read from whatever chunks hold it on either side, compared, and forgotten; how the two are cut
plays no part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.payload.scan.literals import read_literal
from inspector.checkpoint.text import format_literal, printable
from inspector.checkpoint.workers import BytesProgress, Stop, run_workers
from inspector.diff.ahead import Ahead, Item
from inspector.diff.elements import Comparer, Tally, judged, may_be_reordered, mixed_sums, reordered
from inspector.diff.model import BytesDiff, Diff, Side, TensorDiff, Tolerance
from inspector.diff.renames import proven_renames, same_kind
from inspector.diff.structure import Pair, Structure
from inspector.errors import InspectError
from inspector.values.bits import BlockPlan, TensorBits
from inspector.values.fingerprint import entry_fingerprint, fingerprints

__all__ = ["DiffProgress", "compare_values"]

#: Bytes of one side's block: both sides' and a comparison's fit into a core's cache.
BLOCK_BYTES = 1 << 20
_TASK_BLOCKS = 32
_MAX_PORTIONS = 4096
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class DiffProgress(BytesProgress):
    """How far a comparison is. Bytes are those of elements, of both sides together."""

    tensors_done: int
    tensors_total: int


@dataclass(frozen=True, slots=True)
class _Task:
    """A portion of a tensor's blocks; or (`first < 0`) a whole bytes entry."""

    pair: Pair
    first: int
    last: int
    batch: int = 0


def compare_values(
    structure: Structure,
    *,
    tolerance: Tolerance | None = None,
    progress: Callable[[DiffProgress], bool] | None = None,
    on_tensor: Callable[[TensorDiff], None] | None = None,
    workers: int = 2,
) -> Diff:
    """Compare every element of every tensor that both sides name, and every bytes entry.

    Tensors that only one side names are then hashed, where the other has any of that shape and
    dtype, to see whether they are the same under another name.

    Args:
        structure: What `compare_structure` gave.
        tolerance: What counts as close.
        progress: Called about ten times a second, in the calling thread; True cancels.
        on_tensor: Told of each tensor as soon as it is compared, in the thread that compared it.
        workers: Threads.

    Returns:
        The comparison. What a damaged checkpoint does not let be compared says why. Cancelling
        returns what there is; `is_cancelled` tells.
    """
    run = _Run(structure, tolerance or Tolerance(), on_tensor)
    lone_a, lone_b = same_kind(structure)
    run.bytes_total += _bytes_of(structure.a.checkpoint, lone_a)
    run.bytes_total += _bytes_of(structure.b.checkpoint, lone_b)

    def poll() -> bool:
        return progress is not None and progress(run.progress())

    try:
        run_workers(run.tasks(), lambda: _Comparing(run), run.stop, num_workers=workers, poll=poll)
    finally:
        run.ahead.close()
    maybe = run.maybe_reordered()
    if maybe and not run.stop.is_set:
        run_workers(maybe, lambda: _Recounting(run), run.stop, num_workers=workers, poll=poll)
    renamed: list[tuple[str, str]] = []
    if lone_a and lone_b and not run.stop.is_set:
        digests = [
            _digests(run, side, lone, progress, workers)
            for side, lone in ((structure.a, lone_a), (structure.b, lone_b))
        ]
        renamed = proven_renames(structure, *digests)
    return run.diff(renamed)


def _bytes_of(checkpoint: Checkpoint, tensors: list[int]) -> int:
    return sum(checkpoint.columns.num_bytes[i] for i in tensors)


def _digests(
    run: _Run,
    side: Side,
    tensors: list[int],
    progress: Callable[[DiffProgress], bool] | None,
    workers: int,
) -> Mapping[int, str]:
    """SHA-256 by index, of those that can be read."""
    if run.stop.is_set:
        return {}
    before = run.bytes_hashed

    def told(hashed: BytesProgress) -> bool:
        run.bytes_hashed = before + hashed.bytes_done
        return progress is not None and progress(run.progress())

    found = fingerprints(
        side.checkpoint, side.storage, tensors=tensors, entries=[], progress=told, workers=workers
    )
    if found.is_cancelled:
        run.stop.set()
    return {index: digest.sha256 for index, digest in found.tensors.items()}


class _Run:
    """One comparison: what its threads share, and what they found."""

    def __init__(
        self,
        structure: Structure,
        tolerance: Tolerance,
        on_tensor: Callable[[TensorDiff], None] | None,
    ) -> None:
        self.structure = structure
        self.tolerance = tolerance
        self.stop = Stop()
        self.bytes_total = 0
        self.bytes_hashed = 0
        self._on_tensor = on_tensor
        self._diffs = {diff.fqn: diff for diff in structure.diffs}
        self._entries: dict[str, BytesDiff] = {}
        self._tallies: dict[str, Tally] = {}
        #: Why a tensor cannot be read, by name.
        self.errors: dict[str, str] = {}
        self._reordered: set[str] = set()
        self._left: dict[str, int] = {}
        self._num_done = 0
        self.workers: list[_Comparing] = []
        self._lock = threading.Lock()
        self._pairs = [p for p in structure.pairs if self._diffs[p.fqn].num_elements]
        for pair in self._pairs:
            plan = plan_of(structure, pair)
            self._left[pair.fqn] = -(-plan.num_blocks // _TASK_BLOCKS)
            self.bytes_total += structure.num_bytes(pair)
        self.ahead = Ahead(structure)

    def tasks(self) -> Iterator[_Task]:
        """Portions of tensors, and bytes entries. Each is to `leave` its batch when it is done."""
        for batch in range(self.ahead.plan(self._items())):
            self.ahead.enter(batch)
            for item in self.ahead.batches[batch]:
                for task in self._portions(item, batch):
                    self.ahead.enter(batch)
                    yield task
            self.ahead.leave(batch)

    def _items(self) -> Iterator[Item]:
        """What is compared, each portion apart where that is of use and they are not too many."""
        for pair in self._pairs:
            plan = plan_of(self.structure, pair)
            num_blocks = plan.num_blocks
            if not self.ahead.is_useful or not 1 < -(-num_blocks // _TASK_BLOCKS) <= _MAX_PORTIONS:
                yield Item(pair, 0, num_blocks)
                continue
            for first in range(0, num_blocks, _TASK_BLOCKS):
                last = min(first + _TASK_BLOCKS, num_blocks)
                (low, *_), _ = plan.box(first)
                (high, *_), (size, *_) = plan.box(last - 1)
                yield Item(pair, first, last, (low, high + size))
        for pair in self.structure.entries:
            yield Item(pair, -1, -1)

    def _portions(self, item: Item, batch: int) -> Iterator[_Task]:
        if item.first < 0:
            yield _Task(item.pair, -1, -1, batch)
        for first in range(item.first, item.last, _TASK_BLOCKS):
            if item.pair.fqn in self.errors:
                # One fault is enough to say why; a tensor may claim to be without end.
                break
            yield _Task(item.pair, first, min(first + _TASK_BLOCKS, item.last), batch)

    def keep(self, task: _Task, tally: Tally, error: str) -> None:
        """What came out of a portion."""
        fqn = task.pair.fqn
        with self._lock:
            self._tallies[fqn] = self._tallies.get(fqn, Tally()) + tally
            self._left[fqn] -= 1
            was_given_up = fqn in self.errors
            if error:
                self.errors.setdefault(fqn, error)
            is_done = (bool(error) or not self._left[fqn]) and not was_given_up
            self._num_done += is_done
            found = self._judged(fqn) if is_done else None
        if found is not None and self._on_tensor is not None:
            self._on_tensor(found)

    def keep_entry(self, entry: BytesDiff) -> None:
        """What came out of a bytes entry."""
        with self._lock:
            self._entries[entry.fqn] = entry

    def progress(self) -> DiffProgress:
        done = sum(w.bytes_done for w in self.workers) + self.bytes_hashed
        total = len(self._pairs)
        done = min(done, self.bytes_total)
        return DiffProgress(done, self.bytes_total, self._num_done, total)

    def maybe_reordered(self) -> list[Pair]:
        """Tensors whose elements are to be counted: they may only stand in another order."""
        return [
            pair
            for pair in self._pairs
            if pair.fqn not in self.errors
            and may_be_reordered(self._diffs[pair.fqn], self._tallies.get(pair.fqn, Tally()))
        ]

    def keep_reordered(self, pair: Pair) -> None:
        """Told of a tensor that holds the same elements in another order."""
        with self._lock:
            self._reordered.add(pair.fqn)

    def _judged(self, fqn: str) -> TensorDiff:
        tally, error = self._tallies.get(fqn, Tally()), self.errors.get(fqn, "")
        found = judged(self._diffs[fqn], tally, error)
        return reordered(found) if fqn in self._reordered else found

    def diff(self, renamed: list[tuple[str, str]]) -> Diff:
        """The comparison, as far as it went."""
        compared = {pair.fqn for pair in self._pairs}
        tensors = tuple(
            self._judged(diff.fqn) if diff.fqn in compared else diff
            for diff in self.structure.diffs
        )
        from_a, to_b = {a for a, _ in renamed}, {b for _, b in renamed}
        structure = self.structure
        return replace(
            structure.diff(),
            tensors=tensors,
            entries=tuple(
                self._entries.get(p.fqn, BytesDiff(p.fqn, "NOT_COMPARED", detail="it was stopped"))
                for p in structure.entries
            ),
            only_in_a=tuple(name for name in structure.only_in_a if name not in from_a),
            only_in_b=tuple(name for name in structure.only_in_b if name not in to_b),
            renamed=tuple(renamed),
            likely_renamed=tuple(
                (a, b) for a, b in structure.likely_renamed if a not in from_a and b not in to_b
            ),
            tolerance=self.tolerance,
            values_compared=True,
            is_cancelled=self.stop.is_set,
            bytes_read=sum(w.bytes_done for w in self.workers) + self.bytes_hashed,
        )


def plan_of(structure: Structure, pair: Pair) -> BlockPlan:
    """How a pair is taken block by block: the same elements at a time on both sides."""
    columns_a, columns_b = structure.a.checkpoint.columns, structure.b.checkpoint.columns
    sizes = itemsize(columns_a.dtype(pair.index_a)), itemsize(columns_b.dtype(pair.index_b))
    return BlockPlan.of(columns_a.shape(pair.index_a), max(s or 1 for s in sizes), BLOCK_BYTES)


class _Recounting:
    """One thread's work of another kind: whether two tensors hold the same elements at all."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._files = OpenFiles(run.structure.a.storage), OpenFiles(run.structure.b.storage)

    def close(self) -> None:
        for files in self._files:
            files.close()

    def run(self, pair: Pair) -> None:
        try:
            if self._sums(0, pair) == self._sums(1, pair):
                self._run.keep_reordered(pair)
        except InspectError:
            # It was compared before, so its verdict stands, without this.
            self._run.stop.check()

    def _sums(self, number: int, pair: Pair) -> tuple[int, int]:
        structure, files = self._run.structure, self._files[number]
        side, index = structure.both(pair)[number]
        files.forget()
        bits = TensorBits(side.checkpoint, side.checkpoint.columns.tensor(index), files)
        plan = plan_of(structure, pair)
        first = second = 0
        for block in range(plan.num_blocks):
            self._run.stop.check()
            sums = mixed_sums(bits.read(*plan.box(block)), bits.itemsize)
            first, second = first + sums[0], second + sums[1]
        return first & _WORD, second & _WORD


class _Comparing:
    """One thread's work: the files of both sides, and the tensor it is at."""

    def __init__(self, run: _Run) -> None:
        self.bytes_done = 0
        self._run = run
        structure = run.structure
        self._files = (
            OpenFiles(structure.a.storage, run.ahead.opener(0)),
            OpenFiles(structure.b.storage, run.ahead.opener(1)),
        )
        self._at: str | None = None
        self._bits: tuple[TensorBits, TensorBits]
        self._comparer: Comparer
        run.workers.append(self)

    def close(self) -> None:
        for files in self._files:
            files.close()

    def run(self, task: _Task) -> None:
        try:
            self._do(task)
        finally:
            self._run.ahead.leave(task.batch)

    def _do(self, task: _Task) -> None:
        if task.first < 0:
            self._run.keep_entry(self._entry(task.pair))
            return
        tally, error = Tally(), ""
        try:
            if task.pair.fqn not in self._run.errors:
                self._open(task.pair)
                plan = plan_of(self._run.structure, task.pair)
                for number in range(task.first, task.last):
                    self._run.stop.check()
                    tally = tally + self._block(plan, number)
        except InspectError as problem:
            self._run.stop.check()
            error = problem.message + (f" ({problem.hint})" if problem.hint else "")
        self._run.keep(task, tally, error)

    def _open(self, pair: Pair) -> None:
        if self._at == pair.fqn:
            return
        self._at = None
        readers = []
        both = self._run.structure.both(pair)
        for name, (side, index), files in zip("AB", both, self._files, strict=True):
            files.forget()
            try:
                readers.append(
                    TensorBits(side.checkpoint, side.checkpoint.columns.tensor(index), files)
                )
            except InspectError as error:
                error.message = f"in {name}: {error.message}"
                raise
        self._comparer = Comparer(
            readers[0].tensor.dtype, readers[1].tensor.dtype, self._run.tolerance
        )
        self._bits = readers[0], readers[1]
        self._at = pair.fqn

    def _block(self, plan: BlockPlan, number: int) -> Tally:
        offsets, sizes = plan.box(number)
        blocks = []
        for name, bits in zip("AB", self._bits, strict=True):
            try:
                blocks.append(bits.read(offsets, sizes))
            except InspectError as error:
                error.message = f"in {name}: {error.message}"
                raise
        tally = self._comparer.compare(blocks[0], blocks[1], plan.start(number))
        self.bytes_done += len(blocks[0]) + len(blocks[1])
        return tally

    def _entry(self, pair: Pair) -> BytesDiff:
        """Bytes entries are compared by the digests of their content; nothing is unpickled.

        One value may be pickled in several ways: an object that stands in it twice is written once,
        two equal ones are written twice. Plain values are compared themselves.
        """
        found = []
        both = self._run.structure.both(pair)
        for name, (side, index), files in zip("AB", both, self._files, strict=True):
            try:
                entry = side.checkpoint.bytes_entries[index]
                found.append(entry_fingerprint(side.checkpoint, entry, files, tick=self._tick))
            except InspectError as error:
                self._run.stop.check()
                detail = f"in {name}: {printable(error.message, 300)}"
                return BytesDiff(pair.fqn, "NOT_COMPARED", detail=detail)
        a, b = found
        if a.sha256 == b.sha256:
            return BytesDiff(pair.fqn, "EXACT", a.num_bytes, b.num_bytes)
        is_same, detail = self._literals(pair)
        return BytesDiff(
            pair.fqn, "EXACT" if is_same else "DIFFER", a.num_bytes, b.num_bytes, detail
        )

    def _literals(self, pair: Pair) -> tuple[bool, str]:
        """Whether two pickles hold the same plain value, and how they differ."""
        values = [
            read_literal(side.checkpoint, side.storage, side.checkpoint.bytes_entries[index])
            for side, index in self._run.structure.both(pair)
        ]
        if values[0] is None or values[1] is None:
            return False, "the pickles differ; equal objects may be pickled to different bytes"
        a, b = (format_literal(value.value, 120) for value in values if value is not None)
        # By their writing, in which 1 is neither 1.0 nor True, and 0.0 not -0.0.
        if repr(values[0]) == repr(values[1]):
            return True, f"the same value, pickled otherwise: {a}"
        return False, f"{a} in A, {b} in B"

    def _tick(self, num_bytes: int) -> None:
        self._run.stop.check()
