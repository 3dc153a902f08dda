"""A map of differences as parts to be drawn: how much of each differs, and where it lies.

Pure; no widget. A part is never drawn as the same if one element of it differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.text import format_box, format_shape
from inspector.diff.elements import index_of
from inspector.diff.map import DifferenceCells

__all__ = ["COLORS", "LEVELS", "SHADES", "PartGrid", "plane_cuts", "plane_size"]

Ints: TypeAlias = npt.NDArray[np.int64]

#: Where each level of a part ends, as a share of its elements; level 0 is where nothing differs.
LEVELS = (0.0, 0.01, 0.1, 0.5, 1.0)
#: A level's look without colours, and in colours (of level 0: the theme's).
SHADES = "·░▒▓█"
COLORS = ("", "#c9b458", "#e39a2d", "#e0622d", "#c81e3c")


def plane_size(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the plane that `difference_map` sees in a tensor."""
    return math.prod(shape[:-1]), (shape[-1] if shape else 1)


def plane_cuts(shape: Sequence[int], offsets: Ints) -> tuple[Ints, Ints]:
    """The rows and the columns of that plane at which chunks begin.

    Args:
        shape: The tensor's.
        offsets: Where its chunks begin, shape (chunks, dims).
    """
    if len(shape) == 0 or not len(offsets):
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    rows = np.zeros(len(offsets), np.int64)
    for dim, size in enumerate(shape[:-1]):
        rows = rows * size + offsets[:, dim]
    return np.unique(rows), np.unique(offsets[:, -1].astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class PartGrid:
    """What is drawn: lines of parts.

    Attributes:
        found: The map.
        shape: The tensor's.
        levels: Index into `SHADES` of each part, -1 past the end; shape (lines, parts).
        is_wrapped: Whether the plane is one row or one column, whose parts go on from line to line.
    """

    found: DifferenceCells
    shape: tuple[int, ...]
    levels: npt.NDArray[np.int8]
    is_wrapped: bool

    @classmethod
    def of(cls, found: DifferenceCells, shape: tuple[int, ...], per_line: int) -> PartGrid:
        """From a map; `per_line` parts in each line, if its plane is one row or column."""
        shares = found.num_different / np.maximum(found.num_elements, 1)
        levels = np.searchsorted(LEVELS, shares, side="left").astype(np.int8)
        rows, columns = plane_size(shape)
        is_wrapped = min(rows, columns) == 1 and levels.size > 0
        if is_wrapped:
            lines = -(-levels.size // per_line)
            flat = np.full(lines * per_line, -1, np.int8)
            flat[: levels.size] = levels.reshape(-1)
            levels = flat.reshape(lines, per_line)
        return cls(found, shape, levels, is_wrapped)

    @property
    def height(self) -> int:
        return int(self.levels.shape[0])

    @property
    def width(self) -> int:
        return int(self.levels.shape[1])

    def part(self, i: int, j: int) -> tuple[int, int]:
        """The map's row and column of a part."""
        if self.is_wrapped:
            at = i * self.width + j
            return divmod(at, len(self.found.column_cuts) - 1)
        return i, j

    def first_different(self) -> tuple[int, int] | None:
        at = np.argwhere(self.levels > 0)
        return (int(at[0][0]), int(at[0][1])) if len(at) else None

    def said(self, i: int, j: int) -> str:
        """What a part is: its box (of more than two dims, its ends), and how much of it differs."""
        row, column = self.part(i, j)
        low = int(self.found.row_cuts[row]), int(self.found.column_cuts[column])
        high = int(self.found.row_cuts[row + 1]), int(self.found.column_cuts[column + 1])
        differ = int(self.found.num_different[row, column])
        total = int(self.found.num_elements[row, column])
        if len(self.shape) > 2:
            width = plane_size(self.shape)[1]
            first, last = low[0] * width + low[1], (high[0] - 1) * width + high[1] - 1
            ends = (format_shape(index_of(at, self.shape)) for at in (first, last))
            where = " to ".join(dict.fromkeys(ends))
        else:
            skipped = 2 - len(self.shape)
            where = format_box(
                low[skipped:], [b - a for a, b in zip(low, high, strict=True)][skipped:]
            )
        return f"{where}  {differ:,} of {total:,} differ"
