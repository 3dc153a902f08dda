"""Read what a job told: its recording, or the files that its ranks write.

A recording (`events.jsonl`) ends with the `result`. A folder of ranks' files, as a job on several
nodes leaves it, has none: it is made here, of the same fold, once every rank has ended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspector.checkpoint.text import printable
from inspector.errors import StorageError
from inspector.verify.events import SCHEMA, decode, moment
from inspector.verify.progress import JobState
from inspector.verify.result import result_event
from inspector.verify.spec import JobSpec

__all__ = ["EventFollower", "LineFollower", "LogFollower", "read_events", "spec_event"]

Event = dict[str, Any]

_CHUNK_BYTES = 1 << 18
_MAX_LINE_BYTES = 1 << 16
#: Lines of one log that are told at one look; what comes faster than that is only counted.
_MAX_LOG_LINES = 2000


class LineFollower:
    """The lines of one file, as they are completed."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._fd: int | None = None
        self._rest = b""

    def read(self, *, whole: bool = False) -> list[bytes]:
        """The lines completed since the last look.

        Args:
            whole: Read to the file's end, and take an unfinished last line for a line.
        """
        lines: list[bytes] = []
        while True:
            try:
                if self._fd is None:
                    self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                data = os.read(self._fd, _CHUNK_BYTES)
            except OSError:
                data = b""
            if data:
                *complete, self._rest = (self._rest + data).split(b"\n")
                lines += complete
                if len(self._rest) > _MAX_LINE_BYTES:
                    lines.append(self._rest)
                    self._rest = b""
            if len(data) < _CHUNK_BYTES or not whole:
                break
        if whole and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class EventFollower:
    """The events of a folder with one file per rank, in one order.

    Each rank's events keep their order; those of several ranks that come in one look are sorted
    by their time.
    """

    def __init__(self, events_dir: str | Path) -> None:
        self._folder = Path(events_dir)
        self._files: dict[str, LineFollower] = {}

    def read(self, *, whole: bool = False) -> list[tuple[Event, bytes]]:
        """The events since the last look, each with its line; lines that are none become logs."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            names = []
        for name in names:
            path = self._folder / name
            # Opening a FIFO would wait for whoever writes to it.
            if name.endswith(".jsonl") and name not in self._files and path.is_file():
                self._files[name] = LineFollower(path)
        events: list[tuple[Event, bytes]] = []
        for name, file in self._files.items():
            for line in file.read(whole=whole):
                event = decode(line)
                if event is not None:
                    events.append((event, line))
                elif line.strip():
                    event = _log(None, name, line.decode("utf-8", "replace"))
                    events.append((event, json.dumps(event).encode()))
        events.sort(key=lambda told: moment(told[0]))
        return events

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()


class LogFollower:
    """What torchrun and the ranks print, as `log` events.

    torchrun puts each rank's output under LOGS/ID/attempt_0/RANK/{stdout,stderr}.log.
    """

    def __init__(self, logs_dir: str | Path) -> None:
        self._folder = Path(logs_dir)
        self._files: dict[str, tuple[int | None, str, LineFollower]] = {}

    def read(self, *, whole: bool = False) -> list[Event]:
        """The lines since the last look."""
        self._find()
        events = []
        for rank, stream, file in self._files.values():
            lines = file.read(whole=whole)
            if len(lines) > _MAX_LOG_LINES:
                left_out = len(lines) - _MAX_LOG_LINES
                lines = [f"... {left_out} lines left out here".encode(), *lines[-_MAX_LOG_LINES:]]
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip("\r")
                if text:
                    events.append(_log(rank, stream, text))
        return events

    def _find(self) -> None:
        for stream, name in (("stdout", "torchrun.out"), ("stderr", "torchrun.err")):
            if name not in self._files:
                self._files[name] = (None, stream, LineFollower(self._folder / name))
        for path in self._folder.glob("*/attempt_0/*/std*.log"):
            if str(path) not in self._files and path.parent.name.isdigit():
                follower = LineFollower(path)
                self._files[str(path)] = (int(path.parent.name), path.stem, follower)

    def close(self) -> None:
        """Close every file."""
        for _, _, file in self._files.values():
            file.close()


def _log(rank: int | None, stream: str, text: str) -> Event:
    event = {"schema": SCHEMA, "event": "log", "rank": rank, "t": time.time()}
    return {**event, "stream": stream, "text": text}


_POLL_S = 0.1


def read_events(path: str, *, follow: bool = False) -> Iterator[Event | None]:
    """The events of a recording, a run folder, or a folder of ranks' events.

    Args:
        path: Which.
        follow: Wait for more until the job has ended.

    Yields:
        Each event; None when there is nothing more for the moment.

    Raises:
        StorageError: There is no such file or folder, or it may not be read.
    """
    place = Path(path)
    try:
        if place.is_dir():
            recording = place / "events.jsonl"
            if recording.is_file():
                yield from _recorded(recording, follow)
            else:
                ranks = place / "events"
                yield from _of_ranks(ranks if ranks.is_dir() else place, follow)
        else:
            with open(place, "rb"):  # LineFollower waits for files that are not there yet.
                pass
            yield from _recorded(place, follow)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot read {printable(path)}: {reason}") from error


def _recorded(path: Path, follow: bool) -> Iterator[Event | None]:
    lines = LineFollower(path)
    try:
        while True:
            # A chunk at a time, so that a long recording never stands in memory.
            found = lines.read()
            if not found and not follow:
                found = lines.read(whole=True)
                if not found:
                    return
            for line in found:
                event = decode(line)
                if event is not None:
                    yield event
                    if event["event"] == "result":
                        return
            yield None
            if follow and not found:
                time.sleep(_POLL_S)
    finally:
        lines.close()


def _of_ranks(folder: Path, follow: bool) -> Iterator[Event | None]:
    spec = _spec(folder)
    state = JobState()
    if spec is not None:
        # When it began is not recorded: the ranks' first events say it.
        event = spec_event(spec, 0.0)
        state.apply(event)
        yield event
    files = EventFollower(folder)
    try:
        while True:
            events = files.read(whole=not follow)
            for event, _ in events:
                state.apply(event)
                yield event
            if not follow or _has_ended(state):
                break
            yield None
            if not events:
                time.sleep(_POLL_S)
    finally:
        files.close()
    snapshot = state.snapshot()
    if spec is not None and snapshot.version > 1:
        yield result_event(snapshot, spec, snapshot.last_t - snapshot.first_t, False)


def _has_ended(state: JobState) -> bool:
    ranks = state.snapshot().ranks
    return bool(ranks) and all(rank.status in ("done", "failed") for rank in ranks)


def _spec(folder: Path) -> JobSpec | None:
    for place in (folder / "spec.json", folder.parent / "spec.json"):
        if place.is_file():
            return JobSpec.read(place)
    return None


def spec_event(spec: JobSpec, t: float, **more: Any) -> Event:
    """The first event of a job."""
    return {
        "schema": SCHEMA,
        "event": "spec",
        "rank": None,
        "t": t,
        "run": spec.run,
        "path": spec.path,
        "mesh": spec.mesh,
        "then": list(spec.then),
        "via": spec.via,
        "device": spec.device,
        "backend": spec.backend,
        "world_size": spec.world_size,
        "command": [],
        "filter": spec.filter,
        "sample": spec.sample,
        "unpickle": spec.unpickle,
        "memory_bytes": spec.memory_bytes,
        **more,
    }
