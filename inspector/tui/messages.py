"""What threads tell the screens: values, in messages; a thread touches no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from inspector.layout.written_by import WrittenBy
    from inspector.tui.session import Loaded

__all__ = ["ScreenComplete", "WriterFound"]


class ScreenComplete(Message):
    """The main screen has all of its parts; what it waited for may begin."""


class WriterFound(Message):
    """Who wrote `loaded` was worked out."""

    def __init__(self, loaded: Loaded, written_by: WrittenBy) -> None:
        super().__init__()
        self.loaded = loaded
        self.written_by = written_by
