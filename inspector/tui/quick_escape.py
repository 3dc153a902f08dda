"""`QuickEscape`: the terminal's input, with the escape key told apart after the time it is given.

Most terminals send the escape key as the byte with which longer sequences begin, so whoever reads
it waits for more. Textual looks whether that wait is over ten times a second, however short it was
set; this driver looks while there is something to wait for.
"""

from __future__ import annotations

import codecs
import os
import selectors
import time

from textual import constants
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

__all__ = ["QuickEscape"]

_IDLE_S = 0.1
_LOOK_S = 0.005


class QuickEscape(LinuxDriver):
    """Textual's driver but for the loop that waits for input."""

    def run_input_thread(self) -> None:
        """Hand on what is typed until the driver is stopped."""
        parser = XTermParser()
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        waits_until_s = 0.0
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                is_waiting = time.monotonic() < waits_until_s
                if selector.select(_LOOK_S if is_waiting else _IDLE_S):
                    typed = os.read(self.fileno, 4096)
                    if not typed:  # The terminal has gone; the signal that says so is on its way.
                        self.exit_event.wait(_IDLE_S)
                        continue
                    if b"\x1b" in typed:
                        waits_until_s = time.monotonic() + 2 * constants.ESCAPE_DELAY
                    # Half a character is no text yet, and no text would mean the end to the parser.
                    if text := decode(typed):
                        for event in parser.feed(text):
                            self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)
