"""Who is there of a printed job's nodes: each one's file in the folder that all of them see.

A node appends a line to its file once a second, and what went wrong; the others read it. A file
that was there before this node's counts only once it grows: an earlier attempt may have left it.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.checkpoint.own_folders import start_of, system_id
from inspector.checkpoint.text import printable
from inspector.verify.events import SCHEMA, encode

__all__ = ["SILENT_BEATS", "NodeStop", "Peer", "Peers"]

_BEAT_S = 1.0
#: A node counts as silent after so many beats of this one's that were written while it wrote none:
#: a folder that hangs for a while holds up both.
SILENT_BEATS = 30


class NodeStop(Exception):
    """The job ends here, for the reason that it carries; it is no rank's."""

    def __init__(self, message: str, kind: str = "launch", *, is_told: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_told = is_told


@dataclass(slots=True)
class Peer:
    """Another node, as its file tells.

    Attributes:
        path: That file, of which `num_read` bytes are known.
        host: Its name.
        is_head: Whether it takes itself for the head.
        is_over: Whether it has had its last word.
        silent: Beats of this node since its last.
        failure: What it says went wrong; empty for nothing.
        system, pid, start: Its process.
    """

    path: Path
    num_read: int = 0
    host: str = "?"
    is_head: bool = False
    is_over: bool = False
    silent: int = 0
    failure: str = ""
    system: str = ""
    pid: int = 0
    start: int = 0

    def look(self) -> None:
        """Read what it has written since the last look."""
        try:
            # Opened anew: on NFS that is what brings the other node's lines here.
            with open(self.path, "rb") as file:
                file.seek(self.num_read)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self.num_read += len(whole)
        for line in whole.splitlines():
            self.silent = 0
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(event, dict):
                continue
            if event.get("event") == "failed":
                self.failure = str(event.get("message") or "it failed")
            self.host = str(event.get("node") or self.host)
            self.is_head = bool(event.get("is_head", self.is_head))
            self.is_over = bool(event.get("is_over", self.is_over))
            self.system = str(event.get("system"))
            self.pid, self.start = _int(event.get("pid")), _int(event.get("start"))


class Peers:
    """This node's own file, and those of the others.

    Args:
        folder: Where they lie.
        host: This node's name.
        run: The job's id.
    """

    def __init__(self, folder: Path, host: str, run: str) -> None:
        self._folder = folder
        self._host = host
        self._run = run
        # In a container every attempt has the same host and process number.
        stem = re.sub(r"[^A-Za-z0-9.-]+", "_", host)[:60]
        self.name = f"node-{stem}-{uuid.uuid4().hex[:8]}"
        self.is_head = False
        self._next_beat = 0.0
        self._known: dict[str, Peer] = {}
        self._before: dict[str, Peer] = {}

    @property
    def hosts(self) -> list[str]:
        """The names of the other nodes that came."""
        return [peer.host for peer in self._known.values()]

    @property
    def are_over(self) -> bool:
        """Whether each of them has had its last word."""
        return all(peer.is_over for peer in self._known.values())

    def join(self) -> None:
        """Make this node's file.

        Raises:
            OSError: It cannot be written.
        """
        self._remove_old()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._folder / f"{self.name}.jsonl", flags, 0o644)

    def _remove_old(self) -> None:
        """Remove the files of earlier attempts on this host: none of their ranks was ever up."""
        for path in self._folder.glob("node-*.jsonl"):
            peer = Peer(path)
            peer.look()
            is_dead = peer.system == system_id() and start_of(peer.pid) != peer.start
            if peer.host == self._host and (peer.is_over or is_dead):
                path.unlink(missing_ok=True)
            else:
                self._before[path.name] = peer

    def look(self, silent_beats: int = SILENT_BEATS) -> None:
        """Beat, and hear the other nodes.

        Raises:
            NodeStop: One of them has failed, or is silent.
        """
        if time.monotonic() < self._next_beat or not self.beat():
            return
        self._find_peers()
        for peer in self._known.values():
            peer.silent += 1
            peer.look()
            if peer.failure:
                raise NodeStop(peer.failure, is_told=True)
            if peer.is_head and self.is_head:
                raise NodeStop(
                    f"{printable(self._host)} and {printable(peer.host)} both take themselves for "
                    "the head: name it by an address that is its alone (--rdzv-endpoint), or "
                    "number the nodes (--node-rank)"
                )
            if peer.silent > silent_beats and not peer.is_over:
                raise NodeStop(
                    f"node {printable(peer.host)} has not been heard of for {peer.silent} s: it "
                    "died, or lost its network or the folder of the events",
                    "killed",
                )

    def _find_peers(self) -> None:
        """Take in the nodes whose files came after this one's, or grow.

        Raises:
            NodeStop: One had failed before this one came, and does not come again.
        """
        for path in self._folder.glob("node-*.jsonl"):
            if path.stem == self.name or path.name in self._known:
                continue
            peer = self._before.get(path.name)
            if peer is None:
                self._known[path.name] = Peer(path)
                continue
            peer.silent += 1
            peer.look()
            if peer.silent == 0:
                self._known[path.name] = peer
            elif peer.is_over and peer.failure and peer.silent > SILENT_BEATS:
                # It may have been an earlier attempt's: then its host would have come by now.
                raise NodeStop(f"{peer.failure} (before {printable(self._host)} came)")

    def beat(self) -> bool:
        """Write that this node lives; whether that could be written."""
        self._next_beat = time.monotonic() + _BEAT_S
        return self.tell("heartbeat")

    def tell(self, event: str, **fields: Any) -> bool:
        """Append an event to this node's file; whether that could be done."""
        line = {
            "schema": SCHEMA,
            "event": event,
            "run": self._run,
            "rank": fields.pop("rank", None),
            "t": time.time(),
            "node": self._host,
            "is_head": self.is_head,
            "pid": os.getpid(),
            "start": start_of(os.getpid()),
            "system": system_id(),
            **fields,
        }
        try:
            os.write(self._fd, encode(line))
        except OSError:
            return False
        return True


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0
