"""`MeshGrid`: the ranks of a mesh, replicas down, shards across, each filled as it goes."""

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

from inspector.tui.verify_figures import RankFigures
from inspector.tui.widgets.cell_text import fit
from inspector.tui.widgets.mesh_layout import MeshLayout, mesh_layout
from inspector.tui.widgets.mesh_paint import Run, cell_lines, merged

__all__ = ["MeshGrid"]

_STATES = ("waiting", "running", "done", "wrong", "failed", "stopped")


class MeshGrid(Widget, can_focus=True):
    """A cell for each rank; one of them may be picked out by cursor keys or a click.

    `show` gives it values; it is as high as its layout needs, at most `max_lines`.
    """

    ALLOW_SELECT = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "mesh--label",
        "mesh--rest",
        "mesh--dim",
        *(f"mesh--{state}" for state in _STATES),
        *(f"mesh--{state}-fill" for state in _STATES),
    }

    DEFAULT_CSS = """
    MeshGrid {
        height: auto; width: 1fr; color: $foreground; background: $surface;
        & > .mesh--label { color: $text-muted; }
        & > .mesh--rest { color: $foreground 35%; }
        & > .mesh--dim { color: $foreground 70%; }
        & > .mesh--waiting { color: $foreground 50%; background: $foreground 6%; }
        & > .mesh--running { color: $text-primary; background: $primary 16%; }
        & > .mesh--done { color: $text-success; background: $success 18%; }
        & > .mesh--wrong { color: $text-error; background: $error 28%; }
        & > .mesh--failed { color: $text-error; background: $error 28%; }
        & > .mesh--stopped { color: $foreground 60%; background: $foreground 10%; }
        & > .mesh--waiting-fill { background: $foreground 16%; }
        & > .mesh--running-fill { background: $primary 45%; }
        & > .mesh--done-fill { background: $success 38%; }
        & > .mesh--wrong-fill { background: $error 50%; }
        & > .mesh--failed-fill { background: $error 50%; }
        & > .mesh--stopped-fill { background: $foreground 20%; }
    }
    MeshGrid:ansi {
        & > .mesh--label, & > .mesh--rest, & > .mesh--dim { color: ansi_default; text-style: dim; }
        & > .mesh--waiting, & > .mesh--stopped {
            color: ansi_default; background: ansi_default; text-style: dim;
        }
        & > .mesh--running { color: ansi_blue; background: ansi_default; }
        & > .mesh--done { color: ansi_green; background: ansi_default; }
        & > .mesh--wrong, & > .mesh--failed { color: ansi_red; background: ansi_default; }
        & > .mesh--waiting-fill, & > .mesh--stopped-fill { background: ansi_default; }
        & > .mesh--running-fill { background: ansi_default; text-style: reverse; }
        & > .mesh--done-fill { background: ansi_default; }
        & > .mesh--wrong-fill, & > .mesh--failed-fill { background: ansi_default; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "move(1, 0)", "Next shard", show=False, id="mesh.right"),
        Binding("left,h", "move(-1, 0)", "Previous shard", show=False, id="mesh.left"),
        Binding("down,j", "move(0, 1)", "Next line", show=False, id="mesh.down"),
        Binding("up,k", "move(0, -1)", "Previous line", show=False, id="mesh.up"),
    ]

    class Chosen(Message):
        """The cursor went to a rank."""

        def __init__(self, grid: MeshGrid, rank: int) -> None:
            super().__init__()
            self.grid = grid
            self.rank = rank

    def __init__(self, *, max_lines: int = 14, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._ranks: tuple[RankFigures, ...] = ()
        self._shape = (1, 0)
        self._max_lines = max_lines
        self._chosen: int | None = None
        self._placed: MeshLayout | None = None
        self._cells: dict[int, list[list[Run]]] = {}
        self._styles: dict[tuple[str, bool, bool], dict[str, Style]] = {}

    # Values in.

    def show(self, num_replicas: int, num_shards: int, ranks: tuple[RankFigures, ...]) -> None:
        """Show the ranks of a mesh, in its row-major order."""
        is_other = (num_replicas, num_shards) != self._shape or len(ranks) != len(self._ranks)
        if ranks == self._ranks and not is_other:
            return
        self._shape = (num_replicas, num_shards)
        self._ranks = ranks
        self._cells.clear()
        self.refresh(layout=is_other)

    def choose(self, rank: int | None) -> None:
        """Pick out a rank's cell, or none."""
        if rank != self._chosen:
            self._chosen = rank
            self._cells.clear()
            self.refresh()

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
        return self.grid_layout(width).height if self._ranks else 0

    # Drawing.

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        blank = self.rich_style
        if not self._ranks or width <= 0:
            return Strip.blank(width, blank)
        layout = self.grid_layout(width)
        if layout != self._placed:
            self._placed = layout
            self._cells.clear()
        place = layout.line_at(y)
        if place is None:
            segments = self._header(layout) if y < layout.top else []
            return Strip(segments).adjust_cell_length(width, blank)
        band, line, part = place
        gap = Segment(" " * layout.gap, blank)
        segments = [Segment(self._band_name(layout, band, line, part), self._style("label"))]
        for cell in layout.cells_on(band, line):
            segments += self._cell(layout, cell, part)
            segments.append(gap)
        return Strip(segments).adjust_cell_length(width, blank)

    def _header(self, layout: MeshLayout) -> list[Segment]:
        style = self._style("label")
        wide = layout.cell_width + layout.gap
        names = [
            fit(f"shard {i}" if layout.cell_width >= 8 else f"S{i}", wide)
            for i in range(layout.cols)
        ]
        return [Segment(" " * layout.left + "".join(names), style)]

    def _band_name(self, layout: MeshLayout, band: int, line: int, part: int) -> str:
        is_first = line == 0 and part == 0
        return fit(f"R{band}" if is_first else "", layout.left)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"mesh--{name}")

    def ranks_of(self, layout: MeshLayout, cell: int) -> tuple[RankFigures, ...]:
        """The ranks that share a cell."""
        band, shard = divmod(cell, layout.num_shards)
        shards = len(self._ranks) if layout.is_flat else self._shape[1]
        first = band * shards + shard * layout.per_cell
        last = min(first + layout.per_cell, (band + 1) * shards)
        return self._ranks[first:last]

    def _cell(self, layout: MeshLayout, cell: int, part: int) -> list[Segment]:
        ranks = self.ranks_of(layout, cell)
        if not ranks:
            return [Segment(" " * layout.cell_width, self.rich_style)]
        rank = merged(ranks)
        lines = self._cells.get(cell)
        if lines is None:
            lines = cell_lines(rank, layout.cell_width, layout.cell_height)
            self._cells[cell] = lines
        is_chosen = any(one.rank == self._chosen for one in ranks)
        styles = self._cell_styles(rank.state, is_chosen, part == 0)
        base = styles[""]
        segments = [Segment(text, styles.get(name, base)) for text, name in lines[part]]
        if layout.cell_height == 1 and layout.cell_width >= 5 and rank.state == "running":
            return self._filled(segments, rank, layout.cell_width)
        return segments

    def _cell_styles(self, state: str, is_chosen: bool, is_first: bool) -> dict[str, Style]:
        """The styles of a cell's runs, by name; worked out once, as ten times a second is often."""
        key = (state, is_chosen, is_first)
        if (known := self._styles.get(key)) is not None:
            return known
        look = self._style(state)
        fill = self._style(f"{state}-fill")
        base = Style(color=self.rich_style.color, bgcolor=look.bgcolor)
        if is_chosen:
            base += Style(bgcolor=fill.bgcolor, underline=is_first, bold=True)
        mark = base + Style(color=look.color, bold=True)
        styles = self._styles[key] = {
            "": base,
            "mark": mark,
            "bar": mark,
            "name": base + Style(bold=True),
            "rest": base + Style(color=self._style("rest").color),
            "dim": base + Style(color=self._style("dim").color),
            "fill": Style(bgcolor=fill.bgcolor, reverse=fill.reverse),
        }
        return styles

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def _filled(self, segments: list[Segment], rank: RankFigures, width: int) -> list[Segment]:
        """A cell of one line has no bar: its ground is filled instead."""
        over = self._cell_styles(rank.state, False, False)["fill"]
        part = min(width, int(rank.share * width))
        strip = Strip(segments)
        done = [Segment(s.text, (s.style or Style()) + over) for s in strip.crop(0, part)]
        return [*done, *strip.crop(part, width)]

    # Keys and mouse.

    def action_move(self, right: int, down: int) -> None:
        """Move the cursor by cells."""
        if not self._ranks:
            return
        layout = self.grid_layout(self.size.width)
        shards = len(self._ranks) if layout.is_flat else self._shape[1]
        if self._chosen is None:
            self._go(0)
            return
        band, shard = divmod(self._chosen, shards)
        cell = band * layout.num_shards + shard // layout.per_cell
        x, y = layout.origin(cell)
        step_x = right * (layout.cell_width + layout.gap)
        found = layout.cell_at(x + step_x, y)
        if down:
            lines = range(y + down, y + down * (layout.height + 1), down)
            found = next(
                (c for line in lines if (c := layout.cell_at(x, line)) not in (None, cell)), None
            )
        if found is not None and (ranks := self.ranks_of(layout, found)):
            self._go(ranks[0].rank)

    def _go(self, rank: int) -> None:
        self.choose(rank)
        self.post_message(self.Chosen(self, rank))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not self._ranks:
            return
        layout = self.grid_layout(self.size.width)
        cell = layout.cell_at(offset.x, offset.y)
        if cell is not None and (ranks := self.ranks_of(layout, cell)):
            event.stop()
            self._go(ranks[0].rank)

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()
