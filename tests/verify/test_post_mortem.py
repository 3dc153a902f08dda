"""Why a job failed, from what is left of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from inspector.verify.job.post_mortem import ChildFailure, diagnose, parse_report
from inspector.verify.job.watchdog import Watchdog, collective_of, hang_failures, io_bytes
from inspector.verify.progress import JobState, Snapshot

# As torchrun 2.13 wrote it, the host's name and the paths shortened.
REPORT = """\
E1123 14:46:00.714000 19639 api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 19644) of binary
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
inspector.verify.ranks.worker FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-23_14:46:01
  host      : localhost
  rank      : 12 (local_rank: 4)
  exitcode  : 1 (pid: 19648)
  error_file: /tmp/x/error.json
  traceback : Traceback (most recent call last):
    File "worker.py", line 3, in main
    [0]:
  RuntimeError: Connection closed by peer
  
[2]:
  time      : 2026-11-23_14:46:01
  host      : localhost
  rank      : 2 (local_rank: 2)
  exitcode  : -15 (pid: 19649)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 19649
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-23_14:46:00
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 19644)  (SIGKILL)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 19644
============================================================
"""  # noqa: W291, W293


def _snapshot(num_ranks: int, **status: str) -> Snapshot:
    state = JobState()
    state.apply({"event": "spec", "world_size": num_ranks, "t": 1.0})
    for rank in range(num_ranks):
        said = status.get(f"rank_{rank}", "hello")
        if said != "nothing":
            state.apply({"event": "hello", "rank": rank, "pid": 100 + rank, "t": 2.0})
        if said in ("bye", "failed"):
            state.apply({"event": said, "rank": rank, "t": 3.0, "message": "its own"})
    return state.snapshot()


def _diagnose(snapshot: Snapshot, **found: Any) -> list[tuple[Any, ...]]:
    options: dict[str, Any] = {
        "exit_code": 1,
        "start_error": "",
        "stderr": "",
        "rank_stderr": {},
        "was_oom": False,
    }
    told = diagnose(snapshot, **{**options, **found})
    return [(f["rank"], f["kind"], f["message"]) for f in told]


def test_torchruns_report() -> None:
    assert parse_report("x" * 999 + "\n" + REPORT) == [
        ChildFailure(12, 1, 19648, False),
        ChildFailure(2, -15, 19649, False),
        ChildFailure(1, -9, 19644, True),
    ]
    assert parse_report("") == []
    assert parse_report(REPORT[:700]) == [ChildFailure(12, 1, 19648, False)]


def test_the_killed_rank_is_the_root_and_the_terminated_ones_are_not_named() -> None:
    found = diagnose(
        _snapshot(3),
        exit_code=1,
        start_error="",
        stderr=REPORT,
        rank_stderr={},
        was_oom=False,
    )
    assert [(f["rank"], f["kind"], f["root"]) for f in found] == [(1, "killed", True)]


def test_ranks_that_told_it_themselves_are_not_told_again() -> None:
    assert _diagnose(_snapshot(3, rank_1="failed"), stderr=REPORT) == []
    assert _diagnose(_snapshot(2, rank_0="bye", rank_1="bye"), exit_code=-6) == []


def test_killed_for_memory() -> None:
    [(rank, kind, _)] = _diagnose(_snapshot(3), stderr=REPORT, was_oom=True)
    assert (rank, kind) == (1, "out-of-memory")


def test_nothing_came_up() -> None:
    nobody = _snapshot(2, rank_0="nothing", rank_1="nothing")
    stderr = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'torch'\n"
    [(rank, kind, message)] = _diagnose(nobody, stderr=stderr)
    assert (rank, kind) == (None, "launch")
    assert "ModuleNotFoundError: No module named 'torch'; this torch cannot be imported" in message
    assert "pip install" in message and "--python" in message
    [(_, kind, message)] = _diagnose(nobody, stderr="RuntimeError: ... EADDRINUSE ...")
    assert (kind, message) == ("launch", "the ranks found no free port to meet at")
    [(_, kind, message)] = _diagnose(nobody, start_error="No such file")
    assert (kind, message) == ("launch", "torchrun could not be started: No such file")
    [(_, kind, message)] = _diagnose(nobody, exit_code=-signal.SIGSEGV)
    assert "SIGSEGV" in message
    [(rank, kind, message)] = _diagnose(
        nobody, stderr=REPORT.replace("-9", "1"), rank_stderr={1: "ImportError: no numpy\n"}
    )
    assert (rank, kind) == (1, "launch")
    assert message == "before it was up, it ended with exit code 1: ImportError: no numpy"


STUCK = """\
Thread 0x00007f45 (most recent call first):
  File "/lib/threading.py", line 320 in wait

