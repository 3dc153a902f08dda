"""What the values pane says in words: figures of a tensor, and of the element under the cursor."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.text import Text
from textual.widgets import Static

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_bytes, format_shape, printable
from inspector.report.stats import format_number
from inspector.tui.kit.cell_text import clip, fit
from inspector.tui.values.number_sheet import GAP, UNREADABLE
from inspector.values.ranking import Ranked
from inspector.values.slices import Plane, value_text
from inspector.values.stats import TensorStats

__all__ = ["ValueFigures", "element_text", "figures_text", "head_text", "place_line", "slice_text"]

_LABEL = 6
_STYLES = {"nan": "error", "inf": "error", "zero": "warning", "odd": "warning", "": ""}


def head_text(name: str, tensor: Tensor | None, width: int) -> Text:
    """Name, and type and size at the right; the name gives way."""
    facts = ""
    if tensor is not None:
        facts = f"{tensor.dtype} {format_shape(tensor.shape)}  {format_bytes(tensor.num_bytes)}"
        facts = printable(facts, max(width // 2, 20))
    room = max(width - len(facts) - 2, 8)
    shown = fit(printable(name, 4 * room) or "''", room, cut="middle")
    return Text.assemble((shown, "bold"), "  ", facts, no_wrap=True)


def figures_text(stats: TensorStats, ranked: Ranked | None, width: int, lines: int) -> Text:
    """The figures, one a line; what matters most comes first where there are few lines."""
    rows: list[tuple[str, str, str]] = []
    for label, count, first in (
        ("NaN", stats.num_nan, stats.first_nan),
        ("Inf", stats.num_inf, stats.first_inf),
    ):
        where = f" first {format_shape(first)}" if count and first else ""
        rows.append((label, f"{count:,}{where}", "error" if count else ""))
    suffix = " of |z|" if stats.is_complex else ""
    rows += [
        ("min", format_number(stats.low, 6) + suffix, ""),
        ("max", format_number(stats.high, 6) + suffix, ""),
        ("mean", format_number(stats.mean, 6), ""),
        ("std", format_number(stats.std, 6), ""),
        ("L2", f"{format_number(stats.l2, 6)}  rms {format_number(stats.rms, 4)}", ""),
        ("zeros", f"{stats.num_zero:,}" + _percent(stats.num_zero, stats.num_read), ""),
    ]
    size = f"{stats.num_read:,}"
    is_part = stats.num_read < stats.num_elements
    if is_part:
        size += f" ({100 * stats.num_read / stats.num_elements:.3g}%)"
    rows.insert(0 if is_part else len(rows), ("count", size, "warning" if is_part else ""))
    shown = rows[:lines]
    text = Text("\n").join(
        Text.assemble((f"{label:<{_LABEL}}", "dim"), (fit(value, max(width - _LABEL, 1)), style))
        for label, value, style in shown
    )
    if ranked is not None and ranked.kind not in ("nan", "inf") and len(rows) < lines:
        text.append(f"\n{ranked.reason}", _STYLES[ranked.kind])
    return text


def _percent(count: int, total: int) -> str:
    return f" ({count / total:.3g} of all)" if count and total and count < total else ""


def element_text(
    checkpoint: Checkpoint,
    tensor: Tensor,
    index: tuple[int, ...],
    found: tuple[Any, int, str] | None,
) -> Text:
    """The element under the cursor: index, value in full, and where it is stored."""
    text = Text(f"{format_shape(index)} ", no_wrap=True)
    if found is None:
        return text.append("reading ...", "dim")
    value, state, problem = found
    if state == GAP:
        return text.append("no chunk holds it", "error")
    if state == UNREADABLE:
        return text.append(f"cannot be read: {problem}", "error")
    # Enough digits to tell any two numbers of the type apart.
    parts = 2 if tensor.dtype.startswith("complex") else 1
    digits = {1: 4, 2: 5, 4: 9}.get((itemsize(tensor.dtype) or 8) // parts, 17)
    shown = value_text(value, digits)
    text.append(f"= {shown}", "error" if "n" in shown else "bold")
    chunk = _chunk_at(tensor, index)
    if chunk is not None:
        path = checkpoint.files[int(tensor.file[chunk])].path
        text.append(f"  chunk {chunk} in {printable(path, 60)}", "dim")
    return text


def _chunk_at(tensor: Tensor, index: tuple[int, ...]) -> int | None:
    """The first stored chunk that holds an element."""
    at = np.array(index, np.int64)
    inside = ((tensor.offsets <= at) & (at < tensor.offsets + tensor.sizes)).all(axis=1)
    found = np.flatnonzero(inside & (tensor.file >= 0))
    return int(found[0]) if len(found) else None


def slice_text(plane: Plane, leading: tuple[int, ...]) -> str:
    """Which slice of how many is shown, and which dims are its rows and columns."""
    if not plane.leading:
        return ""
    number = total = 0
    for at, size in zip(leading, plane.leading, strict=True):
        number = number * size + at
        total = max(total, 1) * size
    return f"slice {number + 1:,} of {total:,} (dims {plane.row_dim} x {plane.column_dim})"


def place_line(element: Text, where: str, width: int) -> Text:
    """The element at the left, the slice at the right; the slice's dims give way first."""
    if where and len(element) + len(where) + 2 > width:
        where = where.partition(" (")[0]
    room = width - len(where) - 2 if where else width
    line = element.copy()
    clip(line, max(room, 10))
    if where:
        line.append(" " * max(width - len(line) - len(where), 1)).append(where, "dim")
    return line


class ValueFigures(Static):
    """Give it statistics by `show`."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id)
        self._stats: TensorStats | None = None
        self._ranked: Ranked | None = None
        self._instead = ""

    def show(
        self, stats: TensorStats | None, ranked: Ranked | None = None, *, instead: str = ""
    ) -> None:
        """Show the figures of a tensor; `instead`, printable, while there are none."""
        self._stats, self._ranked, self._instead = stats, ranked, instead
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._stats is None:
            self.update(Text(self._instead, "dim"))
        else:
            self.update(figures_text(self._stats, self._ranked, *self.size))
