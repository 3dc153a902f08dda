"""A heat map as terminal cells: where each part of the plane is drawn, and in which shade.

Pure; no widget. In colour a cell shows two parts, one above the other (`▀`); without colour it
shows one, as one of five shades. What holds NaN or infinities is a cell of its own look, whatever
else shares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.values.slices import Heat, Plane

__all__ = [
    "BAD",
    "BLANK",
    "DIVERGING",
    "GAP",
    "QUANTITIES",
    "SEQUENTIAL",
    "SHADES",
    "STEPS",
    "HeatGrid",
    "Placing",
    "Quantity",
    "cell_codes",
    "cuts_on",
    "place",
    "ramp_color",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Quantity = Literal["rms", "peak", "mean"]

#: What a map can show of each part, with its title.
QUANTITIES: dict[Quantity, str] = {"rms": "rms", "peak": "max |v|", "mean": "mean"}
SHADES = " ░▒▓█"
# Dark to light as viridis; blue over grey to orange. Neither has red: that is a finding.
SEQUENTIAL = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
DIVERGING = ("#2166ac", "#67a9cf", "#d8d8d8", "#f1a340", "#b35806")
STEPS = 48
#: Codes of what has no place on the ramp: past the end, nothing read, NaN or infinities.
BLANK, GAP, BAD = -1, -2, -3
#: Most cells that one part of a small plane is drawn wide.
_MAX_SCALE = 8


def ramp_color(ramp: Sequence[str], share: float) -> str:
    """The colour at a share (0 to 1) of a ramp, in one of a few dozen steps."""
    step = round(min(max(share, 0.0), 1.0) * STEPS) / STEPS * (len(ramp) - 1)
    at = min(int(step), len(ramp) - 2)
    part = step - at
    ends = [[int(ramp[at + k][i : i + 2], 16) for i in (1, 3, 5)] for k in (0, 1)]
    mixed = [round(a + (b - a) * part) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


@dataclass(frozen=True, slots=True, eq=False)
class HeatGrid:
    """What is drawn, a number for each part of the plane.

    Attributes:
        values: Shape (h, w); NaN where nothing finite was read.
        bad: Parts with NaN or infinities, same shape.
        held: Parts of which something was read.
        row_starts, column_starts: Borders of the parts, shapes (h + 1,) and (w + 1,); those of a
            wrapped plane are along its one line: starts[0] of shape (h * w + 1,).
        is_wrapped: Whether the parts go on from line to line.
        is_single: Whether every part is one element.
    """

    values: Floats
    bad: Mask
    held: Mask
    row_starts: Ints
    column_starts: Ints
    is_wrapped: bool
    is_single: bool

    @classmethod
    def of(cls, heat: Heat, plane: Plane, quantity: Quantity, per_line: int = 0) -> HeatGrid:
        """From a `Heat`; `per_line` parts on a line of a plane of one row or column."""
        values: Floats = {"rms": heat.rms, "peak": heat.peak, "mean": heat.mean}[quantity]
        bad, held = heat.num_non_finite > 0, heat.num_read > 0
        is_single = values.size == plane.rows * plane.columns
        if is_single:
            values = heat.mean
        rows, columns = heat.row_starts, heat.column_starts
        if per_line:
            starts = columns if plane.columns > 1 else rows
            lines = -(-values.size // per_line) if values.size else 0
            room = lines * per_line

            def wrapped(array: npt.NDArray[np.generic], fill: object) -> npt.NDArray[np.generic]:
                flat = np.full(room, fill, array.dtype)
                flat[: array.size] = array.reshape(-1)
                return flat.reshape(lines, per_line)

            return cls(
                wrapped(values, np.nan),  # type: ignore[arg-type]
                wrapped(bad, False),  # type: ignore[arg-type]
                wrapped(held, False),  # type: ignore[arg-type]
                starts,
                starts,
                True,
                is_single,
            )
        return cls(values, bad, held, rows, columns, False, is_single)

    @property
    def height(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def extent(self) -> tuple[float, float]:
        """The least and the largest number; NaN if there is none."""
        finite = self.values[np.isfinite(self.values)]
        return (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)

    @property
    def is_signed(self) -> bool:
        """Whether there are numbers on both sides of 0."""
        low, high = self.extent
        return low < 0 < high

    def shares(self) -> Floats:
        """Where each number lies between the ends of the ramp, 0 to 1; NaN where there is none."""
        low, high = self.extent
        if self.is_signed:
            high = max(-low, high)
            low = -high
        # A root mean square of numbers whose squares float64 has not is infinite.
        values = np.where(np.isposinf(self.values), high, self.values)
        if not high > low:
            return np.where(np.isnan(values), np.nan, 0.5)
        # Halves, for the difference of two float64 may not fit into one.
        result: Floats = (values / 2 - low / 2) / (high / 2 - low / 2)
        return result

    def codes(self) -> Ints:
        """Each part's step on the ramp, 0 to `STEPS`, or `BLANK`, `GAP` or `BAD`."""
        shares = self.shares()
        steps = np.rint(np.nan_to_num(shares) * STEPS).astype(np.int64)
        codes: Ints = np.where(np.isnan(shares), GAP, steps)
        codes[self.bad] = BAD
        if self.is_wrapped:
            codes.reshape(-1)[len(self.row_starts) - 1 :] = BLANK
        return codes

    def part_of(self, row: int, column: int) -> tuple[int, int]:
        """The part that a cell of the plane is in."""
        if self.is_wrapped:
            at = int(np.searchsorted(self.row_starts, row + column, side="right")) - 1
            i, j = divmod(max(at, 0), max(self.width, 1))
            return i, j
        i = int(np.searchsorted(self.row_starts, row, side="right")) - 1
        j = int(np.searchsorted(self.column_starts, column, side="right")) - 1
        return min(max(i, 0), self.height - 1), min(max(j, 0), self.width - 1)

    def corner(self, i: int, j: int, plane: Plane) -> tuple[int, int] | None:
        """The first cell of the plane in a part; None for a place past its end."""
        if self.is_wrapped:
            at = i * self.width + j
            if at >= len(self.row_starts) - 1:
                return None
            start = int(self.row_starts[at])
            return (start, 0) if plane.columns == 1 else (0, start)
        return int(self.row_starts[i]), int(self.column_starts[j])


