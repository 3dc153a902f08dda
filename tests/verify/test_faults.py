"""Jobs that go wrong, with real processes: what is said, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inspector.report.verify_text import verify_text
from inspector.verify.job.guard import SCRATCH_PREFIX, job_pids
from inspector.verify.job.launcher import Job
from inspector.verify.job.run_folder import recorded_runs, remove_leftovers
from inspector.verify.progress import JobState
from inspector.verify.recording import read_events
from inspector.verify.result import ExpectedEntries, confirmed
from tests.conftest import ROOT
from tests.verify.jobs import (
    NAMES,
    assert_nothing_is_left,
    make_job,
    mark_of,
    run_job,
    wait_for,
    when_all_are_up,
)

pytestmark = [
    pytest.mark.torchrun,
    pytest.mark.usefixtures("importable"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]


def _failures(job: Job) -> list[tuple[int | None, str, str]]:
    return [(f.rank, f.kind, f.message) for f in job.snapshot().failures]


def test_a_rank_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_1", "raise")
    job = make_job()
    run_job(job)
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "failed"
    [(rank, kind, message)] = _failures(job)
    assert (rank, kind) == (1, "exception")
    assert "ValueError: rank 1 does not like this" in message
    assert "misbehave" in job.snapshot().failures[0].stack


def test_a_rank_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_0", "hang")
    monkeypatch.setenv("FAKE_RANK_1", "sigkill")
    job = make_job()
    run_job(job)
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "failed"
    assert _failures(job) == [(1, "killed", "it was killed by SIGKILL")]


def test_a_rank_that_is_killed_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_1", "sigkill")
    kills = iter(range(100))
    monkeypatch.setattr("inspector.verify.job.post_mortem.num_oom_kills", lambda: next(kills))
    job = make_job()
    run_job(job)
    [(rank, kind, message)] = _failures(job)
    assert (rank, kind) == (1, "out-of-memory")
    assert "--memory" in message


def test_a_rank_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_1", "hang")
    job = make_job(timeout_s=2.0)
    run_job(job)
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "failed"
    [failure] = job.snapshot().failures
    assert (failure.rank, failure.kind) == (1, "timeout")
    assert "stuck_here" in failure.message
    assert "misbehave" in failure.stack


def test_a_rank_that_ends_without_bye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_1", "no_bye")
    job = make_job()
    run_job(job)
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "failed"
    assert _failures(job) == [(None, "exception", "rank 1 ended without a word")]


def test_cancel_with_a_rank_that_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK", "ignore_sigterm")
    job = make_job(grace_s=1.0)
    run_job(job, when_all_are_up(Job.stop))
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "cancelled"
    assert _failures(job) == []


def test_leaving_the_context_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK", "hang")
    with make_job().start() as job:
        wait_for(lambda: job.step() and all(rank.pid for rank in job.snapshot().ranks))
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "cancelled"


@pytest.mark.parametrize("who", ["torchrun", "guard"])
def test_a_helper_that_is_killed(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    monkeypatch.setenv("FAKE_RANK", "hang")
    # The ranks do not ask to die with torchrun: they have to be found.
    monkeypatch.setenv("FAKE_OPTIONS", "no_pdeathsig")
    job = make_job()

    def kill(job: Job) -> None:
        status = json.loads(job.folder.guard_status.read_text())
        os.kill(status[who], signal.SIGKILL)

    run_job(job, when_all_are_up(kill))
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "failed"
    [(rank, kind, message)] = _failures(job)
    assert (rank, kind) == (None, "killed")
    assert ("torchrun" if who == "torchrun" else "guards") in message


def test_no_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK", "early")
    job = make_job()
    run_job(job)
    assert_nothing_is_left(job)
    assert _failures(job) == [(None, "launch", "the ranks found no free port to meet at")]


def test_an_interpreter_that_is_not_there() -> None:
    job = make_job(python="/nowhere/python")
    run_job(job)
    assert_nothing_is_left(job)
    [(rank, kind, message)] = _failures(job)
    assert (rank, kind) == (None, "launch")
    assert "could not be started" in message


def test_an_interpreter_without_torch(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    job = make_job(python=str(bare))
    run_job(job)
    assert_nothing_is_left(job)
    [(rank, kind, message)] = _failures(job)
    assert (rank, kind) == (None, "launch")
    assert "torch" in message


_FRONT_END = """
import time
from tests.verify.jobs import make_job
job = make_job()
job.start()
job.step()
while not all(rank.pid for rank in job.snapshot().ranks):
    job.step()
    time.sleep(0.02)
