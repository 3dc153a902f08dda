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
from inspector.verify.events import SCHEMA, decode, event_head, moment
from inspector.verify.progress import JobState, Snapshot
from inspector.verify.result import result_event
from inspector.verify.spec import RankSpec, ReadSpec, read_spec

__all__ = ["EventFollower", "LineFollower", "LogFollower", "read_events", "spec_event"]

Event = dict[str, Any]

_CHUNK_BYTES = 1 << 18
_MAX_LINE_BYTES = 1 << 16
#: Of a recording: its `result` names every entry that was not verified.
_MAX_RESULT_BYTES = 1 << 26
#: Lines of one log that are told at one look; what comes faster than that is only counted.
_MAX_LOG_LINES = 2000


class LineFollower:
    """The lines of one file, as they are completed.

    Args:
        path: The file.
        max_bytes: A line that is longer comes in pieces.
    """

    def __init__(self, path: str | Path, max_bytes: int = _MAX_LINE_BYTES) -> None:
        self.path = str(path)
        self._max_bytes = max_bytes
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
                if len(self._rest) > self._max_bytes:
                    lines.append(self._rest)
                    self._rest = b""
            if len(data) < _CHUNK_BYTES or not whole:
                break
        if whole and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def close(self) -> None:
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
        for _, _, file in self._files.values():
            file.close()


def _log(rank: int | None, stream: str, text: str) -> Event:
    event = {"schema": SCHEMA, "event": "log", "rank": rank, "t": time.time()}
    return {**event, "stream": stream, "text": text}


_POLL_S = 0.1
_BEAT_S = 1.0
#: A network file system may show what another node wrote a minute late.
_SILENT_BEATS = 90


def read_events(path: str, *, follow: bool = False) -> Iterator[Event | None]:
    """The events of a recording, a run folder, or a folder of ranks' events.

    Args:
        path: Which.
        follow: Wait for more until the job has ended (or all its nodes have), or a rank of it
            has fallen silent.

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


def snapshot_of(events: Path) -> Snapshot:
    """How a job stands by what its ranks, and its nodes, have told."""
    state = JobState()
    for event in read_events(str(events)):
        if event is not None and event["event"] != "result":
            state.apply(event)
    return state.snapshot()


def _recorded(path: Path, follow: bool) -> Iterator[Event | None]:
    lines = LineFollower(path, _MAX_RESULT_BYTES)
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
    files, silence, has_heard_all = EventFollower(folder), _Silence(), False
    try:
        while True:
            events = files.read(whole=not follow or has_heard_all)
            for event, _ in events:
                state.apply(event)
                silence.feed(event)
                yield event
            if not follow or _has_ended(state) or has_heard_all:
                break
            # What was written before a node's last word may come with it, or a moment later.
            has_heard_all = silence.nodes_are_over
            if has_heard_all:
                continue
            if silence.beat(time.monotonic()) and (gone := silence.gone(state)):
                for event in gone:
                    state.apply(event)
                    yield event
                break
            yield None
            if not events:
                time.sleep(_POLL_S)
    finally:
        files.close()
    snapshot = state.snapshot()
    if spec is not None and snapshot.version > 1:
        yield result_event(snapshot, spec, snapshot.last_t - snapshot.first_t, False)


class _Silence:
    """Which ranks tell nothing any more, not even that they live.

    A rank that has said hello tells so once a second. What counts is our own looks, a second apart:
    a file system that hangs for a minute makes nobody silent.
    """

    def __init__(self) -> None:
        self._missed: dict[int, int] = {}
        self._next = 0.0
        self._nodes: dict[tuple[Any, Any], bool] = {}

    @property
    def nodes_are_over(self) -> bool:
        """Whether every node that was heard of has had its last word (none: torchrun alone)."""
        return bool(self._nodes) and all(self._nodes.values())

    def feed(self, event: Event) -> None:
        rank = event.get("rank")
        if "node" in event and rank is None:
            node = str(event["node"]), str(event.get("pid"))
            self._nodes[node] = bool(event.get("is_over", False))
        if type(rank) is int and (event.get("event") == "hello" or rank in self._missed):
            self._missed[rank] = 0

    def beat(self, now: float) -> bool:
        """Count a look, if the last one is long enough ago; whether it was counted."""
        if now < self._next:
            return False
        self._next = now + _BEAT_S
        for rank in self._missed:
            self._missed[rank] += 1
        return True

    def gone(self, state: JobState) -> list[Event]:
        """A failure for each rank that has been silent for too long and has not ended."""
        silent = {rank: n for rank, n in self._missed.items() if n > _SILENT_BEATS}
        if not silent:
            return []
        found = []
        snapshot = state.snapshot()
        for rank in snapshot.ranks:
            if rank.rank not in silent or rank.status in ("done", "failed"):
                continue
            what = (
                f"rank {rank.rank} on {printable(rank.host or '?', 80)} has told nothing for "
                f"{silent[rank.rank]} s, not even that it lives: it was killed, or its node or the "
                "folder of the events is gone"
            )
            head = event_head("failed", rank.rank, snapshot.spec.get("run", ""))
            found.append({**head, "kind": "killed", "message": what, "stack": "", "root": True})
        return found


def _has_ended(state: JobState) -> bool:
    snapshot = state.snapshot()
    ranks = snapshot.ranks
    if not any(rank.pid for rank in ranks) and any(f.rank is None for f in snapshot.failures):
        return True  # A node says why no rank will ever be up.
    return bool(ranks) and all(rank.status in ("done", "failed") for rank in ranks)


def _spec(folder: Path) -> RankSpec | None:
    for place in (folder / "spec.json", folder.parent / "spec.json"):
        if place.is_file():
            return read_spec(place)
    return None


def spec_event(spec: RankSpec, t: float, **more: Any) -> Event:
    """The first event of a job."""
    head = event_head("spec", None, spec.run, t)
    if isinstance(spec, ReadSpec):
        asked = {"values": spec.values, "filter": spec.filter}
        told = {"task": spec.task, "world_size": spec.world_size, **asked}
        return {**head, "path": spec.path, **told, "command": [], **more}
    return {
        **head,
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
        "stage": spec.stage,
        "stages": [{"pattern": pattern, "stages": n} for pattern, n in spec.stages],
        "placements": [{"pattern": pattern, "cuts": cuts} for pattern, cuts in spec.placements],
        "unpickle": spec.unpickle,
        "memory_bytes": spec.memory_bytes,
        **more,
    }
