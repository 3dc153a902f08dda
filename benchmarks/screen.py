"""The screen on checkpoints of a million chunks: how long a key waits, while it loads and after.

    python benchmarks/screen.py screen [--shape 100000x8 ...] [--rounds 5] [--size 160x50]
    python benchmarks/screen.py screen --beside TREE [TREE ...]
    python benchmarks/screen.py event_flood [--rate 20000] [--seconds 10]

The real command runs in a pseudo-terminal, and what it writes is drawn here as a terminal would
(terminal.py). Measured are, each from outside:

first table paint  from the moment the checkpoint is parsed (the thread that reads it returns it,
                   which a wrapper around that one method notes) until the table of all tensors
                   stands there.
a key, seen        from the key until the part of the screen it is for (the lines of the table for
                   moves, sort and filter; the whole screen for views, zoom and tree) shows what it
                   will show in the end: the last change of a cell there.
a key, settled     from the key until the last byte that it caused: what is under the cursor is
                   drawn after the table, and counts here. A repaint has ended when nothing came
                   for 250 ms.
keys while loading `?` is pressed again and again until the table of all tensors stands there; until
                   the help is there. The first entries may stand below it.
memory             the resident set of the process that draws (its children's not).

The first key is pressed as soon as that table stands there, when a thread begins to check the
metadata (its figure is until the mark of the cursor has moved). The others follow when the verdict
of the checks is on the screen, each when the terminal has been quiet for 400 ms. Escape is sent as
the bare byte that most terminals send, so the wait for a longer sequence is in its figure.

Checkpoints are made with tests/helpers/make_metadata.py; the parsed cache is switched off.
Writes results/screen.json.

With --beside, the screen of this tree and those of other trees (commits, unpacked) open and are
given the same keys, round by round in turn; printed are the medians of what a key waits and of the
CPU time that the front end spends on it (which other work on the machine leaves alone), and the
medians of the ratios round by round. It writes no results.

`event_flood`: does the live view of a verification stutter?
A process of its own appends events of 8 ranks, as many a second as asked; a thread follows, folds
and records them as the job's launcher does; the app shows them, headless, at 160 x 50. Measured is
how late a task of the event loop is that wants to run every 5 ms: what a key press would wait.
The same without events is the base. On a machine that others use, `chrt -r 1 python ...` keeps
their work out of the figures; the result says so.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import copy
import fcntl
import json
import os
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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from measuring import ROOT, arguments, dispatch, machine, write
from rich.cells import cell_len

sys.path.insert(0, str(ROOT))
os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")

from inspector.tui.one_screen import ReplayApp
from inspector.tui.verification.run import Moment, Run
from inspector.verify.events import EventWriter
from inspector.verify.progress import JobState
from inspector.verify.recording import EventFollower

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
EARLY = "nothing is checked yet"
# What stands in the help; a commit of before has its last heading alone.
HELP = re.compile("/ searches · esc closes|Everywhere")

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


# A terminal: enough for what Textual writes, where nothing scrolls.

_TOKEN = re.compile(
    r"\x1b\[(?P<args>[0-9;:<=>?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\)"
    r"|\x1b(?![\[\]PX^_])[ -/]*[0-~]"
    r"|[\r\n\b\x07]"
    r"|(?P<text>[^\x1b\r\n\b\x07]+)",
    re.DOTALL,
)


class Picture:
    """The screen as it stands."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells = [[(" ", "")] * columns for _ in range(rows)]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._x = self._y = 0
        self._style = ""

    def feed(self, written: bytes) -> None:
        """Draw what was written next; a sequence may end in the next piece."""
        text = self._rest + self._decoder.decode(written)
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                break  # The beginning of a sequence.
            at = token.end()
            if (plain := token["text"]) is not None:
                self._put(plain)
            elif token["final"] is not None:
                self._control(token["args"], token["final"])
            elif token[0] == "\r":
                self._x = 0
            elif token[0] == "\n":
                self._y += 1
        self._rest = text[at:]

    def _put(self, text: str) -> None:
        for character in text:
            width = 1 if character.isascii() else cell_len(character)
            if 0 <= self._y < self.rows and 0 <= self._x < self.columns and width:
                line = self.cells[self._y]
                line[self._x] = (character, self._style)
                if width == 2 and self._x + 1 < self.columns:
                    line[self._x + 1] = ("", self._style)
            self._x += width

    def _control(self, args: str, final: str) -> None:
        if final == "H":
            row, _, column = args.partition(";")
            self._y, self._x = int(row or 1) - 1, int(column or 1) - 1
        elif final == "m":
            self._style = "" if args in ("", "0") else args
        elif final == "J" and args == "2":
            self.cells = [[(" ", "")] * self.columns for _ in range(self.rows)]

    def text(self, row: int) -> str:
        """A line without its styles."""
        return "".join(character for character, _ in self.cells[row])

    @property
    def texts(self) -> list[str]:
        """All lines."""
        return [self.text(row) for row in range(self.rows)]

    def part(
        self, top: int, bottom: int, left: int, right: int
    ) -> list[tuple[tuple[str, str], ...]]:
        """The cells from line `top` and column `left` up to `bottom` and `right`."""
        return [tuple(line[left:right]) for line in self.cells[top:bottom]]


