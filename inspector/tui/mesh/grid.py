"""`MeshGrid`: the ranks of a job as a grid, each filled as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from inspector.layout.mesh import Mesh
from inspector.tui.mesh.layout import MeshLayout
from inspector.tui.mesh.paint import Run, cell_lines, merged
from inspector.tui.mesh.rank_grid import RankGrid
from inspector.tui.verification.figures import RankProgress

__all__ = ["MeshGrid"]

_STATES = ("waiting", "running", "done", "wrong", "failed", "stopped")


class MeshGrid(RankGrid):
    """What each rank of a job does. `show` gives it values."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "mesh--label",
        "mesh--rest",
        "mesh--dim",
        *(f"mesh--{state}" for state in _STATES),
        *(f"mesh--{state}-fill" for state in _STATES),
    }

    DEFAULT_CSS = """
    MeshGrid {
        & > .mesh--label { color: $text-muted; }
        &:focus > .mesh--label { color: $text-primary; text-style: bold; }
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

    worst: ClassVar[str] = "worst"

    class Chosen(RankGrid.Chosen):
        """The cursor went to a rank."""

    def __init__(self, *, max_lines: int = 14, id: str | None = None) -> None:  # noqa: A002
        super().__init__(max_lines=max_lines, id=id)
        self._ranks: tuple[RankProgress, ...] = ()
        self._cells: dict[int, tuple[RankProgress, list[list[Run]]]] = {}
        self._styles: dict[tuple[str, bool, bool], dict[str, Style]] = {}

    def show(self, mesh: Mesh, ranks: tuple[RankProgress, ...]) -> None:
        """Show the ranks of a mesh, in its row-major order; as many as it has, or none."""
        if ranks != self._ranks or mesh != self.mesh.mesh:
            self._ranks = ranks
            self.mesh_changed(mesh if ranks else None)

    @property
    def num_ranks(self) -> int:
        return len(self._ranks)

    @property
    def label_style(self) -> Style:
        return self._style("label")

    def forget(self) -> None:
        self._cells.clear()

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"mesh--{name}")

    def draw_cell(
        self, layout: MeshLayout, cell: int, ranks: Sequence[int], part: int
    ) -> list[Segment]:
        if (known := self._cells.get(cell)) is None:
            rank = merged([self._ranks[number] for number in ranks])
            lines = cell_lines(rank, layout.cell_width, layout.cell_height, more=len(ranks) - 1)
            known = self._cells[cell] = rank, lines
        rank, lines = known
        is_chosen = self.chosen is not None and self.chosen in ranks
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

    def _filled(self, segments: list[Segment], rank: RankProgress, width: int) -> list[Segment]:
        """A cell of one line has no bar: its ground is filled instead."""
        over = self._cell_styles(rank.state, False, False)["fill"]
        part = min(width, int(rank.share * width))
        strip = Strip(segments)
        done = [Segment(s.text, (s.style or Style()) + over) for s in strip.crop(0, part)]
        return [*done, *strip.crop(part, width)]
