from __future__ import annotations

import time

import numpy as np
import pytest
from rich.text import Text
from textual.strip import Strip

from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.virtual_table import Column, TableSource, VirtualTable
from tests.tui.widgets.hosting import HOSTILE, Host, drawn, hosted

COLUMNS = [
    Column("name", "Name", min_width=12, flex=1, cut="middle"),
    Column("note", "Note", width=8, priority=1, sortable=False),
    Column("size", "Size", width=8, align="right", descending_first=True),
]


class Rows(TableSource):
    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.sizes = np.array([(7919 * i) % 1009 for i in range(len(names))])

    @property
    def num_rows(self) -> int:
        return len(self.names)

    def cell(self, row: int, column_key: str) -> Cell:
        if column_key == "name":
            return self.names[row]
        if column_key == "note":
            return ("odd", "warning") if row % 2 else Text("even", style="dim")
        return str(self.sizes[row])

    def sort_key(self, column_key: str) -> SortKeys | None:
        return {"name": self.names, "size": self.sizes}.get(column_key)

    def marker(self, row: int) -> str:
        return {1: "error", 2: "warning", 3: "note"}.get(row, "")

    def row_style(self, row: int) -> str:
        return "error" if row == 1 else ""


def table(n: int = 200, **kwargs: str) -> VirtualTable:
    return VirtualTable(COLUMNS, Rows([f"layers.{i}.weight" for i in range(n)]), **kwargs)


def rows_of(app: Host, kind: type) -> list[int]:
    return [m.row for m in app.posted if isinstance(m, kind)]


async def test_first_lines() -> None:
    widget = table()
    async with hosted(widget, (60, 10)):
        lines = drawn(widget)
        assert lines[0].split() == ["Name", "Note", "Size"]
        assert lines[1].startswith("▌  layers.0.weight")
        assert lines[2].startswith(" ✗ layers.1.weight")
        assert lines[3][1] == "!"
        assert lines[4][1] == "•"
        assert lines[2].split()[-2:] == ["odd", str(7919 % 1009)]


async def test_keys_move_the_cursor_and_report_once() -> None:
    widget = table()
    app = Host(widget)
    async with hosted(app, (60, 11)) as pilot:
        assert rows_of(app, VirtualTable.Highlighted) == [0]
        await pilot.press("j", "j", "down", "k")
        assert widget.cursor_row == 2
        await pilot.press("G")
        assert widget.cursor_row == 199
        assert "layers.199" in drawn(widget)[-1]
        await pilot.press("g")
        assert widget.cursor_row == 0
        await pilot.press("pagedown")
        assert widget.cursor_row == 10
        await pilot.press("ctrl+d", "ctrl+u", "pageup", "end", "home")
        assert widget.cursor_row == 0
        app.posted.clear()
        for line in range(1, 50):
            widget.move_cursor(line)
        await pilot.pause()
        assert rows_of(app, VirtualTable.Highlighted) == [49]
        await pilot.press("enter")
        assert rows_of(app, VirtualTable.Selected) == [49]


async def test_sorting_by_key_and_by_click() -> None:
    widget = table()
    app = Host(widget)
    async with hosted(app, (60, 11)) as pilot:
        await pilot.press("s")
        assert widget.sorted_by == ("name", False)
        assert "Name ▲" in drawn(widget)[0]
        await pilot.press("s")
        assert widget.sorted_by == ("size", True)
        assert "Size ▼" in drawn(widget)[0]
        assert int(drawn(widget)[1].split()[-1]) == max((7919 * i) % 1009 for i in range(200))
        await pilot.press("S")
        assert widget.sorted_by == ("size", False)
        await pilot.press("s")
        assert widget.sorted_by is None
        x = drawn(widget)[0].index("Size")
        await pilot.click(VirtualTable, offset=(x, 0))
        assert widget.sorted_by == ("size", True)
        await pilot.click(VirtualTable, offset=(x, 0))
        assert widget.sorted_by == ("size", False)
        await pilot.click(VirtualTable, offset=(drawn(widget)[0].index("Note"), 0))
        assert widget.sorted_by == ("size", False)


async def test_the_cursor_stays_on_its_row() -> None:
    widget = table()
    async with hosted(widget, (60, 11)) as pilot:
        widget.select_row(77)
        widget.sort("size")
        assert widget.cursor_row == 77
        widget.set_filter(np.arange(70, 90))
        assert widget.cursor_row == 77
        assert widget.num_lines == 20
        assert np.all(np.diff(widget.source.sizes[widget.rows]) >= 0)  # type: ignore[attr-defined]
        widget.set_filter(np.array([5, 3]))
        assert widget.cursor_row in (3, 5)
        widget.sort(None)
        assert widget.rows.tolist() == [5, 3]
        widget.set_filter(np.array([], dtype=np.int64))
        await pilot.pause()
        assert widget.cursor_row is None
        assert not widget.select_row(3)
        await pilot.press("j", "enter", "G", "s", "pagedown")
        widget.set_filter(None)
        assert widget.num_lines == 200


