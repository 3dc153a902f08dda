from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.segment import Segment
from textual.color import Color
from textual.widget import Widget

from inspector.tui.tensors.chunk_map import ChunkBoxes, ChunkMap, Mark
from tests.tui.widgets.hosting import Host, drawn, hosted


def boxes(
    shape: tuple[int, ...], parts: list[tuple[Any, Any]], ranks: list[int] | None = None, **kw: Any
) -> ChunkBoxes:
    n = len(parts)
    return ChunkBoxes(
        shape,
        np.array([o for o, _ in parts], np.int64).reshape(n, len(shape)),
        np.array([s for _, s in parts], np.int64).reshape(n, len(shape)),
        np.array(range(n) if ranks is None else ranks, np.int64),
        **kw,
    )


def stripes(n: int, rows: int, cols: int) -> ChunkBoxes:
    per = rows // n
    return boxes((rows, cols), [((i * per, 0), (per, cols)) for i in range(n)])


CASES = {
    "scalar": boxes((), [((), ())], [3]),
    "stripes": stripes(4, 4096, 4096),
    "one": boxes((16, 16), [((0, 0), (16, 16))], [-1]),
    "empty": boxes((0, 5), [((0, 0), (0, 5))]),
    "no chunks": boxes((4, 4), []),
    "band": boxes((100,), [((i * 10,), (10,)) for i in range(10)]),
    "many": boxes((4096,), [((i,), (1,)) for i in range(4096)]),
    "half": boxes((60, 60), [((i, j), (1, 30)) for i in range(60) for j in (0, 30)]),
    "overlap": boxes((10, 4), [((0, 0), (6, 4)), ((4, 0), (4, 4))]),
    "cube": boxes(
        (4, 4, 4), [((i, j, k), (2, 2, 2)) for i in (0, 2) for j in (0, 2) for k in (0, 2)]
    ),
    "marked": boxes(
        (8, 8), [((0, 0), (8, 8))], marks=(Mark((2, 2), (2, 2)), Mark((6, 0), (1, 8), "overlap"))
    ),
    "ranks too few": boxes((4,), [((0,), (2,)), ((2,), (2,))], [0, 1]),
}


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (20, 5), (7, 3), (1, 1)])
@pytest.mark.parametrize("colour", [True, False])
async def test_every_case_draws_in_every_pane(size: tuple[int, int], colour: bool) -> None:
    widget = ChunkMap(colour=colour)
    async with Host(widget).run_test(size=size) as pilot:
        for value in CASES.values():
            for highlight in (None, 0):
                widget.show(value, highlight)
                await pilot.pause()
                assert len(drawn(widget)) == size[1]


async def lines_of(value: ChunkBoxes, **kwargs: Any) -> list[str]:
    widget = ChunkMap(value, **kwargs)
    async with hosted(widget, (60, 16)):
        return [line.rstrip() for line in drawn(widget)]


async def test_ranks_rulers_and_summary() -> None:
    lines = await lines_of(CASES["stripes"])
    text = "\n".join(lines)
    assert all(f"r{i}" in text for i in range(4))
    assert [lines[i].split()[0] for i in (1, 4)] == ["0", "1024"]
    assert any(line.strip() == "4096" for line in lines[1:])
    assert "4 chunks  by ranks 0 to 3  dim 0 ↓ 4,096  dim 1 → 4,096" in text


async def test_without_colour_chunks_are_boxes() -> None:
    text = "\n".join(await lines_of(CASES["stripes"], colour=False))
    assert "┌" in text
    assert "├" in text
    assert "r3" in text


async def test_neighbours_differ_in_shade_where_lines_have_no_room() -> None:
    lines = await lines_of(stripes(11, 110, 8), colour=False)
    shades = [
        next(c for c in line if c in "░▒▓") for line in lines if any(c in "░▒▓" for c in line)
    ]
    assert len(shades) == 11
    assert all(shades[i] != shades[i + 1] for i in range(10))


