"""`RankGrid`: the ranks of a mesh as cells, its first axes down, its last across; one picked out.

A line above names the axes. One of them can be chosen there, and folded: then all ranks along it
share a cell, which shows the worst of them.

The rule this module keeps: it knows where cells stand and which ranks share one, not what they
say. `MeshGrid` and `PlanGrid` draw them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from inspector.layout.mesh import Mesh
from inspector.tui.commands import command
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.view import TableView
from inspector.tui.mesh.axes import FoldedMesh, GridAxis, legend_parts
from inspector.tui.mesh.layout import MeshLayout, mesh_layout

__all__ = ["MeshView", "RankGrid"]

_NO_RANKS = Mesh("fsdp", (1,))
#: With fewer lines for the cells than this the axes are not named.
_LEAST_LINES = 2


class RankGrid(Widget, can_focus=True):
    """A cell for each rank, or for several where there is no room; as high as that needs.

    A subclass gives `num_ranks`, `label_style`, `worst` and `draw_cell`, and calls `mesh_changed`.
    """

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    RankGrid { height: auto; width: 1fr; color: $foreground; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "move(1, 0)", "Next cell", show=False, id="mesh.right"),
        Binding("left,h", "move(-1, 0)", "Previous cell", show=False, id="mesh.left"),
        Binding("down,j", "move(0, 1)", "Next line", show=False, id="mesh.down"),
        Binding("up,k", "move(0, -1)", "Previous line", show=False, id="mesh.up"),
        Binding("enter", "fold", "Fold", show=False, id="mesh.fold"),
    ]

    #: What a cell shows of several ranks.
    worst: ClassVar[str] = ""
    #: Lines that its cells may take; that of the axes comes on top of them.
    max_lines: reactive[int] = reactive(14, layout=True)

    @dataclass
    class Chosen(Message):
        """The cursor went to a rank."""

        rank: int

    def __init__(self, *, max_lines: int = 14, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        #: The mesh that is shown, and which of its axes are folded.
        self.mesh = FoldedMesh(_NO_RANKS)
        self._measured: object = None
        self.set_reactive(RankGrid.max_lines, max_lines)
        #: The rank that is picked out.
        self.chosen: int | None = None
        #: Number of the axis that is chosen.
        self.axis: int | None = None
        self._placed: MeshLayout | None = None
        self._ranks_of: dict[int, Sequence[int]] = {}

    # What a subclass gives.

    @property
    def num_ranks(self) -> int:
        """Ranks that are shown: all of the mesh, or none."""
        raise NotImplementedError

    @property
    def label_style(self) -> Style:
        """The style of the names of axes, bands and columns."""
        raise NotImplementedError

    def draw_cell(
        self, layout: MeshLayout, cell: int, ranks: Sequence[int], part: int
    ) -> list[Segment]:
        """Line `part` of a cell, `layout.cell_width` characters; `ranks` share the cell."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what was drawn: the ranks, their cells or the one picked out are others."""

    # Values in.

    def mesh_changed(self, mesh: Mesh | None) -> None:
        """Draw anew, for the ranks of a mesh (None: there are none)."""
        is_other = (mesh, self.num_ranks) != self._measured
        if is_other:
            self._measured = mesh, self.num_ranks
            before, self.mesh = self.mesh, self.mesh.on(mesh or _NO_RANKS)
            if before.mesh.axes != self.mesh.mesh.axes:
                self.axis = None
            self._ranks_of.clear()
        self.forget()
        self.refresh(layout=is_other)

    def choose(self, rank: int | None) -> None:
        if rank != self.chosen:
            self.chosen = rank
            self.forget()
            self.refresh()

    # The axes.

    @property
    def is_drawn(self) -> bool:
        """Whether it is on the screen, with ranks in it."""
        return bool(self.num_ranks) and self.display and self.size.height > 0

    def next_axis(self) -> None:
        """Choose the next axis; after the last, none."""
        following = 0 if self.axis is None else self.axis + 1
        self.axis = following if following < len(self.mesh.axes) else None
        self.refresh()

    def action_fold(self) -> None:
        if self.axis is not None:
            self._turn(self.axis)

    def _turn(self, axis: int) -> None:
        self.mesh = self.mesh.turned(axis)
        self._ranks_of.clear()
        self.forget()
        self.refresh(layout=True)

    def leave_axes(self) -> bool:
        """Choose no axis; whether one was chosen."""
        was_chosen, self.axis = self.axis is not None, None
        if was_chosen:
            self.refresh()
        return was_chosen

    # Measures.

    @property
    def legend_lines(self) -> int:
        """1 if the axes are named above the cells."""
        return int(len(self.mesh.axes) > 1 and self.max_lines >= _LEAST_LINES)

    def grid_layout(self, width: int) -> MeshLayout:
        """Where the cells stand on `width` columns, below the line of the axes."""
        sizes = [axis.size for axis in self.mesh.open_axes]
        return mesh_layout(sizes, width, self.max_lines, names_columns=len(self.mesh.axes) > 2)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self.legend_lines + self.grid_layout(width).height if self.num_ranks else 0

    def ranks_in(self, layout: MeshLayout, cell: int) -> Sequence[int]:
        """The ranks that share a cell, in rising order."""
        band, at = divmod(cell, layout.band_cells)
        places = self._places_of(layout)
        first = band * places + at * layout.per_cell
        last = min(first + layout.per_cell, (band + 1) * places)
        if not self.mesh.folded:
            return range(first, last)  # Places are ranks.
        if (known := self._ranks_of.get(cell)) is None:
            found = (rank for place in range(first, last) for rank in self.mesh.ranks_at(place))
            known = self._ranks_of[cell] = sorted(found)
        return known

    def _places_of(self, layout: MeshLayout) -> int:
        """Places in a band."""
        return self.mesh.num_places // layout.num_bands

    def ranks_each(self, layout: MeshLayout) -> int:
        """Ranks that share a cell."""
        return self.mesh.ranks_each * layout.per_cell

    # Drawing.

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        blank = self.rich_style
        if not self.num_ranks or width <= 0:
            return Strip.blank(width, blank)
        layout = self.grid_layout(width)
        if layout != self._placed:
            self._placed = layout
            self._ranks_of.clear()
            self.forget()
        y -= self.legend_lines
        if y < 0:
            return Strip(self._legend(layout, width)).adjust_cell_length(width, blank)
        place = layout.line_at(y)
        if place is None:
            segments = self._header(layout) if y < layout.top else []
            return Strip(segments).adjust_cell_length(width, blank)
        band, line, part = place
        segments = [Segment(self._band_name(layout, band, line, part), self.label_style)]
        end = layout.left
        for col, cell in enumerate(layout.cells_on(band, line)):
            start = layout.left_of(col)
            segments.append(Segment(" " * (start - end), blank))
            segments += self.draw_cell(layout, cell, self.ranks_in(layout, cell), part)
            end = start + layout.cell_width
        return Strip(segments).adjust_cell_length(width, blank)

    def _legend_parts(self, layout: MeshLayout, width: int) -> list[str]:
        """The axes, and what is told after them."""
        hint = shared = ""
        if self.axis is not None:
            hint = f" enter {'opens' if self.axis in self.mesh.folded else 'folds'} it "
        if (num := self.ranks_each(layout)) > 1:
            shared = f" cell = {self.worst} of {num:,} ranks "
        return legend_parts(self.mesh, width, self.axis, hint + shared, shared)

    def _legend(self, layout: MeshLayout, width: int) -> list[Segment]:
        style = self.label_style
        *parts, said = self._legend_parts(layout, width)
        segments = [
            Segment(part, style + Style(reverse=True, bold=True) if n == self.axis else style)
            for n, part in enumerate(parts)
        ]
        return [*segments, Segment(said.rjust(width - sum(map(len, parts))), style)]

    def _header(self, layout: MeshLayout) -> list[Segment]:
        across = self.mesh.open_axes[layout.num_down :]
        text = ""
        for start, room, words in self._names_across(layout, across):
            if len(words) <= room:
                text = text.ljust(start) + words
        return [Segment(text, self.label_style)]

    def _names_across(
        self, layout: MeshLayout, axes: Sequence[GridAxis]
    ) -> list[tuple[int, int, str]]:
        """Of the columns: where a name goes, its room, and the name."""
        wide, step = layout.cell_width, layout.cell_width + layout.gap
        if len(axes) == 1:
            letter, name = axes[0].letter, axes[0].name
            long = max(8, len(f"{name} {axes[0].size - 1}"))
            words = f"{name} " if wide >= long else letter
            return [(layout.left_of(i), step, f"{words}{i}") for i in range(layout.cols)]
        names = [_coordinate(axes, i) for i in range(layout.cols)]
        if max(map(len, names)) <= wide:
            return [(layout.left_of(i), step, name) for i, name in enumerate(names)]
        # The last axis is counted within each group; the others name the group.
        size = axes[-1].size
        return [
            (layout.left_of(i), size * step, _coordinate(axes[:-1], i // size))
            for i in range(0, layout.cols, size)
        ]

    def _band_name(self, layout: MeshLayout, band: int, line: int, part: int) -> str:
        is_first = line == 0 and part == 0
        down = self.mesh.open_axes[: layout.num_down]
        return fit(_coordinate(down, band) if is_first else "", layout.left)

    # Keys and mouse.

    def action_move(self, right: int, down: int) -> None:
        if not self.num_ranks:
            return
        layout = self.grid_layout(self.size.width)
        if self.chosen is None or self.chosen >= self.num_ranks:
            self._go(0)
            return
        places = self._places_of(layout)
        band, at = divmod(self.mesh.place_of(self.chosen), places)
        cell = band * layout.band_cells + at // layout.per_cell
        x, y = layout.origin(cell)
        found: int | None = None
        if right:
            beside = cell + right
            is_there = 0 <= beside < layout.num_cells and layout.origin(beside)[1] == y
            found = beside if is_there else None
        elif down:
            lines = range(y + down, y + down * (layout.height + 1), down)
            found = next(
                (c for line in lines if (c := layout.cell_at(x, line)) not in (None, cell)), None
            )
        if found is not None:
            self._go(self.ranks_in(layout, found)[0])

    def _go(self, rank: int) -> None:
        self.choose(rank)
        self.post_message(self.Chosen(rank))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not self.num_ranks:
            return
        layout, y = self.grid_layout(self.size.width), offset.y - self.legend_lines
        if y < 0:
            end = 0
            for axis, part in enumerate(self._legend_parts(layout, self.size.width)[:-1]):
                end += len(part)
                if offset.x < end:
                    event.stop()
                    self._turn(axis)
                    return
        cell = layout.cell_at(offset.x, y)
        if cell is not None:
            event.stop()
            self._go(self.ranks_in(layout, cell)[0])

    def on_resize(self) -> None:
        # It has come onto the screen, or left it: whether there is an axis to choose.
        self.refresh_bindings()

    def on_hide(self) -> None:
        self.refresh_bindings()


def _coordinate(axes: Sequence[GridAxis], place: int) -> str:
    """`R0 S3`: a place of some axes, row-major."""
    words = []
    for number, axis in enumerate(axes):
        inner = math.prod(a.size for a in axes[number + 1 :])
        words.append(f"{axis.letter}{place // inner % axis.size}")
    return " ".join(words)


class MeshView(TableView):
    """A view of a table beside the ranks of a mesh, whose axes a key chooses.

    It gives its grid of ranks the keys while an axis is chosen there.
    """

    BINDINGS = [
        command(
            "a",
            "axis",
            "Fold axis",
            "Choose the next axis of the mesh; enter folds it into one cell, or opens it.",
            footer=True,
        )
    ]

    @property
    def grid(self) -> RankGrid:
        return self.query_one(RankGrid)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "axis":
            grid = self.query_one_optional(RankGrid)
            return grid is not None and grid.is_drawn and len(grid.mesh.axes) > 1
        return super().check_action(action, parameters)

    def action_axis(self) -> None:
        self.grid.next_axis()
        self.screen.set_focus(self.grid)

    def back(self) -> bool:
        if super().back():
            return True
        was_chosen = self.grid.leave_axes()
        if was_chosen:
            self.take_focus()
        return was_chosen
