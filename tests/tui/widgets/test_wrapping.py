from __future__ import annotations

import re

import pytest
from rich import _wrap
from rich.console import Console
from rich.table import Table
from rich.text import Text
from textual.content import Content
from textual.widgets import Static

from inspector.tui.kit.cell_text import keep_units
from tests.tui.widgets.hosting import Host

SAID = (
    "rank 0 reads 14.6 KiB in 1.5 s, 30 % of 100 GiB at 12 MB/s, and holds 3 B or 512 TiB; "
    "8 tensors, 5 min left; at most 1,234 PiB a rank"
)
TORN = re.compile(r"[0-9] *\n *(?:[KMGTPE]?i?B\b|s\b|min\b|%)")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_wrap, "re_word", re.compile(r"\s*\S+\s*"))


def lines_of_rich(width: int) -> list[str]:
    return [line.plain.rstrip() for line in Text(SAID).wrap(Console(), width)]


@pytest.mark.parametrize("width", range(12, 130))
def test_no_line_ends_between_a_number_and_its_unit(width: int) -> None:
    keep_units()
    for lines in (lines_of_rich(width), [c.plain for c in Content(SAID).wrap(width)]):
        assert not TORN.search("\n".join(lines))
        assert max(map(len, lines)) <= width
        assert " ".join(" ".join(lines).split()) == SAID


def test_lines_ended_there_before() -> None:
    assert any(TORN.search("\n".join(lines_of_rich(width))) for width in range(12, 130))


async def test_it_holds_for_what_widgets_show() -> None:
    table = Table.grid()
    table.add_row(Text("reads"), Text(SAID))
    for content in (SAID, Text(SAID), table):
        widget = Static(content)
        async with Host(widget).run_test(size=(31, 24)) as pilot:
            keep_units()
            widget.refresh(layout=True)
            await pilot.pause()
            lines = [widget.render_line(y).text.rstrip() for y in range(24)]
            assert not TORN.search("\n".join(lines))
