"""Cell text: one value of a table or tree fitted into so many terminal cells.

The rule this module keeps: what leaves it passed the display gate and is exactly as wide as was
asked. Every widget of this folder builds its segments here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from rich import _wrap
from rich.cells import cell_len, get_character_cell_size, set_cell_size
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from inspector.checkpoint.text import Cut, printable, shorten
from inspector.errors import InspectError

__all__ = [
    "BADGES",
    "STYLE_NAMES",
    "Align",
    "Cell",
    "Cut",
    "cell_segments",
    "clip",
    "cut_to",
    "error_line",
    "fit",
    "keep_units",
    "shown",
]

Align: TypeAlias = Literal["left", "right", "center"]

Cell: TypeAlias = "str | Text | tuple[str, str]"
"""Plain text, styled text, or text with the name of a style (one of `STYLE_NAMES`)."""

STYLE_NAMES = ("dim", "strong", "accent", "ok", "note", "warning", "error")
"""Names a cell or row may use; `CursorView` has a component class `line--<name>` for each."""

BADGES: dict[str, tuple[str, str]] = {
    "note": ("•", "note"),
    "warning": ("!", "warning"),
    "error": ("✗", "error"),
}
"""Badge by severity, mildest first: glyph and style name. The glyphs tell them apart unaided."""


def shown(text: str, width: int, cut: Cut = "end") -> str:
    """`text` as printable text, not much more of it than `width` cells can show.

    A name may be a megabyte long; the part that cannot be seen is dropped before it costs.
    """
    limit = 4 * width + 8
    if len(text) > limit:
        # Combining characters take no cells, hence the factor; it also bounds their pile.
        return printable(text, limit) if cut == "middle" else printable(text[:limit])
    return printable(text)


def error_line(error: InspectError) -> str:
    """An error and its hint as one printable line."""
    hint = f" ({printable(error.hint)})" if error.hint else ""
    return printable(error.message, 300) + hint


def cut_to(text: str, width: int, where: Cut = "end") -> str:
    """Printable `text` in at most so many cells, an ellipsis where something is missing."""
    # The table of the cells of all other characters takes a while to load.
    return shorten(text, width, where, None if text.isascii() else get_character_cell_size)


def fit(text: str, width: int, align: Align = "left", cut: Cut = "end") -> str:
    """Printable `text` cut or padded to exactly `width` cells.

    Args:
        text: Text that already passed the display gate.
        width: Cells to fill.
        align: Where the padding goes.
        cut: Where a text that is too long loses characters: at the `end`, or in the `middle`,
            a third of the way in (the tail of a tensor's name is what tells it from others).
    """
    if width <= 0:
        return ""
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        text = cut_to(text, width, cut)
        length = cell_len(text)
        if length > width:  # a sequence that is wider in part than as a whole
            text, length = set_cell_size(text, width), width
    room = width - length
    if align == "right":
        return " " * room + text
    if align == "center":
        return " " * (room // 2) + text + " " * (room - room // 2)
    return text + " " * room


def clip(text: Text, width: int) -> None:
    """Cut styled, printable text to so many cells, as `fit` does; in place."""
    if text.cell_len > width:
        kept = cut_to(text.plain, max(1, width))
        text.right_crop(len(text.plain) - len(kept) + 1)
        text.append("…")


def cell_segments(
    cell: Cell,
    width: int,
    base: Style,
    style_on: Callable[[Style, str], Style],
    align: Align = "left",
    cut: Cut = "end",
) -> list[Segment]:
    """One cell as segments, `width` cells in all.

    Args:
        cell: The value; it may hold raw names.
        width: Cells to fill.
        base: Style of the row.
        style_on: A style in one of the named styles.
        align: As for `fit`.
        cut: As for `fit`.
    """
    if isinstance(cell, tuple):
        text, name = cell
        return [Segment(fit(shown(text, width, cut), width, align, cut), style_on(base, name))]
    if isinstance(cell, str):
        return [Segment(fit(shown(cell, width, cut), width, align, cut), base)]
    plain = shown(cell.plain, width, cut)
    fitted = fit(plain, width, align, cut)
    start = fitted.find(plain) if plain else -1
    if plain != cell.plain or start < 0:
        # Escapes or an ellipsis moved the characters: spans would style the wrong ones.
        return [Segment(fitted, base)]
    return [
        Segment(" " * start, base),
        *_styled(cell, base, style_on),
        Segment(" " * (width - start - cell_len(plain)), base),
    ]


def _styled(text: Text, base: Style, style_on: Callable[[Style, str], Style]) -> list[Segment]:
    """The characters of `text`, in runs of one style each."""

    def apply(style: Style, more: str | Style) -> Style:
        return style + more if isinstance(more, Style) else style_on(style, more)

    styles = [apply(base, text.style)] * len(text.plain)
    for start, end, more in text.spans:
        for position in range(max(0, start), min(end, len(styles))):
            styles[position] = apply(styles[position], more)
    segments: list[Segment] = []
    first = 0
    for position in range(1, len(styles) + 1):
        if position == len(styles) or styles[position] != styles[first]:
            segments.append(Segment(text.plain[first:position], styles[first]))
            first = position
    return segments


# Where lines end.

_UNITS = r"(?:(?:[KMGTPE]i?)?B(?:/s)?|ms|s|min|h|d)\b|%"
_WORD = re.compile(rf"\s*(?:(?<=[0-9]) (?={_UNITS})|\S)+\s*")


def keep_units() -> None:
    """Have number and unit count as one word wherever Rich or Textual break lines.

    Rich breaks lines at every blank, a no-break space included, and Textual breaks them as Rich
    does. `1.5` at the end of a line and `GiB` on the next is read wrong.
    """
    _wrap.re_word = _WORD
