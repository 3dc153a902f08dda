"""What goes into a chunk drawing and what comes out: `ChunkBoxes`, `Painting` and its inks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.tui.widgets.chunk_layout import Cells, ChunkGrid, Ints, Mark

__all__ = [
    "BOLD",
    "CLASH",
    "EDGE",
    "HOLE",
    "NUM_HUES",
    "PANE",
    "SWAPPED",
    "TEXT",
    "UNKNOWN",
    "Chars",
    "ChunkBoxes",
    "Painting",
    "code",
]

Chars: TypeAlias = npt.NDArray[np.str_]

NUM_HUES = 16
# What a background or foreground can be: a hue (0 to 15), or one of these.
UNKNOWN, HOLE, CLASH, PANE, EDGE, TEXT = 16, 17, 18, 19, 20, 21
# Flags of a code.
BOLD, SWAPPED = 1 << 10, 1 << 11


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBoxes:
    """The value a `ChunkMap` shows: how one tensor is cut.

    Attributes:
        shape: Global shape.
        offsets, sizes: Boxes of the chunks, shape (n, ndim).
        ranks: Rank that wrote each chunk, shape (n,); -1 if not known.
        marks: Boxes of findings, drawn over the chunks.
    """

    shape: tuple[int, ...]
    offsets: Ints
    sizes: Ints
    ranks: Ints | Cells
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Painting:
    """The drawing, one entry per terminal cell, shape (lines, columns).

    Attributes:
        grid: The geometry it was made from.
        chars: One character per cell.
        codes: Background | foreground << 5 | flags.
        chunk: Chunk at each cell, or GAP or OUTSIDE.
        row_lines: For each row of the grid: the line on which it starts.
        all_labelled: Whether every chunk carries its rank.
    """

    grid: ChunkGrid
    chars: Chars
    codes: Cells
    chunk: Cells
    row_lines: list[int]
    all_labelled: bool


def code(background: int, foreground: int, flags: int = 0) -> int:
    """The code of a cell; 5 bits each for what is behind and what is in front."""
    return background | foreground << 5 | flags