print(job.folder.path, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("deed", ["hang", "ignore_sigterm"])
@pytest.mark.parametrize("with_guard", [False, True])
def test_the_front_end_is_killed(
    monkeypatch: pytest.MonkeyPatch, deed: str, with_guard: bool
) -> None:
    monkeypatch.setenv("FAKE_RANK", deed)
    front_end = subprocess.Popen(
        [sys.executable, "-c", _FRONT_END], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert front_end.stdout is not None
        folder = Path(front_end.stdout.readline().strip())
        mark = mark_of(folder)
        scratch = json.loads((folder / "guard.json").read_text())["scratch_dir"]
        assert len(job_pids(mark)) == 4  # the guard, torchrun, two ranks
        assert os.path.isdir(scratch)
        if with_guard:
            guard = json.loads((folder / "guard.status.json").read_text())["guard"]
            os.kill(guard, signal.SIGKILL)
    finally:
        front_end.kill()
        front_end.communicate()
    wait_for(lambda: not job_pids(mark))
    if with_guard:
        # Nobody was left to remove it; the next job does.
        remove_leftovers()
    wait_for(lambda: not os.path.exists(scratch))


def test_leftovers_of_a_running_job_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK", "hang")
    seen = []

    def look(job: Job) -> None:
        remove_leftovers()
        seen.append(os.path.isdir(job.spec.scratch_dir))
        job.kill()

    job = make_job()
    run_job(job, when_all_are_up(look))
    assert seen == [True]
    assert_nothing_is_left(job)
    assert os.path.basename(job.spec.scratch_dir).startswith(SCRATCH_PREFIX)
    assert job.folder.path in recorded_runs()


def test_torchrun_that_ends_before_a_rank_is_up_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_RANK", "early_once")
    job = make_job(expected=ExpectedEntries(NAMES, long_names={7: "n" * 200}))
    events = run_job(job)
    assert_nothing_is_left(job)
    assert job.result["verdict"] == "exact", job.result
    assert job.result["restarted"] == "the port to meet at was taken"
    said = [e["text"] for e in events if e["event"] == "log" and e["stream"] == "launcher"]
    assert ["started once more" in text for text in said] == [True]
    assert "  torchrun was started once more: " in "\n".join(verify_text(job.snapshot()))
    # A name that events cut is known to the second attempt as to the first.
    assert job._state.long_names == {7: "n" * 200}
    # The stream holds both attempts, the recording the second alone: each says the same.
    for recording in (events, list(read_events(str(job.folder.path)))):
        state = JobState()
        for event in filter(None, recording):
            state.apply(event)
        assert confirmed(state.snapshot())["verdict"] == "exact"
        assert state.snapshot().num_foreign == 0


def test_where_there_is_no_room_for_a_second_attempt_the_first_one_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKE_RANK", "early")
    parent = tmp_path / "scratch"
    job = make_job(scratch_parent=str(parent))

    def take(job: Job, event: dict[str, Any]) -> None:
        if parent.is_dir():
            parent.rename(tmp_path / "away")
            parent.touch()

    run_job(job, take)
    assert job.pids == []
    assert _failures(job) == [(None, "launch", "the ranks found no free port to meet at")]
    assert job.snapshot().result == job.result
    assert job.result["verdict"] == "failed"
    assert "restarted" not in job.result
