"""Parts of a tensor to look at: a window of its numbers, and a heat map of a 2-D slice.

A tensor of any shape is looked at one `Plane` at a time: two of its dims (the last two, unless
others are asked for) are rows and columns, the other dims stand at one index. A 1-d tensor is one
row, a 0-d tensor one cell. Only the bytes that are asked for are read, however large the tensor is
and however it was cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import numpy_dtype, read_box
from inspector.checkpoint.storage.base import Storage
from inspector.errors import Cancelled, UsageError
from inspector.values.moments import as_numbers

__all__ = ["Heat", "Plane", "Window", "heat", "plane_of", "value_text", "window"]

T = TypeVar("T")
Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Most elements of one window.
MAX_WINDOW_ELEMENTS = 1 << 20
#: Bytes of elements that a heat map reads; a larger plane is sampled.
HEAT_BYTES = 64 << 20
_PIECE_ELEMENTS = 1 << 20
# Runs of rows that are sampled in each row of cells.
_ROW_RUNS = 4


@dataclass(frozen=True, slots=True)
class Plane:
    """How a tensor's shape is seen as rows and columns.

    Attributes:
        leading: Sizes of the dims that stand at one index, in the tensor's order.
        rows, columns: Extent of the plane; a 1-d tensor has one row, a 0-d tensor one cell.
        ndim: Dims of the tensor.
        row_dim, column_dim: The dims that are rows and columns; -1 for one that it has not.
    """

    leading: tuple[int, ...]
    rows: int
    columns: int
    ndim: int
    row_dim: int
    column_dim: int

    def index(self, leading: Sequence[int], row: int, column: int) -> tuple[int, ...]:
        """The tensor's own index of a cell."""
        return tuple(self._by_dim(leading, row, column))

    def _by_dim(self, leading: Sequence[T], row: T, column: T) -> Iterator[T]:
        rest = iter(leading)
        for dim in range(self.ndim):
            if dim == self.row_dim:
                yield row
            elif dim == self.column_dim:
                yield column
            else:
                yield next(rest)

    def box(self, leading: Sequence[int], rows: range, columns: range) -> tuple[slice, ...]:
        """A rectangle of the plane as a box of the tensor; ranges of step 1."""
        ranges = self._by_dim([range(i, i + 1) for i in leading], rows, columns)
        return tuple(slice(r.start, r.stop) for r in ranges)

    def cell(self, index: Sequence[int]) -> tuple[tuple[int, ...], int, int]:
        """Where an element of the tensor is: the leading index, row and column.

        Raises:
            UsageError: It has another number of dims than the tensor, or lies outside it.
        """
        sizes = self.index(self.leading, self.rows, self.columns)
        if len(index) != self.ndim:
            raise UsageError(f"an index of this tensor has {self.ndim} numbers, not {len(index)}")
        if any(not 0 <= i < n for i, n in zip(index, sizes, strict=True)):
            raise UsageError(f"{list(index)} lies outside of the shape {list(sizes)}")
        row = index[self.row_dim] if self.row_dim >= 0 else 0
        column = index[self.column_dim] if self.column_dim >= 0 else 0
        rest = (i for d, i in enumerate(index) if d not in (self.row_dim, self.column_dim))
        return tuple(rest), row, column


