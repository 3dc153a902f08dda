"""`DiffView`: the rows of a comparison, narrowed by verdict and name, and the one at the cursor."""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from inspector.checkpoint.model import Ints
from inspector.checkpoint.text import format_bytes, printable
from inspector.diff.map import DifferenceCells, difference_map
from inspector.diff.model import Side, TensorDiff
from inspector.diff.structure import Pair, Structure
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Background, Stop, after
from inspector.tui.commands import command
from inspector.tui.diff.comparison import (
    GROUPS,
    Comparison,
    Item,
    group_of,
    indices_of,
    is_difference,
)
from inspector.tui.diff.map import DifferenceMap
from inspector.tui.diff.sources import (
    COLORS,
    STYLES,
    DiffSource,
    Element,
    diff_columns,
    facts,
    row_facts,
    side_line,
)
from inspector.tui.kit.bars import VerdictBar
from inspector.tui.kit.cell_text import error_line
from inspector.tui.kit.lines import Reader
from inspector.tui.kit.view import TableView
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.values.slices import plane_of, value_text, window

__all__ = ["DiffView"]

# As many as tell two neighbouring float32 apart.
_DIGITS = 9


def elements_of(item: TensorDiff) -> tuple[Element, ...]:
    """The elements worth a look, none twice; their values are still to be read."""
    found = {
        "first": item.first_index,
        "largest": item.max_abs_index,
        "not finite": item.first_non_finite,
    }
    names: dict[tuple[int, ...], str] = {}
    for what, index in found.items():
        if index is not None:
            names[index] = f"{names[index]}, {what}" if index in names else what
    return tuple(Element(what, index) for index, what in names.items())


def read_elements(
    structure: Structure, pair: Pair, elements: Sequence[Element], stop: Stop
) -> tuple[Element, ...]:
    """The same elements with the values of both sides."""
    found = []
    for element in elements:
        if stop():
            raise Cancelled("it was stopped")
        a, b = (_value(side, index, element.index) for side, index in structure.both(pair))
        found.append(replace(element, a=a, b=b))
    return tuple(found)


def _value(side: Side, index: int, at: tuple[int, ...]) -> str:
    tensor = side.checkpoint.columns.tensor(index)
    leading, row, column = plane_of(tensor.shape).cell(at)
    rows, columns = range(row, row + 1), range(column, column + 1)
    try:
        found = window(side.checkpoint, side.storage, tensor, leading, rows, columns)
    except Cancelled:
        raise
    except InspectError as error:
        return f"? ({printable(error.message, 120)})"
    return value_text(found.values[0, 0], _DIGITS)


def read_map(
    structure: Structure, pair: Pair, size: tuple[int, int], stop: Stop
) -> DifferenceCells:
    """Where a tensor differs, in at most `size` rows and columns of parts."""
    return difference_map(structure, pair, *size, progress=lambda progress: stop())


# The cursor rests so long before anything is read.
_PAUSE_S = 0.12
# A map of more than this, or over a network, is read when it is asked for.
_MAX_UNASKED_BYTES = 256 << 20
# Beyond so many rows, those of a group are looked for anew only now and then.
_MANY_ROWS, _SELDOM_S = 20_000, 1.0
_ASK = "c compares all, m this tensor alone"


