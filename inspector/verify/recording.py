"""Read what a job told: its recording, or the files that its ranks write.

A recording (`events.jsonl`) ends with the `result`. A folder of ranks' files, as a job on several
nodes leaves it, has none: it is made here, of the same fold, once every rank has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspector.checkpoint.text import printable
from inspector.errors import StorageError
from inspector.verify.events import SCHEMA, decode
from inspector.verify.follow import EventFollower, LineFollower
from inspector.verify.progress import JobState
from inspector.verify.result import result_event
from inspector.verify.spec import JobSpec

__all__ = ["read_events", "spec_event"]

Event = dict[str, Any]

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
            if recording.exists():
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
        "memory_bytes": spec.memory_bytes,
        **more,
    }
