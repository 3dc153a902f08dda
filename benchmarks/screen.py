"""The screen on checkpoints of a million chunks: how long a key waits, while it loads and after.

    python benchmarks/screen.py [--shape 100000x8 ...] [--rounds 5] [--dir DIR]

The real command runs in a pseudo-terminal of 160 x 50. Loading: `?` is pressed again and again
while the metadata is read; measured is the time until the help has been written. After: each key
is pressed when the terminal has been quiet; measured is the time until the last byte that it
caused was written, where a repaint has ended when nothing came for 80 ms. `first table paint` runs
from the last byte of the loading screen's state, that is from process start, until a tensor's name
stands in the table. Memory is the resident set of the process that draws (its children's not).

Checkpoints are made with make_metadata.py; the parsed cache is switched off.
Writes results/screen.json.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHAPES = ("100000x8", "1000x1024")
QUIET_S = 0.08
LIMIT_MS = 100
LONGEST_S = 20.0

# What is pressed, in order: name, keys before that are not measured, the key.
AFTER = (
    ("cursor down", "", "j"),
    ("page down", "", "\x04"),
    ("last row", "", "G"),
    ("first row", "", "g"),
    ("sort by the next column", "", "s"),
    ("sort by the column after", "", "s"),
    ("turn the order round", "", "S"),
    ("filter: first letter", "/", "w"),
    ("filter: second letter", "", "q"),
    ("filter: third letter", "", " "),
    ("filter: fourth letter", "", "7"),
    ("filter: letter taken back", "", "\x7f"),
    ("filter: cleared", "", "\x1b"),
    ("module tree hidden", "", "b"),
    ("zoom into a tensor", "", "z"),
    ("zoom out", "", "z"),
    ("files", "", "2"),
    ("findings", "", "3"),
    ("tensors", "", "1"),
)


class Screen:
    """The command in a pseudo-terminal."""

    def __init__(self, folder: Path, columns: int = 160, rows: int = 50) -> None:
        self.started = time.perf_counter()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(
                TERM="xterm-256color", COLORTERM="truecolor", HSDP_INSPECT_NO_CACHE="1"
            )
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-m", "inspector", str(folder)])
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

    def until(self, wanted: bytes, limit_s: float = 180.0) -> bytes:
        """Everything written until `wanted` was."""
        written = b""
        end = time.perf_counter() + limit_s
        while wanted not in written:
            left = end - time.perf_counter()
            if left <= 0:
                raise TimeoutError(f"{wanted!r} was not written in {limit_s} s")
            written += self.read(min(left, 1.0))
        return written

    def settle(self) -> None:
        """Wait until nothing has been written for a while."""
        while self.read(0.4):
            pass

    def repaint_ms(self, key: str) -> float:
        """From a key to the last byte that it caused."""
        at = self.send(key)
        last = at
        wait_s = 2.0
        while self.read(wait_s):
            last, wait_s = time.perf_counter(), QUIET_S
        return (last - at) * 1e3

    @property
    def resident_mb(self) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def loading(folder: Path) -> dict[str, Any]:
    """Open a checkpoint, asking for the help all the while."""
    screen = Screen(folder)
    waits: list[float] = []
    written = b""
    try:
        screen.until(b"\x1b[?1049h")
        opened = 0.0
        while not opened and time.perf_counter() - screen.started < 300:
            end = time.perf_counter() + 0.15
            while (left := end - time.perf_counter()) > 0:
                written += screen.read(left)
            if b"layers" in written:
                opened = time.perf_counter() - screen.started
                break
            written = b""
            at = screen.send("?")
            answer = b""
            # The table may come between the key and the help, which then lies behind it.
            while b"Everywhere" not in answer and b"layers" not in answer:
                if time.perf_counter() - at > LONGEST_S:
                    raise TimeoutError("the help did not come")
                answer += screen.read(0.5)
            written = answer
            if b"layers" in answer:
                opened = time.perf_counter() - screen.started
                break
            waits.append((time.perf_counter() - at) * 1e3)
            screen.send("?")
        screen.settle()
        return {"table_s": opened, "waits_ms": waits, "resident_mb": screen.resident_mb}
    finally:
        screen.close()


def opened_s(folder: Path) -> float:
    """Seconds from process start until the table shows a tensor, nobody pressing a key."""
    screen = Screen(folder)
    try:
        screen.until(b"layers")
        return time.perf_counter() - screen.started
    finally:
        screen.close()


def after(folder: Path) -> tuple[dict[str, float], float]:
    """Milliseconds of each key once the checkpoint is open, and the memory after all of them."""
    screen = Screen(folder)
    try:
        screen.until(b"layers")
        screen.settle()
        taken = {}
        for name, before, key in AFTER:
            if before:
                screen.send(before)
            screen.settle()
            taken[name] = screen.repaint_ms(key)
        return taken, screen.resident_mb
    finally:
        screen.close()


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Every figure of one checkpoint."""
    opened = [opened_s(folder) for _ in range(rounds)]
    loads = [loading(folder) for _ in range(rounds)]
    rounds_of = [after(folder) for _ in range(rounds)]
    waits = [wait for load in loads for wait in load["waits_ms"]]
    keys = {name: [taken[name] for taken, _ in rounds_of] for name, _, _ in AFTER}
    medians = {name: round(statistics.median(taken), 1) for name, taken in keys.items()}
    return {
        "first_table_s": round(statistics.median(opened), 2),
        "first_table_spread_s": [round(min(opened), 2), round(max(opened), 2)],
        "keys_while_loading": {
            "pressed": len(waits),
            "median_ms": round(statistics.median(waits), 1) if waits else None,
            "largest_ms": round(max(waits), 1) if waits else None,
        },
        "keys_ms": medians,
        "keys_largest_ms": {name: round(max(taken), 1) for name, taken in keys.items()},
        "slowest_key_ms": max(medians.values()),
        "resident_after_opening_mb": round(statistics.median(x["resident_mb"] for x in loads), 1),
        "resident_after_every_view_mb": round(statistics.median(mb for _, mb in rounds_of), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where checkpoints are kept from run to run")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "screen.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "what": "the real screen at 160x50 in a pseudo-terminal; milliseconds from a key to the "
        "last byte it caused, medians",
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
                maker = [sys.executable, str(HERE / "make_metadata.py"), shape, str(folder)]
                subprocess.run(maker, check=True)
            result["shapes"][shape] = found = measure(folder, options.rounds)
            print(shape, json.dumps(found, indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