# First line, the line after the last, first column, the column after the last.
Place = Callable[[Picture], tuple[int, int, int, int]]


class Screen:
    """The command in a pseudo-terminal."""

    def __init__(
        self,
        folder: Path,
        columns: int,
        rows: int,
        trace: Path | None = None,
        tree: Path = ROOT,
    ) -> None:
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
            os.chdir(tree)
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
        at = time.perf_counter()
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

    def follow(self, wait_s: float) -> None:
        """Take in what is written in this time."""
        end = time.perf_counter() + wait_s
        while (left := end - time.perf_counter()) > 0:
            self.picture.feed(self.read(left))

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

    def cpu_ms(self) -> float:
        """CPU time of the process that draws, with all its threads, so far."""
        # As clock_getcpuclockid(3) has it on Linux: the process's scheduler clock.
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e6

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


def has_table(lines: list[str]) -> bool:
    """Whether the whole table stands there, and not the first entries while the rest is read."""
    return has_names(lines) and not any(EARLY in line for line in lines)


def has_verdict(lines: list[str]) -> bool:
    return VERDICT.search(lines[0]) is not None


class Wait(NamedTuple):
    """A key that was pressed while the checkpoint loads.

    Attributes:
        pressed_s: Seconds from the start of the process until it was.
        ms: Milliseconds until its effect stood.
    """

    pressed_s: float
    ms: float


def loading(folder: Path, columns: int, rows: int, tree: Path = ROOT) -> list[Wait]:
    """How long the help is waited for, each time it is asked for while it loads."""
    screen = Screen(folder, columns, rows, tree=tree)
    waits: list[Wait] = []

    def has_help(lines: list[str]) -> bool:
        return any(HELP.search(line) for line in lines)

    try:
        screen.until(lambda lines: any(line.strip() for line in lines))
        while True:
            screen.follow(0.15)
            if has_table(screen.picture.texts):
                break
            at = screen.send("?")
            came = screen.until(lambda lines: has_help(lines) or has_table(lines), LONGEST_S)
            if not has_help(screen.picture.texts):
                break  # The table came first.
            waits.append(Wait(at - screen.started, (came - at) * 1e3))
            screen.send("?")
            screen.until(lambda lines: not has_help(lines), LONGEST_S)
        return waits
    finally:
        screen.close()


@dataclass(frozen=True)
class Opening:
    """A checkpoint opened while nobody presses a key.

    Attributes:
        rows_s: From the start of the process until a tensor is shown, be it while the rest is read.
        table_s: Until the table of all of them stands.
        paint_ms: From the parsed checkpoint until then.
        resident_mb: Memory once the verdict is there, in MiB.
        most_mb: The most there was until then.
    """

    rows_s: float
    table_s: float
    paint_ms: float
    resident_mb: float
    most_mb: float


def opened(folder: Path, columns: int, rows: int) -> Opening:
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "parsed"
        screen = Screen(folder, columns, rows, trace)
        try:
            rows = screen.until(has_names)
            at = screen.until(has_table)
            screen.until(has_verdict)
            screen.settle()
            parsed = float(trace.read_text()) - (time.monotonic() - time.perf_counter())
            memory = screen.resident_mb("VmRSS:"), screen.resident_mb("VmHWM:")
            return Opening(
                rows - screen.started, at - screen.started, max(0.0, (at - parsed) * 1e3), *memory
            )
        finally:
            screen.close()


