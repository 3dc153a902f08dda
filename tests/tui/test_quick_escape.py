from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from textual import events
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from inspector.tui.app import InspectApp
from inspector.tui.quick_escape import QuickEscape


class Typed:
    """A driver that reads a pipe, and what it made of what came."""

    def __init__(self, driver: QuickEscape, type_in: Callable[[bytes], None]) -> None:
        self.type_in = type_in
        self.messages: list[Message] = []
        driver.process_message = self.messages.append  # type: ignore[method-assign]

    @property
    def keys(self) -> list[str]:
        return [message.key for message in self.messages if isinstance(message, events.Key)]

    def until(self, keys: list[str]) -> None:
        end = time.monotonic() + 300
        while self.keys != keys:
            assert time.monotonic() < end, self.keys
            time.sleep(0.005)


@contextmanager
def typing() -> Iterator[Typed]:
    there, here = os.pipe()
    driver = QuickEscape(App())
    driver.fileno = there
    typed = Typed(driver, lambda data: os.write(here, data) and None)
    thread = threading.Thread(target=driver.run_input_thread)
    thread.start()
    try:
        yield typed
    finally:
        driver.exit_event.set()
        thread.join(300)
        os.close(there)
        os.close(here)
        assert not thread.is_alive()


async def test_the_escape_key_alone_is_told_from_a_sequence_that_begins_with_it() -> None:
    with typing() as typed:
        typed.type_in(b"\x1b")
        typed.until(["escape"])
        typed.type_in(b"\x1b[A")
        typed.until(["escape", "up"])
        typed.type_in(b"j\x1b")
        typed.until(["escape", "up", "j", "escape"])


async def test_two_escapes_are_two() -> None:
    with typing() as typed:
        typed.type_in(b"\x1b")
        typed.until(["escape"])
        typed.type_in(b"\x1b")
        typed.until(["escape", "escape"])


async def test_a_letter_whose_bytes_come_apart_is_one() -> None:
    with typing() as typed:
        first, second = "ä".encode()[:1], "ä".encode()[1:]
        typed.type_in(first)
        time.sleep(0.05)
        typed.type_in(second + b"x")
        end = time.monotonic() + 300
        while len(typed.messages) < 2:
            assert time.monotonic() < end
            time.sleep(0.005)
        characters = [m.character for m in typed.messages if isinstance(m, events.Key)]
        assert characters == ["ä", "x"]


async def test_a_paste_is_one_event() -> None:
    with typing() as typed:
        typed.type_in(b"\x1b[200~wq 11\x1b[201~")
        typed.type_in(b"k")
        typed.until(["k"])
        pasted = [m.text for m in typed.messages if isinstance(m, events.Paste)]
        assert pasted == ["wq 11"]


async def test_the_app_uses_it_in_place_of_the_driver_it_stands_for() -> None:
    app = InspectApp("nowhere")
    assert App().get_driver_class() is LinuxDriver
    assert app.get_driver_class() is QuickEscape
