"""`QuickEscape`: the terminal's input, with the escape key told apart after the time it is given.

Most terminals send the escape key as the byte with which longer sequences begin, so whoever reads
it waits for more. Textual looks whether that wait is over ten times a second, however short it was
set; this driver looks while there is something to wait for.

It also hands the terminal back by hand, for an end in which nothing else can be relied upon.
"""

from __future__ import annotations

import codecs
import os
import selectors
import termios
import time

from textual import constants
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

__all__ = ["QuickEscape"]

_IDLE_S = 0.1
_LOOK_S = 0.005
_GONE_S = 2.0
#: 128 + SIGHUP's number.
_HUNG_UP = 129
#: What Textual writes when it leaves: lines wrap, no pastes in brackets, no mouse, no reports of
#: the focus or the size, the keys as they are, the screen of before, the cursor.
_HAND_BACK = (
    b"\x1b[?2004l\x1b[?7h\x1b[?2048l\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1004l"
    b"\x1b[<u\x1b[?1049l\x1b[?25h"
)


class QuickEscape(LinuxDriver):
    """Textual's driver but for the loop that waits for input."""

    #: Whether the terminal is the screen's now, and not the shell's.
    is_drawn_on = False

    def start_application_mode(self) -> None:
        super().start_application_mode()  # type: ignore[no-untyped-call]
        self.is_drawn_on = True

    def stop_application_mode(self) -> None:
        super().stop_application_mode()
        self.is_drawn_on = False

    def write(self, data: str) -> None:
        """Write, unless the terminal has gone: who writes then would wait for ever."""
        if self._writer_thread is None or self._writer_thread.is_alive():
            super().write(data)

    def close(self) -> None:
        """End the thread that writes, if it did not end with the terminal."""
        if self._writer_thread is None or self._writer_thread.is_alive():
            super().close()

    def hand_back(self) -> None:
        """Restore the terminal at once, by hand; from any thread."""
        if self._file is None:
            return
        try:
            out = self._file.fileno()
            os.set_blocking(out, False)
            os.write(out, _HAND_BACK)
            if self.attrs_before is not None:
                termios.tcsetattr(self.fileno, termios.TCSANOW, self.attrs_before)
            os.set_blocking(out, True)
        except (OSError, ValueError, termios.error):
            pass  # It is not there any more.

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
                    try:
                        typed = os.read(self.fileno, 4096)
                    except OSError:
                        typed = b""
                    if not typed:
                        # The terminal has gone; the signal that says so is on its way, unless it
                        # is ignored (`nohup`): then nothing else would ever end this.
                        if not self.exit_event.wait(_GONE_S):
                            self._app.call_later(self._app.exit, _HUNG_UP)
                        return
                    if b"\x1b" in typed:
                        waits_until_s = time.monotonic() + 2 * constants.ESCAPE_DELAY
                    # Half a character is no text yet, and no text would mean the end to the parser.
                    if text := decode(typed):
                        for event in parser.feed(text):
                            self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)
