"""`KeyOrder`: keys that come in one burst are handled one after the other.

Textual gives a key to what has the focus when it comes, and looks what it is bound to when it has
gone up through all that lies around: by then the characters after it stand in the line that `^u`
was to empty, or that `enter` was to close. Fast typing, a slow line and a terminal that replays
what was typed bring such bursts. So a key that may move the focus or change a line is followed by
a message, which goes through the same queues; the keys after it wait until that arrives.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from textual import events
from textual.message import Message

if TYPE_CHECKING:
    from textual.app import App
    from textual.widget import Widget

__all__ = ["KeyDone", "KeyOrder"]

#: Keys that are held down in a list; they leave the focus where it is.
_MOVES = frozenset(
    ["j", "k", "h", "l", "H", "L", "down", "up", "left", "right", "pagedown", "pageup"]
    + ["ctrl+d", "ctrl+u", "ctrl+f", "ctrl+b"]
)
#: What is gone through first, for what the key's binding does; then for what was told of that.
_NUM_LEGS = 3
#: Of what is taken down meanwhile, no message arrives any more.
_PATIENCE_S = 0.5


class KeyDone(Message):
    """Has gone the way of a key, behind it."""

    def __init__(self, number: int, legs_left: int, target: Widget) -> None:
        super().__init__()
        self.set_sender(target)  # The app's own messages do not come back to it.
        self.number, self.legs_left, self.target = number, legs_left, target


class KeyOrder:
    """The keys of an app that wait, and the one that they wait for.

    Args:
        app: Calls `holds` with each key or paste that comes, `follow` with what it has handed
            out, and `arrived` with each `KeyDone`.
    """

    def __init__(self, app: App[int]) -> None:
        self._app = app
        self._waiting: deque[events.Key | events.Paste] = deque()
        self._number = 0
        self._is_held = False

    def holds(self, event: events.Key | events.Paste) -> bool:
        """Whether it is to wait; it comes again."""
        if self._is_held:
            self._waiting.append(event)
        return self._is_held

    def target(self, event: events.Key | events.Paste) -> Widget | None:
        """Where a key goes first, if those after it are to wait for it."""
        if isinstance(event, events.Paste):
            return None
        focused = self._app.focused
        if focused is None:
            return self._app.screen
        if focused.check_consume_key(event.key, event.character):
            return None  # A character goes no further than the line that is typed.
        is_text = focused.check_consume_key("a", "a")
        return None if event.key in _MOVES and not is_text else focused

    def follow(self, target: Widget) -> None:
        """Hold back what comes, until a key that was handed to `target` has done its work."""
        self._number += 1
        self._is_held = True
        number = self._number
        self._send(KeyDone(number, _NUM_LEGS, target))
        loop = asyncio.get_running_loop()
        loop.call_later(_PATIENCE_S, self._give_up, number)

    async def arrived(self, done: KeyDone) -> None:
        """Let the next key go, or follow what this one has brought about."""
        if done.number != self._number or not self._is_held:
            return
        legs_left = done.legs_left - 1
        if legs_left > 0 and self._app.screen_stack:
            # Where the key was, as what it was bound to is told there; then where the focus is.
            target = done.target if legs_left > 1 else self._app.focused or self._app.screen
            self._send(KeyDone(done.number, legs_left, target))
            return
        self._is_held = False
        # Not by way of the app's queue: there, keys may stand that came after these.
        while self._waiting and not self._is_held:
            await self._app.on_event(self._waiting.popleft())

    def _send(self, done: KeyDone) -> None:
        if not (done.target.is_running and done.target.post_message(done)):
            self._app.call_next(self.arrived, done)

    def _give_up(self, number: int) -> None:
        if number == self._number and self._is_held and self._app.screen_stack:
            self._app.call_next(self.arrived, KeyDone(number, 0, self._app.screen))
