"""Chunks of one tensor -> a picture of where they lie, and what is wrong among them.

The rule this module keeps: a picture is bounded, whatever the tensor. Up to `_MAX_BOXES` chunks
are drawn one by one; more are drawn as cells, and each cell says to whom its first chunk belongs.
What shows as "no chunk" is touched by none: boxes are only ever drawn larger than they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_box, format_bytes, format_shape, plural
from inspector.layout.geometry import Ints, box_cuts, clipped, num_touching
from inspector.report.html.markup import Html, join, outline, tag, text
from inspector.report.html.page import table

__all__ = ["MAX_MARKS", "MapMark", "chunk_map"]

#: What a marked box is: in no chunk, in several, or something else that the finding tells.
MarkKind = Literal["gap", "overlap", "other"]

_WIDTH, _LEFT, _TOP = 760, 64, 20
_MAX_HIGH, _MIN_HIGH = 320, 48
_MAX_BOXES = 600
#: Marks that are drawn in one picture.
MAX_MARKS = 40
_MAX_ROWS = 16
# Of more chunks than can be drawn, cells of so many pixels.
_CELL = 10
# Chunks that span several cells and are painted one by one; the rest only count.
_MAX_PAINTED = 2_000
_LEAST = 3


@dataclass(frozen=True, slots=True)
class MapMark:
    """A box to point at, and what it is; `what` is a few words for the caption."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    kind: MarkKind
    what: str


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """One drawn axis: sorted cuts of a dim, and the pixel of each."""

    dim: int
    cuts: Ints
    at: Ints

    def span(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """First and one past the last pixel of intervals, at least one apart."""
        if self.dim < 0:
            zeros = np.zeros(len(low), np.int64)
            return zeros, zeros + self.at[-1]
        first = np.clip(np.searchsorted(self.cuts, low[:, self.dim], "right") - 1, 0, None)
        last = np.clip(np.searchsorted(self.cuts, high[:, self.dim]), 0, len(self.cuts) - 1)
        start = np.minimum(self.at[first], self.at[-1] - 1)
        return start, np.maximum(self.at[last], start + 1)


def chunk_map(checkpoint: Checkpoint, tensor: Tensor, marks: Sequence[MapMark] = ()) -> Html:
    """The picture of a tensor's chunks with its caption, and a short list of them.

    Args:
        checkpoint: Where it is from.
        tensor: The tensor.
        marks: What is wrong, and where; boxes of other dims than the tensor's are left out.
    """
    ndim = len(tensor.shape)
    marks = [m for m in marks if len(m.offsets) == ndim == len(m.sizes)][:MAX_MARKS]
    ranks = checkpoint.chunk_ranks(tensor.file)
    caption = tag(
        "figcaption",
        tag("code", text(tensor.fqn, 300)),
        f" · {tensor.dtype} · {format_shape(tensor.shape)} · {plural(tensor.num_chunks, 'chunk')}",
    )
    if any(size <= 0 for size in tensor.shape):
        return tag("figure", caption, tag("figcaption", "It has no elements: nothing to draw."))
    picture, notes = _picture(tensor, ranks, marks)
    words = dict.fromkeys(mark.what for mark in marks)
    legend = tag("figcaption", "; ".join([*words, *notes])) if words or notes else ""
    return tag("figure", caption, picture, legend, _listed(checkpoint, tensor, ranks, marks))


def _picture(
    tensor: Tensor, ranks: npt.NDArray[np.int32], marks: Sequence[MapMark]
) -> tuple[Html, list[str]]:
    """The drawing, and what is to be said of it."""
    ndim = len(tensor.shape)
    extent = np.asarray(tensor.shape, np.int64)
    low, high = clipped(extent, tensor.offsets, tensor.sizes)
    mark_low, mark_high = clipped(
        extent,
        np.asarray([m.offsets for m in marks], np.int64).reshape(len(marks), ndim),
        np.asarray([m.sizes for m in marks], np.int64).reshape(len(marks), ndim),
    )
    alive = np.flatnonzero((low < high).all(axis=1))
    cuts = box_cuts(extent, low[alive], high[alive], mark_low, mark_high)
    rows, cols = _lines(tensor.shape, cuts)
    notes = []
    folded = [d for d in range(ndim) if d not in (rows.dim, cols.dim) and len(cuts[d]) > 2]
    if folded:
        which = ", ".join(map(str, folded))
        notes.append(f"cut along dim {which} too, which is not drawn: boxes lie on one another")
    top, bottom = rows.span(low[alive], high[alive])
    left, right = cols.span(low[alive], high[alive])
    boxes = np.stack([top, left, bottom, right], axis=1)
    high_px, wide_px = int(rows.at[-1]), int(cols.at[-1])
    if len(alive) <= _MAX_BOXES:
        drawn = [_box(box, int(ranks[i])) for box, i in zip(boxes.tolist(), alive, strict=True)]
    else:
        drawn, most = _cells(boxes, ranks[alive], high_px, wide_px)
        notes.append(f"too many to draw one by one: a cell stands for up to {most:,} chunks")
    empty = tensor.num_chunks - len(alive)
    if empty:
        notes.append(f"{plural(empty, 'chunk')} without an element inside the tensor")
    marked = [
        _mark(*spans, mark.kind)
        for mark, spans in zip(marks, _mark_boxes(rows, cols, mark_low, mark_high), strict=True)
    ]
    frame = tag("rect", class_="frame", x=0, y=0, width=wide_px, height=high_px)
    body = tag(
        "g", _hole(0, 0, high_px, wide_px), *drawn, *marked, frame,
        *_scale(tensor.shape, rows, cols), transform=f"translate({_LEFT},{_TOP})",
    )  # fmt: skip
    size = (_LEFT + wide_px + 8, _TOP + high_px + 8)
    return tag(
        "svg", tag("title", f"chunks of {tensor.fqn}"[:200]), body,
        viewBox=f"0 0 {size[0]} {size[1]}", width=size[0], height=size[1], role="img",
        shape_rendering="crispEdges",
    ), notes  # fmt: skip


def _lines(shape: Sequence[int], cuts: Sequence[Ints]) -> tuple[_Line, _Line]:
    """The two dims cut most as axes, the lower one downwards."""
    order = sorted(range(len(shape)), key=lambda d: (-len(cuts[d]), shape[d] == 1, d))
    wide = _WIDTH - _LEFT - 8
    point = np.array([0, 1], np.int64)
    if len(shape) < 2:
        high = _Line(-1, point, np.array([0, _MIN_HIGH], np.int64))
        if not shape:
            return high, _Line(-1, point, np.array([0, 120], np.int64))
        return high, _Line(0, cuts[0], _places(cuts[0], wide))
    row, col = sorted(order[:2])
    aspect = shape[row] / shape[col] * wide
    wanted = max(min(aspect, _MAX_HIGH), 16 * (len(cuts[row]) - 1), 120)
    high_px = int(min(wanted, _MAX_HIGH))
    return _Line(row, cuts[row], _places(cuts[row], high_px)), _Line(
        col, cuts[col], _places(cuts[col], wide)
    )


def _places(cuts: Ints, pixels: int) -> Ints:
    """A pixel for each cut: true to scale, but a piece is seen as long as there is room for it."""
    lengths = np.diff(cuts).astype(np.float64)
    # At most a quarter of the room goes to that: a large hole among many pieces stays large.
    least = min(_LEAST, pixels / len(lengths) / 4)
    shares = lengths / lengths.sum() * (pixels - least * len(lengths)) + least
    at: Ints = np.rint(np.concatenate([[0.0], np.cumsum(shares)])).astype(np.int64)
    at[-1] = pixels
    return at


def _hue(rank: int) -> str:
    return f"h{rank % 7}" if rank >= 0 else "h7"


def _box(box: Sequence[int], rank: int) -> Html:
    top, left, bottom, right = box
    drawn = tag(
        "rect", class_=f"chunk {_hue(rank)}", x=left, y=top, width=right - left, height=bottom - top
    )
    label = f"rank {rank}" if rank >= 0 else "?"
    if right - left < 8 * len(label) or bottom - top < 15:
        return drawn
    x, y = (left + right) // 2, (top + bottom) // 2 + 4
    return join((drawn, tag("text", label, class_="label", x=x, y=y, text_anchor="middle")))


def _cells(
    boxes: Ints, ranks: npt.NDArray[np.int32], high_px: int, wide_px: int
) -> tuple[list[Html], int]:
    """Many chunks as runs of cells of one rank, and the most chunks that one cell stands for."""
    num_rows, num_cols = -(-high_px // _CELL), -(-wide_px // _CELL)
    tops, lefts = boxes[:, 0] // _CELL, boxes[:, 1] // _CELL
    bottoms, rights = -(-boxes[:, 2] // _CELL), -(-boxes[:, 3] // _CELL)
    count = num_touching(tops, lefts, bottoms, rights, num_rows, num_cols)
    owner = np.full((num_rows, num_cols), -1, np.int64)
    single = (bottoms - tops == 1) & (rights - lefts == 1)
    for i in np.flatnonzero(~single)[:_MAX_PAINTED][::-1].tolist():
        owner[tops[i] : bottoms[i], lefts[i] : rights[i]] = ranks[i]
    small = np.flatnonzero(single)[::-1]
    owner[tops[small], lefts[small]] = ranks[small]
    paths: dict[str, list[str]] = {}
    for y in range(num_rows):
        runs = [_hue(int(r)) if n else "" for r, n in zip(owner[y], count[y], strict=True)]
        x = 0
        for hue, run in itertools.groupby(runs):
            wide = len(list(run))
            if hue:
                end, low = min((x + wide) * _CELL, wide_px), min((y + 1) * _CELL, high_px)
                paths.setdefault(hue, []).append(
                    f"M{x * _CELL} {y * _CELL}H{end}V{low}H{x * _CELL}z"
                )
            x += wide
    drawn = [tag("path", class_=hue, d=outline(path)) for hue, path in paths.items()]
    return drawn, int(count.max(initial=0))


def _hole(top: int, left: int, bottom: int, right: int) -> Html:
    """Ground on which no chunk lies: crossed out, so that it is seen without colours too."""
    ground = tag("rect", class_="hole", x=left, y=top, width=right - left, height=bottom - top)
    return join((ground, _stripes(top, left, bottom, right, "stripe")))


def _stripes(top: int, left: int, bottom: int, right: int, look: str) -> Html:
    """Slanted lines through a rectangle, cut to it: a picture in a picture ends at its edge."""
    high, wide = bottom - top, right - left
    lines = []
    for shift in range(8, wide + high, 8):
        x0, y0 = (shift, 0) if shift <= wide else (wide, shift - wide)
        x1, y1 = (0, shift) if shift <= high else (shift - high, high)
        lines.append(f"M{x0} {y0}L{x1} {y1}")
    if not lines:
        return Html("")
    drawn = tag("path", class_=look, d=outline(lines))
    return tag("svg", drawn, x=left, y=top, width=wide, height=high)


def _mark_boxes(rows: _Line, cols: _Line, low: Ints, high: Ints) -> list[tuple[int, int, int, int]]:
    top, bottom = rows.span(low, high)
    left, right = cols.span(low, high)
    return list(zip(top.tolist(), left.tolist(), bottom.tolist(), right.tolist(), strict=True))


def _mark(top: int, left: int, bottom: int, right: int, kind: MarkKind) -> Html:
    frame = tag(
        "rect", class_=f"mark {kind}", x=left, y=top, width=right - left, height=bottom - top,
        fill="none",
    )  # fmt: skip
    if kind == "gap":
        return join((_hole(top, left, bottom, right), frame))
    if kind == "overlap":
        return join((_stripes(top, left, bottom, right, "clash"), frame))
    return frame


def _scale(shape: Sequence[int], rows: _Line, cols: _Line) -> list[Html]:
    """The first and the last index of each drawn dim."""
    told = []
    if cols.dim >= 0:
        told += [
            tag("text", "0", class_="axis", x=0, y=-6),
            tag("text", f"dim {cols.dim}: {shape[cols.dim]}", class_="axis", x=int(cols.at[-1]),
                y=-6, text_anchor="end"),
        ]  # fmt: skip
    if rows.dim >= 0:
        told += [
            tag("text", "0", class_="axis", x=-6, y=10, text_anchor="end"),
            tag("text", f"dim {rows.dim}:", class_="axis", x=-6, y=int(rows.at[-1]) - 14,
                text_anchor="end"),
            tag("text", str(shape[rows.dim]), class_="axis", x=-6, y=int(rows.at[-1]) - 1,
                text_anchor="end"),
        ]  # fmt: skip
    return told


def _listed(
    checkpoint: Checkpoint, tensor: Tensor, ranks: npt.NDArray[np.int32], marks: Sequence[MapMark]
) -> Html:
    """Who wrote each chunk and where it lies; of many chunks, those that the marks touch."""
    rows = []
    chunks = list(range(tensor.num_chunks))
    if len(chunks) > _MAX_ROWS:
        chunks = _touched(tensor, marks)[:_MAX_ROWS]
    for i in chunks:
        file, rank, length = int(tensor.file[i]), int(ranks[i]), int(tensor.byte_length[i])
        where = ("stored nowhere", "", "")
        if file >= 0:
            size = f"{length:,} ({format_bytes(length)})"
            where = (checkpoint.files[file].path, f"{int(tensor.byte_offset[i]):,}", size)
        box = format_box(tensor.offsets[i].tolist(), tensor.sizes[i].tolist())
        rows.append((box, str(rank) if rank >= 0 else "?", *where))
    return table(
        ("chunk", "rank", "file", "at byte", "bytes"),
        rows,
        numbers=frozenset({"rank", "at byte", "bytes"}),
        names=frozenset({"chunk", "file"}),
    )


def _touched(tensor: Tensor, marks: Sequence[MapMark]) -> list[int]:
    """Chunks that hold an element of a marked box, in their order."""
    extent = np.asarray(tensor.shape, np.int64)
    low, high = clipped(extent, tensor.offsets, tensor.sizes)
    touched = np.zeros(len(low), np.bool_)
    for mark in marks:
        box = np.asarray([mark.offsets], np.int64), np.asarray([mark.sizes], np.int64)
        mark_low, mark_high = clipped(extent, *box)
        touched |= ((low < mark_high) & (high > mark_low)).all(axis=1)
    found: list[int] = np.flatnonzero(touched).tolist()
    return found
