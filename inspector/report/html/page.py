"""The page around what is said: head, style, and the line on what made it.

The rule this module keeps: the page needs nothing but itself. A policy in its head forbids every
script and every load, so that it cannot even by a mistake in here.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from inspector._version import __version__
from inspector.checks.metadata.metadata import installed_torch
from inspector.report.html.markup import Html, as_ascii, bounded, join, stylesheet, tag, text
from inspector.report.html.style import STYLE

__all__ = ["Tone", "facts", "left_out", "page", "section", "table"]

#: How a verdict looks: proven, as far as was looked, wrong, or not known.
Tone = Literal["good", "plain", "bad", "open"]

#: Longest text of a cell in characters.
MAX_CELL = 400
_MAX_TABLE_BYTES = 250_000


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def page(
    title: str, tone: Tone, verdict: str, sections: Iterable[str], command: str
) -> Iterator[str]:
    """The whole document, in pieces.

    Args:
        title: What it is of: `check of /ckpt/step-10`.
        tone: How the verdict looks.
        verdict: The verdict and what it rests on, in a sentence.
        sections: What follows, in order; empty ones are left out.
        command: The command line that made it, its secrets hidden; empty for none.
    """
    for piece in _pieces(title, tone, verdict, sections, command):
        yield as_ascii(piece)


def _pieces(
    title: str, tone: Tone, verdict: str, sections: Iterable[str], command: str
) -> Iterator[str]:
    yield "<!DOCTYPE html>\n"
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", text(title, 200)),
        stylesheet(STYLE),
    )
    yield f'<html lang="en">\n{tag("head", *head)}\n<body>\n'
    yield tag("h1", title) + "\n"
    yield tag("p", verdict, class_=f"verdict {tone}") + "\n"
    for part in sections:
        if part:
            yield text(part) + "\n"
    yield _footer(command) + "\n</body>\n</html>\n"


def _footer(command: str) -> Html:
    torch = installed_torch()
    made = [
        f"hsdp-inspect {__version__}",
        f"torch {torch}" if torch else "no torch installed",
        f"Python {platform.python_version()}",
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    ]
    ran = tag("p", "Made by: ", tag("code", command)) if command else ""
    return tag("footer", ran, tag("p", join(made, " · ")))


def section(title: str, *parts: str) -> Html:
    """A part of the page with its heading; empty if there is nothing in it."""
    body = join(part for part in parts if part)
    return tag("section", tag("h2", title), body) if body else Html("")


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Labels and what they stand for."""
    rows = [join((tag("dt", label), tag("dd", said))) for label, said in pairs]
    return tag("dl", *rows) if rows else Html("")


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: frozenset[str] = frozenset(),
    names: frozenset[str] = frozenset(),
    bad: frozenset[int] = frozenset(),
) -> Html:
    """Rows under their heads; empty if there are none.

    Args:
        heads: The columns' heads.
        rows: Cells; text passes the gate.
        numbers: Heads of the columns whose cells are figures.
        names: Heads of the columns that hold names.
        bad: Rows in which something is wrong.
    """
    looks = ["num" if h in numbers else "name" if h in names else None for h in heads]
    body = (
        tag(
            "tr",
            *(
                tag("td", text(cell, MAX_CELL), class_=look)
                for look, cell in zip(looks, row, strict=True)
            ),
            class_="bad" if place in bad else None,
        )
        for place, row in enumerate(rows)
    )
    shown, left = bounded(body, _MAX_TABLE_BYTES)
    if not shown and not left:
        return Html("")
    first = tag("tr", *(tag("th", h, class_=look) for h, look in zip(heads, looks, strict=True)))
    made = tag("div", tag("table", tag("thead", first), tag("tbody", *shown)), class_="wide")
    return join((made, left_out(left)))


def left_out(number: int) -> Html:
    """How many more there are that the page has no room for; empty if none."""
    if number <= 0:
        return Html("")
    return tag("p", f"{number:,} more left out here, for length: --json has all.")
