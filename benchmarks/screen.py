"""The screen on checkpoints of a million chunks: how long a key waits, while it loads and after.

    python benchmarks/screen.py [--shape 100000x8 ...] [--rounds 5] [--size 160x50] [--dir DIR]

The real command runs in a pseudo-terminal, and what it writes is drawn here as a terminal would
(terminal.py). Measured are, each from outside:

first table paint  from the moment the checkpoint is parsed (the thread that reads it returns it,
                   which a wrapper around that one method notes) until the names of tensors
                   stand in the table.
a key, seen        from the key until the part of the screen it is for (the lines of the table for
                   moves, sort and filter; the whole screen for views, zoom and tree) shows what it
                   will show in the end: the last change of a cell there.
a key, settled     from the key until the last byte that it caused: what is under the cursor is
                   drawn after the table, and counts here. A repaint has ended when nothing came
                   for 250 ms.
keys while loading `?` is pressed again and again while the metadata is read; until the help is
                   there.
memory             the resident set of the process that draws (its children's not).

The first key is pressed as soon as names stand in the table, when a thread begins to check the
metadata (its figure is until the mark of the cursor has moved). The others follow when the verdict
of the checks is on the screen, each when the terminal has been quiet for 400 ms. Escape is sent as
the bare byte that most terminals send, so the wait for a longer sequence is in its figure.

Checkpoints are made with tests/helpers/make_metadata.py; the parsed cache is switched off.
Writes results/screen.json.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import math
import os
import platform
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from terminal import Picture

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHAPES = ("100000x8", "1000x1024")
QUIET_S = 0.25
LIMIT_MS = 100
LONGEST_S = 20.0

# Says when the checkpoint was parsed; otherwise the command as it is.
TRACED = """
import sys, time
from inspector.tui.session import Loading
load = Loading._load
def timed(self):
    outcome = load(self)
    with open(sys.argv[2], "w") as file:
        file.write(str(time.monotonic()))
    return outcome
