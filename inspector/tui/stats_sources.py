"""Statistics as rows: every tensor that was read, what is oddest first. Pure; no widget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_shape
from inspector.report.stats import format_number
from inspector.tui.widgets.cell_text import Cell
from inspector.tui.widgets.columns import Column
from inspector.tui.widgets.row_order import SortKeys, natural_keys
from inspector.tui.widgets.table_source import TableSource
from inspector.values.ranking import Ranked
from inspector.values.stats import NotRead

__all__ = ["StatsSource", "stats_columns"]

_NUMBERS = (
    Column("shape", "Shape", min_width=8, max_width=20, cut="middle", priority=8),
    Column("dtype", "Dtype", min_width=5, max_width=9, priority=9),
    Column("low", "Min", width=10, align="right", priority=4),
    Column("high", "Max", width=10, align="right", priority=3, descending_first=True),
    Column("mean", "Mean", width=10, align="right", priority=6, descending_first=True),
    Column("std", "Std", width=9, align="right", priority=5, descending_first=True),
    Column("rms", "Rms", width=9, align="right", priority=2, descending_first=True),
    Column("l2", "L2", width=9, align="right", priority=7, descending_first=True),
    Column("zeros", "Zeros", width=11, align="right", priority=10, descending_first=True),
)
# Rows that are looked at to choose the widths; notes stand in the first ones.
_SAMPLE_ROWS = 300
_BADGES = {"nan": "error", "inf": "error", "zero": "warning", "odd": "warning", "": ""}
_STYLES = {"nan": "error", "inf": "error", "zero": "warning", "odd": "warning", "": "dim"}


class StatsSource(TableSource):
    """One row a tensor: NaN and infinities first, then what could not be read, then by oddness.

    Args:
        checkpoint: The checkpoint.
        ranked: What was read, oddest first.
        not_read: What was not, or not wholly.
    """

    def __init__(
        self, checkpoint: Checkpoint, ranked: Sequence[Ranked], not_read: Sequence[NotRead]
    ) -> None:
        self._checkpoint = checkpoint
        self._not_read = {item.index: item for item in not_read}
        bad = [item for item in ranked if item.kind in ("nan", "inf")]
        rest = [item for item in ranked if item.kind not in ("nan", "inf")]
        seen = {item.stats.index for item in ranked}
        unread = [index for index in self._not_read if index not in seen]
        self._rows: list[tuple[int, Ranked | None]] = [
            *((item.stats.index, item) for item in bad),
            *((index, None) for index in unread),
            *((item.stats.index, item) for item in rest),
        ]
        fqns = checkpoint.columns.fqns
        #: Raw name of each row.
        self.row_names: list[str] = [fqns[index] for index, _ in self._rows]

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def first_bad(self, row: int) -> tuple[int, ...] | None:
        """The index of the first NaN of a row's tensor, or else of the first infinity, if any."""
        item = self._rows[row][1]
        if item is None:
            return None
        return item.stats.first_nan if item.stats.num_nan else item.stats.first_inf

    def cell(self, row: int, column_key: str) -> Cell:
        index, item = self._rows[row]
        if column_key == "name":
            return self.row_names[row]
        if column_key == "note":
            return self._note(index, item)
        if column_key == "shape":
            return format_shape(self._checkpoint.tensors[index].shape)
        if column_key == "dtype":
            dtype = short_name(self._checkpoint.tensors[index].dtype)
            return f"|{dtype}|" if item is not None and item.stats.is_complex else dtype
        if item is None:
            return ""
        number = _number(item, column_key)
        return format_number(None if isinstance(number, float) and math.isnan(number) else number)

    def _note(self, index: int, item: Ranked | None) -> Cell:
        missing = self._not_read.get(index)
        if item is not None and item.kind:
            return (item.reason, _STYLES[item.kind])
        if missing is not None:
            return (f"not read: {missing.why}", "error")
        return (item.reason, "dim") if item is not None else ""

    def sort_key(self, column_key: str) -> SortKeys | None:
        if column_key == "name":
            return natural_keys(self.row_names)
        tensors = self._checkpoint.tensors
        if column_key == "shape":
            return np.array([float(tensors[i].num_elements) for i, _ in self._rows])
        if column_key == "dtype":
            return [tensors[i].dtype for i, _ in self._rows]
        if column_key == "note":
            return None
        numbers = [math.nan if r is None else _number(r, column_key) for _, r in self._rows]
        return np.array([math.nan if n is None else float(n) for n in numbers], np.float64)

    def marker(self, row: int) -> str:
        index, item = self._rows[row]
        badge = "" if item is None else _BADGES[item.kind]
        return badge or ("error" if index in self._not_read else "")


def stats_columns(source: TableSource) -> tuple[Column, ...]:
    """The columns, as wide as what stands in them."""

    def width(key: str, least: int, most: int) -> int:
        cells = (source.cell(row, key) for row in range(min(source.num_rows, _SAMPLE_ROWS)))
        texts = (cell[0] if isinstance(cell, tuple) else str(cell) for cell in cells)
        return max(least, min(most, max(map(len, texts), default=0)))

    name, note = width("name", 24, 48), width("note", 4, 80)
    return (
        Column("name", "Tensor", min_width=min(name, 32), flex=3, max_width=name, cut="middle"),
        # What is wrong goes before any number.
        Column(
            "note",
            "Note",
            min_width=min(note, 36),
            flex=2,
            max_width=note,
            priority=1,
            sortable=False,
        ),
        *_NUMBERS,
    )


def _number(item: Ranked, key: str) -> float | int | None:
    stats = item.stats
    numbers = {
        "low": stats.low,
        "high": stats.high,
        "mean": stats.mean,
        "std": stats.std,
        "rms": stats.rms,
        "l2": stats.l2,
        "zeros": stats.num_zero,
    }
    return numbers[key]
