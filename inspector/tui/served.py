"""`ServedDriver`: the screen in a browser; it ends with whoever serves it.

Textual's own driver for that stops listening when the server has gone, and the app runs on without
a reader, for ever. Here it leaves, as with `q`; and if it cannot, the process ends.
"""

from __future__ import annotations

import os
import threading

from textual import messages
from textual.drivers.web_driver import WebDriver

__all__ = ["ServedDriver"]

# Longer than the app waits for a verification that it ends.
_PATIENCE_S = 40.0


class ServedDriver(WebDriver):
    """Textual's driver for browsers; the end of its input is the end of the app."""

    def run_input_thread(self) -> None:
        """Wait for input and hand it on, until there is none."""
        super().run_input_thread()
        if self.exit_event.is_set():
            return
        watchdog = threading.Timer(_PATIENCE_S, os._exit, (2,))
        watchdog.daemon = True
        watchdog.start()
        self._app.post_message(messages.ExitApp())
