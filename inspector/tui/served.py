"""`ServedDriver`: the screen in a browser; it ends with whoever serves it.

Textual's own driver for that stops listening when the server has gone, and the app runs on without
a reader, for ever. Here it leaves, as with `q`; and if it cannot, the process ends.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from textual import messages
from textual.app import App
from textual.drivers.web_driver import WebDriver

__all__ = ["ServedDriver"]

# Longer than the app waits for a verification that it ends.
_PATIENCE_S = 40.0


class ServedDriver(WebDriver):
    """Textual's driver for browsers; the end of its input is the end of the app."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self.leaving_app = app

    @property
    def is_drawn_on(self) -> bool:
        """Whether there is a screen; a browser's is, from the start."""
        return True

    def hand_back(self) -> None:
        """Nothing: a browser's terminal goes with its page."""

    def run_input_thread(self) -> None:
        """Wait for input and hand it on, until there is none."""
        super().run_input_thread()
        if self.exit_event.is_set():
            return
        watchdog = threading.Timer(_PATIENCE_S, os._exit, (2,))
        watchdog.daemon = True
        watchdog.start()
        self.leaving_app.post_message(messages.ExitApp())