@dataclass(frozen=True, slots=True)
class Placing:
    """How large a part is drawn: cells wide, and (half) lines high."""

    wide: int
    high: int


def place(height: int, width: int, lines: int, cells: int) -> Placing:
    """How a grid of parts fits into so many (half) lines and cells; never larger than they are."""
    wide, high = max(cells // max(width, 1), 1), max(lines // max(height, 1), 1)
    if wide > 1 and high > 1:
        # Both have room: half a line is about as high as a cell is wide.
        wide = high = min(wide, high)
    return Placing(min(wide, _MAX_SCALE), min(high, _MAX_SCALE))


def cuts_on(starts: Ints, cuts: Sequence[int]) -> dict[int, int]:
    """The part in which each cut of a dim begins: part -> index, the first cut of each part."""
    result: dict[int, int] = {}
    for cut in cuts:
        part = int(np.searchsorted(starts, cut, side="right")) - 1
        result.setdefault(part, cut)
    return result


def cell_codes(grid: HeatGrid, num_lines: int, high: int, *, halves: bool) -> tuple[Ints, Ints]:
    """The codes of the upper and the lower half of every cell, each of shape (num_lines, w).

    Args:
        grid: What is drawn.
        num_lines: Lines of cells.
        high: How many lines (of `halves`: half lines) each part is high.
        halves: Whether a cell shows two; else both codes are the same.
    """
    codes = np.vstack([grid.codes(), np.full((1, grid.width), BLANK)])
    step = 2 if halves else 1
    rows = np.arange(num_lines * step) // high
    drawn = codes[np.minimum(rows, grid.height)]
    return drawn[::step], drawn[step - 1 :: step]
