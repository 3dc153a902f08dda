"""Verifications that one can come back to: listed, replayed, seen from every view."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from textual.widgets import Button, Input

from inspector.tui.kit.bars import ViewBar
from inspector.tui.screens.main import MainScreen
from inspector.tui.verification import control as verify_control
from inspector.tui.verification.replay import ReplayScreen
from inspector.tui.verification.run import Verification
from inspector.tui.verification.setup import VerifySetupScreen
from inspector.verify.job.records import records_of
from inspector.verify.preflight import Preflight
from inspector.verify.spec import JobSpec
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, until, words
from tests.tui.verify_driver import Event, StubJob, job_events

NAMES = [f"model.net{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "hsdp-inspect" / "runs"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Saved an hour ago."""
    folder = tmp_path / "run" / "step-100"
    folder.mkdir(parents=True)
    for file in (SAMPLES / "hsdp_2x4").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
        os.utime(folder / file.name, (time.time() - 3600,) * 2)
    return folder


def record(
    runs: Path,
    name: str,
    path: Path,
    events: list[Event],
    *,
    ago_s: float = 60,
    mesh: str = "fsdp:2",
) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    spec = JobSpec(path=str(path), mesh="fsdp:2", then=("hsdp:2x1",), run=name)
    (folder / "spec.json").write_text(spec.to_json())
    os.utime(folder / "spec.json", (time.time() - ago_s,) * 2)
    lines = [json.dumps({**event, "run": name}) for event in events]
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def events_of(path: Path, **options: object) -> list[Event]:
    return job_events("fsdp:2", 2, names=NAMES, path=str(path), **options)  # type: ignore[arg-type]


def test_runs_are_told_without_being_replayed(runs: Path, checkpoint: Path) -> None:
    assert records_of(str(checkpoint)) == []
    differs = events_of(checkpoint, differs=[("model.net2.bias", 1)])
    # The names in a result may be longer than what is looked at, and stand after the verdict.
    differs[-1]["tensors"] = {
        **differs[-1].pop("tensors"),
        "different": [f"layer.{n}" for n in range(20_000)],
    }
    record(runs, "20260101-000000-b-fsdp_2", checkpoint, differs, ago_s=60)
    record(runs, "20260101-000001-a-fsdp_2", checkpoint, events_of(checkpoint), ago_s=30)
    record(runs, "20260101-000002-c-fsdp_2", checkpoint, events_of(checkpoint)[:-1], ago_s=90)
    record(runs, "20260101-000003-d-fsdp_2", SAMPLES / "fsdp_4", events_of(checkpoint))
    (record(runs, "20260101-000004-e-fsdp_2", checkpoint, []) / "spec.json").write_text("{")
    found = records_of(str(checkpoint) + "/")
    assert [(r.verdict, r.mesh, r.then) for r in found] == [
        ("exact", "fsdp:2", ("hsdp:2x1",)),
        ("differs", "fsdp:2", ("hsdp:2x1",)),
        ("", "fsdp:2", ("hsdp:2x1",)),
    ]
    assert [r.elapsed_s for r in found] == [11.0, 11.0, None]
    link = checkpoint.parent / "latest"
    link.symlink_to(checkpoint)
    assert len(records_of(str(link))) == 3


def test_what_is_no_recording_is_passed_over(runs: Path, checkpoint: Path) -> None:
    folder = record(runs, "20260101-000000-b-fsdp_2", checkpoint, [])
    assert [r.verdict for r in records_of(str(checkpoint))] == [""]
    (folder / "events.jsonl").unlink()
    os.mkfifo(folder / "events.jsonl")
    assert records_of(str(checkpoint)) == []


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
async def test_recorded_runs_are_listed_and_replayed(
    runs: Path, checkpoint: Path, size: tuple[int, int]
) -> None:
    record(runs, "20260101-000001-a-fsdp_2", checkpoint, events_of(checkpoint), ago_s=7200)
    wrong = events_of(checkpoint, differs=[("model.net2.bias", 1)])
    record(runs, "20260101-000002-b-fsdp_2", checkpoint, wrong, ago_s=60)
    async with opened(checkpoint, "4", size=size) as (app, pilot):
        await until(pilot, lambda: "2 recorded runs of this checkpoint" in words(app))
        rows = ["fsdp:2 then hsdp:2x1 differs 11 s this save", "hsdp:2x1 exact 11 s an older save"]
        await until(pilot, lambda: all(row in words(app) for row in rows))
        assert words(app).index(rows[0]) < words(app).index(rows[1])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ReplayScreen))
        await pilot.press("end")
        # The reason is on the screen without a key.
        await until(pilot, lambda: "17 of 4,096 elements differ, first at [513, 7]" in words(app))
        assert "one bit is another" in words(app) or size == (80, 24)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        await until(pilot, lambda: "2 recorded runs" in words(app))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, runs: Path) -> StubJob:
    job = StubJob(events_of(checkpoint, differs=[("model.net2.bias", 1)]), tmp_path)
    made = Verification
    monkeypatch.setattr(verify_control, "Verification", lambda plan: _of(made, plan, job))
    return job


def _of(made: type[Verification], plan: Preflight, job: StubJob) -> Verification:
    return made(plan, job)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_a_job_is_seen_from_every_view_and_from_the_picker(
    stub: StubJob, checkpoint: Path
) -> None:
    shutil.copytree(SAMPLES / "hsdp_2x2", checkpoint.parent / "step-90")
    async with opened(checkpoint.parent, "enter", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        screen = app.screen
        assert isinstance(screen, MainScreen)
        await until(pilot, lambda: screen.is_complete and screen.written_by is not None)
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, VerifySetupScreen))
        app.screen.query_one("#setup-mesh", Input).value = "fsdp:2"
        start = app.screen.query_one("#setup-start", Button)
        await until(pilot, lambda: not start.disabled)
        await pilot.press("enter")
        await until(pilot, lambda: screen.view.id == "verify")
        stub.let(16)
        bar = screen.query_one(ViewBar)
        for key in "1235674":
            await pilot.press(key)
            await until(pilot, lambda: bool(re.search(r"4 Verify \d+%", str(bar.render()))))
        # One level up is the list of runs, with this one in it; and back.
        await press(pilot, "escape", shows="enter shows it")
        await until(pilot, lambda: " now " in words(app))
        await press(pilot, "enter", shows="RUNNING")
        await pilot.press("1", "escape")
        await until(pilot, lambda: bool(re.search(r"verifying step-100: \d+%", words(app))))
        stub.let()
        await until(pilot, lambda: "verified step-100: differs" in words(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MainScreen) and app.screen is not screen)
        await until(pilot, lambda: "4 Verify ✗" in words(app))
        # The form begins with what was run last.
        assert app.memory.now.mesh == "fsdp:2"
        await until(pilot, lambda: getattr(app.screen, "is_complete", False))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, VerifySetupScreen))
        assert app.screen.query_one("#setup-mesh", Input).value == "fsdp:2"
