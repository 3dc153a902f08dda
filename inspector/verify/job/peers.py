"""Who is there of a printed job: its nodes, by their files, and the ranks of this node.

All files lie in the folder that the nodes share.

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
from inspector.verify.events import encode, event_head
from inspector.verify.job import watchdog
from inspector.verify.ranks.vitals import stacks_file
from inspector.verify.recording import EventFollower
from inspector.verify.spec import RankSpec

__all__ = ["SILENT_BEATS", "NodeStop", "OwnRanks", "Peer", "Peers"]

_BEAT_S = 1.0
#: A node counts as silent after so many beats of this one's that were written while it wrote none:
#: a folder that hangs for a while holds up both.
SILENT_BEATS = 30
#: How long ranks have to write their stacks into a folder that may be on the network.
_STACKS_S = 3.0
_STATES = {
    "T": "it is stopped (SIGSTOP), or held by a debugger",
    "t": "it is held by a debugger",
    "D": "it waits in the kernel (state D), for a disk, a network file system or a device",
}


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
        kind: Of what kind that is.
        system, pid, start: Its process.
    """

    path: Path
    num_read: int = 0
    host: str = "?"
    is_head: bool = False
    is_over: bool = False
    silent: int = 0
    failure: str = ""
    kind: str = "launch"
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
                self.kind = str(event.get("kind") or self.kind)
            self.host = str(event.get("node") or self.host)
            self.is_head = bool(event.get("is_head", self.is_head))
            self.is_over = bool(event.get("is_over", self.is_over))
            self.system = str(event.get("system"))
            self.pid, self.start = _int(event.get("pid")), _int(event.get("start"))


class Peers:
    """This node's own file, and those of the others."""

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
                raise NodeStop(peer.failure, peer.kind, is_told=True)
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
            **event_head(event, fields.pop("rank", None), self._run),
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


@dataclass(slots=True)
class _OwnRank:
    """A rank of this node: its process, beats since it last told or did anything, and its work."""

    pid: int
    silent: int = 0
    work: int = -1


class OwnRanks:
    """Whether this node's ranks live, and whether the job moves.

    A rank that tells nothing any more, not even that it lives, and computes nothing either, is told
    after some beats: it was stopped, or waits for something that does not come. Where all of them
    live and nothing moves for the job's `timeout_s`, each is told with what its stack says.
    """

    def __init__(self, spec: RankSpec, host: str) -> None:
        self._folder = spec.events_dir
        self._host = host
        self._files = EventFollower(spec.events_dir)
        now = time.monotonic()
        self._watchdog = watchdog.Watchdog(spec.timeout_s, spec.world_size, now, hears_io=True)
        self._num_up, self._world_size = 0, spec.world_size
        self._mine: dict[int, _OwnRank] = {}
        self._all: set[int] = set()
        self._next_beat = 0.0

    def close(self) -> None:
        """Close the files that are read."""
        self._files.close()

    def look(self, now: float, silent_beats: int = SILENT_BEATS) -> list[dict[str, Any]]:
        """Hear all ranks; the fields of a `failed` event for each of this node's that is stuck."""
        if now < self._next_beat:
            return []
        self._next_beat = now + _BEAT_S
        for rank in self._mine.values():
            rank.silent += 1
        for event, _ in self._files.read():
            self._take(event, now)
        silent = []
        for number, rank in self._mine.items():
            work = _work_of(rank.pid)
            if work is None or work != rank.work:
                # It has ended, of which torchrun knows; or it computes.
                rank.work, rank.silent = -1 if work is None else work, 0
            elif rank.silent > silent_beats:
                silent.append(self._silent(number, rank))
        if silent or self._num_up < self._world_size or not self._watchdog.is_stuck(now):
            return silent
        return self.stuck(self._watchdog.idle_s(now))

    def stuck(self, idle_s: float | None = None) -> list[dict[str, Any]]:
        """Where each of this node's ranks stands that has not ended; waits for their stacks."""
        watchdog.ask_for_stacks([rank.pid for rank in self._mine.values()])
        time.sleep(_STACKS_S)
        stacks = {r: watchdog.read_stack(stacks_file(self._folder, r)) for r in sorted(self._all)}
        if idle_s is None:
            idle_s = self._watchdog.idle_s(time.monotonic())
        found = []
        for number, fields in watchdog.hang_failures(stacks, idle_s).items():
            if number in self._mine:
                said = fields["message"]
                if not stacks[number].strip():
                    said += f"; {_state_of(self._mine[number].pid)}"
                found.append(fields | self._said(number, said))
        return found

    def _take(self, event: dict[str, Any], now: float) -> None:
        self._watchdog.feed(event, now)
        number, kind = event.get("rank"), event.get("event")
        if type(number) is not int:
            return
        if kind == "hello":
            self._num_up += 1
            self._all.add(number)
            if event.get("host") == self._host:
                self._mine[number] = _OwnRank(_int(event.get("pid")))
        elif kind in ("bye", "failed"):
            self._all.discard(number)
            self._mine.pop(number, None)
        elif number in self._mine:
            self._mine[number].silent = 0

    def _silent(self, number: int, rank: _OwnRank) -> dict[str, Any]:
        said = f"it has told nothing for {rank.silent} s, not even that it lives: "
        said += _state_of(rank.pid)
        return {"kind": "timeout", "stack": "", "root": True, **self._said(number, said)}

    def _said(self, number: int, said: str) -> dict[str, Any]:
        return {"rank": number, "message": f"on {printable(self._host)}, {said}"}


def _stat_of(pid: int) -> list[str]:
    """The fields of a process's line behind its name: its state first (proc(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [""]
    return text[text.rfind(")") + 1 :].split() or [""]


def _state_of(pid: int) -> str:
    return _STATES.get(_stat_of(pid)[0], "its process is there, and does nothing")


def _work_of(pid: int) -> int | None:
    """Ticks that a process has computed for; None if there is none, or nobody knows."""
    fields = _stat_of(pid)
    if len(fields) < 13 or fields[0] in "ZX":
        return None
    return int(fields[11]) + int(fields[12])


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0
