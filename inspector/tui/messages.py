"""What screens tell the app."""

from __future__ import annotations

from textual.message import Message

__all__ = ["ScreenComplete"]


class ScreenComplete(Message):
    """The main screen has all of its parts; what it waited for may begin."""
