"""`TensorTree`: the module tree of a checkpoint, one line per node.

The rule this module keeps: a line exists once its parent is open. Opening a node splices its
children into the list of lines; nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from inspector.checkpoint.text import format_bytes, format_count
from inspector.tui.kit.cell_text import BADGES, fit, shown
from inspector.tui.kit.cursor_view import CursorView
from inspector.tui.tensors.trie import Ints, ModuleTrie, TrieNode

__all__ = ["TensorTree"]

_StyleOn: TypeAlias = Callable[[Style, str], Style]

_SEVERITIES = list(BADGES)
_BYTES_CELLS = 10
_COUNT_CELLS = 8


@dataclass(slots=True, eq=False)
class _Line:
    """One line: a node, or (`hidden` > 0) the rest of a node's many children."""

    node: TrieNode
    level: int
    parent: _Line | None
    is_open: bool = False
    hidden: int = 0


class TensorTree(CursorView):
    """A tree of modules down to tensors.

    Keys: j k g G and the usual ones move, l opens, h closes or goes to the parent, enter and
    space turn a module; enter on a tensor selects it.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tensor-tree--guide"}

    DEFAULT_CSS = """
    TensorTree {
        overflow-x: hidden;
        & > .tensor-tree--guide { color: $foreground 25%; }
    }
    TensorTree:ansi > .tensor-tree--guide { color: ansi_default; text-style: dim; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "open", "Open", show=False, id="tree.open"),
        Binding("left,h", "close", "Close", show=False, id="tree.close"),
        Binding("space", "turn", "Open or close", show=False, id="tree.turn"),
    ]

    @dataclass
    class NodeHighlighted(Message):
        """The cursor came to rest on a node.

        `prefix` is its path (of folded siblings, their parent's) and `indices` the tensors
        below it, in the checkpoint's order.
        """

        prefix: tuple[str, ...]
        indices: Ints

    @dataclass
    class TensorSelected(Message):
        """Enter or a double click on a tensor."""

        index: int

    def __init__(
        self,
        trie: ModuleTrie | None = None,
        *,
        badges: Mapping[int, str] | None = None,
        max_children: int = 2000,
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self._max_children = max_children
        self._lines: list[_Line] = []
        self._badges: npt.NDArray[np.int8] | None = None
        self._adopt(trie)
        self._rank_badges(badges or {})

    # Values in.

    def set_trie(self, trie: ModuleTrie | None) -> None:
        """Show another tree, closed; the cursor goes to the top. None: it is being made."""
        self._adopt(trie)
        self.cursor = 0
        self.lines_changed()
        self.scroll_to(y=0, animate=False, force=True)
        self.announce()

    def set_badges(self, badges: Mapping[int, str]) -> None:
        """Mark tensors (index to severity); a module shows the worst below it."""
        self._rank_badges(badges)
        self._drawn.clear()
        self.refresh()

    def _adopt(self, trie: ModuleTrie | None) -> None:
        self._is_awaited = trie is None
        self._trie = trie if trie is not None else ModuleTrie([], [])
        self._badges = None
        self._lines = self._children(None, self._trie.root, 0)
        line = self._lines[0] if len(self._lines) == 1 else None
        while line is not None and line.node.kind != "tensor":
            # A lone module says nothing closed.
            self._splice(line)
            below = self._trie.children(line.node)
            line = self._lines[-1] if len(below) == 1 else None

    def _rank_badges(self, badges: Mapping[int, str]) -> None:
        self._badges = None
        if badges:
            ranked = np.zeros(self._trie.root.num_tensors, np.int8)
            for index, severity in badges.items():
                if 0 <= index < len(ranked) and severity in BADGES:
                    ranked[index] = _SEVERITIES.index(severity) + 1
            self._badges = ranked

    # Values out.

    @property
    def num_lines(self) -> int:
        return len(self._lines)

    # Opening and closing.

    def _children(self, parent: _Line | None, node: TrieNode, start: int) -> list[_Line]:
        level = 0 if parent is None else parent.level + 1
        nodes = self._trie.children(node)
        end = start + self._max_children
        lines = [_Line(child, level, parent) for child in nodes[start:end]]
        if end < len(nodes):
            lines.append(_Line(node, level, parent, hidden=len(nodes) - end))
        return lines

    def _splice(self, line: _Line) -> None:
        at = self._lines.index(line)
        if line.hidden:
            done = len(self._trie.children(line.node)) - line.hidden
            self._lines[at : at + 1] = self._children(line.parent, line.node, done)
        else:
            line.is_open = True
            self._lines[at + 1 : at + 1] = self._children(line, line.node, 0)

    def _open(self, line: _Line) -> None:
        self._splice(line)
        self.lines_changed()

    def _close(self, line: _Line) -> None:
        at = self._lines.index(line)
        end = at + 1
        while end < len(self._lines) and self._lines[end].level > line.level:
            end += 1
        del self._lines[at + 1 : end]
        line.is_open = False
        self.lines_changed()

    def action_open(self) -> None:
        """Open the node; on an open one, go to its first child."""
        line = self._lines[self.cursor] if self._lines else None
        if line is None:
            return
        if line.hidden or (line.node.kind != "tensor" and not line.is_open):
            self._open(line)
            self.announce()
        elif line.is_open:
            self.move_cursor(self.cursor + 1)

    def action_close(self) -> None:
        """Close the node; on a closed one, go to its parent."""
        line = self._lines[self.cursor] if self._lines else None
        if line is None:
            return
        if line.is_open:
            self._close(line)
        elif line.parent is not None:
            self.move_cursor(self._lines.index(line.parent))

    def action_turn(self) -> None:
        if self._lines:
            self._turn(self.cursor)

    def _turn(self, at: int) -> None:
        line = self._lines[at]
        if line.is_open:
            self._close(line)
        elif line.hidden or line.node.kind != "tensor":
            self._open(line)

    # What a CursorView asks for.

    def cursor_moved(self) -> None:
        if self._lines:
            node = self._lines[self.cursor].node
            self.post_message(self.NodeHighlighted(node.prefix, node.indices))

    def line_chosen(self, line: int) -> None:
        node = self._lines[line].node
        if node.kind == "tensor" and not self._lines[line].hidden:
            self.post_message(self.TensorSelected(int(node.indices[0])))
        else:
            self._turn(line)

    def line_clicked(self, line: int, x: int) -> None:
        # The second click of a double click turns the node; a single one does on its arrow.
        entry = self._lines[line]
        start = 2 + 2 * entry.level
        if entry.node.kind != "tensor" and start <= x < start + 2:
            self._turn(line)

    def on_mount(self) -> None:
        self.lines_changed()
        self.announce()

    def on_resize(self, event: events.Resize) -> None:
        self.move_cursor(self.cursor)

    def draw_empty(self, y: int, width: int) -> Strip:
        text = "  " + ("..." if self._is_awaited else "No tensors") if y == 1 else ""
        return Strip([Segment(fit(text, width), self.style_on(self.rich_style, "dim"))])

    def draw_line(self, line: int, width: int, is_cursor: bool) -> Strip:
        entry = self._lines[line]
        node = entry.node
        base = self.line_style(is_cursor)
        style_on = self.style_plain if is_cursor and self.has_focus else self.style_on
        dim = style_on(base, "dim")
        guide = self.get_component_rich_style("tensor-tree--guide")
        guide = base + Style(color=guide.color, dim=guide.dim)
        segments = [Segment(self.CURSOR_MARK if is_cursor else " ", base)]
        segments.append(self._badge(entry, base, style_on))
        indent = min(entry.level, max(0, (width - 16) // 2))
        segments.append(Segment("│ " * indent, guide))
        arrow = "  " if node.kind == "tensor" else "▾ " if entry.is_open else "▸ "
        right = self._measures(entry, width)
        room = width - 2 - 2 * indent - 2 - cell_len(right)
        if entry.hidden:
            text = f"… {entry.hidden:,} more"
            segments += [Segment("  ", base), Segment(fit(text, max(0, room)), dim)]
        else:
            segments += [Segment(arrow, dim), *self._title(node, max(0, room), base, style_on)]
        segments.append(Segment(right, dim))
        return Strip(segments).adjust_cell_length(width, base)

    def _title(self, node: TrieNode, room: int, base: Style, style_on: _StyleOn) -> list[Segment]:
        name = shown(node.name, room) or "(no name)"
        if node.kind != "fold":
            return [Segment(fit(name, room), base)]
        taken = min(room, cell_len(name))
        note = f"  ({node.num_alike:,} alike)"
        if len(note) > room - taken:
            note = f" \u00d7{node.num_alike}"
        return [
            Segment(fit(name, taken), style_on(base, "accent")),
            Segment(fit(note, room - taken), style_on(base, "dim")),
        ]

    def _badge(self, entry: _Line, base: Style, style_on: _StyleOn) -> Segment:
        if self._badges is None or entry.hidden:
            return Segment(" ", base)
        worst = int(self._badges[entry.node.indices].max(initial=0))
        if not worst:
            return Segment(" ", base)
        glyph, style = BADGES[_SEVERITIES[worst - 1]]
        return Segment(glyph, style_on(base, style))

    def _measures(self, entry: _Line, width: int) -> str:
        """Count and bytes, right aligned, as far as the width has room for them."""
        if entry.hidden or width < 30:
            return ""
        count = "" if entry.node.kind == "tensor" else format_count(entry.node.num_tensors)
        text = " " + format_bytes(entry.node.num_bytes)
        if width < 44:
            return text.rjust(_BYTES_CELLS - 1) + " "
        return count.rjust(_COUNT_CELLS) + text.rjust(_BYTES_CELLS + 1) + " "