async def test_what_cannot_be_drawn_is_said() -> None:
    assert " a cell)" in "\n".join(await lines_of(CASES["many"]))
    cut = boxes((5,), [((i if i < 5 else 5,), (1 if i < 5 else 0,)) for i in range(7)])
    assert "2 empty chunks: at 5 (rank 5), at 5 (rank 6)" in "\n".join(await lines_of(cut))
    assert "cut but not drawn: dim 2" in "\n".join(await lines_of(CASES["cube"]))
    assert "without elements" in "\n".join(await lines_of(CASES["empty"]))


async def test_holes_and_overlaps_have_patterns() -> None:
    for colour in (True, False):
        text = "\n".join(await lines_of(CASES["overlap"], colour=colour))
        assert "╳" in text
        assert "!!" in text
        text = "\n".join(await lines_of(CASES["marked"], colour=colour))
        assert "╳" in text
        assert "!!" in text


async def test_keys_and_clicks_pick_a_chunk() -> None:
    widget = ChunkMap(CASES["stripes"])
    app = Host(widget)
    async with hosted(app, (60, 16)) as pilot:
        await pilot.press("l", "l", "right", "h")
        assert widget.highlight == 1
        assert [m.index for m in app.posted] == [0, 1, 2, 1]
        assert any(
            "chunk 1 of 4 chunks  [1024:2048, 0:4096]  written by rank 1" in t
            for t in drawn(widget)
        )
        y = next(i for i, t in enumerate(drawn(widget)) if "r3" in t)
        await pilot.click(ChunkMap, offset=(12, y))
        assert widget.highlight == 3


async def test_hues_of_neighbouring_ranks_differ() -> None:
    widget = ChunkMap(boxes((320,), [((i * 10,), (10,)) for i in range(32)]))
    async with hosted(widget, (200, 12)):
        styles = {
            segment.text: segment.style
            for y in range(widget.size.height)
            for segment in widget.render_line(y)
            if segment.style is not None and segment.style.bgcolor is not None
        }
        fills = [styles[f"r{rank}"].bgcolor for rank in range(32)]
        assert len(set(fills[:16])) == 16 and fills[:16] == fills[16:]
        for fill in fills:
            assert fill is not None
            color = Color.from_rich_color(fill)
            assert color.get_contrast_text(1).brightness < 0.5  # dark text is right


async def test_no_colour_of_the_app_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "┌" in "\n".join(await lines_of(CASES["stripes"]))


async def test_what_was_drawn_before_is_drawn_again_only_where_it_is_the_same() -> None:
    plain = stripes(4, 4096, 4096)
    by_place = replace(plain, places=np.array([0, 1, 0, 1]), axis="tp: columns", letter="t")
    other = replace(by_place, places=np.array([1, 1, 0, 0]))
    turned = replace(plain, ranks=plain.ranks[::-1])
    marked = replace(plain, marks=(Mark((0, 0), (1024, 4096)),))
    values = [
        *CASES.values(),
        plain,
        by_place,
        other,
        turned,
        replace(by_place, axis="dp: rows"),
        marked,
    ]
    shown = [(value, highlight) for value in values for highlight in (None, 0)]
    used, app = ChunkMap(), Host(ChunkMap())
    async with app.run_test(size=(80, 24)) as pilot:
        await app.mount(used)
        app.screen.set_focus(None)
        await pilot.pause()
        assert used.size == app.widget.size
        fresh = []
        for value, highlight in shown:
            for widget in (app.widget, used):
                widget.show(value, highlight)  # type: ignore[attr-defined]
            app.widget.notify_style_update()  # Forgets what it drew.
            fresh.append(strips(app.widget))
            assert strips(used) == fresh[-1]
        for (value, highlight), expected in zip(shown, fresh, strict=True):
            used.show(value, highlight)
            assert strips(used) == expected
        dark = strips(used)
        app.theme = "textual-light"
        await pilot.pause()
        assert strips(used) != dark


async def test_steps_through_very_many_chunks_keep_no_drawing_of_each() -> None:
    widget = ChunkMap(stripes(20_000, 20_000, 4), highlight=0)
    async with hosted(widget, (60, 16)):
        strips(widget)
        tracemalloc.start()
        try:
            for index in range(1, 9):
                widget.set_highlight(index)
                strips(widget)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 8 << 20, "one drawing's numbers take 2 MiB"


def strips(widget: Widget) -> list[list[Segment]]:
    return [list(widget.render_line(y)) for y in range(widget.size.height)]