Current thread 0x00007f46 (most recent call first):
  File "/torch/distributed/distributed_c10d.py", line 4818 in barrier
  File "/torch/distributed/c10d_logger.py", line 81 in wrapper
  File "/inspector/verify/roundtrip.py", line 12 in run
"""
BUSY = """\
Current thread 0x00007f46 (most recent call first):
  File "/inspector/verify/stored.py", line 5 in pread
  File "/inspector/verify/worker.py", line 12 in run
"""


def test_who_is_in_the_collective_and_who_is_not() -> None:
    assert collective_of(STUCK) == "barrier"
    assert collective_of(BUSY) is None
    failures = hang_failures({0: STUCK, 1: BUSY, 2: STUCK, 3: ""}, 600.0)
    assert {rank: fields["root"] for rank, fields in failures.items()} == {
        rank: rank in (1, 3) for rank in range(4)
    }
    told = {rank: fields["message"] for rank, fields in failures.items()}
    assert told[0] == "no progress for 600 s: it waits in barrier, which ranks 1, 3 did not enter"
    assert told[1] == (
        "no progress for 600 s: it is in pread, while ranks 0, 2 wait for it in a collective"
    )
    assert "gave no stack" in told[3]


def test_a_rank_that_waits_for_a_slow_one_is_not_stuck() -> None:
    dog = Watchdog(10.0, 2, 0.0)
    assert not dog.is_stuck(299.0)  # torch is being imported
    for rank in (0, 1):
        dog.feed({"event": "hello", "rank": rank}, 20.0)
    for second in range(21, 60):
        beat = {"event": "heartbeat", "rank": 0, "phase": "load", "rss_bytes": second}
        dog.feed(beat, float(second))
        dog.feed({"event": "progress", "rank": 1, "bytes_done": second}, float(second))
        assert not dog.is_stuck(float(second))
    same = {"event": "progress", "rank": 1, "bytes_done": 59}
    dog.feed(same, 65.0)
    dog.feed({"event": "log", "rank": 1, "text": "still here"}, 66.0)
    assert dog.idle_s(69.0) == 10.0
    assert dog.is_stuck(69.5)
    dog.touch(69.0)
    assert not dog.is_stuck(69.5)
    for rank in (0, 1):
        dog.feed({"event": "bye", "rank": rank}, 70.0)
    assert dog.is_over
    assert not dog.is_stuck(1000.0)


def test_what_a_rank_says_it_reads_moves_the_job() -> None:
    """Where nobody can ask the system: the ranks of a printed job are on other nodes."""
    dogs = [Watchdog(10.0, 1, 0.0, hears_io=hears) for hears in (True, False)]
    hello = {"event": "hello", "rank": 0}
    beats = [{"event": "heartbeat", "rank": 0, "io_bytes": n << 20} for n in (1, 10, 18, 40)]
    for dog in dogs:
        dog.feed(hello, 0.0)
        for second, beat in enumerate(beats[:2], 1):
            dog.feed(beat, float(second))
        # What a heartbeat itself reads and writes is no work.
        assert dog.idle_s(2.0) == 2.0
        dog.feed(beats[2], 3.0)
        dog.feed(beats[3], 9.0)
    assert [dog.idle_s(12.0) for dog in dogs] == [3.0, 12.0]
    assert [dog.is_stuck(12.0) for dog in dogs] == [False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="nobody counts them elsewhere")
def test_what_a_process_writes_counts_and_one_that_has_ended_does_not(tmp_path: Path) -> None:
    before = io_bytes([os.getpid()])
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert io_bytes([os.getpid(), 1 << 30]) - before >= 1 << 20
