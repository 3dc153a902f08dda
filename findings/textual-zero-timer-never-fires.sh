#!/usr/bin/env bash
# Guess:    set_timer(0, f) calls f at the next turn of the event loop, as loop.call_later(0, f) and setTimeout(f, 0) do.
# Happens:  f is never called and nothing on the screen says so: the timer's own task ends with ZeroDivisionError, which
#           asyncio logs when it collects the task. A timer skips the calls that it is late for; that rule is applied to
#           the only call of a one-shot timer too, and the number of skipped calls is a division by the delay. For the same reason a short delay (1 ms) is dropped for good where
#           the machine is so busy that two successive looks at the clock lie further apart than the delay.
# Versions: textual 8.2.8
# Source:   textual/timer.py (Timer._run), textual/message_pump.py (set_timer)
# Met by:   who puts work off by a turn, or debounces by a setting that may be 0; seen as a screen that never completed in
#           one of some thousand starts under load.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" textual==8.2.8
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import asyncio
import sys
from importlib.metadata import version

from textual.app import App


class Two(App):
    def on_mount(self):
        self.called = []
        self.set_timer(0, lambda: self.called.append("0 s"))
        self.set_timer(0.01, lambda: self.called.append("0.01 s"))


async def main():
    app = Two()
    async with app.run_test() as pilot:
        while not app.called:
            await pilot.pause(0.2)
        await pilot.pause(0.5)
        # Kept, the timers are waited for when the app is left, which would raise; collected, they are not.
        return list(app.called)


called = asyncio.run(main())
print("textual", version("textual"))
print("guess: both are called, the one after 0 s first")
print(f"seen:  called: {called}")
as_stated = called == ["0.01 s"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
