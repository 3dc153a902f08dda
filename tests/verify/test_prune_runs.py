"""Old run folders go; what is young, alive, or not a run's stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint.own_folders import start_of, system_id
from inspector.verify.job.guard import MARK
from inspector.verify.job.run_folder import (
    RunFolder,
    make_scratch,
    prune_runs,
    remove_leftovers,
    runs_dir,
)
from tests.conftest import ROOT
from tests.verify.jobs import make_job, run_job

DAY_S = 86400.0
NOW_S = time.time()


def make_run(number: int, age_days: float = 30.0, **status: object) -> RunFolder:
    """A run that is over, and `number`th of its day, with all that a run leaves behind."""
    run = RunFolder.create(f"step-{number}")
    run.path.rename(path := run.path.with_name(f"20250101-{number:06}-step-{number}"))
    run = RunFolder(path)
    run.spec.write_text("{}")
    run.recording.write_text('{"event": "result"}\n')
    (run.events / "rank-00000.jsonl").write_text("{}\n")
    (run.logs / "torchrun.err").write_text("a line\n")
    run.guard_job.write_text(json.dumps({"scratch_dir": "", "mark": f"mark-{number}"}))
    run.guard_status.write_text(json.dumps({"state": "ended", "is_empty": True} | status))
    grow_old(run, age_days)
    return run


def grow_old(run: RunFolder, age_days: float) -> None:
    then = NOW_S - age_days * DAY_S
    for place in (*run.path.rglob("*"), run.path):
        os.utime(place, (then, then), follow_symlinks=False)


@pytest.fixture
def _twenty() -> Iterator[None]:
    """As many newer runs as are always kept."""
    kept = [make_run(900_000 + number) for number in range(20)]
    yield
    assert all(run.recording.exists() for run in kept)


def test_the_newest_stay_however_old() -> None:
    runs = [make_run(number) for number in range(23)]
    assert prune_runs(NOW_S) == [run.path for run in runs[:3]]
    assert sorted(runs_dir().iterdir()) == [run.path for run in runs[3:]]
    assert prune_runs(NOW_S) == []


@pytest.mark.usefixtures("_twenty")
def test_what_is_young_stays() -> None:
    young, touched, old = make_run(1, 2.9), make_run(2), make_run(3, 3.1)
    os.utime(touched.events / "rank-00000.jsonl", (NOW_S, NOW_S))
    assert prune_runs(NOW_S) == [old.path]
    assert young.recording.exists()
    assert touched.recording.exists()


@pytest.mark.usefixtures("_twenty")
def test_a_run_that_is_alive_stays() -> None:
    alive = make_run(1, state="running")
    grow_old(alive, 30)
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        env={**os.environ, MARK: "mark-1"},
    )
    try:
        assert prune_runs(NOW_S) == []
    finally:
        process.communicate()
    # The guard was killed and could not say that it ended, but none of its processes is left.
    assert prune_runs(NOW_S) == [alive.path]


@pytest.mark.usefixtures("_twenty")
def test_a_run_whose_scratch_is_there_stays(tmp_path: Path) -> None:
    run = make_run(1)
    job = {"scratch_dir": str(tmp_path), "mark": "m"}
    run.guard_job.write_text(json.dumps(job))
    grow_old(run, 30)
    assert prune_runs(NOW_S) == []


@pytest.mark.usefixtures("_twenty")
def test_what_is_not_a_runs_stays(tmp_path: Path) -> None:
    named = make_run(1)
    named.path.rename(other := named.path.with_name("my-notes"))
    unmarked, printed, unreadable = make_run(2), make_run(3), make_run(4)
    (unmarked.imports / "inspector").unlink()
    printed.guard_job.unlink()
    unreadable.guard_job.write_text("[]")
    for run in (unmarked, printed, unreadable):
        grow_old(run, 30)
    linked = make_run(5)
    linked.path.rename(tmp_path / "elsewhere")
    linked.path.symlink_to(tmp_path / "elsewhere")
    assert prune_runs(NOW_S) == []
    for path in (other, unmarked.path, printed.path, unreadable.path, tmp_path / "elsewhere"):
        assert (path / "events.jsonl").exists()


@pytest.mark.usefixtures("_twenty")
def test_links_are_removed_not_followed(tmp_path: Path) -> None:
    """The ranks' events may lie in a folder of the user's; `import` links to this very package."""
    run = make_run(1)
    (run.events / "rank-00000.jsonl").rename(tmp_path / "rank-00000.jsonl")
    run.events.rmdir()
    run.events.symlink_to(tmp_path)
    grow_old(run, 30)
    os.utime(tmp_path, (NOW_S - 30 * DAY_S,) * 2)
    for path in tmp_path.iterdir():
        os.utime(path, (NOW_S - 30 * DAY_S,) * 2)
    assert prune_runs(NOW_S) == [run.path]
    assert (tmp_path / "rank-00000.jsonl").exists()
    assert (ROOT / "inspector" / "verify" / "job" / "run_folder.py").exists()


@pytest.mark.torchrun
@pytest.mark.usefixtures("_twenty")
def test_a_new_run_prunes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    old = make_run(1)
    job = make_job()
    run_job(job)
    assert job.result is not None
    assert job.result["verdict"] == "exact"
    assert not old.path.exists()
    assert job.folder.recording.exists()


@pytest.mark.parametrize(
    ("change", "is_left"),
    [
        ({}, False),
        ({"front": [os.getpid(), start_of(os.getpid())]}, True),  # It has not started it yet.
        ({"front": [os.getpid(), 1]}, False),  # The number is another process's by now.
        ({"system": "elsewhere"}, True),  # Of a node with the same home, or before a restart.
        ({"system": "elsewhere", "age_days": 4.0}, False),
    ],
)
def test_scratch_of_a_job_that_may_live_is_left_alone(
    tmp_path: Path, change: dict[str, Any], is_left: bool
) -> None:
    run = RunFolder.create("step-1")
    scratch = Path(make_scratch(tmp_path))
    change = dict(change)
    then = time.time() - change.pop("age_days", 0.0) * 86400
    job = {"scratch_dir": str(scratch), "mark": "nobody's", "system": system_id(), "front": [0, 0]}
    run.spec.write_text("{}")
    run.guard_job.write_text(json.dumps(job | change))
    for place in (*run.path.rglob("*"), run.path):
        os.utime(place, (then, then), follow_symlinks=False)
    remove_leftovers()
    assert scratch.exists() == is_left
