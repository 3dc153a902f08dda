"""`Background`: only what was asked for last is answered, by one thread at a time.

And `Collector`: no full look for garbage while keys come.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import textual.timer
from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget

import inspector.tui
from inspector.crash import kept_tracebacks
from inspector.errors import Cancelled, InspectError, StorageError
from inspector.tui.app import InspectApp
from inspector.tui.background import Background, Collector, Stop
from inspector.tui.screens.main import MainScreen
from tests.conftest import SAMPLES
from tests.tui.app_driver import until


class Asker(Widget):
    """A widget that asks, and notes what is answered, and in which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[Any, Any]] = []
        self.threads: set[int] = set()
        self.background: Background[Any] = Background(self, self._take)

    def _take(self, key: Any, value: Any) -> None:
        self.got.append((key, value))
        self.threads.add(threading.get_ident())


class Held:
    """Work that goes on until it is told to stop, or let go."""

    def __init__(self, answer: Any = None) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()
        self.was_stopped = False
        self.answer = answer

    def __call__(self, stop: Stop) -> Any:
        self.began.set()
        while not self.let_go.wait(0.005):
            if stop():
                self.was_stopped = True
                return "part"
        return self.answer


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Asker, Pilot[Any]]]:
    app: App[None] = App()
    async with app.run_test() as pilot:
        asker = Asker()
        await app.mount(asker)
        yield asker, pilot


async def test_an_answer_comes_with_its_key_on_the_event_loop() -> None:
    async with asking() as (asker, pilot):
        asker.background.ask("a", lambda stop: threading.get_ident())
        assert asker.background.is_busy
        await until(pilot, lambda: len(asker.got) == 1)
        assert not asker.background.is_busy
        assert asker.got[0][0] == "a" and asker.got[0][1] != threading.get_ident()
        assert asker.threads == {threading.get_ident()}


async def test_what_is_asked_anew_takes_the_place_of_what_runs_and_what_waits() -> None:
    async with asking() as (asker, pilot):
        first, seen = Held(), []
        asker.background.ask(1, first)
        await until(pilot, first.began.is_set)
        threads = threading.active_count()
        for key in range(2, 50):
            asker.background.ask(key, lambda stop, key=key: seen.append(key) or key)  # type: ignore[misc]
            assert threading.active_count() <= threads
        await until(pilot, lambda: len(asker.got) == 1)
        assert asker.got == [(49, 49)] and seen == [49] and first.was_stopped


async def test_what_is_stopped_still_answers_and_what_is_dropped_does_not() -> None:
    async with asking() as (asker, pilot):
        work = Held()
        asker.background.ask("stopped", work)
        await until(pilot, work.began.is_set)
        asker.background.stop()
        assert asker.background.is_busy and asker.background.is_stopping
        await until(pilot, lambda: asker.got == [("stopped", "part")])
        work = Held()
        asker.background.ask("dropped", work)
        await until(pilot, work.began.is_set)
        asker.background.drop()
        assert not asker.background.is_stopping and not asker.background.is_busy
        asker.background.ask("after", lambda stop: 3)
        await until(pilot, lambda: asker.got[1:] == [("after", 3)])
        assert work.was_stopped


async def test_an_answer_may_lead_to_the_next_question() -> None:
    async with asking() as (asker, pilot):
        take = asker.background._answered

        def again(key: Any, value: Any) -> None:
            take(key, value)
            if key < 3:
                asker.background.ask(key + 1, lambda stop: key)

        asker.background._answered = again
        asker.background.ask(0, lambda stop: None)
        await until(pilot, lambda: len(asker.got) == 4)
        assert asker.got == [(0, None), (1, 0), (2, 1), (3, 2)]


async def test_after_an_exception_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    async with asking() as (asker, pilot):

        def fails(error: Exception) -> Callable[[Stop], Any]:
            def work(stop: Stop) -> Any:
                raise error

            return work

        for key, error in enumerate(
            (StorageError("gone"), ValueError("\x1b[2Jboom"), Cancelled("stopped"))
        ):
            asker.background.ask(key, fails(error))
            await until(pilot, lambda key=key: len(asker.got) == key + 1)  # type: ignore[misc]
        asker.background.ask("more", lambda stop: "answered")
        await until(pilot, lambda: len(asker.got) == 4)
        gone, bug, stopped, more = (value for _, value in asker.got)
        assert str(gone) == "gone" and isinstance(stopped, Cancelled) and more == "answered"
        assert isinstance(bug, InspectError)
        assert "ValueError: \\x1b[2Jboom" in bug.message
        # The traceback is in the file that the words name, and kept for --debug.
        kept = tmp_path / "state" / "hsdp-inspect" / "last-error.txt"
        assert str(kept) in bug.hint and "in work" in kept.read_text()
        assert "in work" in kept_tracebacks()[-1]


async def test_work_ends_with_the_widget_that_asked() -> None:
    async with asking() as (asker, pilot):
        work = Held()
        asker.background.ask("gone", work)
        await until(pilot, work.began.is_set)
        await asker.remove()
        await until(pilot, lambda: work.was_stopped)
        assert asker.got == []


async def test_a_screen_completes_however_busy_the_machine_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Textual drops the one call of a timer when its first two looks at the clock are too far
    apart; with a lost turn the other views never came, nor a verdict."""
    looks = count()
    monkeypatch.setattr(
        textual.timer._time, "get_time", lambda: time.monotonic() + next(looks) / 200
    )
    app = InspectApp(str(SAMPLES / "hsdp_2x4"))
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        screen = app.screen
        assert isinstance(screen, MainScreen)
        await until(pilot, lambda: screen.standing.report is not None)
        await pilot.press("slash", *"net1")
        await until(pilot, lambda: screen.view.count_text == "2 of 6")


def test_nobody_waits_by_a_timer_that_may_be_dropped() -> None:
    for file in Path(inspector.tui.__file__).parent.rglob("*.py"):
        code = "\n".join(line.split("#")[0] for line in file.read_text().splitlines())
        assert ".set_timer(" not in code, file


@pytest.fixture
def full_looks() -> Iterator[list[dict[str, int]]]:
    """The collector's full collections, each noted as it ends; its thresholds come back."""
    looks: list[dict[str, int]] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            looks.append(info)

    thresholds = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(note)
    yield looks
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)


async def test_no_full_look_for_garbage_while_keys_come_and_one_after(
    full_looks: list[dict[str, int]],
) -> None:
    collector, made = Collector(), []
    collector.begin()
    for _ in range(20):
        collector.put_off()
        for _ in range(2):  # What lives on makes a full look due: Python's own came here.
            gc.collect(1)
            made.append([[] for _ in range(3_000)])
        await asyncio.sleep(0)
    assert not full_looks
    deadline = time.monotonic() + 60
    while not full_looks and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert len(full_looks) == 1


async def test_a_key_puts_the_look_for_garbage_off(monkeypatch: pytest.MonkeyPatch) -> None:
    put_off: list[bool] = []
    monkeypatch.setattr(Collector, "put_off", lambda self: put_off.append(True))
    app = InspectApp(str(SAMPLES / "hsdp_2x4"))
    async with app.run_test() as pilot:
        await pilot.press("j")
    assert put_off
