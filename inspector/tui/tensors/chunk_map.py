"""`ChunkMap`: one tensor's chunks as a rectangle in its true cut, coloured by writing rank.

The rule this module keeps: it lays rulers and captions around what `chunk_paint` drew and turns
its codes into styles; where anything lies was decided in `chunk_layout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from inspector.checkpoint.text import format_box, plural
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.view import Pane
from inspector.tui.tensors import chunk_paint as inks
from inspector.tui.tensors.chunk_captions import captions, left_ruler, top_ruler
from inspector.tui.tensors.chunk_layout import Mark
from inspector.tui.tensors.chunk_paint import ChunkBoxes, Painting, paint

__all__ = ["ChunkBoxes", "ChunkMap", "Mark"]

# Fills of middling light, so that dark text is legible on each and each shows on a light
# screen too; neighbours in the list are far apart in hue. No red: red is a finding.
_FILLS = (
    "#6ca0f6", "#f0b84a", "#6fc38a", "#ee8cb8", "#56c5d8", "#f39765", "#a694f5", "#b4cc55",
    "#8fb3c9", "#e8d266", "#4fbfa5", "#d68ae0", "#7fc4ff", "#cda77c", "#9bd6b0", "#f2a0a0",
)  # fmt: skip
_ANSI_FILLS = (
    "blue", "yellow", "cyan", "magenta", "green", "bright_blue", "bright_yellow", "bright_cyan",
    "bright_magenta", "bright_green", "white", "blue", "yellow", "cyan", "magenta", "green",
)  # fmt: skip

# No theme changes them: as rules of the style sheet they would be matched anew with every focus.
RANK_STYLES = tuple(Style(bgcolor=fill, color="#11151c") for fill in _FILLS)
ANSI_RANK_STYLES = tuple(
    Style(bgcolor=fill, color="bright_white" if fill in ("blue", "magenta") else "black")
    for fill in _ANSI_FILLS
)


def _crowding(painting: Painting) -> tuple[str, int, bool]:
    grid = painting.grid
    return grid.kind, grid.rows.per_cell * grid.cols.per_cell, painting.all_labelled


@dataclass(frozen=True, slots=True, eq=False)
class _Drawing:
    """A painting as lines of the widget; line and column at which its first cell lies."""

    painting: Painting
    origin: tuple[int, int]
    strips: list[Strip]


_MOST_KNOWN = 32
# A drawing holds a few numbers for each chunk: those of more chunks than this are made anew.
_MOST_CHUNKS_KNOWN = 1 << 11


class ChunkMap(Pane, can_focus=True):
    """A drawing of one tensor's chunks.

    Keys: h and l step through the chunks, j and k go to the one below and above. A click picks
    one.
    """

    ALLOW_SELECT = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chunk-map--ruler",
        "chunk-map--caption",
        "chunk-map--current",
        "chunk-map--edge",
        "chunk-map--unknown",
        "chunk-map--gap",
        "chunk-map--overlap",
    }

    DEFAULT_CSS = """
    ChunkMap {
        height: 1fr;
        background: $surface;
        color: $foreground;

        & > .chunk-map--ruler { color: $text-muted; }
        & > .chunk-map--caption { color: $text-muted; }
        &:focus > .chunk-map--caption { color: $text-primary; text-style: bold; }
        & > .chunk-map--current { text-style: bold; }
        & > .chunk-map--edge { color: $surface; }
        & > .chunk-map--unknown { background: #9aa3ad; color: #11151c; }
        & > .chunk-map--gap { background: $surface; color: $error; }
        & > .chunk-map--overlap { background: $error; color: white; text-style: bold; }
    }
    ChunkMap:ansi {
        & > .chunk-map--ruler { color: ansi_default; text-style: dim; }
        & > .chunk-map--caption { color: ansi_default; text-style: dim; }
        & > .chunk-map--edge { color: ansi_black; }
        & > .chunk-map--unknown { background: ansi_bright_black; color: ansi_bright_white; }
        & > .chunk-map--gap { background: ansi_default; color: ansi_red; }
        & > .chunk-map--overlap { background: ansi_red; color: ansi_bright_white; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "step(1)", "Next chunk", show=False, id="chunks.next"),
        Binding("left,h", "step(-1)", "Previous chunk", show=False, id="chunks.previous"),
        Binding("down,j", "step_line(1)", "Chunk below", show=False, id="chunks.below"),
        Binding("up,k", "step_line(-1)", "Chunk above", show=False, id="chunks.above"),
    ]

    @dataclass
    class ChunkSelected(Message):
        """A click or a step went to chunk `index`."""

        index: int

    def __init__(
        self,
        boxes: ChunkBoxes | None = None,
        *,
        highlight: int | None = None,
        colour: bool | None = None,
        tells_current: bool = True,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Make it; `show` draws another tensor.

        Args:
            boxes: What to draw.
            highlight: The chunk picked out.
            colour: False draws lines and shades; None does so if the app has no colour.
            tells_current: Whether a caption says which chunk is picked out.
            id: As of any widget.
        """
        super().__init__(id=id)
        self.boxes = boxes
        #: Index of the chunk picked out, or None.
        self.highlight = highlight
        self._colour = colour
        self._tells_current = tells_current
        self._drawn: _Drawing | None = None
        self._drawn_size = Size(0, 0)
        #: The layers of a model are cut alike: who goes through them sees the same few again.
        self._known: LRUCache[tuple[object, ...], _Drawing] = LRUCache(_MOST_KNOWN)
        self._styles_of: dict[int, Style] = {}

    def show(self, boxes: ChunkBoxes | None, highlight: int | None = None) -> None:
        """Draw another tensor (None: nothing)."""
        self.boxes, self.highlight = boxes, highlight
        self._redraw()

    def set_highlight(self, index: int | None) -> None:
        """Pick out one chunk; posts nothing."""
        if index != self.highlight:
            self.highlight = index
            self._redraw()

    def _redraw(self) -> None:
        self._drawn = None
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._drawn = None
        self._known.clear()
        self._styles_of.clear()

    # Drawing.

    def render_line(self, y: int) -> Strip:
        drawn = self._drawn
        if drawn is None or self._drawn_size != self.size:
            # Not when the resize is told, which is after the first repaint.
            self._drawn_size = self.size
            drawn = self._drawn = self._drawing_of(self.boxes)
        if drawn is not None and y < len(drawn.strips):
            return drawn.strips[y]
        return Strip.blank(self.size.width, self.rich_style)

    def _drawing_of(self, boxes: ChunkBoxes | None) -> _Drawing | None:
        """A drawing of this size; of few chunks it is made only if there is none of the same."""
        if boxes is None or self.size.width < 1 or self.size.height < 1:
            return None
        if len(boxes.offsets) > _MOST_CHUNKS_KNOWN:
            return self._draw(boxes)
        key = (*boxes.key, self.highlight, self.size)
        if (drawn := self._known.get(key)) is None:
            drawn = self._known[key] = self._draw(boxes)
        return drawn

    def _draw(self, boxes: ChunkBoxes) -> _Drawing:
        width, height = self.size
        colour = self._colour if self._colour is not None else not self.app.no_color
        rulers = height >= 7 and width >= 24
        margin = left_ruler(boxes.shape, width) if rulers else 0
        above, below = (1, 1) if rulers else (0, 0)
        most = 0 if height < 4 else max(1, min(5, height // 3))

        def attempt(room: int) -> Painting:
            lines = height - above - below - room
            return paint(boxes, width - margin, lines, colour=colour, highlight=self.highlight)

        room = min(most, 2 if self._current_line() else 1)
        painting = attempt(room)
        words = self._words(boxes, painting, width, colour)
        if len(words) > room and most > room:
            # More captions, unless the drawing is then less plain for want of lines.
            smaller = attempt(min(most, len(words)))
            if _crowding(smaller) == _crowding(painting):
                room, painting = min(most, len(words)), smaller
        strips = [
            *self._lines(painting, width, margin, rulers),
            *(Strip([Segment(fit(text, width), style)]) for text, style in words[:room]),
        ]
        return _Drawing(painting, (above, margin), strips[:height])

    def _words(
        self, boxes: ChunkBoxes, painting: Painting, width: int, colour: bool
    ) -> list[tuple[str, Style]]:
        style = self.get_component_rich_style("chunk-map--caption")
        words = [(text, style) for text in captions(boxes, painting, colour=colour, width=width)]
        if current := self._current_line():
            words.insert(0, (current, self.get_component_rich_style("chunk-map--current")))
        return words

    def _lines(self, painting: Painting, width: int, margin: int, rulers: bool) -> list[Strip]:
        num_lines = painting.chars.shape[0]
        plain = self.rich_style
        if not rulers:
            return [
                Strip(self._segments(painting, line)).adjust_cell_length(width, plain)
                for line in range(num_lines)
            ]
        ruler = self.get_component_rich_style("chunk-map--ruler")
        head, side = top_ruler(painting, margin, width)
        strips = [Strip([Segment(head, ruler)])]
        for line in range(num_lines + 1):
            label = fit(side.get(line, ""), margin - 1, "right") + " " if margin else ""
            cells = self._segments(painting, line) if line < num_lines else []
            strip = Strip([Segment(label, ruler), *cells])
            strips.append(strip.adjust_cell_length(width, plain))
        return strips

    def _current_line(self) -> str:
        boxes, index = self.boxes, self.highlight
        if (
            not self._tells_current
            or boxes is None
            or index is None
            or not 0 <= index < len(boxes.offsets)
        ):
            return ""
        rank = int(boxes.ranks[index])
        writer = f"written by rank {rank}" if rank >= 0 else "writer unknown"
        box = format_box(boxes.offsets[index].tolist(), boxes.sizes[index].tolist())
        return f"chunk {index} of {plural(len(boxes.offsets), 'chunk')}  {box}  {writer}"

    def _segments(self, painting: Painting, line: int) -> list[Segment]:
        text, codes = "".join(painting.chars[line].tolist()), painting.codes[line]
        ends = [*(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(text)]
        segments = []
        start = 0
        for end in ends:
            code = int(codes[start])
            if (style := self._styles_of.get(code)) is None:
                style = self._styles_of[code] = self._style(code)
            segments.append(Segment(text[start:end], style))
            start = end
        return segments

    def _part(self, ink: int) -> Style:
        names = {inks.UNKNOWN: "unknown", inks.HOLE: "gap", inks.CLASH: "overlap"}
        if ink == inks.PANE:
            return self.rich_style
        if ink in names:
            return self.get_component_rich_style(f"chunk-map--{names[ink]}")
        return (ANSI_RANK_STYLES if self.app.native_ansi_color else RANK_STYLES)[ink]

    def _style(self, code: int) -> Style:
        back, front = self._part(code & 31), code >> 5 & 31
        if front == inks.EDGE:
            ink = self.get_component_rich_style("chunk-map--edge").color
        elif front == inks.TEXT:
            ink = back.color
        else:
            ink = self._part(front).bgcolor
        style = back + Style(color=ink)
        if code & inks.SWAPPED:
            if code & 31 == inks.PANE:
                style += Style(reverse=True, bold=True)
            else:  # a hollow tile: its colour as ink on the pane
                style = self.rich_style + Style(color=back.bgcolor, bold=True)
        if code & inks.BOLD and (ink is None or ink.number is None):
            # Many terminals turn a bold palette colour into its bright one: black to grey.
            style += Style(bold=True)
        return style

    # Keys and mouse.

    def action_step(self, step: int) -> None:
        num = len(self.boxes.offsets) if self.boxes is not None else 0
        if num:
            start = self.highlight if self.highlight is not None else (-1 if step > 0 else num)
            self._pick(max(0, min(num - 1, start + step)))

    def action_step_line(self, step: int) -> None:
        """Go to the chunk that is drawn below (or above); where none is, to the next."""
        index = self.highlight
        if self._drawn is None or index is None:
            self.action_step(step)
            return
        drawn = self._drawn.painting
        lines, columns = np.nonzero(drawn.chunk == index)
        if len(lines):
            column = int(columns[len(columns) // 2])
            at = int(lines.max() if step > 0 else lines.min())
            ahead = drawn.chunk[at + 1 :, column] if step > 0 else drawn.chunk[:at, column][::-1]
            others = ahead[(ahead >= 0) & (ahead != index)]
            if len(others):
                self._pick(int(others[0]))
                return
        columns_drawn = (np.unique(cells[cells >= 0]) for cells in drawn.chunk.T)
        if all(len(chunks) < 2 for chunks in columns_drawn):
            self.action_step(step)  # Nothing is drawn below anything: they lie side by side.

    def _pick(self, index: int) -> None:
        self.set_highlight(index)
        self.post_message(self.ChunkSelected(index))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self._drawn is None:
            return
        above, margin = self._drawn.origin
        line, column = offset.y - above, offset.x - margin
        chunk = self._drawn.painting.chunk
        lines, columns = chunk.shape
        if 0 <= line < lines and 0 <= column < columns:
            index = int(chunk[line, column])
            if index >= 0:
                event.stop()
                self._pick(index)
