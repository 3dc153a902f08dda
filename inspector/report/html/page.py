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

__all__ = ["Tone", "facts", "left_out", "page", "section", "table"]

#: How a verdict looks: proven, as far as was looked, wrong, or not known.
Tone = Literal["good", "plain", "bad", "open"]

#: Longest text of a cell in characters.
MAX_CELL = 400
_MAX_TABLE_BYTES = 250_000

# Light and dark by the reader's setting, and fit to print.
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--box:#f6f8fa;
--good:#116329;--bad:#b3261e;--warn:#8a4b00;--h0:#9ecbf0;--h1:#b9e0b0;--h2:#f3d19b;--h3:#d9c2ef;
--h4:#f2bcc8;--h5:#a9e0dc;--h6:#e2dd94;--h7:#c9ccd2}
@media (prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e3e7ec;--dim:#9aa4af;--line:#323a44;
--box:#181e26;--good:#5fcf80;--bad:#ff8a80;--warn:#f0b35a;--h0:#23527a;--h1:#2f6132;--h2:#71541c;
--h3:#563a78;--h4:#7a3347;--h5:#1f6460;--h6:#5d5a1c;--h7:#454c56}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 40px;max-width:1080px;background:var(--bg);color:var(--fg);
font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:20px;margin:0 0 4px}
h2{font-size:16px;margin:32px 0 8px}
h3{font-size:14px;margin:18px 0 6px}
code,td.name,.mono{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:13px}
.verdict{border:1px solid var(--line);border-left:6px solid var(--dim);background:var(--box);
padding:10px 14px;margin:14px 0;font-size:16px;font-weight:600}
.good{border-left-color:var(--good)}
.bad{border-left-color:var(--bad)}
.open{border-left-color:var(--warn)}
.verdict.good{color:var(--good)}
.verdict.bad{color:var(--bad)}
.verdict.open{color:var(--warn)}
dl{display:grid;grid-template-columns:fit-content(30%) 1fr;gap:3px 16px;margin:8px 0}
dt{color:var(--dim)}
dd{margin:0}
.finding{border:1px solid var(--line);border-left:6px solid var(--dim);padding:8px 14px;
margin:10px 0;
break-inside:avoid}
.finding.error{border-left-color:var(--bad)}
.finding.warning{border-left-color:var(--warn)}
.finding b{margin-right:8px}
.error>b,tr.bad>td{color:var(--bad)}
.warning>b{color:var(--warn)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px}
th,td{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:var(--dim);font-weight:600;white-space:nowrap}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:12px 0;break-inside:avoid}
figcaption{color:var(--dim);font-size:13px;margin:4px 0}
figure>svg{max-width:100%;height:auto;display:block}
.h0{fill:var(--h0)}
.h1{fill:var(--h1)}
.h2{fill:var(--h2)}
.h3{fill:var(--h3)}
.h4{fill:var(--h4)}
.h5{fill:var(--h5)}
.h6{fill:var(--h6)}
.h7{fill:var(--h7)}
.chunk{stroke:var(--bg);stroke-width:1}
.label{fill:var(--fg);font:12px system-ui,sans-serif}
.axis{fill:var(--dim);font:11px system-ui,sans-serif}
.frame{fill:none;stroke:var(--dim)}
.hole{fill:var(--bg)}
.stripe{stroke:var(--bad);stroke-width:2}
.clash{stroke:var(--warn);stroke-width:2}
.mark{stroke:var(--bad);stroke-width:2}
.mark.overlap{stroke:var(--warn)}
.mark.other{fill:none;stroke-dasharray:6 3}
ul{margin:4px 0;padding-left:20px}
footer{margin-top:36px;border-top:1px solid var(--line);padding-top:8px;color:var(--dim);
font-size:13px}
@media print{body{max-width:none;padding:0;font-size:11pt}
.wide{overflow:visible}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
h2,h3{break-after:avoid}}
"""


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
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
        stylesheet(_STYLE),
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
    num_more: int = 0,
) -> Html:
    """Rows under their heads; empty if there are none.

    Args:
        heads: The columns' heads.
        rows: Cells; text passes the gate.
        numbers: Heads of the columns whose cells are figures.
        names: Heads of the columns that hold names.
        bad: Rows in which something is wrong.
        num_more: Rows that are left out already.
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
    return join((made, left_out(left + max(num_more, 0))))


def left_out(number: int) -> Html:
    """How many more there are that the page has no room for; empty if none."""
    if number <= 0:
        return Html("")
    return tag("p", f"{number:,} more left out here, for length: --json has all.")
