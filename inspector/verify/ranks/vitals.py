"""How a rank tells how it is: events, progress, heartbeats; and how it ends with its parent.

Imports no torch: it runs before torch is there.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspector.verify.events import EventWriter

__all__ = ["Reporter", "die_with_parent", "keep_memory", "memory", "register_stacks", "stacks_file"]

_HEARTBEAT_S = 1.0
_PROGRESS_S = 0.1
_PR_SET_PDEATHSIG = 1
#: From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_COUNTS = ("bytes_done", "bytes_total", "tensors_done", "tensors_total")


def die_with_parent() -> None:
    """Be killed when torchrun ends, however it ends (Linux; elsewhere nothing).

    A rank leads a session of its own, so nothing else would end it after SIGKILL on torchrun.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent or (parent == 1 and not _starts_ranks(parent)):
        os._exit(75)  # It ended before we asked.


def _starts_ranks(pid: int) -> bool:
    """Whether a process is torchrun, or whoever runs in its place.

    In a container it may be process 1, who otherwise adopts those whose parent has ended.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    names = (b"torchrun", b"torch.distributed.run", b"torch/distributed/run.py")
    return any(word.endswith(names) for word in words[:8])


def stacks_file(events_dir: str | Path, rank: int) -> Path:
    """Where a rank writes the stacks of its threads on SIGUSR1."""
    return Path(events_dir, f"rank-{rank:05}.stacks")


def register_stacks(events_dir: str | Path, rank: int) -> None:
    """Write all threads' stacks to a file on SIGUSR1, and on a fatal signal."""
    file = open(stacks_file(events_dir, rank), "a", encoding="utf-8")  # noqa: SIM115 - for good
    faulthandler.enable(file)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file, all_threads=True)


def memory() -> dict[str, int]:
    """Resident bytes of this process: all (`rss_bytes`), and its own (`anon_bytes`) on Linux."""
    found = {}
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in ("VmRSS", "RssAnon", "VmHWM"):
                    found[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return {}
    names = {"VmRSS": "rss_bytes", "RssAnon": "anon_bytes", "VmHWM": "peak_rss_bytes"}
    return {names[name]: value for name, value in found.items()}


def _io_bytes() -> dict[str, int]:
    """Bytes that this process has read and written so far, by its calls (Linux; else nothing).

    It tells a rank that is slow from one that stands still to whoever sees only what it tells.
    """
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            return {"io_bytes": sum(int(line.split()[1]) for line in file.readlines()[:2])}
    except (OSError, ValueError, IndexError):
        return {}


def keep_memory() -> None:
    """Have the allocator keep what is freed for what comes next (glibc; elsewhere nothing).

    torch reads each payload into memory of its own, and each wave has shards of its own. Memory
    that the system gives anew costs a page fault for every 4 KiB, which takes longer than to fill
    it: of a load without any waiting half the time.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


class Reporter:
    """One rank's events: the phase it is in, how far it is, and that it lives."""

    def __init__(self, events_dir: str, rank: int, run: str = "") -> None:
        self.writer = EventWriter(events_dir, rank, run)
        self.rank = rank
        self.name = ""
        self.peak_anon_bytes = 0
        self.extra: Callable[[], dict[str, Any]] = dict
        self._hop = 0
        self._phases: dict[tuple[str, int], list[int]] = {}
        self._last_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to send a heartbeat every second."""
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat."""
        self._stop.set()

    def send(self, event: str, **fields: Any) -> None:
        self.writer.send(event, **fields)

    def expect(self, phase: str, num_bytes: int, num_tensors: int, hop: int = 0) -> None:
        """Set how much a phase has to do over the whole job."""
        self._phases[phase, hop] = [0, num_bytes, 0, num_tensors]

    def phase(self, name: str, *, hop: int = 0, **fields: Any) -> None:
        self.progress(force=True)
        self.name, self._hop = name, hop
        self._phases.setdefault((name, hop), [0, 0, 0, 0])
        self.send("phase", phase=name, hop=hop, **fields)

    def advance(self, num_bytes: int = 0, num_tensors: int = 0) -> None:
        """Note work done in the current phase; tells it at most ten times a second."""
        done = self._phases[self.name, self._hop]
        done[0] += num_bytes
        done[2] += num_tensors
        self.progress()

    def progress(self, *, force: bool = False) -> None:
        """Send how far the current phase is, unless that was told a moment ago."""
        now = time.monotonic()
        done = self._phases.get((self.name, self._hop))
        if done is not None and (force or now - self._last_s >= _PROGRESS_S):
            self._last_s = now
            told = dict(zip(_COUNTS, done, strict=True))
            self.send("progress", phase=self.name, hop=self._hop, **told)

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_S):
            found = memory()
            self.peak_anon_bytes = max(self.peak_anon_bytes, found.get("anon_bytes", 0))
            self.send("heartbeat", phase=self.name, **found, **_io_bytes(), **self.extra())
