"""THE gate of the page: text becomes markup here, and nowhere else.

The rule this module keeps: only `Html` is written as it is, and only this module makes it. Every
other text, whatever it comes from, passes the display gate (no control, bidi or invisible
character) and is then escaped for HTML, cut to a length that no name can blow up the page with.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from inspector.checkpoint.text import printable

__all__ = ["MAX_TEXT", "Html", "join", "stylesheet", "tag", "text"]

#: Longest text in characters that is written out; what is longer is cut in its middle.
MAX_TEXT = 2_000

_VOID = frozenset({"meta", "br", "hr", "rect", "path", "line"})


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
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{said}>" if name in ("meta", "br", "hr") else f"<{name}{said}/>")
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def stylesheet(css: str) -> Html:
    """Our own style sheet as an element; never text from outside."""
    if "</" in css:
        raise ValueError("a style sheet that would end its element")
    return Html(f"<style>{css}</style>")
