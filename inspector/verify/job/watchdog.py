"""Whether a job still moves, and where its ranks stand when it does not.

A rank that waits in a collective for a slow one is not stuck; a job is, when for `timeout_s` no
rank has told anything new. `Watchdog` is told the events and the time, and asks neither.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    import psutil
except ImportError:
    # The ranks' interpreter may lack it; there they tell what they read and write.
    psutil = None

__all__ = [
    "IDLE_IO_BYTES",
    "Watchdog",
    "ask_for_stacks",
    "collective_of",
    "hang_failures",
    "io_bytes",
    "read_stack",
]

#: Before every rank has said hello, torch is being imported, perhaps from a cold network disk.
_LAUNCH_S = 300.0
_MAX_STACK_CHARS = 20_000
#: Ranks that read and write less than this while they tell nothing are stuck: heartbeats.
IDLE_IO_BYTES = 16 << 20
_FRAME = re.compile(r'File "([^"]*)", line \d+ in (\S+)')


class Watchdog:
    """Tells when a job has made no progress for too long.

    Args:
        timeout_s: How long that is.
        world_size: How many ranks there are.
        now: When it began.
        hears_io: Whether what ranks say they have read and written counts; whoever can ask the
            system for it does that.
    """

    def __init__(
        self, timeout_s: float, world_size: int, now: float, *, hears_io: bool = False
    ) -> None:
        self._hears_io = hears_io
        self._io_bytes: dict[Any, int] = {}
        self._timeout_s = timeout_s
        self._world_size = world_size
        self._last = now
        self._told: dict[Any, tuple[Any, ...]] = {}
        self._greeted: set[Any] = set()
        self._left: set[Any] = set()

    def feed(self, event: Mapping[str, Any], now: float) -> None:
        """Take one event that was seen at `now`."""
        kind, rank = event.get("event"), event.get("rank")
        if rank is None or kind == "log":
            return
        if kind == "hello":
            self._greeted.add(rank)
        elif kind == "bye":
            self._left.add(rank)
        elif kind == "heartbeat" and self._hears_io and self._has_moved(event):
            pass
        elif kind in ("progress", "heartbeat"):
            names = ("phase", "bytes_done", "tensors_done", "done")
            told = tuple(event.get(name) for name in names)
            # A heartbeat that tells nothing of the work proves that the rank lives, not that it
            # moves.
            if (kind == "heartbeat" and not any(told[1:])) or self._told.get((rank, kind)) == told:
                return
            self._told[rank, kind] = told
        self._last = now

    def _has_moved(self, event: Mapping[str, Any]) -> bool:
        """Whether a rank has read or written enough since it last had."""
        io_bytes, rank = event.get("io_bytes"), event.get("rank")
        if type(io_bytes) is not int:
            return False
        has_moved = io_bytes > self._io_bytes.setdefault(rank, io_bytes) + IDLE_IO_BYTES
        if has_moved:
            self._io_bytes[rank] = io_bytes
        return has_moved

    @property
    def is_over(self) -> bool:
        """Whether every rank has said bye."""
        return len(self._left) >= self._world_size

    def idle_s(self, now: float) -> float:
        """How long nothing has moved."""
        return now - self._last

    def touch(self, now: float) -> None:
        """Something else moved."""
        self._last = now

    def is_stuck(self, now: float) -> bool:
        is_up = len(self._greeted) >= self._world_size
        limit = self._timeout_s if is_up else max(self._timeout_s, _LAUNCH_S)
        return not self.is_over and self.idle_s(now) > limit


def ask_for_stacks(pids: list[int]) -> None:
    """Send SIGUSR1 to those of the processes that are ready for it; it would end the others."""
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
            if caught and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1:
                os.kill(pid, signal.SIGUSR1)
        except OSError:
            continue  # It has ended, or there is no /proc: no stack is better than a dead rank.


def io_bytes(pids: list[int]) -> int:
    """Bytes that processes have read and written so far (0 where nobody counts them: macOS).

    A long save tells nothing until it is done, but it writes.
    """
    total = 0
    for pid in pids if psutil is not None else ():
        try:
            counters = psutil.Process(pid).io_counters()
        except (psutil.Error, OSError, AttributeError):
            continue
        # Those of the calls, not those of the disk: a network filesystem has no disk here.
        total += counters.read_chars + counters.write_chars
    return total


def collective_of(stack: str) -> str | None:
    """The collective that a stack waits in (`barrier`, `all_gather_object`), or None.

    A stack is faulthandler's: of each thread the innermost call first.
    """
    for thread in re.split(r"\n\s*\n|(?=^(?:Current t|T)hread )", stack, flags=re.MULTILINE):
        for path, name in _FRAME.findall(thread):
            if path.endswith("torch/distributed/distributed_c10d.py"):
                return str(name)
    return None


def read_stack(path: str | Path) -> str:
    """The end of a stack file; empty if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")[-_MAX_STACK_CHARS:]
    except OSError:
        return ""


def hang_failures(stacks: Mapping[int, str], idle_s: float) -> dict[int, dict[str, Any]]:
    """The fields of a `failed` event for each rank of a stuck job, by rank.

    The root is who does not wait in a collective: the others wait for it.
    """
    inside = {rank: name for rank, stack in stacks.items() if (name := collective_of(stack))}
    outside = [rank for rank in stacks if rank not in inside]
    failures = {}
    for rank, stack in stacks.items():
        said = f"no progress for {idle_s:.0f} s: "
        if rank in inside:
            said += f"it waits in {inside[rank]}"
            if outside:
                said += f", which {_ranks(outside)} did not enter"
        elif not stack.strip():
            said += "it gave no stack when asked for one"
        else:
            frame = _FRAME.search(stack)
            said += f"it is in {frame[2]}" if frame else "where it is, it does not tell"
            if inside:
                said += f", while {_ranks(list(inside))} wait for it in a collective"
        more = {"stack": stack, "root": rank not in inside}
        failures[rank] = {"kind": "timeout", "message": said, **more}
    return failures


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, sorted(ranks)[:8])) + (" ..." if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"
