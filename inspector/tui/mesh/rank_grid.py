"""`RankGrid`: the ranks of a mesh as cells, replicas down, shards across; one may be picked out.

The rule this module keeps: it knows where cells stand and which ranks share one, not what they
say. `MeshGrid` and `PlanGrid` draw them.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from inspector.tui.kit.cell_text import fit
from inspector.tui.mesh.layout import MeshLayout, mesh_layout

__all__ = ["RankGrid"]


class RankGrid(Widget, can_focus=True):
    """A cell for each rank, or for several where there is no room; as high as that needs.

    A subclass gives `num_ranks`, `label_style` and `draw_cell`, and calls `mesh_changed`.
    """

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    RankGrid { height: auto; width: 1fr; color: $foreground; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "move(1, 0)", "Next shard", show=False, id="mesh.right"),
        Binding("left,h", "move(-1, 0)", "Previous shard", show=False, id="mesh.left"),
        Binding("down,j", "move(0, 1)", "Next line", show=False, id="mesh.down"),
        Binding("up,k", "move(0, -1)", "Previous line", show=False, id="mesh.up"),
    ]

    class Chosen(Message):
        """The cursor went to a rank."""

        def __init__(self, grid: RankGrid, rank: int) -> None:
            super().__init__()
            self.grid = grid
            self.rank = rank

    def __init__(self, *, max_lines: int = 14, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._shape = (1, 0)
        self._measured: tuple[int, ...] = ()
        self._max_lines = max_lines
        self._chosen: int | None = None
        self._placed: MeshLayout | None = None

    # What a subclass gives.

    @property
    def num_ranks(self) -> int:
        """Ranks that are shown."""
        raise NotImplementedError

    @property
    def label_style(self) -> Style:
        """The style of the names of replicas and shards."""
        raise NotImplementedError

    def draw_cell(self, layout: MeshLayout, cell: int, ranks: range, part: int) -> list[Segment]:
        """Line `part` of a cell, `layout.cell_width` characters; `ranks` share the cell."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what was drawn: the ranks, their cells or the one picked out are others."""

    # Values in.

    def mesh_changed(self, shape: tuple[int, int]) -> None:
        """Draw anew, for a mesh of so many replicas and shards."""
        is_other = (*shape, self.num_ranks) != self._measured
        self._shape, self._measured = shape, (*shape, self.num_ranks)
        self.forget()
        self.refresh(layout=is_other)

    def choose(self, rank: int | None) -> None:
        """Pick out a rank's cell, or none."""
        if rank != self._chosen:
            self._chosen = rank
            self.forget()
            self.refresh()

    @property
    def chosen(self) -> int | None:
        """The rank that is picked out."""
        return self._chosen

    @property
    def max_lines(self) -> int:
        """Lines that it may take."""
        return self._max_lines

    @max_lines.setter
    def max_lines(self, lines: int) -> None:
        if lines != self._max_lines:
            self._max_lines = lines
            self.refresh(layout=True)

    # Measures.

    def grid_layout(self, width: int) -> MeshLayout:
        """Where the cells stand on `width` columns."""
        return mesh_layout(*self._shape, width, self._max_lines)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self.grid_layout(width).height if self.num_ranks else 0

    def rank_range(self, layout: MeshLayout, cell: int) -> range:
        """The ranks that share a cell."""
        band, shard = divmod(cell, layout.num_shards)
        shards = self._shards_of(layout)
        first = band * shards + shard * layout.per_cell
        return range(first, min(first + layout.per_cell, (band + 1) * shards))

    def _shards_of(self, layout: MeshLayout) -> int:
        """Ranks in a band."""
        return self.num_ranks if layout.is_flat else self._shape[1]

    # Drawing.

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        blank = self.rich_style
        if not self.num_ranks or width <= 0:
            return Strip.blank(width, blank)
        layout = self.grid_layout(width)
        if layout != self._placed:
            self._placed = layout
            self.forget()
        place = layout.line_at(y)
        if place is None:
            segments = self._header(layout) if y < layout.top else []
            return Strip(segments).adjust_cell_length(width, blank)
        band, line, part = place
        gap = Segment(" " * layout.gap, blank)
        segments = [Segment(self._band_name(layout, band, line, part), self.label_style)]
        for cell in layout.cells_on(band, line):
            ranks = self.rank_range(layout, cell)
            if ranks:
                segments += self.draw_cell(layout, cell, ranks, part)
            else:
                segments.append(Segment(" " * layout.cell_width, blank))
            if layout.gap:
                segments.append(gap)
        return Strip(segments).adjust_cell_length(width, blank)

    def _header(self, layout: MeshLayout) -> list[Segment]:
        wide = layout.cell_width + layout.gap
        names = [
            fit(f"shard {i}" if layout.cell_width >= 8 else f"S{i}", wide)
            for i in range(layout.cols)
        ]
        return [Segment(" " * layout.left + "".join(names), self.label_style)]

    def _band_name(self, layout: MeshLayout, band: int, line: int, part: int) -> str:
        is_first = line == 0 and part == 0
        return fit(f"R{band}" if is_first else "", layout.left)

    # Keys and mouse.

    def action_move(self, right: int, down: int) -> None:
        """Move the cursor by cells."""
        if not self.num_ranks:
            return
        layout = self.grid_layout(self.size.width)
        if self._chosen is None:
            self._go(0)
            return
        band, shard = divmod(self._chosen, self._shards_of(layout))
        cell = band * layout.num_shards + shard // layout.per_cell
        x, y = layout.origin(cell)
        step_x = right * (layout.cell_width + layout.gap)
        found = layout.cell_at(x + step_x, y)
        if down:
            lines = range(y + down, y + down * (layout.height + 1), down)
            found = next(
                (c for line in lines if (c := layout.cell_at(x, line)) not in (None, cell)), None
            )
        if found is not None and (ranks := self.rank_range(layout, found)):
            self._go(ranks[0])

    def _go(self, rank: int) -> None:
        self.choose(rank)
        self.post_message(self.Chosen(self, rank))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not self.num_ranks:
            return
        layout = self.grid_layout(self.size.width)
        cell = layout.cell_at(offset.x, offset.y)
        if cell is not None and (ranks := self.rank_range(layout, cell)):
            event.stop()
            self._go(ranks[0])

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()