class Keys:
    """What each key waits once the checkpoint is open.

    Attributes:
        seen_ms: By the key's name, until its effect stands.
        settled_ms: Until the last byte that it caused.
        cpu_ms: CPU time of the front end from the key until it was quiet again.
        rows_s: From the start of the process until a tensor is shown.
        opened_s: Until the table of all of them stands.
        opened_cpu_ms: CPU time of the front end until then.
        resident_mb: Memory after all of them.
    """

    def __init__(self, folder: Path, columns: int, rows: int, tree: Path = ROOT) -> None:
        self.seen_ms: dict[str, float] = {}
        self.settled_ms: dict[str, float] = {}
        self.cpu_ms: dict[str, float] = {}
        screen = Screen(folder, columns, rows, tree=tree)
        try:
            self.rows_s = screen.until(has_names) - screen.started
            self.opened_s = screen.until(has_table) - screen.started
            self.opened_cpu_ms = screen.cpu_ms()
            for name, before, key in AFTER:
                if name == JUST_OPENED:
                    at = screen.send(key)
                    moved = screen.until(lambda _: is_on_second_row(screen.picture))
                    # What else comes now was not caused by the key.
                    self.seen_ms[name] = (moved - at) * 1e3
                    screen.until(has_verdict)
                    continue
                screen.send(before)
                screen.settle()
                place = everywhere if name.startswith(WHOLE_SCREEN) else in_table
                spent_ms = screen.cpu_ms()
                self.seen_ms[name], self.settled_ms[name] = screen.waits_ms(key, place)
                self.cpu_ms[name] = screen.cpu_ms() - spent_ms
            self.resident_mb = screen.resident_mb("VmRSS:")
        finally:
            screen.close()


def measure(folder: Path, rounds: int, size: tuple[int, int]) -> dict[str, Any]:
    """Every figure of one checkpoint."""
    opens = [opened(folder, *size) for _ in range(rounds)]
    paints = [opening.paint_ms for opening in opens]
    waits = [wait for _ in range(rounds) for wait in loading(folder, *size)]
    keys = [Keys(folder, *size) for _ in range(rounds)]
    seen = _by_name([each.seen_ms for each in keys])
    settled = _by_name([each.settled_ms for each in keys])
    medians = _medians(seen)
    seconds = [opening.table_s for opening in opens]
    return {
        "first_rows_s": round(statistics.median(opening.rows_s for opening in opens), 2),
        "first_table_s": round(statistics.median(seconds), 2),
        "first_table_spread_s": [round(min(seconds), 2), round(max(seconds), 2)],
        "first_paint_ms": round(statistics.median(paints), 1),
        "first_paint_largest_ms": round(max(paints), 1),
        "keys_while_loading": _waits(waits),
        "keys_while_loading_from_first_second": _waits([w for w in waits if w.pressed_s >= 1]),
        "keys_ms": medians,
        "keys_largest_ms": _largest(seen),
        "slowest_key_ms": max(medians.values()),
        "settled_ms": _medians(settled),
        "settled_largest_ms": _largest(settled),
        "resident_after_opening_mb": round(statistics.median(one.resident_mb for one in opens), 1),
        "most_resident_while_opening_mb": round(max(one.most_mb for one in opens), 1),
        "resident_after_every_view_mb": round(
            statistics.median(each.resident_mb for each in keys), 1
        ),
    }


def _waits(waits: list[Wait]) -> dict[str, Any]:
    found = [wait.ms for wait in waits]
    return {
        "pressed": len(found),
        "median_ms": round(statistics.median(found), 1) if found else None,
        "largest_ms": round(max(found), 1) if found else None,
    }


def _by_name(rounds: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [each[name] for each in rounds] for name in rounds[0]}


def _medians(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 1) for name, values in of.items()}


def _largest(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(max(values), 1) for name, values in of.items()}


