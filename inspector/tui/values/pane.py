"""`ValuesPane`: figures, histogram, map and numbers of one tensor, side by side and in step.

The rule this module keeps: it reads nothing. What its parts lack they ask for with their `Wanted`,
which goes by here to whoever reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from rich.segment import Segment
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_count, format_shape, plural
from inspector.errors import UsageError
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.part_map import Drawing
from inspector.tui.values.facts import ValueFigures, element_text, head_text, place_line, slice_text
from inspector.tui.values.heat_map import HeatMap
from inspector.tui.values.heat_paint import QUANTITIES
from inspector.tui.values.number_grid import NumberGrid
from inspector.tui.values.number_sheet import dims_after, slice_after
from inspector.values.histogram import Bars
from inspector.values.ranking import Ranked
from inspector.values.slices import value_text
from inspector.values.stats import TensorStats

__all__ = ["HistogramBars", "IndexLine", "ValuesPane", "column_lines", "parse_index"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def column_lines(counts: npt.NDArray[np.float64], width: int, height: int) -> list[str]:
    """Columns on lines, the top line first.

    Args:
        counts: How high each is; anything more than nothing shows at least an eighth of a line.
        width: Cells of each column.
        height: Lines of the highest.
    """
    top = float(counts.max()) if counts.size else 0.0
    shares = counts / top if top > 0 else np.zeros(len(counts))
    eighths = np.where(counts > 0, np.maximum(np.rint(shares * height * 8), 1), 0).astype(int)
    return [
        "".join(_EIGHTHS[min(max(int(n) - 8 * line, 0), 8)] * width for n in eighths)
        for line in reversed(range(height))
    ]


class HistogramBars(Drawing):
    """A histogram as columns of block characters, over the values or their size.

    A title, the columns, and the range below them. Give it values by `show`.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"histogram--label", "histogram--bar"}

    DEFAULT_CSS = """
    HistogramBars {
        height: 1fr; background: $surface; color: $foreground;
        & > .histogram--label { color: $text-muted; }
        & > .histogram--bar { color: $primary; }
    }
    HistogramBars:ansi {
        & > .histogram--label { color: ansi_default; text-style: dim; }
        & > .histogram--bar { color: ansi_blue; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.scale: Literal["linear", "log"] = "linear"
        self._stats: TensorStats | None = None

    def show(self, stats: TensorStats | None) -> None:
        """Draw the histogram of a tensor, or nothing."""
        self._stats = stats
        self._redraw()

    def set_scale(self, scale: Literal["linear", "log"]) -> None:
        """Over the values, or over powers of two of |value|."""
        self.scale = scale
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def _draw(self) -> list[Strip]:
        width, height = self.size
        stats = self._stats
        if stats is None or not stats.num_finite or height < 3 or width < 8:
            return []
        bars, wide = self._bars(stats, width)
        label = self.get_component_rich_style("histogram--label")
        ink = self.get_component_rich_style("histogram--bar")
        end = len(bars.counts) * wide
        lines = column_lines(bars.counts, wide, height - 2)
        return [
            Strip([Segment(fit(self._title(bars, stats), width), label)]),
            *(Strip([Segment(line, ink)]) for line in lines),
            Strip([Segment(_range_text(bars, end), label)]),
        ]

    def _bars(self, stats: TensorStats, width: int) -> tuple[Bars, int]:
        """The bars, and how many cells wide each is."""
        if self.scale == "log":
            return stats.log(width), 1
        low, high = stats.low, stats.high
        if isinstance(low, int) and isinstance(high, int) and high - low < width:
            # So few integers that each has a column of its own.
            count = high - low + 1
            return stats.linear(count), max(width // count, 1)
        return stats.linear(width), 1

    def _title(self, bars: Bars, stats: TensorStats) -> str:
        most = format_count(round(float(bars.counts.max())))
        if bars.scale == "log":
            zeros = f", {plural(bars.num_zero, 'zero')}" if bars.num_zero else ""
            return f"|value|, log: bars to {most}{zeros}"
        return f"{'|value|' if stats.is_complex else 'value'}: bars to {most}"


def _range_text(bars: Bars, width: int) -> str:
    """The ends of the range, and where 0 is if it lies well inside."""
    low, high = (value_text(np.float64(end), 3) for end in (bars.edges[0], bars.edges[-1]))
    text = [" "] * max(width, len(low) + len(high) + 1)
    if bars.edges[0] < 0 < bars.edges[-1]:
        extent = bars.edges[-1] / 2 - bars.edges[0] / 2
        at = int(-bars.edges[0] / 2 / extent * width)
        if len(low) + 1 <= at <= len(text) - len(high) - 2:
            text[at] = "0"
    text[: len(low)] = low
    text[len(text) - len(high) :] = high
    return "".join(text)


_NARROW_CELLS, _WIDE_CELLS = 60, 120
_FACTS_CELLS, _WIDE_FACTS_CELLS = 28, 40
_LEAST_LINES, _MOST_LINES = 5, 21


class IndexLine(Input):
    """An index to go to. Enter goes there; what is wrong with it is told where it stands."""

    DEFAULT_CSS = """
    IndexLine, IndexLine:focus { height: 1; border: none; padding: 0 1; background: $boost; }
    """

    @dataclass
    class Given(Message):
        """Enter: the user wants to go to `text`."""

        text: str

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Given(event.value))


def parse_index(text: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index that a text means: `12,0,7`, `[12, 0, 7]`, `12 0 7`; -1 is the last of a dim.

    One number for a tensor of several dims is a place in C order.

    Raises:
        UsageError: It is none, or lies outside of the shape.
    """
    parts = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        raise UsageError(
            f"an index is whole numbers, such as {', '.join('0' * len(shape))}"
        ) from None
    if len(numbers) == 1 and len(shape) > 1:
        return _at_place(numbers[0], shape)
    if len(numbers) != len(shape):
        dims = f"{len(shape)} numbers" if len(shape) != 1 else "one number"
        raise UsageError(f"an index of {list(shape)} is {dims}, not {len(numbers)}")
    index = tuple(n + size if n < 0 else n for n, size in zip(numbers, shape, strict=True))
    for dim, (at, size) in enumerate(zip(index, shape, strict=True)):
        if not 0 <= at < size:
            raise UsageError(f"dim {dim} has the indices 0 to {size - 1}, not {numbers[dim]}")
    return index