def plane_of(shape: Sequence[int], dims: tuple[int, int] | None = None) -> Plane:
    """The plane of a shape.

    Args:
        shape: Global shape.
        dims: Which dims are rows and columns; None for the last two (or as many as there are).

    Raises:
        UsageError: Dims that the shape has not, or one of them twice.
    """
    ndim = len(shape)
    row, column = (max(ndim - 2, -1), ndim - 1) if dims is None or ndim < 2 else dims
    if ndim < 2:
        row = -1
    elif row == column or not (0 <= row < ndim and 0 <= column < ndim):
        raise UsageError(f"{row} and {column} are not two dims of {list(shape)}")
    return Plane(
        tuple(n for d, n in enumerate(shape) if d not in (row, column)),
        shape[row] if row >= 0 else 1,
        shape[column] if column >= 0 else 1,
        ndim,
        row,
        column,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A rectangle of a plane.

    Attributes:
        values: The elements in numpy's (or ml_dtypes') type, shape (rows, columns).
        held: False where no chunk holds the element; `values` is 0 there. Same shape.
    """

    values: Array
    held: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """A plane in at most H x W cells, each the sum of a rectangle of elements.

    Statistics of a cell are over its finite elements that were read; of complex elements, over
    their absolute values. A cell without any holds NaN.

    Attributes:
        row_starts: First row of each row of cells, and the plane's end, shape (h + 1,).
        column_starts: Likewise, shape (w + 1,).
        mean: Mean of each cell, shape (h, w).
        rms: Root of the mean square.
        low, high: Least and largest value.
        num_non_finite: NaN and infinities that were read in each cell, int64.
        num_read: Elements that were read in each cell, int64; 0 in a gap.
        is_sampled: False if every element of the plane was read; True if, in a plane of more
            than `HEAT_BYTES`, a few runs of rows (or a run of columns) of each cell were.
    """

    row_starts: npt.NDArray[np.int64]
    column_starts: npt.NDArray[np.int64]
    mean: Floats
    rms: Floats
    low: Floats
    high: Floats
    num_non_finite: npt.NDArray[np.int64]
    num_read: npt.NDArray[np.int64]
    is_sampled: bool

    @property
    def peak(self) -> Floats:
        """Largest absolute value of each cell."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def window(
    checkpoint: Checkpoint,
    storage: Storage,
    tensor: Tensor,
    leading: Sequence[int],
    rows: range,
    columns: range,
    *,
    dims: tuple[int, int] | None = None,
) -> Window:
    """A rectangle of the numbers themselves.

    Args:
        checkpoint: Where it is.
        storage: Its folder.
        tensor: The tensor.
        leading: Index in each dim that is neither rows nor columns, as many as
            `plane_of(tensor.shape, dims).leading` has.
        rows: Rows of the plane, step 1; what reaches past its end is left out.
        columns: Likewise.
        dims: As for `plane_of`.

    Raises:
        UsageError: An index outside of the tensor, or more than `MAX_WINDOW_ELEMENTS`.
        PayloadError: A chunk cannot be read, or numpy has no such type (packed int4, float4).
        MissingPackageError: It takes a package that is not installed.
        StorageError: A file cannot be read.
    """
    plane = plane_of(tensor.shape, dims)
    at = _checked(plane, leading)
    rows = range(plane.rows)[rows.start : rows.stop]
    columns = range(plane.columns)[columns.start : columns.stop]
    if len(rows) * len(columns) > MAX_WINDOW_ELEMENTS:
        raise UsageError(f"a window of more than {MAX_WINDOW_ELEMENTS:,} elements is too large")
    return Window(*_read(checkpoint, storage, tensor, plane, at, rows, columns))


def _checked(plane: Plane, leading: Sequence[int]) -> tuple[int, ...]:
    if len(leading) != len(plane.leading):
        raise UsageError(f"{len(plane.leading)} leading indices are needed, not {len(leading)}")
    if any(not 0 <= i < n for i, n in zip(leading, plane.leading, strict=True)):
        raise UsageError(f"{list(leading)} lies outside of {list(plane.leading)}")
    return tuple(leading)


def _read(
    checkpoint: Checkpoint,
    storage: Storage,
    tensor: Tensor,
    plane: Plane,
    leading: tuple[int, ...],
    rows: range,
    columns: range,
) -> tuple[Array, Mask]:
    if not len(rows) or not len(columns):
        # The box of a plane with a row that the tensor has not would be one all the same.
        nothing = (len(rows), len(columns))
        return np.zeros(nothing, numpy_dtype(tensor.dtype)), np.zeros(nothing, np.bool_)
    values, held = read_box(checkpoint, storage, tensor, plane.box(leading, rows, columns))
    if plane.row_dim > plane.column_dim:
        shape = (len(columns), len(rows))
        return values.reshape(shape).T, held.reshape(shape).T
    shape = (len(rows), len(columns))
    return values.reshape(shape), held.reshape(shape)