def beside(folder: Path, rounds: int, size: tuple[int, int], trees: list[Path]) -> None:
    """Print this tree's screen beside those of other trees."""
    all_trees = [ROOT, *trees]
    kept: dict[Path, list[Keys]] = {tree: [] for tree in all_trees}
    waits: dict[Path, list[Wait]] = {tree: [] for tree in all_trees}
    for _ in range(rounds):
        for tree in all_trees:
            kept[tree].append(Keys(folder, *size, tree))
            waits[tree] += loading(folder, *size, tree)

    def line(name: str, of: Callable[[Keys], float], unit: str = "ms") -> str:
        ours = [of(each) for each in kept[ROOT]]
        text = f"{name:<34}{statistics.median(ours):9.1f} {unit}"
        for tree in trees:
            theirs = [of(each) for each in kept[tree]]
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            text += f" {statistics.median(theirs):9.1f} {unit} ({ratio:.2f}x)"
        return text

    print(line("until the first names", lambda keys: keys.rows_s * 1e3))
    print(line("until the table", lambda keys: keys.opened_s * 1e3))
    print(line("until the table, CPU", lambda keys: keys.opened_cpu_ms))
    for name in kept[ROOT][0].seen_ms:
        print(line(name, lambda keys, name=name: keys.seen_ms[name]))
    for name in kept[ROOT][0].cpu_ms:
        print(line(f"{name}, CPU", lambda keys, name=name: keys.cpu_ms[name]))
    print(line("all keys, CPU", lambda keys: sum(keys.cpu_ms.values())))
    print(line("memory", lambda keys: keys.resident_mb, "MB"))
    for tree in all_trees:
        if waits[tree]:
            for since, first_s in (("", 0.0), (" from the first second on", 1.0)):
                found = _waits([wait for wait in waits[tree] if wait.pressed_s >= first_s])
                print(
                    f"help while loading{since}, {tree.name}: median {found['median_ms']} ms, "
                    f"largest {found['largest_ms']} ms, of {found['pressed']}"
                )


