"""First frame: hsdp-inspect on a sample beside an empty Textual app, in one run.

Both run in a pseudo-terminal of 160 x 50; the clock runs from the start of the process until
its first text of content has been written to the terminal: a tensor's name for hsdp-inspect,
the one label of the empty app. Wall time; the two alternate, and medians are compared.

    python benchmarks/first_frame.py [--rounds 15] [--json FILE]
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
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_ckpts" / "hsdp_2x4"

EMPTY_APP = """
from textual.app import App
from textual.widgets import Static
class Empty(App):
    def compose(self):
        yield Static("first-content")
Empty().run()
"""

CASES = {
    "empty Textual app": ([sys.executable, "-c", EMPTY_APP], b"first-content"),
    "hsdp-inspect": ([sys.executable, "-m", "inspector", str(SAMPLE)], b"net3.bias"),
}


def first_content_s(command: list[str], content: bytes, timeout_s: float = 30.0) -> float:
    """Seconds from the start of `command` until `content` was written to its terminal."""
    started = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", XDG_CONFIG_HOME=os.devnull)
        # Installed packages have their bytecode; without this ours would be compiled each time.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.chdir(ROOT)
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    written = b""
    try:
        while content not in written:
            left = started + timeout_s - time.perf_counter()
            if left <= 0 or not select.select([terminal], [], [], left)[0]:
                raise TimeoutError(f"{command[:3]} wrote no content in {timeout_s} s")
            written += os.read(terminal, 1 << 16)
        return time.perf_counter() - started
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for round_number in range(options.rounds + 1):
        for name, (command, content) in CASES.items():
            taken = first_content_s(command, content)
            if round_number:  # The first of each fills the disk cache.
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratio = medians["hsdp-inspect"] / medians["empty Textual app"]
    result = {
        "what": "seconds from process start to first content on a 160x50 terminal, medians",
        "rounds": options.rounds,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        **{name: round(value, 3) for name, value in medians.items()},
        "spread": {n: [round(min(t), 3), round(max(t), 3)] for n, t in seconds.items()},
        "ratio": round(ratio, 2),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
