"""A `Comparison` as rows of a table. Pure; no widget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import (
    format_bytes,
    format_placements,
    format_shape,
    natural_keys,
    plural,
    printable,
)
from inspector.diff.model import BytesDiff, TensorDiff, Tolerance
from inspector.report.diff import format_difference, verdict_sentence
from inspector.tui.diff.comparison import (
    GROUPS,
    Comparison,
    Item,
    Lone,
    group_of,
    indices_of,
    names_of,
    said_of,
)
from inspector.tui.kit.cell_text import Cell, clip, cut_to
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.virtual_table import Column, TableSource

__all__ = [
    "COLORS",
    "STYLES",
    "DiffSource",
    "Element",
    "diff_columns",
    "facts",
    "figures_text",
    "headline",
    "row_facts",
    "side_line",
]

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

    def width(key: str, least: int, most: int) -> int:
        return source.widest(key, least, most, _SAMPLE_ROWS)

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
            return self._both(item, lambda side, index: format_shape(side.shape(index)))
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


#: How the names of styles look in running text.
COLORS = {"error": "error", "warning": "warning", "ok": "ok", "accent": "accent", "dim": "bold"}


@dataclass(frozen=True, slots=True)
class Element:
    """One element that differs.

    Attributes:
        what: Why it is shown: `first`, `largest`, `not finite`.
        index: Where it is.
        a, b: Its values, printable; None while they are being read.
    """

    what: str
    index: tuple[int, ...]
    a: str | None = None
    b: str | None = None


def headline(comparison: Comparison) -> str:
    """The verdict over everything, in one line."""
    # The command line names its option there, the screen its key.
    said = verdict_sentence(comparison.diff).replace("--values does", "c compares them")
    words = comparison.filter_text
    return f"{said}; only names with {printable(words, 80)}" if words else said


def side_line(comparison: Comparison, which: int, width: int) -> Text:
    """Which side it is, its path and what it holds, in `width` cells: the path loses its front."""
    side = comparison.structure.sides[which]
    facts = [side.mesh or "mesh unknown", plural(side.num_tensors, "tensor")]
    if side.num_bytes_entries:
        facts.append(plural(side.num_bytes_entries, "bytes entry", "bytes entries"))
    tail = "  " + " · ".join(facts)
    room = max(width - len(tail) - 3, 12)
    # The end of a path tells which checkpoint it is.
    shown = cut_to(printable(side.path), room, "start")
    path = Text(shown, style="bold")
    line = Text.assemble((f"{'AB'[which]}  ", "bold"), path, (tail, "dim"), no_wrap=True)
    clip(line, max(width, 1))
    return line


def row_facts(comparison: Comparison, item: Item) -> Iterator[tuple[str, str]]:
    """What is to be said of a row, as lines with their styles, the verdict first."""
    group = group_of(item)
    yield printable(item.fqn, 1000), "bold"
    yield f"{GROUPS[group]}{_why(item)}", COLORS[STYLES[group]]
    detail = said_of(item)
    if detail:
        yield detail, ""
    if isinstance(item, TensorDiff) and item.num_compared:
        yield from _figures(item, comparison.tolerance)
    for damage in comparison.structure.damage:
        if damage.fqn == item.fqn:
            yield f"{damage.side} is damaged: {damage.code}: {damage.message}", COLORS["error"]


def _why(item: Item) -> str:
    """What the verdict rests on."""
    if isinstance(item, BytesDiff):
        if item.verdict == "EXACT":
            return f": the same {plural(item.num_bytes_a or 0, 'byte')}, which were not unpickled"
        return ""
    if not isinstance(item, TensorDiff) or not item.num_compared:
        return ""
    compared = item.num_compared
    if not item.num_different:
        what = "bit" if item.dtype_a == item.dtype_b else "value"
        return f": every {what} of {plural(compared, 'element')} is the same"
    share = f"{100 * item.num_different / compared:.2g} %"
    if item.num_different == compared:
        share = "all of them"
    return f": {item.num_different:,} of {plural(compared, 'element')} differ ({share})"


def _figures(item: TensorDiff, tolerance: Tolerance) -> Iterator[tuple[str, str]]:
    if not item.num_different:
        return
    if item.verdict == "CLOSE":
        yield f"all of them within the tolerance: {tolerance.bound(item.dtype_a)}", ""
    elif 0 < item.num_not_close < item.num_different:
        yield f"{item.num_not_close:,} outside the tolerance", ""
    if item.num_non_finite:
        yield f"{item.num_non_finite:,} NaN or infinite on one side alone, or otherwise", ""
    if item.max_abs is not None:
        yield figures_text(item), ""


def figures_text(item: TensorDiff) -> str:
    """The largest differences in one line."""
    said = [f"largest |a-b| {format_difference(item.max_abs)}"]
    if item.max_rel is not None:
        said.append(f"relative {format_difference(item.max_rel)}")
    if item.max_ulps is not None:
        said.append(plural(item.max_ulps, "ulp"))
    return ", ".join(said)


def facts(comparison: Comparison, item: Item, elements: Sequence[Element], problem: str) -> Table:
    """A row in full."""
    table = Table.grid()
    table.add_column(overflow="fold")
    for text, style in row_facts(comparison, item):
        table.add_row(Text(text, style))
    if elements:
        table.add_row(_elements(elements))
    if problem:
        table.add_row(Text(problem, "dim"))
    table.add_row(_sides(comparison, item))
    return table


def _elements(elements: Sequence[Element]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for element in elements:
        values = Text()
        for name, value in (("A ", element.a), ("  B ", element.b)):
            values.append(name, "dim").append("..." if value is None else value)
        table.add_row(element.what, Text(format_shape(element.index)), values)
    return table


def _sides(comparison: Comparison, item: Item) -> Table:
    """How each side has it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    structure = comparison.structure
    placements, indices = comparison.placements(item), indices_of(item)
    for n, side in enumerate((structure.a, structure.b)):
        name = "AB"[n]
        if indices[n] >= 0:
            table.add_row(name, _side_text(side.checkpoint, indices[n], placements[n]))
        elif isinstance(item, BytesDiff):
            size = (item.num_bytes_a, item.num_bytes_b)[n]
            table.add_row(name, f"bytes entry{'' if size is None else ', ' + format_bytes(size)}")
        elif isinstance(item, Lone) and item.is_a != (n == 0):
            table.add_row(name, "has none")
        elif isinstance(item, Lone) or max(indices) >= 0:
            table.add_row(name, "bytes entry")
    return table


def _side_text(checkpoint: Checkpoint, index: int, placements: Sequence[str] | None) -> str:
    columns = checkpoint.columns
    chunks = plural(int(columns.num_chunks_of[index]), "chunk")
    placed = format_placements(placements) if placements is not None else "placements unknown"
    return f"{columns.dtype(index)} {format_shape(columns.shape(index))}  {placed}  {chunks}"
