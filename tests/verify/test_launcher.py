"""A job that goes well: what is streamed, recorded and folded."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from inspector.errors import StorageError, UsageError
from inspector.verify.job.launcher import run
from inspector.verify.job.run_folder import RunFolder
from inspector.verify.progress import JobState
from inspector.verify.recording import read_events
from inspector.verify.result import ExpectedEntries
from inspector.verify.spec import JobSpec
from tests.verify.jobs import (
    NAMES,
    WORKER,
    assert_nothing_is_left,
    make_job,
    run_job,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("importable")


@pytest.mark.torchrun(fast=True)
def test_a_job_that_goes_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_1", "print")
    job = make_job()
    events = run_job(job)
    assert_nothing_is_left(job)
    assert [events[0]["event"], events[-1]["event"]] == ["spec", "result"]
    assert events[0]["command"][1:3] == ["-m", "torch.distributed.run"]
    result = events[-1]
    assert result["verdict"] == "exact"
    assert result["tensors"] == {
        "total": 3,
        "verified": 3,
        "exact": 3,
        "different": [],
        "raw": 0,
        "via": {},
        "num_not_verified": 0,
        "num_not_asked": 0,
        "not_verified": [],
    }
    lines = [(e["rank"], e["stream"], e["text"]) for e in events if e["event"] == "log"]
    assert (1, "stdout", "rank 1 says \x1b[31mred") in lines
    assert (1, "stderr", "a warning") in lines
    # The recording is the stream, and its fold the same state.
    assert [json.loads(line) for line in job.folder.recording.open()] == events
    again = JobState()
    for event in read_events(str(job.folder.path)):
        if event is not None:
            again.apply(event)
    assert again.snapshot() == job.snapshot()
    assert JobSpec.read(job.folder.spec) == job.spec


@pytest.mark.torchrun
def test_differences_are_an_answer_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_1", "differ")
    seen = []
    result = run(
        JobSpec("/x", "fsdp:2", then=("fsdp:2",)),
        seen.append,
        worker=WORKER,
        expected=ExpectedEntries(NAMES),
    )
    assert seen[-1] == result
    assert result["verdict"] == "differs"
    assert result["tensors"]["different"] == ["step"]
    assert result["tensors"]["exact"] == 2


@pytest.mark.torchrun
def test_a_flood_of_lines_is_cut_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RANK_0", "noisy")
    job = make_job()
    run_job(job)
    assert job.result["verdict"] == "exact"
    assert job.log_lines(0)[-1].text == "line 19999"
    assert len(job.log_lines(0, limit=10**6)) <= 2000


@pytest.mark.torchrun
def test_a_job_driven_in_a_thread_and_watched_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_RANK", "hang")
    job = make_job().start()
    thread = threading.Thread(target=lambda: [None for _ in job.events()])
    thread.start()
    wait_for(lambda: job.snapshot().ranks and all(r.phase for r in job.snapshot().ranks))
    job.stop("the app was closed")
    thread.join(300)
    assert not thread.is_alive()
    result = job.snapshot().result
    assert result is not None
    assert (result["verdict"], result["why"]) == ("cancelled", "the app was closed")
    assert_nothing_is_left(job)


def test_events_in_a_folder_of_the_users(tmp_path: Path) -> None:
    folder = RunFolder.create("x", tmp_path / "shared" / "events")
    (folder.events / "rank-00000.jsonl").touch()
    assert (tmp_path / "shared" / "events" / "rank-00000.jsonl").exists()
    assert (folder.imports / "inspector" / "__init__.py").exists()
    assert len(list(folder.imports.iterdir())) == 1


def test_events_of_another_job_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "rank-00000.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="another job"):
        RunFolder.create("x", tmp_path)


def test_a_name_that_is_no_file_name() -> None:
    folder = RunFolder.create("../../\x1b[31m weird\n" + "n" * 500)
    assert folder.path.parent.name == "runs"
    assert "\x1b" not in folder.path.name
    assert len(folder.path.name) < 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc cannot be written to")
def test_no_scratch_folder() -> None:
    job = make_job(scratch_parent="/proc/nowhere")
    with pytest.raises(StorageError, match="scratch"):
        job.start()
    assert job.pids == []


def test_closing_and_stopping_a_job_that_was_not_started() -> None:
    job = make_job()
    job.close()
    job.stop()
    job.kill()
    assert job.result is None
