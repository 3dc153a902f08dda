"""`Axis`: where the cuts of one dim lie on a row of terminal cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["LABEL_CELLS", "POINT", "UNIT", "Axis", "Ints", "place_cuts", "wrap_cuts"]

Ints: TypeAlias = npt.NDArray[np.int64]

LABEL_CELLS = 6
"""Cells a chunk would like along a line, so that its rank can stand in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One drawn axis: where the cuts of a dim lie in cells.

    Attributes:
        dim: Dim of the tensor, or -1 for none (a scalar).
        cuts: Sorted indices where a chunk begins or ends, the dim's ends included.
        at: Cell at which each cut lies; not decreasing. More cuts than cells share cells.
        per_cell: Pieces between two cuts that share a cell; 1 if each has its own.
    """

    dim: int
    cuts: Ints
    at: Ints
    per_cell: int

    @property
    def num_cells(self) -> int:
        return int(self.at[-1]) if len(self.at) else 0

    @property
    def num_pieces(self) -> int:
        return max(1, len(self.cuts) - 1)

    def span(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """First and one past the last cell of each interval; never empty."""
        last = len(self.cuts) - 1
        first = np.clip(np.searchsorted(self.cuts, low, side="right") - 1, 0, max(0, last - 1))
        end = np.clip(np.searchsorted(self.cuts, high, side="left"), 1, max(1, last))
        start = np.minimum(self.at[first], self.num_cells - 1)
        # Where pieces share a cell, the end of one lies in the cell of the next.
        stop = np.where(self.per_cell > 1, self.at[end - 1] + 1, self.at[end])
        return start, np.maximum(stop, start + 1)


UNIT = np.array([0, 1], dtype=np.int64)
POINT = Axis(-1, UNIT, UNIT, 1)


def place_cuts(dim: int, cuts: Ints, cells: int, limit: int) -> Axis:
    """Places the cuts of a dim on `cells` cells, or on up to `limit` if they need more."""
    pieces = len(cuts) - 1
    if pieces > limit:
        per_cell = -(-pieces // limit)
        at = np.arange(pieces + 1, dtype=np.int64) // per_cell + _last(pieces, per_cell)
        return Axis(dim, cuts, at, per_cell)
    lengths = np.diff(cuts)
    if _is_regular(lengths):
        # To the nearest multiple: cells that cannot be shared evenly are not used.
        cells = min(max(1, round(cells / pieces)), limit // pieces) * pieces
    cells = max(cells, pieces)
    at = np.concatenate([[0], np.cumsum(_share(lengths, cells))]).astype(np.int64)
    return Axis(dim, cuts, at, 1)


def _last(pieces: int, per_cell: int) -> Ints:
    """1 at the final cut if the last cell is not full: the axis ends after it, not in it."""
    extra = np.zeros(pieces + 1, np.int64)
    extra[-1] = 1 if pieces % per_cell else 0
    return extra


def _is_regular(lengths: Ints) -> bool:
    """Whether the pieces are equal, at most with a short tail."""
    return bool((lengths[:-1] == lengths.max()).all())


def _share(lengths: Ints, cells: int) -> Ints:
    """Cells per piece: equal pieces get equal cells, others by length, each at least one."""
    count = len(lengths)
    longest = int(lengths.max())
    if _is_regular(lengths):
        unit = cells // count
        equal: Ints = np.full(count, unit, np.int64)
        tail = int(lengths[-1])
        if tail < longest:
            equal[-1] = max(1, min(unit, round(unit * (tail / longest))))
        return equal
    exact = lengths / lengths.sum(dtype=np.float64) * cells
    wide: Ints = np.maximum(1, np.floor(exact)).astype(np.int64)
    spare = cells - int(wide.sum())
    if spare > 0:
        wide[np.argsort(np.floor(exact) - exact, kind="stable")[:spare]] += 1
    while spare < 0:  # the ones that got more than their part give it back, longest first
        give = np.argsort(-wide, kind="stable")[: min(-spare, int((wide > 1).sum()))]
        wide[give] -= 1
        spare += len(give)
    return wide


def wrap_cuts(dim: int, cuts: Ints, width: int, height: int) -> tuple[Axis, int]:
    """A line that wraps: the axis along all of it, and the cells of one row."""
    pieces = len(cuts) - 1
    rows = min(height, max(1, -(-pieces * LABEL_CELLS // width)))
    if pieces > width * rows:
        axis = place_cuts(dim, cuts, width * rows, width * rows)
        return axis, width
    lengths = np.diff(cuts)
    if _is_regular(lengths):
        # Rows of whole pieces, so that none is broken over a row's end.
        per_row = -(-pieces // rows)
        unit = width // per_row
        if unit:
            return place_cuts(dim, cuts, unit * pieces, unit * pieces), unit * per_row
    return place_cuts(dim, cuts, width * rows, width * rows), width
