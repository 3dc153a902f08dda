"""Words around a chunk drawing: rulers with the indices of cuts, and captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inspector.checkpoint.text import format_count, format_shape, plural
from inspector.tui.tensors.chunk_layout import DrawnAxis
from inspector.tui.tensors.chunk_paint import NUM_HUES, ChunkBoxes, Painting

__all__ = ["captions", "left_ruler", "top_ruler"]


def left_ruler(shape: Sequence[int], width: int) -> int:
    """Cells for the ruler at the left, its blank included; 0 if they would be too many."""
    cells = max((len(str(extent)) for extent in shape), default=0) + 1
    return cells if cells > 1 and cells * 4 <= width else 0


def top_ruler(painting: Painting, margin: int, width: int) -> tuple[str, dict[int, str]]:
    """Text of the line above the drawing, and the labels left of it by line."""
    grid = painting.grid
    if grid.kind == "empty":
        return " " * width, {}
    side: dict[int, str] = {}
    if grid.wrap and len(painting.row_lines) > 1:
        for row, line in enumerate(painting.row_lines):
            side[line] = str(_index_at(grid.cols, row * grid.wrap))
        return " " * width, side
    head = _along(grid.cols, width - margin)
    if grid.rows.dim >= 0:
        for cut, cell in zip(grid.rows.cuts.tolist(), grid.rows.at.tolist(), strict=True):
            side.setdefault(cell, str(cut))
        side[painting.chars.shape[0]] = side.pop(grid.rows.num_cells, str(grid.rows.cuts[-1]))
    return " " * margin + head, side


def _index_at(axis: DrawnAxis, cell: int) -> int:
    """Index of the tensor at the start of a cell."""
    after = int(np.searchsorted(axis.at, cell, side="right")) - 1
    if axis.per_cell > 1:
        after = int(np.searchsorted(axis.at, cell, side="left"))
    start = int(axis.cuts[after])
    if axis.at[after] >= cell or after + 1 >= len(axis.cuts):
        return start
    cells = int(axis.at[after + 1] - axis.at[after])
    piece = int(axis.cuts[after + 1]) - start
    return start + piece * (cell - int(axis.at[after])) // cells


def _along(axis: DrawnAxis, width: int) -> str:
    """Cut indices at their cells, as many as do not touch; the last one ends at the edge."""
    if axis.dim < 0:
        return " " * width
    text = [" "] * width
    end = str(int(axis.cuts[-1]))
    edge = min(width, max(axis.num_cells, len(end) + 2))
    text[max(0, edge - len(end)) : edge] = end
    labels = [
        (cell, str(cut))
        for cut, cell in zip(axis.cuts[:-1].tolist(), axis.at[:-1].tolist(), strict=True)
    ]
    # Every cut, or every second, fourth ... : a ruler with even steps reads best.
    step = 1
    while step < len(labels) and any(
        a + len(label) >= b
        for (a, label), (b, _) in zip(labels[::step], labels[step::step])  # noqa: B905
    ):
        step *= 2
    for cell, label in labels[::step]:
        if cell + len(label) < edge - len(end):
            text[cell : cell + len(label)] = label
    return "".join(text[:width])


def captions(
    boxes: ChunkBoxes, painting: Painting, *, colour: bool, width: int | None = None
) -> list[str]:
    """What the drawing cannot say, the most needed first.

    Args:
        boxes: The chunks.
        painting: The drawing.
        colour: Whether it has any.
        width: Cells for a line, if the first is to leave out what does not fit whole.
    """
    grid = painting.grid
    num = len(grid.boxes)
    lines = []
    if grid.kind == "empty":
        shape = format_shape(boxes.shape)
        return [f"{plural(num, 'chunk')} of a tensor without elements {shape}"]
    share = grid.rows.per_cell * grid.cols.per_cell
    parts = [plural(num, "chunk") + (f" ({share:,} a cell)" if share > 1 else ""), _ranks(boxes)]
    if grid.wrap:
        wrapped = ", wrapped" if len(painting.row_lines) > 1 else ""
        parts.append(f"dim {grid.cols.dim} → {format_count(boxes.shape[grid.cols.dim])}{wrapped}")
    elif grid.rows.dim >= 0:
        parts.append(
            f"dim {grid.rows.dim} ↓ {format_count(boxes.shape[grid.rows.dim])}"
            f"  dim {grid.cols.dim} → {format_count(boxes.shape[grid.cols.dim])}"
        )
    else:
        parts.append("a scalar")
    if boxes.places is not None:
        lines.append(boxes.axis)
    while width is not None and len(parts) > 1 and len("  ".join(parts)) > width:
        parts.pop()
    lines.append("  ".join(parts))
    if len(grid.empty):
        shown = ", ".join(_empty(boxes, int(i)) for i in grid.empty[:3])
        more = f" and {len(grid.empty) - 3:,} more" if len(grid.empty) > 3 else ""
        lines.append(f"{plural(len(grid.empty), 'empty chunk')}: {shown}{more}")
    if len(grid.outside):
        lines.append(f"{plural(len(grid.outside), 'chunk')} cut off: outside the tensor")
    whole = [d for d in grid.folded if d not in grid.folded_cut]
    if grid.folded_cut:
        dims = ", ".join(str(d) for d in grid.folded_cut)
        lines.append(f"cut but not drawn: dim {dims}; a cell holds up to {grid.per_cell:,} chunks")
    if whole:
        lines.append("not cut, not drawn: dim " + ", ".join(
            f"{d} ({boxes.shape[d]:,})" for d in whole))  # fmt: skip
    num_labels = len(np.unique(boxes.labels))
    if colour and not painting.all_labelled and num_labels > 1:
        what = "writing rank" if boxes.places is None else f"place on {boxes.letter}"
        r = boxes.letter
        same = f", {r}{NUM_HUES} is coloured as {r}0" if num_labels > NUM_HUES else ""
        lines.append(f"colour = {what}{same}")
    return lines


def _empty(boxes: ChunkBoxes, index: int) -> str:
    rank = int(boxes.ranks[index])
    writer = f" (rank {rank})" if rank >= 0 else ""
    offsets = boxes.offsets[index].tolist()
    at = str(offsets[0]) if len(offsets) == 1 else format_shape(offsets)
    return f"at {at}{writer}"


def _ranks(boxes: ChunkBoxes) -> str:
    ranks = np.unique(np.asarray(boxes.ranks, dtype=np.int64))
    known = ranks[ranks >= 0]
    if not len(known):
        return "writer unknown"
    if len(known) == 1:
        text = f"by rank {known[0]}"
    elif known[-1] - known[0] + 1 == len(known):
        text = f"by ranks {known[0]} to {known[-1]}"
    else:
        text = f"by {len(known):,} ranks, {known[0]} to {known[-1]}"
    return text + (", some unknown" if len(known) < len(ranks) else "")