Loading._load = timed
from inspector.tui.launch import run
run(sys.argv[1])
"""

VERDICT = re.compile(r" (sound|DAMAGED|SUSPICIOUS|EMPTY)")
HEADER = re.compile(r"   Tensor .*(Dtype|Shape)")
NAME = re.compile(r"model\.layers\.\d")

# What is pressed, in order: name, keys before that are not measured, the key.
AFTER = (
    ("cursor down, just opened", "", "j"),
    ("cursor down", "", "j"),
    ("page down", "", "\x04"),
    ("last row", "", "G"),
    ("first row", "", "g"),
    ("sort by the next column", "", "s"),
    ("sort by the column after", "", "s"),
    ("turn the order round", "", "S"),
    # Each of them leaves other rows: every name has a w, for one.
    ("filter: first letter", "/", "q"),
    ("filter: second letter", " ", "1"),
    ("filter: third letter", "", "1"),
    ("filter: fourth letter", "", "1"),
    ("filter: letter taken back", "", "\x7f"),
    ("filter: cleared", "", "\x1b"),
    ("module tree hidden", "", "b"),
    ("zoom into a tensor", "", "z"),
    ("zoom out", "", "z"),
    ("files", "", "2"),
    ("findings", "", "3"),
    ("tensors", "", "1"),
)
JUST_OPENED = "cursor down, just opened"
WHOLE_SCREEN = ("module tree", "zoom", "files", "findings", "tensors")


# First line, the line after the last, first column, the column after the last.
Place = Callable[[Picture], tuple[int, int, int, int]]


class Screen:
    """The command in a pseudo-terminal."""

    def __init__(self, folder: Path, columns: int, rows: int, trace: Path | None = None) -> None:
        self.picture = Picture(columns, rows)
        command = ["-m", "inspector", str(folder)]
        if trace is not None:
            command = ["-c", TRACED, str(folder), str(trace)]
        self.started = time.perf_counter()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(
                TERM="xterm-256color", COLORTERM="truecolor", HSDP_INSPECT_NO_CACHE="1"
            )
            os.environ["XDG_CONFIG_HOME"] = os.devnull
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, *command])
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def send(self, keys: str) -> float:
        """Type; the time at which that was."""
        at = time.perf_counter()
        os.write(self._terminal, keys.encode())
        return at

    def read(self, wait_s: float) -> bytes:
        """What the screen writes next, or nothing after `wait_s`."""
        if not select.select([self._terminal], [], [], wait_s)[0]:
            return b""
        return os.read(self._terminal, 1 << 16)

    def until(self, shows: Callable[[list[str]], object], limit_s: float = 180.0) -> float:
        """Wait until the lines of the screen are as wanted; the time at which they were."""
        end = time.perf_counter() + limit_s
        while not shows(self.picture.texts):
            left = end - time.perf_counter()
            if left <= 0:
                raise TimeoutError(
                    f"not in {limit_s} s; it shows\n" + "\n".join(self.picture.texts)
                )
            written = self.read(min(left, 1.0))
            at = time.perf_counter()
            self.picture.feed(written)
        return at

    def settle(self) -> None:
        """Wait until nothing has been written for a while."""
        while written := self.read(0.4):
            self.picture.feed(written)

    def waits_ms(self, key: str, place: Place) -> tuple[float, float]:
        """From a key until its effect stands, and until the last byte that it caused.

        Args:
            key: What is typed.
            place: Where on a screen its effect is.
        """
        at = self.send(key)
        pieces: list[tuple[float, bytes]] = []
        while written := self.read(QUIET_S if pieces else 2.0):
            pieces.append((time.perf_counter(), written))
        # Drawn only now: drawing takes time, too.
        before = copy.deepcopy(self.picture)
        for _, written in pieces:
            self.picture.feed(written)
        where = place(self.picture)
        seen = last = at
        shown = before.part(*where)
        for last, written in pieces:
            before.feed(written)
            now = before.part(*where)
            if now != shown:
                seen, shown = last, now
        if seen == at:
            raise RuntimeError(f"{key!r} changed nothing in the part of the screen it is for")
        return (seen - at) * 1e3, (last - at) * 1e3

    def resident_mb(self, which: str) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition(which)[2].split()[0]) / 1024


def everywhere(picture: Picture) -> tuple[int, int, int, int]:
    return 0, picture.rows, 0, picture.columns


def in_table(picture: Picture) -> tuple[int, int, int, int]:
    """First line of the table (its header), the line after its last, its columns."""
    top, left = next((y, m.start()) for y, x in enumerate(picture.texts) if (m := HEADER.search(x)))
    below = (y for y in range(top, picture.rows) if picture.text(y)[left] == "▔")
    return top, next(below, picture.rows - 1), left, picture.columns


def is_on_second_row(picture: Picture) -> bool:
    """Whether the mark of the cursor stands before the table's second row."""
    if not any(HEADER.search(line) for line in picture.texts):
        return False  # It is being drawn.
    top, _, left, _ = in_table(picture)
    return picture.text(top + 2)[left] == "▌"


def has_names(lines: list[str]) -> bool:
    return any(NAME.search(line) for line in lines)


def has_verdict(lines: list[str]) -> bool:
    return VERDICT.search(lines[0]) is not None


def loading(folder: Path, columns: int, rows: int) -> list[float]:
    """Milliseconds until the help is there, each time it is asked for while it loads."""
    screen = Screen(folder, columns, rows)
    waits: list[float] = []
    written = b""
    try:
        while b"\x1b[?1049h" not in written:
            written += screen.read(1.0)
        while time.perf_counter() - screen.started < 300:
            written = b""
            end = time.perf_counter() + 0.15
            while (left := end - time.perf_counter()) > 0:
                written += screen.read(left)
            if b"layers" in written:
                break
            at = screen.send("?")
            answer = b""
            # The table may come between the key and the help, which then lies behind it.
            while b"Everywhere" not in answer and b"layers" not in answer:
                if time.perf_counter() - at > LONGEST_S:
                    raise TimeoutError("the help did not come")
                answer += screen.read(0.5)
            if b"layers" in answer:
                break
            waits.append((time.perf_counter() - at) * 1e3)
            screen.send("?")
        return waits
    finally:
        screen.close()


def opened(folder: Path, columns: int, rows: int) -> tuple[float, float, float]:
    """Seconds from process start until the table shows a tensor, nobody pressing a key.

    Then the memory once the verdict is there, and the most there was until then, in MiB.
    """
    screen = Screen(folder, columns, rows)
    try:
        at = screen.until(has_names)
        screen.until(has_verdict)
        screen.settle()
        return at - screen.started, screen.resident_mb("VmRSS:"), screen.resident_mb("VmHWM:")
    finally:
        screen.close()


