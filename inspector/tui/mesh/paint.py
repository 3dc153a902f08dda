"""What stands in the cell of a rank, characters and the names of their styles; `MeshGrid` of them.

The rule this module keeps: a cell can be read without colour. A glyph says the state, a bar or a
number how far it is; and whatever comes from a rank has passed the display gate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from inspector.checkpoint.text import format_bytes
from inspector.layout.mesh import Mesh
from inspector.tui.kit.cell_text import fit, shown
from inspector.tui.mesh.layout import MeshLayout
from inspector.tui.mesh.rank_grid import RankGrid
from inspector.tui.verification.figures import RankProgress

__all__ = [
    "GLYPHS",
    "MeshGrid",
    "Run",
    "cell_lines",
    "ends",
    "merged",
    "number_words",
    "stage_bar",
    "word",
]

Run: TypeAlias = "tuple[str, str]"
"""Text, and the name of its style: empty for the cell's own, or `mark`, `bar`, `rest`, `dim`."""

GLYPHS = {"waiting": "·", "running": "▸", "done": "✓", "wrong": "≠", "failed": "✗", "stopped": "■"}
_WORDS = {"done": "exact", "wrong": "differs", "failed": "failed", "stopped": "stopped"}
_STEPS = "▁▂▃▄▅▆▇█"
#: The worst of several ranks in one cell is shown.
_WORST = ("done", "running", "waiting", "stopped", "wrong", "failed")


def merged(ranks: Sequence[RankProgress]) -> RankProgress:
    """Several ranks as one: the worst state, the mean share, the sum of bytes."""
    if len(ranks) == 1:
        return ranks[0]
    worst = max(ranks, key=lambda rank: _WORST.index(rank.state))
    resident = [rank.memory for rank in ranks if rank.memory is not None]
    return RankProgress(
        ranks[0].rank,
        worst.state,
        worst.phase,
        (sum(rank.share for rank in ranks) / len(ranks),),
        sum(rank.num_bytes for rank in ranks),
        sum(rank.rate for rank in ranks),
        max(resident, default=None),
        None,
    )


def word(rank: RankProgress) -> str:
    """What a rank is doing, in a word; raw."""
    if rank.state == "running":
        return rank.phase or "starting"
    if rank.state == "wrong" and rank.share < 1 and rank.phase:
        return rank.phase
    return _WORDS.get(rank.state, rank.state)


def cell_lines(rank: RankProgress, width: int, height: int, more: int = 0) -> list[list[Run]]:
    """The lines of a cell, each exactly `width` characters wide.

    Args:
        rank: The rank, or several as one (`merged`).
        width: Of the cell.
        height: Likewise.
        more: Ranks that share the cell with the first of them.
    """
    # What it does is told before how many they are, which stands above the cells, too.
    told = len(shown(word(rank), width)) + len(_percent(rank.share)) + 2
    number = number_words(rank.rank, more, width - 4 - told if width >= 11 else 0)
    if height == 1:
        return [_one_line(rank, width, number)]
    lines = [
        _title(rank, width, number),
        [(" ", ""), *stage_bar(rank.shares, width - 2), (" ", "")],
    ]
    if height >= 3:
        moved = format_bytes(rank.num_bytes) if rank.num_bytes else ""
        rate = f"{format_bytes(rank.rate)}/s" if rank.rate >= 1 else ""
        memory = _memory(rank)
        pairs = [(moved, rate), (memory, "")] if height >= 4 else [(moved, rate or memory)]
        lines += [[(ends(left, right, width), "dim")] for left, right in pairs]
    return lines[:height]


def number_words(rank: int, more: int, room: int) -> str:
    """`4`, or `4 +3` for it and three more if there is room: half a number would be a wrong one."""
    both = f"{rank} +{more}" if more else ""
    return both if both and len(both) <= room else str(rank)


def _memory(rank: RankProgress) -> str:
    if rank.memory is None:
        return ""
    gpu = "" if rank.gpu_memory is None else f", {format_bytes(rank.gpu_memory)} GPU"
    return f"{format_bytes(rank.memory)} mem{gpu}"


def ends(left: str, right: str, width: int) -> str:
    """Texts at both ends of a line; the right one goes if there is no room."""
    room = width - 2
    if len(left) + len(right) + 1 > room:
        right = ""
    return f" {fit(left, room - len(right))}{right} " if room > 0 else " " * width


def _percent(share: float) -> str:
    # Rounded up, 99.6 % would look done.
    return f"{min(99 if share < 1 else 100, math.floor(share * 100))}%"


def _title(rank: RankProgress, width: int, number: str) -> list[Run]:
    percent = _percent(rank.share) if rank.state not in ("waiting", "done") else ""
    room = width - 4 - len(number) - (len(percent) + 1 if percent else 0)
    what = fit(shown(word(rank), max(room - 1, 0)), max(room - 1, 0))
    runs = [(f" {GLYPHS[rank.state]} ", "mark"), (f"{number} ", "name"), (what, "")]
    if percent:
        runs.append((f" {percent}", ""))
    return _exactly([*runs, (" ", "")], width)


def _one_line(rank: RankProgress, width: int, number: str) -> list[Run]:
    glyph = GLYPHS[rank.state]
    step = _STEPS[min(7, int(rank.share * 8))]
    is_moving = rank.state in ("running", "wrong", "failed", "stopped") and rank.share < 1
    if width < 3:
        moving = rank.state == "running"
        return _exactly([(step if moving and rank.phase else glyph, "mark")], width)
    if width < 11:
        percent = _percent(rank.share) if is_moving else ""
        tail = percent if len(number) + len(percent) + 2 <= width else step if is_moving else ""
        room = width - 1 - len(tail)
        style = "mark" if tail == step else ""
        return _exactly([(glyph, "mark"), (fit(number, room), "name"), (tail, style)], width)
    percent = _percent(rank.share) if is_moving else ""
    room = width - 2 - len(number) - 1 - (len(percent) + 1 if percent else 0)
    what = fit(shown(word(rank), max(room, 0)), max(room, 0))
    text = [(f"{glyph} ", "mark"), (f"{number} ", "name"), (what, "")]
    return _exactly([*text, (f" {percent}" if percent else "", "")], width)


def _exactly(runs: list[Run], width: int) -> list[Run]:
    """Runs cut or padded to `width` characters."""
    kept: list[Run] = []
    for text, style in runs:
        text = text[:width]
        width -= len(text)
        if text:
            kept.append((text, style))
    return [*kept, (" " * width, "")] if width else kept


def stage_bar(shares: Sequence[float], width: int) -> list[Run]:
    """A bar of one piece for each stage, filled as it goes; thick is done, thin is to do."""
    count = len(shares)
    if not count or width < 2 * count:
        share = sum(shares) / count if count else 0.0
        return _piece(share, max(width, 0))
    room = width - (count - 1)
    runs: list[Run] = []
    for i, share in enumerate(shares):
        piece = room * (i + 1) // count - room * i // count
        runs += _piece(share, piece)
        if i < count - 1:
            runs.append((" ", ""))
    return runs


def _piece(share: float, width: int) -> list[Run]:
    part = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    halves = math.floor(part * width * 2)
    if part > 0:
        halves = max(1, halves)
    whole, half = divmod(halves, 2)
    done = "━" * whole + "╸" * half
    runs = [(done, "bar"), ("─" * (width - len(done)), "rest")]
    return [(text, style) for text, style in runs if text]


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
