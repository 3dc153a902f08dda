"""A `Comparison` as rows of a table. Pure; no widget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.text import format_placements, format_shape, printable
from inspector.diff.model import BytesDiff, TensorDiff
from inspector.report.diff import format_difference
from inspector.tui.comparison import (
    GROUPS,
    Comparison,
    Item,
    Lone,
    group_of,
    indices_of,
    names_of,
)
from inspector.tui.widgets.cell_text import Cell
from inspector.tui.widgets.columns import Column
from inspector.tui.widgets.row_order import SortKeys, natural_keys
from inspector.tui.widgets.table_source import TableSource

__all__ = ["STYLES", "DiffSource", "diff_columns"]

#: The style of each group of rows.
STYLES: dict[str, str] = {
    "NON_FINITE": "error",
    "DIFFER": "error",
    "SHAPE": "error",
    "DTYPE": "error",
    "NOT_COMPARED": "dim",
    "CLOSE": "warning",
    "EXACT": "ok",
    "ONLY_A": "accent",
    "ONLY_B": "accent",
    "RENAMED": "accent",
}
_RANKS = {group: rank for rank, group in enumerate(GROUPS)}
# Rows that are looked at to choose the widths.
_SAMPLE_ROWS = 200


def diff_columns(source: DiffSource, *, with_values: bool) -> tuple[Column, ...]:
    """The columns, measured on a sample of the rows.

    Args:
        source: The rows.
        with_values: Whether any value was compared, or is being compared: until then the table
            tells how both sides are made instead.
    """
    step = max(1, source.num_rows // _SAMPLE_ROWS)

    def width(key: str, least: int, most: int) -> int:
        cells = (source.cell(row, key) for row in range(0, source.num_rows, step))
        texts = (cell[0] if isinstance(cell, tuple) else str(cell) for cell in cells)
        return max(least, min(most, max(map(len, texts), default=0)))

    name = Column("name", "Tensor", min_width=width("name", 16, 30), flex=3, cut="middle")
    verdict = Column("verdict", "Verdict", width=12)
    dtype = Column("dtype", "Dtype", width=width("dtype", 5, 18), priority=5)
    shape = Column("shape", "Shape", width=width("shape", 5, 18), cut="middle", priority=6)
    if not with_values:
        return (
            name,
            verdict,
            Column("dtype", "Dtype", width=dtype.least, priority=1),
            Column("shape", "Shape", width=width("shape", 5, 34), cut="middle", priority=2),
            Column("placements", "Placements", width=width("placements", 10, 64), priority=3),
        )
    return (
        name,
        verdict,
        Column("different", "Different", width=10, align="right", descending_first=True),
        Column("first", "First at", width=12, priority=2, cut="middle"),
        Column("max_abs", "Max |a-b|", width=9, align="right", priority=1, descending_first=True),
        Column("max_rel", "Relative", width=9, align="right", priority=3, descending_first=True),
        Column("max_ulps", "Ulps", width=9, align="right", priority=4, descending_first=True),
        dtype,
        shape,
        Column("placements", "Placements", width=width("placements", 10, 64), priority=7),
    )


class DiffSource(TableSource):
    """Every row of a comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        #: What a filter looks at, per row.
        self.row_names = [names_of(item) for item in comparison.items]

    @property
    def num_rows(self) -> int:
        return len(self.comparison.items)

    def cell(self, row: int, column_key: str) -> Cell:
        item = self.comparison.items[row]
        group = group_of(item)
        if column_key == "name":
            return item.fqn
        if column_key == "verdict":
            return (GROUPS[group], STYLES[group])
        if column_key == "dtype":
            return self._dtype(item)
        if column_key == "shape":
            return self._shape(item)
        if column_key == "placements":
            return self._placements(item)
        if not isinstance(item, TensorDiff):
            return ""
        return _figure(item, column_key)

    def _dtype(self, item: Item) -> Cell:
        if isinstance(item, BytesDiff):
            return ("bytes", "dim")
        if isinstance(item, Lone) and item.index < 0:
            return ("bytes", "dim")
        return self._both(item, lambda side, index: short_name(side.dtype(index)))

    def _shape(self, item: Item) -> str:
        return self._both(item, lambda side, index: format_shape(side.shape(index)))

    def _both(self, item: Item, text: Callable[..., str]) -> str:
        """A's and B's, or what they have in common."""
        structure = self.comparison.structure
        texts = [
            text(side.checkpoint.columns, index) if index >= 0 else ""
            for side, index in zip((structure.a, structure.b), indices_of(item), strict=True)
        ]
        if isinstance(item, Lone) or texts[0] == texts[1]:
            return texts[0] or texts[1]
        return f"{texts[0] or 'bytes'} → {texts[1] or 'bytes'}" if any(texts) else ""

    def _placements(self, item: Item) -> str:
        a, b = self.comparison.placements(item)
        indices = indices_of(item)
        if max(indices) < 0:
            return ""
        if a == b or min(indices) < 0:
            return format_placements(a if indices[0] >= 0 else b)
        return f"{format_placements(a)} → {format_placements(b)}"

    def sort_key(self, column_key: str) -> SortKeys | None:
        items = self.comparison.items
        if column_key == "name":
            return natural_keys(self.row_names)
        if column_key == "verdict":
            return np.asarray([_RANKS[group_of(item)] for item in items])
        if column_key in ("dtype", "shape", "placements"):
            return [printable(str(self.cell(row, column_key))) for row in range(len(items))]
        return np.asarray([_number(item, column_key) for item in items], np.float64)

    def marker(self, row: int) -> str:
        group = group_of(self.comparison.items[row])
        marks = {"error": "error", "warning": "warning", "accent": "warning"}
        return marks.get(STYLES[group], "")


def _figure(item: TensorDiff, column_key: str) -> Cell:
    if not item.num_compared:
        return ("-", "dim")
    if column_key == "different":
        return f"{item.num_different:,}"
    if column_key == "first":
        is_bad = item.verdict == "NON_FINITE"
        first = item.first_non_finite if is_bad else item.first_index
        return ("-", "dim") if first is None else format_shape(first)
    if column_key == "max_ulps":
        return ("-", "dim") if item.max_ulps is None else _short_count(item.max_ulps)
    number = item.max_abs if column_key == "max_abs" else item.max_rel
    return format_difference(number) if number is not None else ("-", "dim")


def _short_count(number: int) -> str:
    text = f"{number:,}"
    return text if len(text) <= 9 else f"{number:.3g}"


def _number(item: Item, column_key: str) -> float:
    """What a row is sorted by; rows without a figure come last, largest first."""
    if not isinstance(item, TensorDiff) or not item.num_compared:
        return -2.0
    if column_key == "different":
        return float(item.num_different)
    if column_key == "first":
        if item.first_index is None or item.shape_a is None:
            return -1.0
        position = 0
        for i, size in zip(item.first_index, item.shape_a, strict=True):
            position = position * size + i
        return float(position)
    number: float | int | None = getattr(item, column_key)
    return -1.0 if number is None else float(number)
