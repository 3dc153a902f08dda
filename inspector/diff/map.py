"""Where in a tensor two checkpoints differ, as a map of so many cells: `difference_map`.

A tensor is seen as a plane: its last dim is the columns, all dims before it together, in
row-major order, the rows. A 1-d tensor is one row, a 0-d tensor one cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.workers import Stop, run_workers
from inspector.diff.elements import Comparer
from inspector.diff.structure import Pair, Structure
from inspector.diff.values import DiffProgress, plan_of
from inspector.errors import Cancelled
from inspector.values.bits import TensorBits

__all__ = ["DifferenceCells", "difference_map"]

Ints = npt.NDArray[np.int64]

_STEP = 1 << 16
_TASK_BLOCKS = 32


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceCells:
    """How many elements differ in each cell.

    Attributes:
        row_cuts: Where the rows of cells begin in the plane, and its end, shape (cells + 1,).
        column_cuts: Likewise for the columns.
        num_different: Elements that differ, shape (rows of cells, columns of cells).
    """

    row_cuts: Ints
    column_cuts: Ints
    num_different: Ints

    @property
    def num_elements(self) -> Ints:
        """Elements of each cell, of the same shape."""
        result: Ints = np.diff(self.row_cuts)[:, None] * np.diff(self.column_cuts)[None, :]
        return result


def difference_map(
    structure: Structure,
    pair: Pair,
    rows: int,
    columns: int,
    *,
    progress: Callable[[DiffProgress], bool] | None = None,
    workers: int = 2,
) -> DifferenceCells:
    """Read a tensor of both sides, and count what differs in each cell.

    Args:
        structure: What `compare_structure` gave.
        pair: One of its pairs.
        rows: Rows of cells; fewer if the plane has fewer.
        columns: Columns of cells, likewise.
        progress: Called about ten times a second, in the calling thread; True cancels.
        workers: Threads.

    Raises:
        PayloadError, MissingPackageError, StorageError: A side cannot be read.
        Cancelled: `progress` said so, or Ctrl+C.
    """
    shape = structure.a.checkpoint.columns.shape(pair.index_a)
    width = shape[-1] if shape else 1
    height = math.prod(shape[:-1])
    plan = plan_of(structure, pair)
    run = _Run(structure, pair, _cuts(height, rows), _cuts(width, columns), width, Stop(), [])
    total = structure.num_bytes(pair)

    def poll() -> bool:
        done = min(sum(worker.bytes_done for worker in run.workers), total)
        return progress is not None and progress(DiffProgress(done, total, int(done == total), 1))

    starts = range(0, plan.num_blocks, _TASK_BLOCKS)
    tasks = [(first, min(first + _TASK_BLOCKS, plan.num_blocks)) for first in starts]
    run_workers(tasks, lambda: _Mapper(run), run.stop, num_workers=workers, poll=poll)
    if run.stop.is_set:
        raise Cancelled("stopped before the whole tensor was compared")
    counts: Ints = np.sum([worker.counts for worker in run.workers], axis=0, dtype=np.int64)
    cells = len(run.row_cuts) - 1, len(run.column_cuts) - 1
    return DifferenceCells(run.row_cuts, run.column_cuts, counts.reshape(cells))


def _cuts(size: int, cells: int) -> Ints:
    """The borders of at most so many cells, as even as they can be."""
    cells = max(min(cells, size), 1)
    return np.array([i * size // cells for i in range(cells + 1)], np.int64)


@dataclass(slots=True)
class _Run:
    """What the threads share."""

    structure: Structure
    pair: Pair
    row_cuts: Ints
    column_cuts: Ints
    width: int
    stop: Stop
    workers: list[_Mapper]


class _Mapper:
    """One thread's counting."""

    def __init__(self, run: _Run) -> None:
        self.bytes_done = 0
        self.counts = np.zeros((len(run.row_cuts) - 1) * (len(run.column_cuts) - 1), np.int64)
        self._run = run
        structure, pair = run.structure, run.pair
        self._files = OpenFiles(structure.a.storage), OpenFiles(structure.b.storage)
        a = structure.a.checkpoint.columns.tensor(pair.index_a)
        b = structure.b.checkpoint.columns.tensor(pair.index_b)
        self._a = TensorBits(structure.a.checkpoint, a, self._files[0])
        self._b = TensorBits(structure.b.checkpoint, b, self._files[1])
        self._comparer = Comparer(a.dtype, b.dtype)
        run.workers.append(self)

    def close(self) -> None:
        for files in self._files:
            files.close()

    def run(self, task: tuple[int, int]) -> None:
        run = self._run
        plan = plan_of(run.structure, run.pair)
        for number in range(*task):
            run.stop.check()
            box = plan.box(number)
            a, b = self._a.read(*box), self._b.read(*box)
            self._count(self._comparer.different(a, b), plan.start(number))
            self.bytes_done += len(a) + len(b)

    def _count(self, different: npt.NDArray[np.bool_], start: int) -> None:
        at = np.flatnonzero(different)
        for first in range(0, len(at), _STEP):
            row, column = np.divmod(at[first : first + _STEP] + start, self._run.width)
            cell_row = np.searchsorted(self._run.row_cuts, row, "right") - 1
            cell_column = np.searchsorted(self._run.column_cuts, column, "right") - 1
            cells = cell_row * (len(self._run.column_cuts) - 1) + cell_column
            self.counts += np.bincount(cells, minlength=len(self.counts))
