"""A `Comparison` in words: its headline, both sides in a line each, and one row in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import (
    format_bytes,
    format_placements,
    format_shape,
    plural,
    printable,
)
from inspector.diff.model import BytesDiff, TensorDiff, Tolerance
from inspector.report.diff import format_difference, verdict_sentence
from inspector.tui.comparison import (
    GROUPS,
    Comparison,
    Item,
    Lone,
    group_of,
    indices_of,
    said_of,
)
from inspector.tui.diff_sources import STYLES

__all__ = ["COLORS", "Element", "facts", "figures_text", "headline", "row_facts", "side_line"]

#: How the names of styles look in running text.
COLORS = {
    "error": "bold red",
    "warning": "bold yellow",
    "ok": "bold green",
    "accent": "bold cyan",
    "dim": "bold",
}


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
    path = Text(printable(side.path), style="bold")
    room = max(width - len(tail) - 3, 12)
    if path.cell_len > room:
        # The end of a path tells which checkpoint it is.
        plain = path.plain
        while plain and Text(plain).cell_len > room - 1:
            plain = plain[1:]
        path = Text(f"…{plain}", style="bold")
    line = Text.assemble((f"{'AB'[which]}  ", "bold"), path, (tail, "dim"), no_wrap=True)
    line.truncate(max(width, 1), overflow="ellipsis")
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
    """A row in full.

    Args:
        comparison: Where it is from.
        item: The row.
        elements: Elements that differ, with the values of both sides.
        problem: Why their values cannot be shown; empty if they can.
    """
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
