"""`ValuesView`: the numbers of one tensor: figures, histogram, map, and the numbers themselves.

The rule this module keeps: nothing is read here, `TensorReading` does that in threads; nothing is
drawn here, `ValuesPane` does. This is who asks whom.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import events
from textual.app import ComposeResult
from textual.message import Message

from inspector.checkpoint.payload.cast import is_cast
from inspector.checkpoint.text import format_bytes, format_shape, printable
from inspector.errors import Cancelled, InspectError
from inspector.export.formats.numpy_files import is_raw
from inspector.tui.background import after
from inspector.tui.commands import command, is_closed
from inspector.tui.kit.cell_text import error_line
from inspector.tui.kit.view import TableView, View
from inspector.tui.values.facts import figures_text
from inspector.tui.values.heat_map import HeatMap
from inspector.tui.values.number_grid import NumberGrid
from inspector.tui.values.pane import IndexLine, ValuesPane, parse_index
from inspector.tui.values.reading import Answer, ArraySaving, TensorReading
from inspector.tui.values.work import Known, slice_box, why_no_numbers
from inspector.values.stats import StatsReport, TensorStats

if TYPE_CHECKING:
    from inspector.checkpoint.model import Tensor
    from inspector.tui.kit.bars import TaskLine
    from inspector.tui.session import Loaded

__all__ = ["ValuesView"]

# What means something only where there are more dims than the two that are shown.
_OF_SLICES = ("slice", "slice_back", "dims")
_SLICE_KEYS = ("right_square_bracket", "left_square_bracket", "d")
# Tensors that are only passed by (a key held down) are not read.
_PAUSE_S = 0.08
_NONE_YET = (
    "No tensor was chosen yet.\n\n"
    "6  in the list of tensors shows the numbers of the one under the cursor.\n"
    "u  reads all tensors, and lists first those with NaN, or of an odd norm or value."
)
_BYTES = (
    "A bytes entry: the pickle of some Python object, which is never run here. "
    "It has no numbers to show."
)


class ValuesView(View):
    """One tensor's numbers.

    Args:
        known: What was read before; shared with the statistics.
    """

    BINDINGS = [
        command(
            "slash", "values('goto')", "Go to", "Type an index, such as 12, 0, 7.", footer=True
        ),
        command(
            "f",
            "values('bad')",
            "First NaN",
            "Go to the first NaN; from there, to the first infinity.",
            footer=True,
        ),
        command("less_than_sign", "values('least')", "Least", "Go to the least number."),
        command("greater_than_sign", "values('largest')", "Largest", "Go to the largest number."),
        command(
            "right_square_bracket",
            "values('slice')",
            "Next slice",
            "The next 2-d slice of a tensor of more dims.",
            footer=True,
        ),
        command(
            "left_square_bracket", "values('slice_back')", "Slice before", "The 2-d slice before."
        ),
        command("d", "values('dims')", "Dims", "Choose other dims as rows and columns."),
        command("full_stop", "values('next')", "Next tensor", "The next tensor of the list."),
        command("comma", "values('previous')", "Tensor before", "The tensor before."),
        command(
            "m",
            "values('quantity')",
            "Map",
            "What the map shows: root mean square, largest |value|, mean.",
        ),
        command(
            "a",
            "values('scale')",
            "Axis",
            "The histogram over the values, or over powers of two of |value|.",
        ),
        command(
            "z",
            "values('zoom')",
            "Zoom",
            "Give the view to the numbers or the map, whichever has the keys, and back.",
            footer=True,
        ),
        command(
            "e",
            "values('save')",
            "Save .npy",
            "Write the tensor, or the slice that is shown, to a .npy file.",
            footer=True,
        ),
        command(
            "x", "values('stop')", "Stop or read", "Stop what is being read; or read what was not."
        ),
    ]

    @dataclass
    class Left(Message):
        """The user wants back to where the tensor was chosen."""

        chooser: str

    def __init__(self, known: Known) -> None:
        super().__init__(id="values")
        self._known = known
        #: Raw name of the entry that is shown, or None.
        self.fqn: str | None = None
        self._tensor: Tensor | None = None
        self._report: StatsReport | None = None
        self._reads_map = False
        self._pause_timer: TimerHandle | None = None
        self._reading = TensorReading(self, self._take)
        self._saving = ArraySaving(self, self._take_saved)
        self._chooser: TableView | None = None
        self._pane = ValuesPane()
        #: The view in which the tensor was chosen, and whether its list is another one.
        self._from = "tensors"
        self._is_beside = False

    def compose(self) -> ComposeResult:
        yield self._pane

    # What the screen asks.

    def take_focus(self) -> None:
        self._pane.take_focus()

    @property
    def is_reading(self) -> bool:
        """Whether figures are being worked out, or a number is looked for."""
        return self._reading.is_busy

    def show(self, loaded: Loaded) -> None:
        name, index = self.fqn, self._pane.numbers.index
        self.loaded = loaded
        self._known.clear()
        self.fqn, self._tensor = None, None
        if name is not None and name in loaded.checkpoint.columns.fqns:
            self.open(name, index)
        else:
            self._reading.begin(None, None)
            self._pane.show_none(None, None, _NONE_YET)

    def choose(
        self, chooser: View, aim: tuple[str, tuple[int, ...] | None], beside: TableView
    ) -> None:
        """Show the tensor that was chosen in another view.

        Args:
            chooser: That view, to which the user goes back.
            aim: As `View.aim` gives it.
            beside: The list whose next tensor is the next one, if `chooser` is no list of them.
        """
        self._from = chooser.id or beside.id or ""
        is_list = isinstance(chooser, TableView) and chooser.id in ("tensors", "stats")
        self._chooser = chooser if is_list and isinstance(chooser, TableView) else beside
        self._is_beside = not is_list
        self.open(*aim)

    def open(self, name: str, index: Sequence[int] | None = None) -> None:
        """Show a tensor.

        Args:
            name: Raw name of the entry.
            index: The element to go to; None goes to the first, or stays in the tensor that is
                shown already.
        """
        if self.loaded is None:
            return
        if name == self.fqn and self._tensor is not None:
            if index is not None:
                self._pane.go_to(index)
            return
        checkpoint = self.loaded.checkpoint
        names = checkpoint.columns.fqns
        tensor = checkpoint.tensors[names.index(name)] if name in names else None
        self.fqn, self._tensor, self._report = name, tensor, None
        self._reads_map = False
        if self._pause_timer is not None:
            self._pause_timer.cancel()
        self._reading.begin(self.loaded, tensor)
        why = _BYTES if tensor is None else why_no_numbers(tensor)
        if tensor is None or why:
            self._pane.show_none(name, tensor, why)
            return
        self._pane.show(checkpoint, name, tensor, index)
        self._show_figures()
        self._pause_timer = after(self, _PAUSE_S, self._read)

    def show_task(self, line: TaskLine) -> bool:
        # The key is this view's own: elsewhere it means something else, or nothing.
        hint = "x stops" if self.display else "x in 6 stops"
        return self._saving.show_task(line, hint) or self._reading.show_task(line, hint)

    # Reading.

    def _read(self) -> None:
        """Read figures and map, unless that is so much that it must be asked for."""
        tensor = self._tensor
        if tensor is None:
            return
        self._reads_map = self._reads_map or self._reading.is_small
        if not self._reads_map:
            size = format_bytes(tensor.num_bytes)
            self._pane.note(f"x reads all of it for the figures and the map: {size}")
            self._pane.map.fail("x reads it")
            return
        self._pane.map.ask_again()
        if tensor.index not in self._known.stats and tensor.index not in self._known.not_read:
            self._reading.figures()

    def _toggle_reading(self) -> None:
        """Stop what is being read; if nothing is, read (again) what is lacking."""
        tensor, pane = self._tensor, self._pane
        if self._saving.stop() or self._reading.stop() or tensor is None:
            return
        self._reads_map = True
        self._report = None
        self._known.not_read.pop(tensor.index, None)
        self._reading.forget_problems()
        pane.note("")
        pane.numbers.read_again()
        pane.map.show(tensor, pane.dims)
        self._show_figures()
        self._read()

    def on_number_grid_wanted(self, event: NumberGrid.Wanted) -> None:
        event.stop()
        if event.tensor is self._tensor:
            self._reading.cells(self._pane.dims, event.leading, event.rows, event.columns)

    def on_heat_map_wanted(self, event: HeatMap.Wanted) -> None:
        event.stop()
        if self._reads_map:
            size = (event.height, event.width)
            self._reading.heat(self._pane.dims, self._pane.numbers.leading, size)

    def _take(self, answer: Answer) -> None:
        if answer.serial != self._reading.serial or isinstance(answer.value, Cancelled):
            return
        take = {
            "cells": self._take_cells,
            "heat": self._take_heat,
            "figures": self._take_figures,
            "found": self._take_found,
        }
        take[answer.kind](answer)

    def _take_cells(self, answer: Answer) -> None:
        dims, leading, rows, columns = answer.what
        if dims != self._pane.dims:
            return
        if isinstance(answer.value, InspectError):
            self._pane.note(error_line(answer.value))
        else:
            self._pane.numbers.put(leading, rows, columns, answer.value)
            self._pane.show_place()

    def _take_heat(self, answer: Answer) -> None:
        pane = self._pane
        if answer.what != (pane.dims, pane.numbers.leading):
            return
        if isinstance(answer.value, InspectError):
            pane.map.fail(f"No map: {error_line(answer.value)}")
        else:
            pane.map.put(answer.value)
            pane.map.set_cursor(pane.numbers.row, pane.numbers.column)

    def _take_figures(self, answer: Answer) -> None:
        if isinstance(answer.value, InspectError):
            self._pane.note(error_line(answer.value))
            return
        self._report = answer.value
        self._known.add(answer.value)
        self._show_figures()

    def _take_found(self, answer: Answer) -> None:
        if isinstance(answer.value, InspectError):
            self._pane.note(error_line(answer.value))
        elif answer.value is None:
            self.notify("It is nowhere: the files have changed since they were read.")
        else:
            self._pane.go_to(answer.value)

    # Figures.

    @property
    def _is_awaited(self) -> bool:
        """Whether figures are still to come."""
        return self._report is None and (self._reads_map or self._reading.is_small)

    @property
    def _stats(self) -> TensorStats | None:
        if self._tensor is None:
            return None
        if self._report is not None and self._report.tensors:
            return self._report.tensors[0]
        return self._known.stats.get(self._tensor.index)

    def _show_figures(self) -> None:
        tensor, stats = self._tensor, self._stats
        if tensor is None:
            return
        ranked = self._known.ranked.get(tensor.index)
        self._pane.show_figures(stats, ranked, instead="reading ..." if self._is_awaited else "")
        missing = self._known.not_read.get(tensor.index)
        if self._report is not None and self._report.is_cancelled:
            what = "these are figures of what was read" if stats else "there are no figures"
            self._pane.note(f"Stopped: {what}. x reads all of it.")
        elif missing is not None:
            left = f"{missing.num_elements:,} of {tensor.num_elements:,} elements"
            self._pane.note(f"{left} are not in the figures: {printable(missing.why)}")

    # What the keys do.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "values" or (not self.is_typing and self.can(str(parameters[0])))

    def can(self, what: str) -> bool:
        """Whether a command means anything for this tensor, and may be given."""
        if is_closed(self.app, f"values('{what}')"):
            return False
        if what in ("next", "previous"):
            return True
        if what in _OF_SLICES:
            return self._pane.has_slices
        return self._pane.has_numbers

    def on_key(self, event: events.Key) -> None:
        """Say why a key means nothing, where one could think that it does."""
        pane = self._pane
        is_lost = event.key in _SLICE_KEYS and pane.has_numbers and not pane.has_slices
        if is_lost and self._tensor is not None:
            event.stop()
            num_dims = len(self._tensor.shape)
            what = ("No dims", "One dim", "Two dims, both shown")[min(num_dims, 2)]
            self.notify(f"{what}: there is no other slice.")

    def action_values(self, what: str) -> None:
        pane = self._pane
        actions: dict[str, Callable[[], None]] = {
            "goto": pane.begin_goto,
            "bad": self._next_bad,
            "least": lambda: self._find("least"),
            "largest": lambda: self._find("largest"),
            "slice": lambda: pane.step_slice(1),
            "slice_back": lambda: pane.step_slice(-1),
            "dims": pane.next_dims,
            "quantity": pane.next_quantity,
            "scale": pane.next_scale,
            "zoom": pane.zoom,
            "save": self._ask_file,
            "stop": self._toggle_reading,
            "next": lambda: self._step(1),
            "previous": lambda: self._step(-1),
        }
        actions[what]()

    def _step(self, steps: int) -> None:
        """The next tensor of the list in which this one was chosen."""
        source = self._chooser
        if source is None:
            return
        if self._is_beside and self.fqn in source.names:
            source.table.select_row(source.names.index(self.fqn))
        source.table.move_cursor(source.table.cursor + steps)
        aim = source.aim()
        if aim is not None and aim[0] != self.fqn:
            self.open(*aim)

    def on_index_line_given(self, event: IndexLine.Given) -> None:
        event.stop()
        if self._tensor is not None and event.text.strip():
            try:
                index = parse_index(event.text, self._tensor.shape)
            except InspectError as error:
                self.notify(error.message, severity="warning", markup=False)
                return
            self._pane.go_to(index)
        self._pane.close_goto()

    @property
    def _why_no_figures(self) -> str:
        return "It is still being read." if self.is_reading else "It was not read: x reads it."

    def _next_bad(self) -> None:
        """To the first NaN; from there to the first infinity, and back."""
        stats = self._stats
        if stats is None:
            self.notify(self._why_no_figures)
            return
        found = [index for index in (stats.first_nan, stats.first_inf) if index is not None]
        if not found:
            whole = stats.num_read == stats.num_elements
            self.notify(f"No NaN and no Inf in {'it' if whole else 'what was read of it'}.")
            return
        is_there = self._pane.numbers.index == found[0]
        self._pane.go_to(found[-1] if is_there else found[0])

    def _find(self, which: str) -> None:
        stats = self._stats
        if stats is None:
            self.notify(self._why_no_figures)
            return
        number = stats.low if which == "least" else stats.high
        if number is None:
            self.notify("No number in it is finite.")
        else:
            self._reading.find(number, "searching")

    def _ask_file(self) -> None:
        """Ask where the tensor is to be written, and write it."""
        # lazy: a dialog that few ask for
        from inspector.tui.screens.dialogs import SaveArrayScreen, SaveChoice, file_name

        tensor, loaded, numbers = self._tensor, self.loaded, self._pane.numbers
        if tensor is None or loaded is None or is_closed(self.app, "values('save')"):
            return
        if self._saving.is_busy:
            self.notify("Another one is still being written; x stops it.")
            return
        box = slice_box(numbers.plane, numbers.leading)

        def chosen(choice: SaveChoice | None) -> None:
            if choice is not None:
                self._saving.save(loaded, tensor, choice, box)

        raw = tensor.dtype if is_raw(tensor.dtype) and is_cast(tensor.dtype, "float32") else ""
        what = printable(tensor.fqn, 200)
        text = box.text if self._pane.has_slices else ""
        self.app.push_screen(SaveArrayScreen(what, file_name(tensor.fqn), text, raw), chosen)

    def _take_saved(self, path: str, answer: object) -> None:
        if isinstance(answer, InspectError):
            hint = f"\n{printable(answer.hint)}" if answer.hint else ""
            said = printable(answer.message, 500) + hint
            self.notify(said, severity="warning", markup=False, timeout=15)
        else:
            self.notify(str(answer), markup=False)

    def back(self) -> bool:
        if not self._pane.close_goto() and not self._pane.unzoom():
            self.post_message(self.Left(self._from))
        return True

    def copy_choices(self) -> list[tuple[str, str]]:
        if self.fqn is None:
            return []
        choices = [("name", printable(self.fqn))]
        if not self._pane.has_numbers:
            return choices
        index = format_shape(self._pane.numbers.index)
        choices += [("index", index), ("element", self._pane.element())]
        if self._stats is not None:
            figures = figures_text(self._stats, None, 200, 20).plain
            rows = (" ".join(line.split()) for line in figures.splitlines())
            choices.append(("figures", "; ".join(rows)))
        return choices