class DiffDetail(Widget):
    """Words at the left, the map at the right."""

    DEFAULT_CSS = """
    DiffDetail { height: 1fr; }
    DiffDetail > Horizontal { height: 1fr; }
    DiffDetail #diff-facts {
        width: 1fr; min-width: 30; padding: 0 1; scrollbar-size-vertical: 1;
    }
    DiffDetail #diff-facts:focus { background: $boost; }
    DiffDetail #diff-facts Static { width: 1fr; height: auto; }
    DiffDetail DifferenceMap { width: 1fr; padding: 0 1; border-left: vkey $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Comparison, Item] | None = None

    def compose(self) -> ComposeResult:
        with Horizontal():
            with Reader(id="diff-facts"):
                yield Static("", markup=False, id="diff-text")
            yield DifferenceMap()

    @property
    def map(self) -> DifferenceMap:
        return self.query_one(DifferenceMap)

    def show(
        self, comparison: Comparison, item: Item, elements: Sequence[Element], problem: str = ""
    ) -> None:
        """Show a row in words; see `facts`."""
        is_other = self._shown is None or self._shown[1].fqn != item.fqn
        self._shown = comparison, item
        self.query_one("#diff-text", Static).update(facts(comparison, item, elements, problem))
        if is_other:
            self.query_one("#diff-facts", Reader).scroll_home(animate=False)

    def show_map(self, comparison: Comparison, item: Item, said: str) -> None:
        """Ask for the map of a row that both sides have; `said` stands there until it comes."""
        structure = comparison.structure
        a, b = indices_of(item)
        self.map.show(
            structure.a.checkpoint.columns.tensor(a), structure.b.checkpoint.columns.tensor(b), said
        )

    def show_nothing(self) -> None:
        self._shown = None
        self.query_one("#diff-text", Static).update("")
        self.map.show_nothing("")


class DiffView(TableView):
    """Every name of either side. It reads what it draws of the row at the cursor."""

    DEFAULT_CSS = """
    DiffView #diff-table { height: 1fr; }
    DiffView DiffDetail { height: 1fr; border-top: hkey $panel; }
    DiffView.-low DiffDetail { height: 10; }
    DiffView.-zoomed #diff-table, DiffView.-zoomed FilterLine { display: none; }
    DiffView.-zoomed DiffDetail { height: 1fr; border-top: none; }
    """

    BINDINGS = [
        command(
            "f",
            "next_group(1)",
            "Verdicts",
            "Show the rows of the next verdict alone; after the last, all.",
            footer=True,
        ),
        command("F", "next_group(-1)", "Verdict before", "The verdict before."),
        command("n", "next_difference(1)", "Next", "Next row that differs.", footer=True),
        command("N", "next_difference(-1)", "Before", "The row before that differs."),
        command("a", "show_group('')", "All", "Show the rows of every verdict."),
        *(
            command(key, f"show_group('{group}')", f"Only {title}", f"Show {what}.")
            for key, group, title, what in (
                ("1", "NON_FINITE", "NON_FINITE", "what is NaN or infinite on one side"),
                ("2", "DIFFER", "DIFFER", "what differs by more than the tolerance"),
                ("3", "SHAPE", "SHAPE", "what has another shape"),
                ("4", "DTYPE", "DTYPE", "what has another dtype"),
                ("5", "NOT_COMPARED", "NOT_COMPARED", "what was not compared, or could not be"),
                ("6", "CLOSE", "CLOSE", "what differs within the tolerance"),
                ("7", "EXACT", "EXACT", "what is the same, bit for bit"),
                ("8", "ONLY_A", "A's", "what A alone has"),
                ("9", "ONLY_B", "B's", "what B alone has"),
                ("0", "RENAMED", "renamed", "what is the same under another name"),
            )
        ),
        command("z", "zoom", "Zoom", "Give this row the whole view, and back.", footer=True),
    ]

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(VirtualTable((), id="diff-table"), id="diff")
        self.comparison = comparison
        #: The group whose rows are shown alone; empty for all.
        self.group = ""
        self._source = DiffSource(comparison)
        self._with_values = False
        self._shown: Item | None = None
        self._elements: tuple[Element, ...] = ()
        self._maps_asked: set[str] = set()
        self._refiltered_s = 0.0
        self._pause_reading: TimerHandle | None = None
        self._maps = Background[tuple[str, str]](self, self._arrived, "map")
        self._values = Background[tuple[str, str]](self, self._arrived, "values")

    def compose(self) -> ComposeResult:
        yield VerdictBar(GROUPS, {group: COLORS[style] for group, style in STYLES.items()})
        yield self._table
        yield DiffDetail()

    async def on_mount(self) -> None:
        await self.prepare_filter()
        self.show_comparison(self.comparison)

    @property
    def detail(self) -> DiffDetail:
        return self.query_one(DiffDetail)

    @property
    def item(self) -> Item | None:
        row = self.table.cursor_row
        return None if row is None else self.comparison.items[row]

    # Rows.

    def show_comparison(self, comparison: Comparison) -> None:
        """Show a comparison, or this one with other rows; the cursor stays on its name."""
        kept = self._shown
        self._with_values = self._with_values and comparison is self.comparison
        self.comparison = comparison
        self._source = DiffSource(comparison)
        self._names = self._source.row_names
        self._show_columns()
        self.table.set_source(self._source)
        self.refilter()
        row = None if kept is None else comparison.rows.get(kept.fqn)
        if row is not None:
            self.table.select_row(row)
        empty = "Neither side holds anything"
        self.table.set_empty_text("No row is left by the filter" if self.names else empty)
        self._show_row()

    def _show_columns(self) -> None:
        self.table.set_columns(diff_columns(self._source, with_values=self._with_values))

    def expect_values(self) -> None:
        """Values are being compared: make room for what they give."""
        if not self._with_values:
            self._with_values = True
            self._show_columns()

    def rows_changed(self, changed: Sequence[int]) -> None:
        """These rows have other verdicts now, and more may follow."""
        if self.group and (len(self.names) <= _MANY_ROWS or self._is_time()):
            self.refilter()
        else:
            top = round(self.table.scroll_y)
            shown = self.table.rows[top : top + self.table.page_lines]
            if not set(changed).isdisjoint(map(int, shown)):
                self.table.refresh_rows()
            self._show_counts()
        if self.item is not self._shown:
            self._show_row()

    def values_ended(self) -> None:
        """No more will follow for now: sort and filter by what is known."""
        self._resort()
        if self.item is not self._shown:
            self._show_row()

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._refiltered_s < _SELDOM_S:
            return False
        self._refiltered_s = now
        return True

    def _resort(self) -> None:
        """Sort by what is known now; the cursor stays on its row, and the table where it is."""
        row, top = self.table.cursor_row, self.table.scroll_y
        self.table.set_source(self._source)
        self.refilter()
        self.table.scroll_to(y=top, animate=False, force=True)
        if row is not None:
            self.table.select_row(row)

    def narrowed(self, rows: Ints | None) -> Ints | None:
        if not self.group:
            return rows
        items = self.comparison.items
        chosen = range(len(items)) if rows is None else rows.tolist()
        return np.asarray([r for r in chosen if group_of(items[r]) == self.group], np.int64)

    def refilter(self) -> None:
        super().refilter()
        self._show_counts()

    def _show_counts(self) -> None:
        shown = self.table.num_lines
        self.query_one(VerdictBar).show(self.comparison.counts, self.group, shown)

    def action_show_group(self, group: str) -> None:
        """Show the rows of a group alone; all again if they are, or if it is empty."""
        self.group = "" if group == self.group else group
        self.refilter()

    def on_verdict_bar_chosen(self, event: VerdictBar.Chosen) -> None:
        event.stop()
        self.action_show_group(event.group)

    def action_next_group(self, steps: int) -> None:
        counts = self.comparison.counts
        choices = ["", *(g for g in GROUPS if counts[g] or g == self.group)]
        self.group = choices[(choices.index(self.group) + steps) % len(choices)]
        self.refilter()

    def action_next_difference(self, steps: int) -> None:
        items, rows = self.comparison.items, self.table.rows
        count, at = len(rows), self.table.cursor
        for away in range(1, count + 1):
            line = (at + steps * away) % count
            if is_difference(items[int(rows[line])]):
                self.table.move_cursor(line)
                return
        more = "" if self.comparison.values_compared else "; values were not compared"
        self.notify(f"No row that shows differs{more}.")

    def back(self) -> bool:
        if self.has_class("-zoomed"):
            self.action_zoom()
            return True
        if super().back():
            return True
        if self.group:
            self.action_show_group("")
            return True
        return False

    def action_filter(self) -> None:
        self.remove_class("-zoomed")
        super().action_filter()

    # The row at the cursor.

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()
        self._show_row()

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        self.action_zoom()

    def _show_row(self) -> None:
        item = self.item
        if item is self._shown and item is not None:
            return
        self._shown, self._elements = item, ()
        if self._pause_reading is not None:
            self._pause_reading.cancel()
        self._maps.drop()
        self._values.drop()
        if item is None:
            self.detail.show_nothing()
            return
        if isinstance(item, TensorDiff):
            self._elements = elements_of(item)
        self.detail.show(self.comparison, item, self._elements)
        why = self._why_no_map(item)
        if why:
            self.detail.map.show_nothing(why)
        else:
            self._pause_reading = after(self, _PAUSE_S, self._read)
            self.detail.map.show_nothing("...")

    def _why_no_map(self, item: Item) -> str:
        """Why nothing is drawn of a row; empty if something is to be drawn."""
        if not isinstance(item, TensorDiff):
            return "There are no two tensors to draw."
        if self.comparison.pair(item) is None:
            shapes = "The shapes differ: no element has its like on the other side."
            return shapes if item.verdict == "SHAPE" else "There is nothing to draw."
        if not item.num_compared:
            tried = item.fqn in self.comparison.tried
            return "It could not be compared." if tried else _ASK
        if not item.num_different:
            whole = self.comparison.is_whole(item)
            return f"{'Nothing' if whole else 'Nothing so far'} differs: there is nothing to draw."
        return ""

    def _read(self) -> None:
        """Read the values of the elements that differ; then the map, if that is not too much."""
        item = self._shown
        if not isinstance(item, TensorDiff):
            return
        structure, pair = self.comparison.structure, self.comparison.pair(item)
        if pair is None:
            return
        elements = self._elements
        self._values.ask(
            ("values", item.fqn), lambda stop: read_elements(structure, pair, elements, stop)
        )
        num_bytes = structure.num_bytes(pair)
        sides = (structure.a.storage, structure.b.storage)
        is_cheap = num_bytes <= _MAX_UNASKED_BYTES and all(s.local_path("") for s in sides)
        if is_cheap or item.fqn in self._maps_asked:
            self.detail.show_map(self.comparison, item, "map: reading ...")
        else:
            self.detail.map.show_nothing(f"m reads the map: {format_bytes(num_bytes)}")

    def on_difference_map_wanted(self, event: DifferenceMap.Wanted) -> None:
        event.stop()
        item = self._shown
        pair = None if item is None else self.comparison.pair(item)
        if pair is None:
            return
        structure, size = self.comparison.structure, (event.rows, event.columns)
        self._maps.ask(("map", pair.fqn), lambda stop: read_map(structure, pair, size, stop))

    def _arrived(self, key: tuple[str, str], answer: Any) -> None:
        kind, fqn = key
        item = self._shown
        if item is None or item.fqn != fqn or isinstance(answer, Cancelled):
            return
        if kind == "map":
            if isinstance(answer, InspectError):
                self.detail.map.say(f"No map: {error_line(answer)}")
            else:
                self.detail.map.put(answer)
            return
        problem = ""
        if isinstance(answer, InspectError):
            problem = f"the values cannot be shown: {error_line(answer)}"
        else:
            self._elements = answer
        self.detail.show(self.comparison, item, self._elements, problem)

    def ask_for_map(self) -> bool:
        """Read the map of this row, however large it is; False if there is none to read."""
        item = self._shown
        if item is None or self._why_no_map(item):
            return False
        self._maps_asked.add(item.fqn)
        self._read()
        return True

    # Room.

    def action_zoom(self) -> None:
        self.toggle_class("-zoomed")
        (self.detail.map if self.has_class("-zoomed") else self.table).focus()

    def on_resize(self) -> None:
        self.set_class(self.size.height < 24, "-low")

    def copy_choices(self) -> list[tuple[str, str]]:
        item = self.item
        if item is None:
            return []
        name, *said = [text for text, _ in row_facts(self.comparison, item)]
        choices = [("name", name), ("finding", "; ".join([name, *said]))]
        for element in self._elements:
            if element.a is not None and element.b is not None:
                where = f"{name}{list(element.index)}"
                choices.append((element.what, f"{where}: {element.a} in A, {element.b} in B"))
        choices += [(f"side {'AB'[n]}", side_line(self.comparison, n, 400).plain) for n in (0, 1)]
        return choices
