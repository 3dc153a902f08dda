"""The wire protocol between the ranks and the front end: one JSON object a line.

Every event has `schema`, `event`, `run` (which job it is of), `rank` (None for the launcher) and
`t`, seconds since the epoch at the writer. A line is at most `MAX_LINE_BYTES` long and leaves in
one `os.write`, so that lines of several writers never mix; long texts are cut, and say so. Each
rank appends to a file of its own, which also works on a file system that several nodes share.

Which events there are, and what each carries, is in the contract (`verify --json`). Beyond it,
`tensor` may carry `hop` (position in `JobSpec.then`; absent: 0), `ranks` (how many ranks report
this entry in this phase; absent: all) and `asked` (left out on request), `torch_reads` says whether
torch's own `read_metadata` reads what the job read, and `failed` may carry `root` (what the other
failures came of) or `is_echo` (it only came of another).
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["EVENTS", "MAX_LINE_BYTES", "SCHEMA", "EventWriter", "decode", "encode", "rank_file"]

SCHEMA = 1
MAX_LINE_BYTES = 4096

#: Events that the next of their kind makes up for.
_PASSING = frozenset({"heartbeat", "progress"})
#: Events after which a writer says nothing more: it waits for room as long as this.
_LAST = frozenset({"bye", "failed"})
_PATIENCE_S = 20.0
_RETRY_S = 0.1
_MAX_UNSENT_BYTES = 64 << 20

EVENTS = frozenset(
    "spec hello phase progress tensor log failed bye result heartbeat plan torch_reads".split()
)


def rank_file(events_dir: str | Path, rank: int | None) -> Path:
    """The file that a rank (None: the launcher) appends its events to."""
    return Path(events_dir, "launcher.jsonl" if rank is None else f"rank-{rank:05}.jsonl")


def encode(event: dict[str, Any]) -> bytes:
    """One line, at most `MAX_LINE_BYTES` long; the longest texts in it are cut to fit."""
    line = (json.dumps(event, separators=(",", ":")) + "\n").encode()
    while len(line) > MAX_LINE_BYTES:
        key = max(event, key=lambda k: len(json.dumps(event[k])))
        value = event[key]
        if isinstance(value, str) and len(value) > 32:
            event = {**event, key: value[: len(value) // 2] + " ...", "cut": True}
        elif isinstance(value, (list, dict)) and value:
            short: Any = (
                value[: len(value) // 2]
                if isinstance(value, list)
                else dict(list(value.items())[: len(value) // 2])
            )
            event = {**event, key: short, "cut": True}
        else:
            event = {k: event[k] for k in ("schema", "event", "run", "rank", "t") if k in event}
        line = (json.dumps(event, separators=(",", ":")) + "\n").encode()
    return line


def decode(line: bytes | str) -> dict[str, Any] | None:
    """The event of a line, or None for anything that is not one."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(event, dict) and event.get("schema") == SCHEMA and event.get("event") in EVENTS:
        return event
    return None


class EventWriter:
    """Appends one writer's events to its file.

    While the disk is full, what was found is kept until there is room again, and what only tells
    how far it is goes lost.
    """

    def __init__(self, events_dir: str | Path, rank: int | None, run: str = "") -> None:
        self.rank = rank
        self.run = run
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(rank_file(events_dir, rank), flags, 0o644)
        self._lock = threading.Lock()
        self._unsent = bytearray()

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; a disk that is full for a while is not the job's failure.

        Raises:
            OSError: It has been full for so long that more cannot be kept.
        """
        head = {"schema": SCHEMA, "event": event, "run": self.run, "rank": self.rank}
        line = {**head, "t": time.time(), **fields}
        with self._lock:
            if event in _PASSING and self._unsent:
                self._flush()
                return
            self._unsent += encode(line)
            error = self._flush()
            deadline = time.monotonic() + (_PATIENCE_S if event in _LAST else 0.0)
            while error is not None and time.monotonic() < deadline:
                time.sleep(_RETRY_S)
                error = self._flush()
            if error is not None and len(self._unsent) > _MAX_UNSENT_BYTES:
                raise error

    def _flush(self) -> OSError | None:
        """Write what is not written yet; why not all of it was."""
        try:
            while self._unsent:
                # A line may leave in two pieces: the rest of it is the next to be written.
                del self._unsent[: os.write(self._fd, self._unsent)]
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
