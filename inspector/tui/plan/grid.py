"""`PlanGrid`: the ranks of a mesh, coloured by the bytes that each of them reads.

The rule this module keeps: it can be read without colour. A block as high as the share of the
rank that reads most stands in every cell, and in larger ones the bytes themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from inspector.checkpoint.text import format_bytes, format_count, plural
from inspector.layout.reads.load_plan import LoadPlan
from inspector.tui.kit.cell_text import fit
from inspector.tui.mesh.layout import MeshLayout
from inspector.tui.mesh.paint import ends, number_words
from inspector.tui.mesh.rank_grid import RankGrid

__all__ = ["PlanGrid"]

_STEPS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"
_WORST = "▲"


class PlanGrid(RankGrid):
    """What each rank of a plan reads. Where several share a cell, it says the most of them."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "plan--label",
        "plan--dim",
        "plan--worst",
        *(f"plan--heat-{level}" for level in range(9)),
    }

    DEFAULT_CSS = """
    PlanGrid {
        & > .plan--label { color: $text-muted; }
        &:focus > .plan--label { color: $text-primary; text-style: bold; }
        & > .plan--dim { color: $text-muted; }
        & > .plan--worst { color: $text-warning; background: $warning 35%; }
        & > .plan--heat-0 { color: $foreground 45%; background: $foreground 5%; }
        & > .plan--heat-1 { color: $primary 40%; background: $primary 6%; }
        & > .plan--heat-2 { color: $primary 48%; background: $primary 10%; }
        & > .plan--heat-3 { color: $primary 56%; background: $primary 14%; }
        & > .plan--heat-4 { color: $primary 64%; background: $primary 18%; }
        & > .plan--heat-5 { color: $primary 73%; background: $primary 23%; }
        & > .plan--heat-6 { color: $primary 82%; background: $primary 28%; }
        & > .plan--heat-7 { color: $primary 91%; background: $primary 34%; }
        & > .plan--heat-8 { color: $primary; background: $primary 40%; }
    }
    PlanGrid:ansi {
        & > .plan--label, & > .plan--dim, & > .plan--heat-0 {
            color: ansi_default; background: ansi_default; text-style: dim;
        }
        & > .plan--worst { color: ansi_yellow; background: ansi_default; text-style: bold; }
        & > .plan--heat-1, & > .plan--heat-2, & > .plan--heat-3, & > .plan--heat-4,
        & > .plan--heat-5, & > .plan--heat-6, & > .plan--heat-7, & > .plan--heat-8 {
            color: ansi_blue; background: ansi_default;
        }
    }
    """

    worst: ClassVar[str] = "most"

    class Chosen(RankGrid.Chosen):
        """The cursor went to a rank."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._plan: LoadPlan | None = None
        self._read: list[int] = []
        self._most = 0
        self._worst: int | None = None
        self._most_of: dict[int, int] = {}
        self._styles: dict[tuple[int, bool, bool], tuple[Style, Style, Style, Style]] = {}

    # Values in.

    def show(self, plan: LoadPlan | None) -> None:
        """Show the ranks of a plan, or nothing."""
        self._plan = plan
        if plan is None:
            self._read, self._worst = [], None
            self.mesh_changed(None)
            return
        self._read = plan.ranks.bytes_read.tolist()
        self._most = max(self._read)
        self._worst = plan.worst_rank if min(self._read) < self._most else None
        self.mesh_changed(plan.mesh)

    @property
    def num_ranks(self) -> int:
        return len(self._read)

    @property
    def label_style(self) -> Style:
        return self.get_component_rich_style("plan--label")

    def legend(self) -> Text:
        """What the blocks and colours mean, on one line."""
        text = Text(no_wrap=True, overflow="ellipsis")
        if not self._read:
            return text
        least, most = min(self._read), self._most
        if least == most:
            text.append(f"{_STEPS[-1]} every rank reads {format_bytes(most)}")
        else:
            text.append(f"{self.glyph(least)} {format_bytes(least)}  to  ")
            text.append(f"{_STEPS[-1]} {format_bytes(most)} read by a rank")
            text.append(f"   {_WORST} rank {self._worst} reads most")
        shared = self.ranks_each(self.grid_layout(self.size.width))
        if shared > 1 and not self.legend_lines:
            text.append(f"   a cell is {plural(shared, 'rank')}, and says the most of them")
        return text

    # Drawing.

    def level(self, num_bytes: int) -> int:
        """0 for nothing, 1 to 8 for the eighth of the most in which the bytes lie."""
        return 0 if not num_bytes else max(1, math.ceil(num_bytes * 8 / self._most))

    def glyph(self, num_bytes: int) -> str:
        """A block as high as the level."""
        level = self.level(num_bytes)
        return _STEPS[level - 1] if level else _NOTHING

    def forget(self) -> None:
        self._most_of.clear()

    def draw_cell(
        self, layout: MeshLayout, cell: int, ranks: Sequence[int], part: int
    ) -> list[Segment]:
        if (most := self._most_of.get(cell)) is None:
            most = self._most_of[cell] = max(self._read[rank] for rank in ranks)
        is_chosen = self.chosen is not None and self.chosen in ranks
        is_worst = self._worst is not None and self._worst in ranks
        level = self.level(most)
        mark, base, dim, alone = self._cell_styles(level, is_worst, is_chosen)
        width = layout.cell_width
        glyph = _WORST if is_worst else self.glyph(most)
        if width < 5:
            return [Segment(glyph * width, alone)]
        if layout.cell_height == 1:
            said = f" {format_bytes(most)} " if width >= 16 else ""
            room = width - 1 - len(said)
            name = fit(f" {number_words(ranks[0], len(ranks) - 1, room - 1)}", room)
            return [Segment(glyph, mark), Segment(name, base), Segment(said, dim)]
        return self._line(ranks, most, part, width, glyph, (mark, base, dim))

    def _line(
        self,
        ranks: Sequence[int],
        most: int,
        part: int,
        width: int,
        glyph: str,
        styles: tuple[Style, Style, Style],
    ) -> list[Segment]:
        """A line of a cell that is large enough for figures: those of its rank, or the most."""
        mark, base, dim = styles
        plan = self._plan
        assert plan is not None  # noqa: S101 - cells are drawn of a plan
        figures, rows = plan.ranks, list(ranks)
        if part == 0:
            said = f"{format_bytes(most)} "
            title, room = "rank " if width >= 24 else "", width - 3 - len(said)
            number = number_words(ranks[0], len(ranks) - 1, room - len(title))
            name = fit(f"{title}{number}", room)
            return [Segment(f" {glyph} ", mark), Segment(name, base), Segment(said, base)]
        if part == 1:
            room = width - 2
            share = most / self._most if self._most else 0.0
            done = math.ceil(share * room)
            bar = [Segment("━" * done, mark), Segment("─" * (room - done), dim)]
            return [Segment(" ", base), *bar, Segment(" ", base)]
        if part == 2:
            files = plural(int(figures.num_files[rows].max()), "file")
            items = plural(int(figures.num_reads[rows].max()), "read")
            return [Segment(ends(files, items, width), dim)]
        empty = int(figures.num_empty_tensors[rows].max())
        peak = f"peak {format_bytes(int(figures.peak_bytes[rows].max()))}"
        return [Segment(ends(peak, f"{format_count(empty)} empty" if empty else "", width), dim)]

    def _cell_styles(
        self, level: int, is_worst: bool, is_chosen: bool
    ) -> tuple[Style, Style, Style, Style]:
        """Styles of a cell's mark, its text, its small print, and a mark alone; made once."""
        key = (level, is_worst, is_chosen)
        if (known := self._styles.get(key)) is not None:
            return known
        heat = self.get_component_rich_style("plan--worst" if is_worst else f"plan--heat-{level}")
        plain = self.rich_style
        if is_chosen:
            turned = Style(color=plain.color, bgcolor=plain.bgcolor, reverse=True, bold=True)
            styles = (turned, turned, turned, turned)
        else:
            ground, dim = Style(bgcolor=heat.bgcolor), self.get_component_rich_style("plan--dim")
            styles = (
                ground + Style(color=heat.color, bold=True),
                ground + Style(color=plain.color, bold=True),
                ground + Style(color=dim.color),
                # No ground: blocks side by side make a chart of their own.
                Style(color=heat.color, bgcolor=plain.bgcolor, bold=True),
            )
        self._styles[key] = styles
        return styles

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()