def screen(told: list[str]) -> None:
    """How long a key waits on the screen of a large checkpoint."""
    parser = arguments(screen.__doc__, "screen", rounds=5)
    parser.add_argument("--shape", nargs="*", default=list(SHAPES))
    parser.add_argument("--size", default="160x50")
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="TREE")
    options = parser.parse_args(told)
    result: dict[str, Any] = {
        "what": "the real screen in a pseudo-terminal; milliseconds from a key until what it is "
        "for shows its effect (keys_ms), and until the last byte it caused (settled_ms), medians",
        "size": options.size,
        "rounds": options.rounds,
        "limit_ms": LIMIT_MS,
        "machine": machine("textual"),
        "shapes": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for shape in options.shape:
            folder = Path(options.dir or scratch) / shape
            if not (folder / ".metadata").exists():
                maker = [
                    sys.executable,
                    str(ROOT / "tests" / "helpers" / "make_metadata.py"),
                    shape,
                    str(folder),
                ]
                subprocess.run(maker, check=True)
            columns, _, rows = options.size.partition("x")
            size = (int(columns), int(rows))
            if options.beside:
                print(f"{shape}, this tree beside {', '.join(map(str, options.beside))}")
                beside(folder, options.rounds, size, [tree.resolve() for tree in options.beside])
                continue
            found = measure(folder, options.rounds, size)
            result["shapes"][shape] = found
            print(shape, json.dumps(found, indent=1))
    if not options.beside:
        write(options.out, result)


# event_flood

NUM_RANKS = 8
NUM_TENSORS = 5000
PROBE_S = 0.005


def write_events(folder: str, rate: int, seconds: float) -> None:
    """The ranks: progress, verdicts, and now and then a line of log."""
    writers = [EventWriter(folder, rank) for rank in range(NUM_RANKS)]
    for writer in writers:
        writer.send("hello", pid=1, host="node", device="cpu")
        writer.send("phase", phase="compare", mesh="hsdp:2x4")
    total = int(rate * seconds)
    started = time.perf_counter()
    for i in range(total):
        rank, turn = i % NUM_RANKS, i // NUM_RANKS
        writer = writers[rank]
        if turn % 10 == 9:
            writer.send("log", stream="stderr", text=f"line {turn} \x1b[2J of rank {rank}")
        elif turn % 2:
            fqn = f"model.layers.{turn % NUM_TENSORS}.weight"
            verdict = "DIFFER" if turn % 997 == 1 else "EXACT"
            fields = {"fqn": fqn, "verdict": verdict, "num_elements": 4096}
            if verdict == "DIFFER":
                fields |= {"num_different": 1, "first_index": [turn, 3], "detail": "one bit"}
            writer.send("tensor", phase="compare", **fields)
        else:
            done = i * 1024
            writer.send("progress", phase="compare", bytes_done=done, bytes_total=total * 1024,
                        tensors_done=turn, tensors_total=total)  # fmt: skip
        if i % 200 == 0:
            time.sleep(max(0.0, started + i / rate - time.perf_counter()))


class Flooded(Run):
    """What `verify_run.Verification` does, with files instead of a job."""

    def __init__(self, folder: str) -> None:
        super().__init__("/flood")
        self._events = EventFollower(folder)
        self._recording = open(Path(folder, "recording"), "ab")  # noqa: SIM115
        self._state = JobState()
        spec = {"event": "spec", "mesh": "hsdp:2x4", "then": ["fsdp:8"], "t": time.time()}
        self._state.apply({**spec, "world_size": NUM_RANKS, "num_entries": NUM_TENSORS})
        self._lock = threading.Lock()
        self.num_events = 0
        self.is_closed = False

    def now_t(self) -> float:
        return time.time()

    def _drive(self) -> None:
        last_s = 0.0
        while not self.is_closed:
            told = self._events.read()
            with self._lock:
                for event, _ in told:
                    self._state.apply(event)
            self._recording.write(b"".join(line + b"\n" for _, line in told))
            self.num_events += len(told)
            if told and time.monotonic() - last_s >= 0.09:
                last_s = time.monotonic()
                self._publish()
            time.sleep(0.01 if told else 0.05)

    def _publish(self) -> None:
        with self._lock:
            lines = tuple(self._state.log_lines(self._watched, 500))
            self.moment = Moment(self._state.snapshot(), lines, time.time())


async def flooded(rate: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Flooded(folder)
        app = ReplayApp(run, "flood")
        late_ms: list[float] = []
        async with app.run_test(size=(160, 50)) as pilot:
            await pilot.pause(1.0)
            ranks, deadline = None, time.perf_counter() + 20
            if rate:
                command = [
                    sys.executable,
                    __file__,
                    "event_flood",
                    "--write",
                    folder,
                    "--rate",
                    str(rate),
                ]
                ranks = subprocess.Popen([*command, "--seconds", str(seconds)])
                while not run.num_events:
                    await asyncio.sleep(0.05)
                    if run.error is not None or time.perf_counter() > deadline:
                        raise RuntimeError(run.error or f"no event came: {run.is_alive=}")
            seen, frames, before = run.num_events, 0, run.moment
            cpu, start = time.process_time(), time.perf_counter()
            while time.perf_counter() - start < seconds:
                asked = time.perf_counter()
                await asyncio.sleep(PROBE_S)
                late_ms.append((time.perf_counter() - asked - PROBE_S) * 1e3)
                frames += run.moment is not before
                before = run.moment
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            taken = run.num_events - seen
            run.is_closed = True
            if ranks is not None:
                ranks.kill()
                ranks.wait()
        late_ms.sort()
        return {
            "events_per_s_asked": rate,
            "events_per_s_taken": round(taken / wall),
            "moments_per_s": round(frames / wall, 1),
            "cpu_share": round(cpu / wall, 3),
            "late_ms": {
                "median": round(statistics.median(late_ms), 2),
                "p99": round(late_ms[int(len(late_ms) * 0.99)], 2),
                "max": round(late_ms[-1], 2),
            },
            "over_50_ms": sum(late > 50 for late in late_ms),
            "num_probes": len(late_ms),
        }


def event_flood(told: list[str]) -> None:
    """The live view of a verification under a flood of events."""
    parser = arguments(event_flood.__doc__, "event_flood", rounds=1)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args(told)
    if options.write:
        write_events(options.write, options.rate, options.seconds)
        return
    result = {
        "real_time_priority": os.sched_getscheduler(0) != os.SCHED_OTHER,
        "idle": asyncio.run(flooded(0, options.seconds)),
        "flood": asyncio.run(flooded(options.rate, options.seconds)),
        "machine": machine("textual"),
    }
    write(options.out, result)
    print(json.dumps(result, indent=1))


SUBJECTS = {"screen": screen, "event_flood": event_flood}

if __name__ == "__main__":
    dispatch(__doc__, SUBJECTS)
