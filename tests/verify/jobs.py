"""Jobs of ranks without torch, and what has to be true when one has ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspector.verify.job.guard import MARK, job_pids
from inspector.verify.job.launcher import Job
from inspector.verify.progress import JobState, Snapshot
from inspector.verify.result import ExpectedEntries
from inspector.verify.spec import JobSpec

NAMES = ("layers.0.weight", "layers.1.weight", "step")
WORKER = "tests.verify.fake_worker"

Event = dict[str, Any]


def make_job(num_ranks: int = 2, timeout_s: float = 600.0, **options: Any) -> Job:
    """A job that is not started."""
    spec = JobSpec(
        "/somewhere/step-100",
        f"hsdp:1x{num_ranks}",
        then=(f"fsdp:{num_ranks}",),
        timeout_s=timeout_s,
        python=options.pop("python", ""),
    )
    expected = options.pop("expected", None) or ExpectedEntries(NAMES)
    return Job(spec, expected=expected, worker=WORKER, **options)


def run_job(job: Job, on_event: Callable[[Job, Event], None] | None = None) -> list[Event]:
    """Every event of a job, which is over then."""
    events = []
    with job.start():
        for event in job.events():
            events.append(event)
            if on_event is not None:
                on_event(job, event)
    return events


def when_all_are_up(action: Callable[[Job], None]) -> Callable[[Job, Event], None]:
    """Does something once every rank has said hello."""
    is_done = False

    def look(job: Job, event: Event) -> None:
        nonlocal is_done
        if not is_done and all(rank.pid for rank in job.snapshot().ranks):
            is_done = True
            action(job)

    return look


def snapshot_of(events: list[Event]) -> Snapshot:
    """What a front end knows after these events."""
    state = JobState()
    for event in events:
        state.apply(event)
    return state.snapshot()


def assert_nothing_is_left(job: Job) -> None:
    """No process, no scratch, and a recording that ends with the result."""
    assert job.pids == []
    assert not os.path.exists(job.spec.scratch_dir)
    last = job.folder.recording.read_text().splitlines()[-1]
    assert json.loads(last) == job.result
    assert job.result is not None
    assert job.result["event"] == "result"


def mark_of(run_folder: Path) -> str:
    return str(json.loads((run_folder / "guard.json").read_text())["mark"])


def wait_for(condition: Callable[[], Any], timeout_s: float = 300.0) -> Any:
    """The condition's first true value; how long it may take is for a job that hangs."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


__all__ = ["MARK", "NAMES", "job_pids"]
