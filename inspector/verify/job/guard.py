"""The process between the front end and torchrun: `python -I -S guard.py JOB.json`.

It starts torchrun in a session of its own, and ends when every process of the job has ended.
Its stdin is a pipe that the front end holds: `s` asks it to stop the job, `k` to kill it, and
the end of the file means that the front end is gone, which is the same as `s`. However the job
ends, no process of it and no scratch folder stays.

The rule this module keeps: every wait has an end. A process belongs to the job if its environment
holds the job's mark, whatever session or parent it has by now: torchrun puts each rank in a
session of its own, and a killed torchrun leaves its ranks to whoever is next. Standard library
only: it runs by path, without site-packages, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["MARK", "SCRATCH_PREFIX", "hello_pids", "job_pids", "kill_all", "remove_scratch"]

#: Environment variable that every process of a job carries; its value is the job's own.
MARK = "HSDP_INSPECT_JOB"
#: Only a folder with such a name is ever removed.
SCRATCH_PREFIX = "hsdp-inspect-scratch-"

PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05
_LAST_GASP_S = 5.0


def job_pids(mark: str) -> list[int]:
    """Processes of the job that still run, this one apart; empty where there is no /proc."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                mine = wanted in file.read().split(b"\0")
        except OSError:
            continue  # It has ended, or is another user's.
        if mine:
            found.append(int(name))
    return found


def kill_all(mark: str, known: list[int], reap: Callable[[], Any] | None = None) -> bool:
    """Kill every process of the job, until none is left.

    Args:
        mark: The job's mark.
        known: Processes to signal where they cannot be found by their mark (no /proc).
        reap: Called between two looks, to bury one's own children.

    Returns:
        Whether none is left.
    """
    deadline = time.monotonic() + _LAST_GASP_S
    while True:
        pids = job_pids(mark) if os.path.isdir("/proc/self") else [p for p in known if _runs(p)]
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if reap is not None:
            reap()
        if not pids:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


def remove_scratch(path: str) -> None:
    """Remove a job's scratch folder, and nothing that is not one."""
    if path and os.path.basename(path.rstrip("/")).startswith(SCRATCH_PREFIX):
        shutil.rmtree(path, ignore_errors=True)


def hello_pids(events_dir: str) -> list[int]:
    """The ranks' processes as their first events name them, for systems without /proc."""
    pids = []
    for name in os.listdir(events_dir) if os.path.isdir(events_dir) else ():
        if name.startswith("rank-") and name.endswith(".jsonl"):
            try:
                with open(os.path.join(events_dir, name), "rb") as file:
                    pids.append(int(json.loads(file.readline())["pid"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # It has not said hello yet.
    return pids


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def prctl() -> Callable[[int, int], None]:
    """What calls Linux's `prctl` with an option and a number, and does nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return lambda option, number: None
    libc = ctypes.CDLL(None)

    def call(option: int, number: int) -> None:
        libc.prctl(option, number, 0, 0, 0)

    return call


class _Guard:
    """One job, from torchrun's start to the end of its last process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._mark: str = os.environ[MARK]
        self._exit: int | None = None
        self._stop_by: float | None = None
        self._why = ""

    def run(self) -> None:
        call_prctl = prctl()
        # Ranks whose torchrun was killed become children of this process, and end with it.
        call_prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop("SIGTERM"))
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with open(self._job["stdout"], "ab") as stdout, open(self._job["stderr"], "ab") as stderr:
            try:
                self._torchrun = subprocess.Popen(  # noqa: S603 - the argv that was shown
                    self._job["argv"],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=self._job["cwd"],
                    start_new_session=True,
                    # SIGTERM, so that torchrun still ends its ranks when this process is killed.
                    preexec_fn=lambda: call_prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
                )
            except OSError as error:
                self._tell(state="ended", torchrun=None, error=str(error))
                remove_scratch(self._job["scratch_dir"])
                return
        self._tell(state="running", torchrun=self._torchrun.pid)
        self._watch(wake)
        is_empty = self._clear()
        remove_scratch(self._job["scratch_dir"])
        self._tell(
            state="ended",
            torchrun=self._torchrun.pid,
            exit=self._exit,
            stopped=self._why,
            is_empty=is_empty,
        )

    def _watch(self, wake: int) -> None:
        """Until torchrun has ended, by itself or because it was asked to."""
        inputs = [0, wake]
        while self._exit is None:
            for fd in select.select(inputs, [], [], _POLL_S if self._stop_by else 1.0)[0]:
                data = os.read(fd, 4096)
                if fd == wake:
                    continue
                if not data:
                    inputs.remove(0)
                    self._stop("the front end is gone")
                elif b"k" in data:
                    self._stop("killed", grace_s=0.0)
                else:
                    self._stop("stopped")
            self._reap()
            if self._exit is None and self._stop_by and time.monotonic() > self._stop_by:
                return

    def _stop(self, why: str, grace_s: float | None = None) -> None:
        """Ask torchrun, once, to end its ranks and itself; the deadline only ever comes nearer."""
        by = time.monotonic() + (self._job["grace_s"] if grace_s is None else grace_s)
        if self._stop_by is None:
            self._why = why
            with contextlib.suppress(OSError):
                self._torchrun.send_signal(signal.SIGTERM)
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)

    def _clear(self) -> bool:
        """End whatever of the job still runs; whether nothing is left."""
        known = hello_pids(self._job["events_dir"])
        if self._exit is None:
            known.append(self._torchrun.pid)
        is_empty = kill_all(self._mark, known, reap=self._reap)
        self._reap()
        return is_empty

    def _reap(self) -> None:
        """Bury every child that has ended: torchrun, and ranks it left behind."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._torchrun.pid:
                self._exit = os.waitstatus_to_exitcode(status)
                self._torchrun.returncode = self._exit

    def _tell(self, **status: Any) -> None:
        """Write how it stands where the front end looks; all of it or nothing."""
        path = self._job["status"]
        with contextlib.suppress(OSError):
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump({"guard": os.getpid(), **status}, file)
            os.replace(path + ".new", path)


def main() -> None:
    """Guard the job that the file on the command line describes."""
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        _Guard(job).run()
    finally:
        remove_scratch(job["scratch_dir"])


if __name__ == "__main__":
    main()