def first_paint_ms(folder: Path, columns: int, rows: int) -> float:
    """From the parsed checkpoint to names in the table; 0 if a preview showed them before."""
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "parsed"
        screen = Screen(folder, columns, rows, trace)
        try:
            at = screen.until(has_names) + (time.monotonic() - time.perf_counter())
            screen.settle()
            return max(0.0, (at - float(trace.read_text())) * 1e3)
        finally:
            screen.close()


def after(folder: Path, columns: int, rows: int) -> tuple[dict[str, tuple[float, float]], float]:
    """What each key waits once the checkpoint is open, and the memory after all of them."""
    screen = Screen(folder, columns, rows)
    try:
        screen.until(has_names)
        taken = {}
        for name, before, key in AFTER:
            if name != JUST_OPENED:
                screen.send(before)
                screen.settle()
            if name == JUST_OPENED:
                at = screen.send(key)
                moved = screen.until(lambda _: is_on_second_row(screen.picture))
                # What else comes now was not caused by the key.
                taken[name] = ((moved - at) * 1e3, math.nan)
                screen.until(has_verdict)
                continue
            place = everywhere if name.startswith(WHOLE_SCREEN) else in_table
            taken[name] = screen.waits_ms(key, place)
        return taken, screen.resident_mb("VmRSS:")
    finally:
        screen.close()


def measure(folder: Path, rounds: int, size: tuple[int, int]) -> dict[str, Any]:
    """Every figure of one checkpoint."""
    opens = [opened(folder, *size) for _ in range(rounds)]
    paints = [first_paint_ms(folder, *size) for _ in range(rounds)]
    waits = [wait for _ in range(rounds) for wait in loading(folder, *size)]
    rounds_of = [after(folder, *size) for _ in range(rounds)]
    seen = {name: [taken[name][0] for taken, _ in rounds_of] for name, _, _ in AFTER}
    settled = {name: [taken[name][1] for taken, _ in rounds_of] for name, _, _ in AFTER}
    del settled[JUST_OPENED]
    medians = _medians(seen)
    seconds = [taken for taken, _, _ in opens]
    return {
        "first_table_s": round(statistics.median(seconds), 2),
        "first_table_spread_s": [round(min(seconds), 2), round(max(seconds), 2)],
        "first_paint_ms": round(statistics.median(paints), 1),
        "first_paint_largest_ms": round(max(paints), 1),
        "keys_while_loading": {
            "pressed": len(waits),
            "median_ms": round(statistics.median(waits), 1) if waits else None,
            "largest_ms": round(max(waits), 1) if waits else None,
        },
        "keys_ms": medians,
        "keys_largest_ms": _largest(seen),
        "slowest_key_ms": max(medians.values()),
        "settled_ms": _medians(settled),
        "settled_largest_ms": _largest(settled),
        "resident_after_opening_mb": round(statistics.median(mb for _, mb, _ in opens), 1),
        "most_resident_while_opening_mb": round(max(mb for _, _, mb in opens), 1),
        "resident_after_every_view_mb": round(statistics.median(mb for _, mb in rounds_of), 1),
    }


def _medians(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 1) for name, values in of.items()}


def _largest(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(max(values), 1) for name, values in of.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="160x50")
    parser.add_argument("--dir", type=Path, help="where checkpoints are kept from run to run")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "screen.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "what": "the real screen in a pseudo-terminal; milliseconds from a key until what it is "
        "for shows its effect (keys_ms), and until the last byte it caused (settled_ms), medians",
        "size": options.size,
        "rounds": options.rounds,
        "limit_ms": LIMIT_MS,
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "shapes": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for shape in options.shape:
            folder = (options.dir or Path(scratch)) / shape
            if not (folder / ".metadata").exists():
                maker = [
                    sys.executable,
                    str(HERE.parent / "tests" / "helpers" / "make_metadata.py"),
                    shape,
                    str(folder),
                ]
                subprocess.run(maker, check=True)
            columns, _, rows = options.size.partition("x")
            found = measure(folder, options.rounds, (int(columns), int(rows)))
            result["shapes"][shape] = found
            print(shape, json.dumps(found, indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
