"""Drive the real app in a test: open a path, press keys, read the screen as text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from inspector.tui.app import InspectApp
from inspector.tui.screens.main import MainScreen

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]")


def screen_text(app: App[Any]) -> str:
    """What the screen shows, line by line."""
    _, height = app.size
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in lines[:height])


def words(app: App[Any]) -> str:
    """What the screen says, whatever the line breaks and frames."""
    return " ".join(re.sub(r"[│╭╮╰╯─▕▏▁▔▎▊]", " ", screen_text(app)).split())


@asynccontextmanager
async def opened(
    path: Path | str, *keys: str, size: tuple[int, int] = (160, 50)
) -> AsyncIterator[tuple[InspectApp, Pilot[int]]]:
    """The app on `path`, loaded and settled, after `keys`."""
    app = InspectApp(str(path))
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(app, pilot)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await settle(app, pilot)
        yield app, pilot


async def until(pilot: Pilot[int], condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Wait until something shows."""
    for _ in range(int(timeout_s / 0.05)):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError(f"it never came to be: {screen_text(pilot.app)}")


async def quiet(pilot: Pilot[Any], at_least_s: float = 0.0) -> None:
    """Wait until nothing is under way: no work, no callback that is due soon, no message.

    Args:
        pilot: Of the app.
        at_least_s: How long in any case: what is not to happen must have had the time to.
    """
    await pilot.pause(at_least_s)
    num_still = 0
    for _ in range(3000):
        await pilot.pause(0.02)
        num_still = 0 if _under_way(pilot.app) else num_still + 1
        if num_still == 2:
            return
    raise AssertionError(f"still under way, {_under_way(pilot.app)}: {screen_text(pilot.app)}")


async def press(pilot: Pilot[Any], *keys: str, shows: str = "", at_least_s: float = 0.0) -> None:
    """Press keys, and wait until the screen shows some text; without one, until all is quiet."""
    await pilot.press(*keys)
    if shows:
        await until(pilot, lambda: shows in screen_text(pilot.app) or shows in words(pilot.app))
    else:
        await quiet(pilot, at_least_s)


def _under_way(app: App[Any]) -> list[str]:
    """What was begun and has not ended."""
    loop: Any = asyncio.get_running_loop()
    work = [f"work: {worker.name}" for worker in app.workers if not worker.is_finished]
    # What `background.after` made: of other timers, some go on for ever.
    soon = [
        handle
        for handle in loop._scheduled
        if not handle.cancelled()
        and getattr(handle._callback, "__name__", "") == "call_later"
        and handle.when() < loop.time() + 1.0
    ]
    return work + [f"due: {handle._args}" for handle in soon]


async def settle(app: InspectApp, pilot: Pilot[int]) -> None:
    """Wait until nothing is being loaded or worked out."""
    for _ in range(3000):
        await pilot.pause(0.02)
        screen = app.screen
        if type(screen).__name__ in ("Screen", "LoadingScreen"):
            continue
        if isinstance(screen, MainScreen) and screen.written_by is None:
            continue
        if not screen_text(app).strip():
            continue  # Textual paints a new screen a moment after it came.
        break
    else:
        raise AssertionError(f"still loading: {screen_text(app)}")
    await pilot.pause(0.05)
    await pilot.pause()