def heat(
    checkpoint: Checkpoint,
    storage: Storage,
    tensor: Tensor,
    leading: Sequence[int],
    height: int,
    width: int,
    *,
    dims: tuple[int, int] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Heat:
    """A plane in at most `height` x `width` cells.

    A plane of up to `HEAT_BYTES` is read whole. A larger one is sampled: of each row of cells a few
    evenly spaced runs of rows, together that many bytes; where one row each is too much, of each
    cell a run of columns. Memory is a few MiB either way.

    Args:
        checkpoint: Where it is.
        storage: Its folder.
        tensor: The tensor.
        leading: As for `window`.
        height: Most rows of cells; fewer where the plane has fewer rows.
        width: Most columns of cells, likewise.
        dims: As for `plane_of`.
        stop: Asked between reads; True gives up.

    Raises:
        Cancelled: `stop` said so.
        UsageError, PayloadError, MissingPackageError, StorageError: As `window`.
    """
    plane = plane_of(tensor.shape, dims)
    at = _checked(plane, leading)
    row_starts = _starts(plane.rows, height)
    column_starts = _starts(plane.columns, width)
    cells = _Cells(row_starts, column_starts)
    budget = HEAT_BYTES // (itemsize(tensor.dtype) or 1)
    is_sampled = plane.rows * plane.columns > budget
    for rows, columns in _pieces(row_starts, column_starts, budget):
        if stop is not None and stop():
            raise Cancelled("drawing the map was cancelled")
        cells.add(rows, columns, *_read(checkpoint, storage, tensor, plane, at, rows, columns))
    return cells.result(is_sampled)


def _starts(size: int, most: int) -> npt.NDArray[np.int64]:
    """Borders that cut `size` elements into at most `most` pieces of (nearly) the same size."""
    pieces = max(min(size, most), 1 if size else 0)
    return np.array([size * i // max(pieces, 1) for i in range(pieces + 1)], np.int64)


def _pieces(
    row_starts: npt.NDArray[np.int64], column_starts: npt.NDArray[np.int64], budget: int
) -> Iterator[tuple[range, range]]:
    """What to read, as rectangles of at most `_PIECE_ELEMENTS`, each in one row of cells."""
    height, width = len(row_starts) - 1, len(column_starts) - 1
    if height <= 0 or width <= 0:
        return
    num_rows, num_columns = int(row_starts[-1]), int(column_starts[-1])
    whole = num_rows * num_columns <= budget
    per_band = max(budget // height // num_columns, 1)
    runs = [range(num_columns)]
    if not whole and height * num_columns > budget:
        length = max(budget // (height * width), 1)
        edges = zip(column_starts[:-1].tolist(), column_starts[1:].tolist(), strict=True)
        runs = [range(a, min(a + length, b)) for a, b in edges]
    for band in range(height):
        first, last = int(row_starts[band]), int(row_starts[band + 1])
        if whole:
            row_runs = [range(first, last)]
        else:
            # Each read opens every chunk that it meets, so rows are read in runs.
            count = min(per_band, last - first)
            num_runs = min(count, _ROW_RUNS)
            picked = [first + (last - first) * i // num_runs for i in range(num_runs)]
            row_runs = [range(row, row + count // num_runs) for row in picked]
        for rows in row_runs:
            for columns in runs:
                yield from _cut(rows, columns)


def _cut(rows: range, columns: range) -> Iterator[tuple[range, range]]:
    wide = max(min(len(columns), _PIECE_ELEMENTS), 1)
    high = max(_PIECE_ELEMENTS // wide, 1)
    for row in range(rows.start, rows.stop, high):
        for column in range(columns.start, columns.stop, wide):
            yield (
                range(row, min(row + high, rows.stop)),
                range(column, min(column + wide, columns.stop)),
            )


class _Cells:
    """Sums up rectangles of elements by cell."""

    def __init__(
        self, row_starts: npt.NDArray[np.int64], column_starts: npt.NDArray[np.int64]
    ) -> None:
        self._row_starts, self._column_starts = row_starts, column_starts
        shape = (len(row_starts) - 1, len(column_starts) - 1)
        self._sum, self._square = np.zeros(shape), np.zeros(shape)
        self._low, self._high = np.full(shape, math.inf), np.full(shape, -math.inf)
        self._finite = np.zeros(shape, np.int64)
        self._bad = np.zeros(shape, np.int64)
        self._read = np.zeros(shape, np.int64)

    def add(self, rows: range, columns: range, values: Array, held: Mask) -> None:
        """Add a rectangle that lies in one row of cells."""
        if not len(rows) or not len(columns):
            return
        band = int(np.searchsorted(self._row_starts, rows.start, side="right")) - 1
        numbers = as_numbers(values)
        finite = np.isfinite(numbers)
        bad = held & ~finite
        finite &= held
        starts = np.clip(self._column_starts[:-1] - columns.start, 0, None)
        ends = self._column_starts[1:] - columns.start
        cells = np.flatnonzero((ends > 0) & (starts < len(columns)))
        at = starts[cells]

        def by_cell(ufunc: Any, array: Array) -> Array:
            result: Array = ufunc.reduceat(ufunc.reduce(array, axis=0), at)
            return result

        where = (band, cells)
        zeros = np.where(finite, numbers, 0.0)
        self._sum[where] += by_cell(np.add, zeros)
        with np.errstate(over="ignore"):
            self._square[where] += by_cell(np.add, zeros * zeros)
        self._low[where] = np.minimum(
            self._low[where], by_cell(np.minimum, np.where(finite, numbers, math.inf))
        )
        self._high[where] = np.maximum(
            self._high[where], by_cell(np.maximum, np.where(finite, numbers, -math.inf))
        )
        self._finite[where] += by_cell(np.add, finite.astype(np.int64))
        self._bad[where] += by_cell(np.add, bad.astype(np.int64))
        self._read[where] += by_cell(np.add, held.astype(np.int64))

    def result(self, is_sampled: bool) -> Heat:
        empty = self._finite == 0
        count = np.where(empty, 1, self._finite)

        def shown(array: Floats) -> Floats:
            return np.where(empty, math.nan, array)

        return Heat(
            self._row_starts,
            self._column_starts,
            shown(self._sum / count),
            shown(np.sqrt(self._square / count)),
            shown(self._low),
            shown(self._high),
            self._bad,
            self._read,
            is_sampled,
        )


def value_text(value: Any, digits: int = 4) -> str:
    """One element as text: `-0.01234`, `3`, `nan`, `1+2j`; integers and bool whole."""
    kind = getattr(value, "dtype", np.asarray(value).dtype).kind
    if kind in "iu":
        return str(int(value))
    if kind == "b":
        return "True" if value else "False"
    if kind == "c":
        imag = float(value.imag)
        sign = "-" if math.copysign(1.0, imag) < 0 else "+"
        return f"{float(value.real):.{digits}g}{sign}{abs(imag):.{digits}g}j"
    return f"{float(value):.{digits}g}"
