"""THE gate of the page: text becomes markup here, and nowhere else.

The rule this module keeps: only `Html` is written as it is, and only this module makes it. Every
other text, whatever it comes from, passes the display gate (no control, bidi or invisible
character) and is then escaped for HTML, cut to a length that no name can blow up the page with.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from inspector.checkpoint.text import printable

__all__ = [
    "MAX_TEXT",
    "Html",
    "as_ascii",
    "bounded",
    "join",
    "outline",
    "stylesheet",
    "tag",
    "text",
]

#: Longest text in characters that is written out; what is longer is cut in its middle.
MAX_TEXT = 2_000

# They have no end in HTML, and those of a picture end themselves.
_VOID = frozenset({"meta", "br", "hr", "link"})
_DRAWN = frozenset({"rect", "path"})


class Html(str):
    """Markup: every text in it has passed the gate."""

    __slots__ = ()


def text(value: str, max_len: int = MAX_TEXT) -> Html:
    """Any text as markup that shows it, and nothing else."""
    return value if isinstance(value, Html) else Html(html.escape(printable(value, max_len)))


def join(parts: Iterable[str], between: str = "") -> Html:
    """Parts one after the other; those that are no markup yet pass the gate."""
    return Html(text(between).join(map(text, parts)))


def tag(name: str, /, *children: str, **attributes: str | int | float | None) -> Html:
    """An element.

    Args:
        name: Its name; never from outside.
        children: What it holds; text that is no `Html` passes the gate.
        attributes: Their names, an underscore at the end left out (`class_`), others a hyphen;
            never from outside. Values pass the gate; None leaves the attribute out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{said}>")
    if name in _DRAWN:
        return Html(f"<{name}{said}/>")
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def _attribute(value: str | int | float) -> str:
    return value if isinstance(value, str) else str(value)


def outline(steps: Iterable[str]) -> Html:
    """The steps of a path (`M0 0H10`), however many; they hold numbers and letters alone."""
    drawn = "".join(steps)
    if not drawn.isascii() or not drawn.replace(" ", "").isalnum():
        raise ValueError("an outline holds numbers and letters")
    return Html(drawn)


def as_ascii(markup: str) -> str:
    """Markup that means the same in whatever encoding it is written."""
    return markup.encode("ascii", "xmlcharrefreplace").decode()


def bounded(parts: Iterable[Html], max_bytes: int) -> tuple[list[Html], int]:
    """As many of the first parts as fit, and how many are left out.

    No count of names bounds a page in which each may take thousands of bytes.
    """
    kept: list[Html] = []
    left = 0
    for part in parts:
        max_bytes -= len(as_ascii(part))
        if left or max_bytes < 0:
            left += 1
        else:
            kept.append(part)
    return kept, left


def stylesheet(css: str) -> Html:
    """Our own style sheet as an element; never text from outside."""
    if "</" in css:
        raise ValueError("a style sheet that would end its element")
    return Html(f"<style>{css}</style>")