async def test_mouse() -> None:
    widget = table()
    app = Host(widget)
    async with hosted(app, (60, 11)) as pilot:
        await pilot.click(VirtualTable, offset=(5, 4))
        assert widget.cursor_row == 3
        await pilot.click(VirtualTable, offset=(5, 6), times=2)
        assert rows_of(app, VirtualTable.Selected) == [5]
        widget.move_cursor(50)
        await pilot.pause()
        await pilot.click(VirtualTable, offset=(5, 1))
        assert widget.cursor_row == 41


async def test_narrow_panes_hide_columns_then_scroll() -> None:
    widget = table()
    async with hosted(widget, (30, 10)) as pilot:
        assert drawn(widget)[0].split() == ["Name", "Size"]
        await pilot.resize_terminal(18, 10)
        await pilot.pause()
        # The horizontal scroll bar takes the last line.
        before = [widget.render_line(y).text for y in range(4)]
        await pilot.press("l")
        after = [widget.render_line(y).text for y in range(4)]
        assert before[1][:15] == after[1][:15]
        assert before[1] != after[1]
        await pilot.press("h")
        assert [widget.render_line(y).text for y in range(4)] == before


@pytest.mark.parametrize("width", [1, 2, 5, 13, 24, 40, 80, 200])
async def test_hostile_names(width: int) -> None:
    widget = VirtualTable(COLUMNS, Rows(HOSTILE))
    async with hosted(widget, (width, 14)):
        drawn(widget)
        if width >= 80:
            text = "\n".join(drawn(widget))
            assert "[bold]x[/bold]" in text
            assert "模型.层.注意力.权重" in text


async def test_styled_text_keeps_its_characters() -> None:
    class Styled(Rows):
        def cell(self, row: int, column_key: str) -> Cell:
            return Text.assemble("a", ("b\x1b[2J", "bold"), ("c", "error"), ("d", "no such style"))

    widget = VirtualTable(COLUMNS, Styled(["x"]))
    async with hosted(widget, (60, 5)):
        assert "ab\\x1b[2Jcd" in drawn(widget)[1]


async def test_nothing_to_show() -> None:
    widget = VirtualTable(COLUMNS, empty_text="No rows\x1b[2J match")
    async with hosted(widget, (60, 6)):
        assert any("No rows\\x1b[2J match" in line for line in drawn(widget))
        widget.set_empty_text("Other")
        assert any("Other" in line for line in drawn(widget))


async def test_another_source() -> None:
    widget = table()
    app = Host(widget)
    async with app.run_test(size=(60, 6)) as pilot:
        await pilot.press("G")
        widget.set_source(Rows(["only"]))
        await pilot.pause()
        assert "only" in drawn(widget)[1]
        assert rows_of(app, VirtualTable.Highlighted)[-1] == 0
        widget.set_columns(COLUMNS[:1])
        assert drawn(widget)[0].split() == ["Name"]


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "ansi-dark"])
async def test_the_cursor_is_seen_in_every_theme(theme: str) -> None:
    widget = table()
    app = Host(widget)
    async with app.run_test(size=(60, 6)) as pilot:
        app.theme = theme
        await pilot.pause()
        cursor, other = widget.render_line(1), widget.render_line(2)
        assert cursor.text[0] == "▌"
        assert next(s.style for s in cursor) != next(s.style for s in other)


async def test_without_colour_the_cursor_is_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    widget = table()
    async with hosted(widget, (60, 6)):
        assert all(s.style is not None and s.style.reverse for s in widget.render_line(1))


async def test_100_000_rows_cost_what_is_seen() -> None:
    widget = table(100_000)
    async with hosted(widget, (160, 50)):
        start = time.process_time()
        widget.move_cursor(90_000)
        drawn(widget)
        widget.sort("size")
        widget.set_filter(np.arange(0, 100_000, 3))
        drawn(widget)
        assert time.process_time() - start < 5


async def test_a_table_that_comes_back_unchanged_is_not_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    widget, num_drawn = table(), [0]
    draw = VirtualTable.draw_line

    def counted(self: VirtualTable, line: int, width: int, is_cursor: bool) -> Strip:
        num_drawn[0] += 1
        return draw(self, line, width, is_cursor)

    monkeypatch.setattr(VirtualTable, "draw_line", counted)
    async with hosted(widget, (60, 12)) as pilot:

        async def hide() -> None:
            widget.display = False
            await pilot.pause()
            num_drawn[0] = 0

        await hide()
        widget.display = True
        widget.focus()
        await pilot.pause()
        assert num_drawn[0] == 0
        # What changed meanwhile is.
        await hide()
        widget.set_source(Rows(["other"] * 3))
        widget.display = True
        await pilot.pause()
        assert num_drawn[0] and "other" in drawn(widget)[1]
        await hide()
        await pilot.resize_terminal(40, 12)
        widget.display = True
        await pilot.pause()
        assert num_drawn[0] and len(drawn(widget)[1]) == 40