def _at_place(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    total = 1
    for size in shape:
        total *= size
    place += total if place < 0 else 0
    if not 0 <= place < total:
        raise UsageError(f"there are {total:,} elements")
    index = []
    for size in reversed(shape):
        place, at = divmod(place, size)
        index.append(at)
    return tuple(reversed(index))


class ValuesPane(Widget):
    """One tensor's numbers; or why there are none."""

    DEFAULT_CSS = """
    ValuesPane { height: 1fr; layout: vertical; }
    ValuesPane #values-head { height: 1; padding: 0 1; }
    ValuesPane #values-upper { height: 9; }
    ValuesPane #values-facts { width: 28; height: 1fr; padding: 0 1; }
    ValuesPane #values-histogram { width: 1fr; margin: 0 1; }
    ValuesPane #values-map { width: 1fr; margin: 0 1; }
    ValuesPane #values-place { height: 1; padding: 0 1; background: $panel; }
    ValuesPane #values-note {
        height: auto; max-height: 3; padding: 0 1; color: $text-warning; display: none;
    }
    ValuesPane #values-none { height: 1fr; padding: 1 2; color: $text-muted; display: none; }
    ValuesPane.-no-numbers > * { display: none; }
    ValuesPane.-no-numbers #values-head, ValuesPane.-no-numbers #values-none { display: block; }
    ValuesPane.-narrow #values-histogram { display: none; }
    ValuesPane.-zoom-numbers #values-upper { display: none; }
    ValuesPane.-zoom-map NumberGrid, ValuesPane.-zoom-map #values-facts { display: none; }
    ValuesPane.-zoom-map #values-histogram { display: none; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.add_class("-no-numbers")
        self.dims: tuple[int, int] | None = None
        self.numbers = NumberGrid(id="values-grid")
        self.map = HeatMap(id="values-map")
        self._figures = ValueFigures(id="values-facts")
        self._histogram = HistogramBars(id="values-histogram")
        self._index_line = IndexLine(max_length=400, id="values-index")
        self._fqn: str | None = None
        self._tensor: Tensor | None = None
        self._checkpoint: Checkpoint | None = None

    def compose(self) -> ComposeResult:
        yield Static("", markup=False, id="values-head")
        yield Static("", markup=False, id="values-none")
        yield Static("", markup=False, id="values-note")
        with Horizontal(id="values-upper"):
            yield self._figures
            yield self._histogram
            yield self.map
        yield Static("", markup=False, id="values-place")
        self._index_line.display = False
        yield self._index_line
        yield self.numbers

    # Values in.

    def show(
        self, checkpoint: Checkpoint, fqn: str, tensor: Tensor, index: Sequence[int] | None = None
    ) -> None:
        """Show a tensor, of which nothing is known yet, with the cursor on an element of it."""
        self._checkpoint, self._fqn, self._tensor, self.dims = checkpoint, fqn, tensor, None
        self.remove_class("-no-numbers")
        self.note("")
        self._show_head()
        self.numbers.show(tensor, None, index if self.fits(index) else None)
        self.map.show(tensor)
        self.screen.refresh_bindings()

    def show_none(self, fqn: str | None, tensor: Tensor | None, why: str) -> None:
        """Say, printable, why there are no numbers of an entry (None: of none)."""
        self._checkpoint, self._fqn, self._tensor, self.dims = None, fqn, tensor, None
        self.query_one("#values-none", Static).update(why)
        self.add_class("-no-numbers")
        self._index_line.display = False
        self.numbers.show(None)
        self.map.show(None)
        self._histogram.show(None)
        self._show_head()
        self.screen.refresh_bindings()

    def show_figures(
        self, stats: TensorStats | None, ranked: Ranked | None, *, instead: str = ""
    ) -> None:
        """Show figures and histogram; `instead` where there are none."""
        self._figures.show(stats, ranked, instead=instead)
        self._histogram.show(stats)

    def note(self, text: str) -> None:
        """Say something, printable, above the figures; empty for nothing."""
        note = self.query_one("#values-note", Static)
        note.update(text)
        note.display = bool(text)

    def show_place(self) -> None:
        """Say what is under the cursor, which may have been read since."""
        tensor, checkpoint, numbers = self._tensor, self._checkpoint, self.numbers
        if tensor is None or checkpoint is None:
            return
        text = element_text(checkpoint, tensor, numbers.index, numbers.current)
        where = slice_text(numbers.plane, numbers.leading)
        line = place_line(text, where, max(self.size.width - 2, 20))
        self.query_one("#values-place", Static).update(line)

    def _show_head(self) -> None:
        width = max(self.size.width - 2, 20)
        head = "" if self._fqn is None else head_text(self._fqn, self._tensor, width)
        self.query_one("#values-head", Static).update(head)

    # Values out.

    @property
    def has_numbers(self) -> bool:
        """Whether there is a tensor with numbers."""
        return not self.has_class("-no-numbers")

    @property
    def has_slices(self) -> bool:
        """Whether it has more dims than two."""
        return self.has_numbers and bool(self.numbers.plane.leading)

    def fits(self, index: Sequence[int] | None) -> bool:
        """Whether the tensor has an element of that index."""
        shape = () if self._tensor is None else self._tensor.shape
        return (
            index is not None
            and len(index) == len(shape)
            and all(0 <= i < n for i, n in zip(index, shape, strict=True))
        )

    def element(self) -> str:
        if self._tensor is None or self._checkpoint is None:
            return ""
        numbers = self.numbers
        return element_text(self._checkpoint, self._tensor, numbers.index, numbers.current).plain

    # Going about.

    def go_to(self, index: Sequence[int]) -> None:
        """Put the cursor on an element, if there is such a one."""
        if not self.fits(index):
            return
        before = self.numbers.leading
        self.numbers.go_to(index)
        if self.numbers.leading != before:
            self.map.ask_again()

    def step_slice(self, steps: int) -> None:
        numbers = self.numbers
        leading = slice_after(numbers.plane, numbers.leading, steps)
        self.go_to(numbers.plane.index(leading, numbers.row, numbers.column))

    def next_dims(self) -> None:
        """The next pair of dims as rows and columns; the cursor stays on its element."""
        self.dims = dims_after(self.numbers.plane)
        self.numbers.show(self._tensor, self.dims, self.numbers.index)
        self.map.show(self._tensor, self.dims)

    def next_quantity(self) -> None:
        """Something else of each part on the map."""
        names = list(QUANTITIES)
        self.map.set_quantity(names[(names.index(self.map.quantity) + 1) % len(names)])

    def next_scale(self) -> None:
        """The histogram over the values, or over their size."""
        self._histogram.set_scale("log" if self._histogram.scale == "linear" else "linear")

    def begin_goto(self) -> None:
        """Open the line for an index."""
        shape = () if self._tensor is None else self._tensor.shape
        self._index_line.placeholder = (
            f"an index of {format_shape(shape)}; -1 is the last of a dim; esc closes"
        )
        self._index_line.value = ""
        self._index_line.display = True
        # At once: the keys that come in the same burst belong to the line already.
        self.screen.set_focus(self._index_line)

    def close_goto(self) -> bool:
        """Close that line; False if it is not open."""
        if not self._index_line.display:
            return False
        self._index_line.display = False
        self.take_focus()
        return True

    def on_number_grid_moved(self, event: NumberGrid.Moved) -> None:
        event.stop()
        self.show_place()
        self.map.set_cursor(self.numbers.row, self.numbers.column)

    def on_heat_map_chosen(self, event: HeatMap.Chosen) -> None:
        event.stop()
        plane, leading = self.numbers.plane, self.numbers.leading
        self.numbers.go_to(plane.index(leading, event.row, event.column))

    # Room.

    def take_focus(self) -> None:
        """The keys go to the numbers, or to whatever has their place."""
        # Somebody must have the focus, or the keys of the view are nobody's.
        self.can_focus = not self.has_numbers
        if not self.has_numbers:
            self.focus()
        else:
            (self.map if self.has_class("-zoom-map") else self.numbers).focus()

    def zoom(self) -> None:
        """Give the pane to the numbers or the map, whichever has the focus, or take it back."""
        if not self.unzoom():
            self.add_class("-zoom-map" if self.map.has_focus else "-zoom-numbers")
            self._arrange()

    def unzoom(self) -> bool:
        """Show everything again; False if it is shown."""
        zooms = [name for name in ("-zoom-numbers", "-zoom-map") if self.has_class(name)]
        self.remove_class(*zooms)
        self._arrange()
        return bool(zooms)

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        width, height = self.size
        self.set_class(width < _NARROW_CELLS, "-narrow")
        upper = self.query_one("#values-upper")
        if self.has_class("-zoom-map"):
            upper.styles.height = "1fr"
        else:
            upper.styles.height = max(_LEAST_LINES, min(_MOST_LINES, round(height * 0.45)))
        wide = _WIDE_FACTS_CELLS if width >= _WIDE_CELLS else min(_FACTS_CELLS, width // 2)
        self._figures.styles.width = wide
        self._show_head()
        self.call_after_refresh(self.show_place)
