"""`View`: one way to look at a checkpoint. `TableView`: one that is a table, with a filter.

A view is mounted with its table alone, which is the first frame; `complete` adds the rest. What its
keys do stands in it: its `BINDINGS` and its `action_*`.
"""

from __future__ import annotations

from asyncio import TimerHandle
from typing import TYPE_CHECKING

from textual.geometry import Size
from textual.message import Message
from textual.reactive import Reactive
from textual.widget import Widget
from textual.widgets import Input

from inspector.checkpoint.text import format_count
from inspector.tui.background import after
from inspector.tui.commands import command, is_closed
from inspector.tui.kit.virtual_table import VirtualTable

if TYPE_CHECKING:
    from inspector.checkpoint.model import Ints
    from inspector.checks.findings import Report
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.kit.bars import TaskLine
    from inspector.tui.kit.lines import FilterLine
    from inspector.tui.session import Loaded

__all__ = ["ColumnPane", "Pane", "RowPane", "TableView", "View"]


class Pane(Widget):
    """A widget that was given its size: no scrollbars of its own, its content does not tell it.

    Textual lays the whole screen out a second time whenever the size of a widget changed, in case
    scrollbars follow from it. Nothing follows from the size of these, so they do not ask for it.
    """

    virtual_size = Reactive(Size(0, 0), layout=False, repaint=False)


class RowPane(Pane):
    """Widgets side by side."""

    # Nothing of it is seen, so there is nothing to draw line by line.
    BLANK = True

    DEFAULT_CSS = (
        "RowPane { width: 1fr; height: 1fr; layout: horizontal; overflow: hidden hidden; }"
    )


class ColumnPane(Pane):
    """Widgets below each other."""

    BLANK = True

    DEFAULT_CSS = (
        "ColumnPane { width: 1fr; height: 1fr; layout: vertical; overflow: hidden hidden; }"
    )


# From this many names on, a filter waits for a pause in the typing: it would take longer to look
# at all of them than a key may wait.
_MANY_NAMES = 300_000
_PAUSE_S = 0.12


class View(Pane):
    """Shows a `Loaded`, and says how much of it."""

    # Its widgets cover it.
    BLANK = True

    DEFAULT_CSS = "View { height: 1fr; layout: vertical; }"

    BINDINGS = [command("y", "copy", "Copy", "Copy the name, the file's path or the whole row.")]

    class Counted(Message):
        """What the view shows changed; `text` says how much of it."""

        def __init__(self, view: View, text: str) -> None:
            super().__init__()
            self.view = view
            self.text = text

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.loaded: Loaded | None = None
        self.count_text = ""

    # What a view gives.

    def show(self, loaded: Loaded) -> None:
        """Show a checkpoint."""
        raise NotImplementedError

    def show_writer(self, written_by: WrittenBy) -> None:
        """Show what was found out of who wrote it."""

    def show_report(self, report: Report) -> None:
        """Show what the checks found."""

    async def complete(self) -> None:
        """Make what the first frame could do without."""

    def take_focus(self) -> None:
        """The view was opened: the keys are its own."""
        raise NotImplementedError

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        """The entry under the cursor, by its raw name, and which element of it; or None."""
        return None

    def show_task(self, line: TaskLine) -> bool:
        """Show what the view reads in the background; False if it reads nothing."""
        return False

    def copy_choices(self) -> list[tuple[str, str]]:
        """What can be copied here, as labels and printable texts."""
        return []

    def back(self) -> bool:
        """Close what is open; False if nothing is."""
        return False

    @property
    def is_typing(self) -> bool:
        """Whether a line is being typed: keys are characters of it."""
        return self.is_mounted and isinstance(self.screen.focused, Input)

    def action_copy(self) -> None:
        from inspector.tui.screens.dialogs import CopyScreen

        choices = self.copy_choices()
        if choices:
            self.app.push_screen(CopyScreen(choices))
        else:
            self.notify("There is nothing under the cursor to copy.", severity="warning")


class TableView(View):
    """A view whose main part is a table that can be filtered and sorted."""

    BINDINGS = [
        command(
            "slash",
            "filter",
            "Filter",
            "Show only names with every word you type; !word leaves names out.",
            footer=True,
        ),
        command("s", "sort(False)", "Sort", "Sort the table by its next column."),
        command("S", "sort(True)", "Turn order", "Turn the order of the table round."),
    ]

    def __init__(self, table: VirtualTable, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._table = table
        self._names: list[str] = []
        self._line: FilterLine | None = None
        self._pause: TimerHandle | None = None
        self._filtered_by = ""

    @property
    def table(self) -> VirtualTable:
        """The table that the filter narrows and that has the focus first."""
        return self._table

    @property
    def names(self) -> list[str]:
        """The raw name of every row of the table's source."""
        return self._names

    def take_focus(self) -> None:
        self.table.focus()

    def narrowed(self, rows: Ints | None) -> Ints | None:
        """The rows the filter leaves, narrowed by whatever else the view has; None for all."""
        return rows

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if is_closed(self.app, action):
            return False
        # While a line is being typed, the key is a character of it.
        return not self.is_typing if action == "filter" else True

    def action_sort(self, reverse: bool) -> None:
        """Sort the table that has the keys by its next column, or turn its order."""
        focused = self.screen.focused
        table = focused if isinstance(focused, VirtualTable) else self.table
        if reverse:
            table.action_sort_reverse()
        else:
            table.action_sort_next()

    # The filter.

    async def prepare_filter(self) -> None:
        """Make the filter's line, hidden above the table: it must be there when it is called."""
        from inspector.tui.kit.lines import FilterLine

        line = FilterLine()
        line.display = False
        parent = self.table.parent
        if not isinstance(parent, Widget):
            return  # It is being taken down.
        await parent.mount(line, before=self.table)
        self._line = line

    def action_filter(self) -> None:
        if self._line is None:
            return
        self._line.display = True
        # At once, not with the next message: the keys that come in the same burst (a paste, a
        # slow line) belong to the filter already.
        self.screen.set_focus(self._line)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._pause is not None:
            self._pause.cancel()
        if event.value == self._filtered_by:
            return  # It was emptied here, and the rows are back already.
        many = len(self.names) > _MANY_NAMES
        self._pause = after(self, _PAUSE_S if many else 0.001, self.refilter)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.refilter()
        if self._line is not None and not event.value.strip():
            self._line.display = False
        self.table.focus()

    def refilter(self) -> None:
        """Show the rows that the filter and `narrowed` leave."""
        text = self._line.value if self._line is not None else ""
        self._filtered_by = text
        names = self.names
        found = None
        if text.strip():
            import numpy as np

            from inspector.checkpoint.find.locate import matching

            found = np.asarray(matching(names, text), np.int64)
        rows = self.narrowed(found)
        self.table.set_filter(rows)
        count = format_count(len(names))
        self.count_text = count if rows is None else f"{len(rows):,} of {count}"
        if self._line is not None:
            self._line.count = self.count_text if text.strip() else ""
        self.post_message(self.Counted(self, self.count_text))

    def back(self) -> bool:
        """Close what is open; False if nothing is."""
        if self._line is None or not self._line.display:
            return False
        self._line.value = ""
        self._line.display = False
        self.refilter()
        self.table.focus()
        return True
