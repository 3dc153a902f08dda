"""A tiny app around one widget, hostile names, and how to read what a widget drew."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from textual.app import App, ComposeResult
from textual.message import Message
from textual.pilot import Pilot
from textual.widget import Widget

HOSTILE = [
    "model.\x1b]52;c;SGVsbG8=\x07w[bold]x[/bold]",
    "experts[w1] [@click=app.quit]go[/] \x1b[2Jend",
    "a\x9b31mb\x00c\nd\te\r",
    "rtl\u202egnp.exe\u2066x\u2069",
    "模型.层.注意力.权重",
    "zalgo" + "\u0301" * 500,
    "lone\ud800surrogate",
    "x" * 100_000,
    "",
    "👩\u200d👩\u200d👧.weight",
]


class Host(App[None]):
    """Mounts one widget and keeps what it posts."""

    def __init__(self, widget: Widget, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.widget = widget
        self.posted: list[Message] = []

    def compose(self) -> ComposeResult:
        yield self.widget

    def on_mount(self) -> None:
        self.widget.focus()

    def on_virtual_table_highlighted(self, event: Message) -> None:
        self.posted.append(event)

    on_virtual_table_selected = on_virtual_table_highlighted
    on_tensor_tree_node_highlighted = on_virtual_table_highlighted
    on_tensor_tree_tensor_selected = on_virtual_table_highlighted
    on_chunk_map_chunk_selected = on_virtual_table_highlighted


@asynccontextmanager
async def hosted(shown: Widget | App[None], size: tuple[int, int]) -> AsyncIterator[Pilot[None]]:
    """A widget in an app of its own, or such an app, once it has drawn itself."""
    app = Host(shown) if isinstance(shown, Widget) else shown
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield pilot


def drawn(widget: Widget) -> list[str]:
    """The text of every line; checked to be as wide as the widget and free of controls."""
    lines = []
    for y in range(widget.size.height):
        strip = widget.render_line(y)
        for segment in strip:
            assert segment.control is None
            assert segment.style is not None  # the filter of NO_COLOR needs one
            assert segment.style.link is None
            assert not segment.style.meta
        text = strip.text
        bad = [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
        assert not bad, bad
        assert strip.cell_length == widget.scrollable_content_region.width, (y, text)
        lines.append(text)
    return lines
