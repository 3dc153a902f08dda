"""`Job`: runs torchrun, streams and records its events, and stops it without orphans.

    with Job(spec).start() as job:
        for event in job.events():   # until the `result`
            ...

A job is driven by whoever calls `step` (or `events`, which does), from one thread. `stop`, `kill`,
`snapshot` and `log_lines` may be called from any other.

Three processes share the work: this one follows the ranks' files and judges; the guard
(`guard.py`) owns the processes, and ends them also when this one is gone; torchrun runs the
ranks. Every wait has an end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inspector.checkpoint.own_folders import start_of, system_id
from inspector.errors import StorageError
from inspector.verify.events import event_head
from inspector.verify.job import commands, post_mortem, watchdog
from inspector.verify.job.guard import hello_pids, job_pids, kill_all, remove_scratch
from inspector.verify.job.run_folder import (
    RunFolder,
    make_scratch,
    meeting_folder,
    prune_runs,
    remove_leftovers,
)
from inspector.verify.progress import JobState, LogLine, Snapshot
from inspector.verify.ranks.vitals import stacks_file
from inspector.verify.recording import EventFollower, LogFollower, spec_event
from inspector.verify.result import ExpectedEntries, result_event
from inspector.verify.spec import RankSpec

__all__ = ["Job", "run"]

Event = dict[str, Any]

_GUARD = Path(__file__).with_name("guard.py")
_POLL_S = 0.05
_GRACE_S = 5.0
#: After the guard's own bounds, so that this one only matters if the guard itself is stuck.
_GUARD_PATIENCE_S = 15.0
#: How long the ranks have to write their stacks.
_STACKS_S = 1.5
#: What a job's recording and logs may take: in all, and for each entry on each rank (which is told
#: once for each mesh, and once more in the recording).
_ROOM_BYTES = 16 << 20
_ROOM_PER_ENTRY_BYTES = 2000
#: How long torchrun may take to end once every rank has said bye.
_TEARDOWN_S = 30.0


class Job:
    """One job of ranks on this machine.

    Args:
        spec: What to do, resolved; events, scratch and interpreter are filled in where empty.
        expected: What should be reported (see `result.Expected`).
        scratch_parent: Folder under which the scratch folder is made (default: the run's own).
        worker: Module that each rank runs (default: the spec's).
        grace_s: How long the ranks have to end by themselves when they are stopped.
    """

    def __init__(
        self,
        spec: RankSpec,
        *,
        expected: ExpectedEntries | None = None,
        scratch_parent: str = "",
        worker: str = "",
        grace_s: float = _GRACE_S,
    ) -> None:
        self.spec = spec
        self.result: Event | None = None
        self.command: list[str] = []
        self._expected = expected
        self._scratch_parent = scratch_parent
        self._worker = worker or spec.worker
        self._grace_s = grace_s
        self._mark = uuid.uuid4().hex
        self._meeting = ""
        self._open = ExitStack()
        self._state = JobState()
        if expected is not None:
            self._state.long_names = expected.long_names
        self._lock = threading.Lock()
        self._pending: list[Event] = []
        self._stop_by: float | None = None
        self._is_cancelled = False
        self._is_started = False
        self._reason = ""
        self._hung_at: float | None = None
        self._io_bytes: int | None = None
        self._restarted = ""

    def start(self) -> Job:
        """Make the run folder and start the guard, which starts torchrun.

        Raises:
            StorageError: There is nowhere to record the job, or no scratch folder can be made.
        """
        remove_leftovers()
        prune_runs()
        name = f"{Path(self.spec.path).name}-{self.spec.label}"
        num_names = len(self._expected.names) if self._expected is not None else 0
        self.folder = RunFolder.create(
            name,
            self.spec.events_dir or None,
            inspected=self.spec.path,
            num_bytes=_ROOM_BYTES + num_names * self.spec.world_size * _ROOM_PER_ENTRY_BYTES,
        )
        self._begin()
        self._is_started = True
        if self._is_cancelled:  # While it was started, from another thread.
            self._tell_guard(b"s", self._grace_s)
        return self

    def _begin(self, **more: Any) -> None:
        """Start the guard on a scratch folder, a recording and an id of its own.

        Raises:
            StorageError: They cannot be made.
        """
        scratch = make_scratch(self._scratch_parent or self.folder.path)
        self.spec = dataclasses.replace(
            self.spec,
            events_dir=str(self.folder.events),
            scratch_dir=scratch,
            python=self.spec.python or sys.executable,
            run=self._mark,
        )
        try:
            self.folder.spec.write_text(self.spec.to_json() + "\n", encoding="utf-8")
            self._meeting = self._open.enter_context(meeting_folder())
            if self.folder.events.is_symlink():  # So that it can be replayed by itself.
                (self.folder.events / "spec.json").write_text(self.spec.to_json() + "\n")
            self.command = commands.local_argv(
                self.spec, self.folder.spec, self.folder.logs, self._worker, self._meeting
            )
            self._recording = open(self.folder.recording, "ab")  # noqa: SIM115 - as long as the job
            self._write_guard_job()
            self._oom_kills = post_mortem.num_oom_kills()
            self._started = time.monotonic()
            self._guard = self._start_guard()
        except OSError as error:
            remove_scratch(scratch)
            self._open.close()
            raise StorageError(f"cannot start the job: {error.strerror or error}") from error
        self._watchdog = watchdog.Watchdog(self.spec.timeout_s, self.spec.world_size, self._started)
        self._ranks = EventFollower(self.folder.events)
        self._logs = LogFollower(self.folder.logs)
        known: dict[str, Any] = {"command": self.command, "run_folder": str(self.folder.path)}
        known |= more
        if self._expected is not None:
            known["num_entries"] = len(self._expected.names)
        self._pending.append(spec_event(self.spec, time.time(), **known))

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self) -> list[Event]:
        """Every event since the last step; the last one of all is the `result`. Never waits."""
        if self.result is not None:
            return []
        now = time.monotonic()
        # Looked at before the files are, so that what was written before its end is read.
        has_ended = self._guard.poll() is not None
        events, self._pending = self._pending, []
        self._take(events, now)
        events += self._read(now, whole=has_ended)
        if has_ended:
            events += self._clean_up(now)
            # Before what it rests on is put aside.
            last = self._diagnose()
            if (why := self._reason_to_start_again()) and self._start_again(why):
                # What the first attempt told is in its own recording, and in no verdict.
                return []
            self._take(last, now)
            return [*events, *last, self._finish()]
        late = self._watch(now)
        self._take(late, now)
        return events + late

    def events(self) -> Iterator[Event]:
        """Every event as it comes, until the `result`."""
        while self.result is None:
            events = self.step()
            yield from events
            if not events:
                time.sleep(_POLL_S)

    def stop(self, reason: str = "") -> None:
        """Ask the job to end; its last events, and the result, still come. From any thread.

        Args:
            reason: Why, for the result; by default that it was stopped before it was done.
        """
        self._reason = self._reason or reason
        self._is_cancelled = True
        self._tell_guard(b"s", self._grace_s)

    def kill(self) -> None:
        """End the job now. From any thread."""
        self._is_cancelled = True
        self._tell_guard(b"k", 0.0)

    def close(self) -> None:
        """Stop the job if it still runs, and wait for its end, which is bounded.

        Nothing happens to one that was not started.
        """
        if self.result is None and self._is_started:
            self.stop()
            for _ in self.events():
                pass

    @property
    def pids(self) -> list[int]:
        """The job's processes that run now (Linux only), the guard among them."""
        return job_pids(self._mark)

    def snapshot(self) -> Snapshot:
        """How the job stands. From any thread."""
        with self._lock:
            return self._state.snapshot()

    def log_lines(self, rank: int | str | None = "all", limit: int = 500) -> list[LogLine]:
        """The last lines that a rank printed (None: torchrun). From any thread."""
        with self._lock:
            return self._state.log_lines(rank, limit)

    def _write_guard_job(self) -> None:
        job = {
            "argv": self.command,
            "cwd": str(self.folder.path),
            "stdout": str(self.folder.torchrun_out),
            "stderr": str(self.folder.torchrun_err),
            "events_dir": self.spec.events_dir,
            "scratch_dir": self.spec.scratch_dir,
            "status": str(self.folder.guard_status),
            "grace_s": self._grace_s,
            "mark": self._mark,
            # By what another process can tell that this one is still there, and sees it at all.
            "system": system_id(),
            "front": [os.getpid(), start_of(os.getpid())],
        }
        self.folder.guard_job.write_text(json.dumps(job), encoding="utf-8")

    def _start_guard(self) -> subprocess.Popen[bytes]:
        with open(self.folder.logs / "guard.err", "ab") as stderr:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and file
                [sys.executable, "-I", "-S", str(_GUARD), str(self.folder.guard_job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=commands.environment(
                    self.spec, self.folder.imports, self._mark, meeting=self._meeting
                ),
                # Ctrl+C goes to the front end alone, which then stops the job.
                start_new_session=True,
                bufsize=0,
            )

    def _tell_guard(self, word: bytes, grace_s: float) -> None:
        if not self._is_started:
            return  # There is nobody to tell yet.
        by = time.monotonic() + grace_s + _GUARD_PATIENCE_S
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        try:
            assert self._guard.stdin is not None  # noqa: S101 - as asked for
            self._guard.stdin.write(word)
        except (OSError, ValueError):
            pass  # It has ended already.

    def _read(self, now: float, *, whole: bool) -> list[Event]:
        """What the ranks and their logs have told since the last look, folded and recorded."""
        told = self._ranks.read(whole=whole)
        events = [event for event, _ in told]
        self._take(events, now, b"".join(line + b"\n" for _, line in told))
        logs = [{**event, "run": self.spec.run} for event in self._logs.read(whole=whole)]
        self._take(logs, now)
        return events + logs

    def _take(self, events: list[Event], now: float, lines: bytes = b"") -> None:
        """Fold and record events; `lines` are theirs, if they are known."""
        if not events:
            return
        with self._lock:
            for event in events:
                self._watchdog.feed(event, now)
                self._state.apply(event)
        lines = lines or b"".join(json.dumps(event).encode() + b"\n" for event in events)
        try:
            self._recording.write(lines)
            self._recording.flush()
        except OSError:
            pass  # A full disk under the recording does not make the job fail.

    def _watch(self, now: float) -> list[Event]:
        """Look after a job that runs: hangs, a teardown without end, a guard without end."""
        if self._stop_by is not None:
            if now > self._stop_by:
                self._guard.kill()
        elif self._hung_at is not None:
            if now > self._hung_at + _STACKS_S:
                idle_s = self._watchdog.idle_s(self._hung_at)
                self._hung_at = None
                return self._give_up(idle_s)
        elif self._has_stopped_moving(now):
            self._hung_at = now
            watchdog.ask_for_stacks(self._rank_pids())
        elif self._watchdog.is_over and self._watchdog.idle_s(now) > _TEARDOWN_S:
            # The ranks are done and only torchrun is not: the verdict stands.
            self._tell_guard(b"s", self._grace_s)
        return []

    def _has_stopped_moving(self, now: float) -> bool:
        """Whether the job is stuck: the ranks tell nothing, and do not read or write either."""
        if self._watchdog.idle_s(now) < self.spec.timeout_s / 2:
            self._io_bytes = None
        elif self._io_bytes is None:
            self._io_bytes = watchdog.io_bytes(self._rank_pids())
        elif self._watchdog.is_stuck(now):
            if watchdog.io_bytes(self._rank_pids()) <= self._io_bytes + watchdog.IDLE_IO_BYTES:
                return True
            self._watchdog.touch(now)
        return False

    def _rank_pids(self) -> list[int]:
        """The ranks' processes that still run."""
        mine = set(self.pids)
        return [r.pid for r in self.snapshot().ranks if r.pid is not None and r.pid in mine]

    def _give_up(self, idle_s: float) -> list[Event]:
        """Say where each rank of a stuck job stands, and stop it."""
        self._tell_guard(b"s", self._grace_s)
        live = [r.rank for r in self.snapshot().ranks if r.status in ("waiting", "running")]
        folder = self.spec.events_dir
        stacks = {rank: watchdog.read_stack(stacks_file(folder, rank)) for rank in live}
        failures = watchdog.hang_failures(stacks, idle_s)
        return [{**self._event("failed", rank), **fields} for rank, fields in failures.items()]

    def _clean_up(self, now: float) -> list[Event]:
        """What the guard would have done, had it not been killed itself; the last events."""
        late = []
        if self._guard_status().get("state") != "ended":
            kill_all(self._mark, hello_pids(self.spec.events_dir))
            late = self._read(now, whole=True)
        remove_scratch(self.spec.scratch_dir)
        self._open.close()
        return late

    def _diagnose(self) -> list[Event]:
        """The failures that nobody could tell, once the guard has ended."""
        status = self._guard_status()
        if self._is_cancelled:
            return []
        if status.get("stopped") == "SIGTERM":
            fields = {"kind": "killed", "message": "the job was stopped from outside", "stack": ""}
            return [{**self._event("failed", None), **fields}]
        found = post_mortem.diagnose(
            self.snapshot(),
            exit_code=status.get("exit") if status.get("state") == "ended" else None,
            start_error=str(status.get("error") or ""),
            stderr=post_mortem.tail_of(self.folder.torchrun_err),
            rank_stderr=post_mortem.rank_stderr(self.folder.logs),
            was_oom=post_mortem.num_oom_kills() > self._oom_kills,
        )
        return [{**self._event("failed", None), **fields} for fields in found]

    def _reason_to_start_again(self) -> str:
        """Why the job deserves a second attempt; empty where it does not, or had one.

        It failed before a rank was up, and by no rank's doing.
        """
        status = self._guard_status()
        if self._restarted or self._is_cancelled or status.get("stopped") != "":
            return ""
        if status.get("is_empty") is not True:
            return ""  # A process of it could not be ended: two jobs would run at once.
        return post_mortem.launchers_own(
            self.snapshot(),
            exit_code=status.get("exit"),
            stderr=post_mortem.tail_of(self.folder.torchrun_err),
            rank_stderr=post_mortem.rank_stderr(self.folder.logs),
        )

    def _start_again(self, why: str) -> bool:
        """Put what the first attempt left aside, and start the job once more; whether it runs."""
        spec, mark, began = self.spec, self._mark, self._started
        try:
            self.folder.put_aside()
        except OSError:
            return False
        self._close_files()
        self._restarted, self._mark = why, uuid.uuid4().hex
        try:
            self._begin(again=spec.run)
        except StorageError:
            # There is no room for it any more: the first attempt is what there is to tell of.
            self._recording = open(os.devnull, "ab")  # noqa: SIM115 - as above
            self._restarted, self.spec, self._mark = "", spec, mark
            return False
        with self._lock:
            names, self._state = self._state.long_names, JobState()
            self._state.long_names = names
        self._started = began
        self._hung_at = self._io_bytes = None
        text = f"torchrun is started once more, since it ended before any rank was up: {why}"
        self._pending.append({**self._event("log", None), "stream": "launcher", "text": text})
        if self._is_cancelled:  # Meanwhile, from another thread.
            self._tell_guard(b"s", self._grace_s)
        return True

    def _close_files(self) -> None:
        for follower in (self._ranks, self._logs):
            follower.close()
        try:
            self._recording.close()
        except OSError:
            pass  # The same full disk, told once more for what is left in the buffer.
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def _guard_status(self) -> dict[str, Any]:
        try:
            status = json.loads(self.folder.guard_status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def _event(self, name: str, rank: int | None) -> Event:
        return event_head(name, rank, self.spec.run)

    def _finish(self) -> Event:
        elapsed_s = time.monotonic() - self._started
        result = result_event(
            self.snapshot(), self.spec, elapsed_s, self._is_cancelled, self._expected
        )
        result |= {"t": time.time(), "run_folder": str(self.folder.path)}
        if self._reason and result["verdict"] == "cancelled":
            result["why"] = self._reason
        if self._restarted:
            result["restarted"] = self._restarted
        self._take([result], time.monotonic())
        self._close_files()
        self.result = result
        return result


def run(spec: RankSpec, on_event: Callable[[Event], None] | None = None, **options: Any) -> Event:
    """Run a job to its end; its `result` event."""
    with Job(spec, **options).start() as job:
        for event in job.events():
            if on_event is not None:
                on_event(event)
    assert job.result is not None  # noqa: S101 - events ends with it
    return job.result
