"""The screen on an address, driven to its end: it opens, checks every byte, and is left.

Run as `python -m tests.remote.screen_on URL`: exit code 0 if it says that every byte was read and
is sound, 1 if it says that something is damaged, 2 if it could not read all, or not open it.
"""

from __future__ import annotations

import asyncio
import sys

from inspector.tui.app import InspectApp
from inspector.tui.screens.error import ErrorScreen
from tests.tui.app_driver import settle, until, words


async def drive(url: str) -> int:
    """Open an address, have its bytes checked, and quit."""
    app = InspectApp(url)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await settle(app, pilot)
        if isinstance(app.screen, ErrorScreen):
            code = 2
        else:
            await pilot.press("c")
            await until(pilot, lambda: any(end in words(app) for end in _ENDS))
            code = next(code for end, code in _ENDS.items() if end in words(app))
        sys.stdout.write(f"{words(app)}\n")
        await pilot.press("q")
    return code


#: What the badge says at the end of a check.
_ENDS = {"DAMAGED:": 1, "NOT READ:": 2, "not every byte read": 2, "NOT THERE": 2, "CHANGED": 2}
_ENDS["sound, every byte read"] = 0

if __name__ == "__main__":
    sys.exit(asyncio.run(drive(sys.argv[1])))
