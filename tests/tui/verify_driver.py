"""Recordings for the tests of the verification's view: made up, or recorded of a real job."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from textual.pilot import Pilot

from inspector.tui.one_screen import ReplayApp
from inspector.tui.verification.playback import Playback
from inspector.verify.progress import JobState, LogLine, Snapshot
from tests.conftest import ROOT
from tests.tui.app_driver import press, quiet

RECORDING = ROOT / "tests" / "data" / "runs" / "hsdp_2x4" / "events.jsonl"
NAMES = [f"model.layers.{i}.{part}.weight" for i in range(6) for part in ("attn", "mlp")]

Event = dict[str, Any]


def event(t: float, name: str, rank: int | None, **fields: Any) -> Event:
    return {"schema": 1, "event": name, "rank": rank, "t": 1.7e9 + t, **fields}


def job_events(
    mesh: str = "hsdp:2x4",
    world_size: int = 8,
    *,
    path: str = "/ckpt",
    names: Sequence[str] = tuple(NAMES),
    differs: Iterable[tuple[str, int]] = (),
    logs: Iterable[tuple[int | None, str]] = (),
    killed: int | None = None,
) -> list[Event]:
    """The events of a job that loads and compares; `differs` are names and ranks."""
    wrong = set(differs)
    spec = {"path": path, "mesh": mesh, "then": [], "via": "dtensor", "device": "cpu"}
    spec |= {"backend": "gloo", "world_size": world_size, "num_entries": len(names)}
    events = [event(0, "spec", None, command=[], **spec)]
    ranks = range(world_size)
    for r in ranks:
        events.append(event(1 + r / 100, "hello", r, pid=100 + r, host="node0", device="cpu"))
    for start, phase in ((2, "load"), (6, "compare")):
        events += [event(start, "phase", r, phase=phase, mesh=mesh) for r in ranks]
        for step in range(1, 5):
            for r in ranks:
                if r == killed and phase == "compare" and step > 1:
                    continue
                done = {"bytes_done": step << 20, "bytes_total": 4 << 20, "rss_bytes": 1 << 28}
                done |= {"tensors_done": step, "tensors_total": 4}
                events.append(event(start + step * 0.8, "progress", r, phase=phase, **done))
    if killed is not None:
        fields = {"kind": "killed", "message": f"rank {killed} was killed by SIGKILL"}
        events.append(event(7, "failed", killed, stack="at line 1\x1b[2J\nat line 2", **fields))
    for r in ranks:
        if r == killed:
            continue
        for i, fqn in enumerate(names):
            fields = {"verdict": "EXACT", "num_elements": 4096, "num_different": 0}
            if (fqn, r) in wrong:
                fields = {"verdict": "DIFFER", "num_elements": 4096, "num_different": 17,
                          "first_index": [513, 7], "expected": "0x3f80", "found": "0x3f81",
                          "file": "__3_0.distcp", "detail": "one bit is another"}  # fmt: skip
            events.append(
                event(7 + 2 * i / len(names), "tensor", r, phase="compare", fqn=fqn, **fields)
            )
        events.append(event(10, "bye", r))
    for rank, text in logs:
        events.append(event(3, "log", rank, stream="stderr", text=text))
    events.sort(key=lambda e: e["t"])
    bad = sorted({fqn for fqn, _ in wrong})
    verdict = "failed" if killed is not None else "differs" if bad else "exact"
    why = "" if killed is None else f"rank {killed} was killed by SIGKILL"
    tensors = {"total": len(names), "verified": len(names), "exact": len(names) - len(bad)}
    tensors |= {"different": bad, "num_not_verified": 0, "not_verified": []}
    result = {**spec, "verdict": verdict, "why": why, "elapsed_s": 11.0, "bytes_read": 1 << 25}
    return [*events, event(11, "result", None, tensors=tensors, **result)]


@asynccontextmanager
async def replayed(
    events: Sequence[Event], at_s: float, *keys: str, size: tuple[int, int] = (160, 50)
) -> AsyncIterator[tuple[ReplayApp, Pilot[int]]]:
    """The app on a recording, held at a moment, after `keys`."""
    playback = Playback(events)
    playback.is_paused = True
    playback.seek(at_s)
    app = ReplayApp(playback, "events.jsonl")
    async with app.run_test(size=size, notifications=True) as pilot:
        await quiet(pilot, 0.3)
        for key in keys:
            await press(pilot, key, at_least_s=0.15)
        await quiet(pilot, 0.25)
        yield app, pilot


class StubJob:
    """A `launcher.Job` without processes: its events come when the test lets them."""

    def __init__(self, events: Sequence[Event], folder: Path) -> None:
        self.command = ["python", "-m", "torch.distributed.run"]
        self.folder = SimpleNamespace(path=folder)
        self.result: Event | None = None
        self.num_let = 0
        self.was_stopped = False
        self._events = list(events)
        self._state = JobState()
        self._num_told = 0
        self._lock = threading.Lock()

    def let(self, count: int | None = None) -> None:
        """Let so many events come (None: all)."""
        self.num_let = len(self._events) if count is None else count

    def start(self) -> StubJob:
        return self

    def __enter__(self) -> StubJob:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def step(self) -> list[Event]:
        told = self._events[self._num_told : self.num_let]
        if self.was_stopped:
            told = [{**self._events[-1], "verdict": "cancelled"}]
        self._num_told += len(told)
        with self._lock:
            for item in told:
                self._state.apply(item)
        if told and told[-1]["event"] == "result":
            self.result = told[-1]
        return told

    def stop(self) -> None:
        self.was_stopped = True

    kill = stop

    def snapshot(self) -> Snapshot:
        with self._lock:
            return self._state.snapshot()

    def log_lines(self, rank: int | str | None = "all", limit: int = 500) -> list[LogLine]:
        with self._lock:
            return self._state.log_lines(rank, limit)
