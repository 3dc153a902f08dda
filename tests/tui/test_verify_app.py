"""A verification in the app: asked for, started, watched, left, stopped; and one for real."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from textual.widgets import Button, Input

from inspector.checkpoint import open_checkpoint
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.tui.app import InspectApp
from inspector.tui.kit.lines import ChoiceLine
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.view import TensorsView
from inspector.tui.verification import control as verify_control
from inspector.tui.verification.control import AskScreen
from inspector.tui.verification.run import Verification
from inspector.tui.verification.setup import VerifySetupScreen, Wishes, first_mesh, presets, resolve
from inspector.verify.preflight import Preflight
from inspector.verify.spec import VIAS, JobSpec, default_then
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, quiet, screen_text, until, words
from tests.tui.verify_driver import Event, StubJob, job_events

SAMPLE = SAMPLES / "hsdp_2x4"
NAMES = [f"model.net{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]


def stub_events(**options: object) -> list[Event]:
    return job_events(
        "fsdp:2",
        2,
        names=NAMES,
        path=os.path.abspath(SAMPLE),
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubJob:
    """Every verification is this job."""
    job = StubJob(stub_events(differs=[("model.net2.bias", 1)]), tmp_path)

    def begin(plan: Preflight, _: object = None) -> Verification:
        return Verification(plan, job)  # type: ignore[arg-type]

    monkeypatch.setattr(verify_control, "Verification", begin)
    return job


def setup_screen(app: InspectApp) -> VerifySetupScreen:
    assert isinstance(app.screen, VerifySetupScreen)
    return app.screen


def is_ready(app: InspectApp) -> bool:
    return not setup_screen(app).query_one("#setup-start", Button).disabled


# What is offered and what it comes to.


def test_the_first_mesh_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert first_mesh(Mesh.parse("hsdp:2x4"), 0) == "fsdp:2"
    assert first_mesh(Mesh.parse("hsdp:2x4"), 8) == "hsdp:2x4"
    assert first_mesh(Mesh.parse("hsdp:2x4"), 4) == "hsdp:2x2"
    assert first_mesh(Mesh.parse("fsdp_tp:2x2"), 0) == "fsdp:2"
    assert first_mesh(None, 0) == "fsdp:2"
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert first_mesh(Mesh.parse("fsdp:64"), 0) == "fsdp:2"
    assert presets(Mesh.parse("hsdp:3x5"))[0] == "hsdp:3x5"
    # FSDP and HSDP over the same ranks come next, then small ones; no mesh that cannot be.
    own = presets(Mesh.parse("dp_replicate:2,dp_shard:2,tp:2"))
    assert own[:3] == ["dp_replicate:2,dp_shard:2,tp:2", "fsdp:8", "hsdp:2x4"]
    assert len(set(own)) == len(own)
    assert presets(None, 8)[:2] == ["fsdp:8", "hsdp:2x4"] and presets(None, 1)[0] == "fsdp:2"
    assert "pp:2,dp_shard:2" not in presets(Mesh.parse("pp:2,dp_shard:2"))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert first_mesh(Mesh.parse("dp_shard:4,tp:2"), 0) == "dp_shard:4,tp:2"
    assert first_mesh(Mesh.parse("pp:2,dp_shard:2"), 0) == "fsdp:4"


def test_the_second_meshes_are_told_apart_though_axes_have_commas() -> None:
    for then, thens in (
        ("default", ()),
        ("none", ()),
        ("fsdp:4", ("fsdp:4",)),
        ("fsdp:4, hsdp:2x2", ("fsdp:4", "hsdp:2x2")),
        ("fsdp:4,hsdp:2x2", ("fsdp:4", "hsdp:2x2")),
        ("dp_shard:2,tp:2 fsdp:4", ("dp_shard:2,tp:2", "fsdp:4")),
        ("dp_shard:2,tp:2, fsdp:4,", ("dp_shard:2,tp:2", "fsdp:4")),
        ("dp_shard:4+dp_shard_mod_ep:2,ep:2", ("dp_shard:4+dp_shard_mod_ep:2,ep:2",)),
    ):
        assert Wishes("fsdp:4", then=then).thens == thens


@pytest.mark.parametrize(
    ("wishes", "ways", "has_axes"),
    [
        (Wishes("hsdp:2x4"), VIAS, False),
        (Wishes("dp_replicate:2,dp_shard:2,tp:2"), ("dtensor", "fsdp2"), True),
        (Wishes("dp_shard:2,ep:4"), ("dtensor",), True),
        (Wishes("fsdp:4", then="tp:2,dp_shard:2"), ("dtensor",), True),
        (Wishes("dp_sha"), VIAS, False),
    ],
    ids=str,
)
def test_only_ways_that_a_job_goes_are_offered(
    wishes: Wishes, ways: tuple[str, ...], has_axes: bool
) -> None:
    closed, open_ways = wishes.ways()
    assert open_ways == ways and set(closed) == set(VIAS) - set(ways) and all(closed.values())
    assert wishes.has_axes is has_axes
    # It is what the command line refuses, and nothing else.
    for via in VIAS if wishes.mesh != "dp_sha" else ():
        then = wishes.thens or (str(default_then(Mesh.parse(wishes.mesh))),)
        if via in ways:
            assert JobSpec("", wishes.mesh, then, via).via == via
        else:
            with pytest.raises(UsageError, match=re.escape(closed[via])):
                JobSpec("", wishes.mesh, then, via)


def test_a_file_of_placements_is_read_where_axes_have_names(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "hsdp_tp_2x2x2"))
    told = tmp_path / "placements.toml"
    told.write_text('"model.w1.weight" = "tp:1"\n')
    wishes = Wishes("dp_shard:2,tp:2", device="cpu", placements=f" {told} ")
    plan = resolve(checkpoint, wishes)
    assert plan.spec.placements == (("model.w1.weight", "tp:1"),)
    # On a mesh without such axes the field is not there, whatever stands in it.
    plan = resolve(checkpoint, dataclasses.replace(wishes, mesh="fsdp:4"))
    assert plan.spec.placements == ()
    for name, text, said in (
        ("gone", None, "No such file"),
        ("bad.toml", "tp = 0\n", "line 1 is no placement"),
        ("none.toml", '"model.w9.*" = "tp:0"', "matches no tensor"),
        ("axis.toml", '"model.*" = "ep:0"', "names the axis ep"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=said) as found:
            resolve(checkpoint, dataclasses.replace(wishes, placements=str(tmp_path / name)))
        assert "\n" not in found.value.message
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        resolve(checkpoint, dataclasses.replace(wishes, placements=str(tmp_path / "pipe")))


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes("hsdp:2by2"),
        Wishes("pp:2,dp_shard:2"),
        Wishes("dp_shard:2,tp:2", then="dp_shard:2,tp:4"),
        Wishes("dp_shard:2,tp:2", via="fsdp1"),
        Wishes("fsdp:0"),
        Wishes("fsdp:2", then="fsdp:4"),
        Wishes("fsdp:2", then="\x1b[2J"),
        Wishes("fsdp:2", then="hsdp"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_said(wishes: Wishes) -> None:
    with pytest.raises(UsageError):
        resolve(open_checkpoint(str(SAMPLE)), wishes)


def test_a_form_becomes_a_job() -> None:
    checkpoint = open_checkpoint(str(SAMPLE))
    plan = resolve(checkpoint, Wishes("fsdp:2", "none", "fsdp2", "cpu", "net1"))
    assert (plan.spec.mesh, plan.spec.then, plan.spec.via) == ("fsdp:2", (), "fsdp2")
    assert plan.spec.filter == "net1" and len(plan.expected.names) == 2
    plan = resolve(checkpoint, Wishes("hsdp:2x1", "fsdp:2, hsdp:1x2"))
    assert plan.spec.then == ("fsdp:2", "hsdp:1x2")


def test_a_stage_is_what_the_files_or_the_placements_tell(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "pp_hsdp_2x2x2"))
    plan = resolve(checkpoint, Wishes("fsdp:2", device="cpu", stage=" 2/2 "))
    assert plan.spec.stage == "2/2"
    assert 0 < len(plan.expected.names) < checkpoint.num_tensors + 1
    told = tmp_path / "stages.toml"
    told.write_text('[stages]\n"model.layers.[01].*" = "1"\n"model.layers.[23].*" = "2"\n')
    both = Wishes("fsdp:2", device="cpu", stage="1/2", placements=str(told))
    plan = resolve(checkpoint, both)
    assert len(plan.spec.stages) == 2
    assert any("as [stages] of --placements says" in note for note in plan.notes)
    # Without a stage they are of no load.
    plan = resolve(checkpoint, dataclasses.replace(both, stage=""))
    assert (plan.spec.stage, plan.spec.stages) == ("", ())
    for stage, said in (("2", "is no stage"), ("1/3", "does not tell"), ("3/2", "is no stage")):
        with pytest.raises(UsageError, match=said):
            resolve(checkpoint, Wishes("fsdp:2", stage=stage))


# The confirm screen.


async def test_the_form_asks_for_a_stage_where_there_are_some() -> None:
    async with opened(SAMPLES / "pp_hsdp_2x2x2", "v", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: is_ready(app) and "what pipeline stage 2 of 2" in words(app))
        setup_screen(app).query_one("#setup-stage", Input).value = "2/2"
        await until(pilot, lambda: is_ready(app) and "stage 2 of 2: " in words(app))
        assert "enter starts · esc cancels" in words(app)
    async with opened(SAMPLE, "v", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        assert " stage " not in words(app)
        form = setup_screen(app)
        form.query_one("#setup-stage", Input).value = "1/2"
        assert form.wishes.stage == ""  # Nobody sees it.


async def test_the_form_says_an_error_that_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr("inspector.tui.verification.setup.resolve", planted)
    async with opened(SAMPLE, "v", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "ValueError: planted" in words(app))
        assert not is_ready(app)


async def test_the_form_offers_what_there_is_for_axes_by_name() -> None:
    async with opened(SAMPLES / "hsdp_tp_2x2x2", "v", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        form = setup_screen(app)
        field = form.query_one("#setup-mesh", Input)
        assert "placements" not in words(app)
        own = "dp_replicate:2,dp_shard:2,tp:2"
        assert form.query_one("#setup-meshes", ChoiceLine).words[:2] == (own, "fsdp:8")
        via = form.query_one("#setup-via", ChoiceLine)
        assert via.words == VIAS
        via.choose("fsdp1")
        field.value = own
        await until(
            pilot,
            lambda: is_ready(app) and f"under {own}" in words(app) and "then fsdp:8" in words(app),
        )
        said = words(app)
        assert own in said and "placements" in said and "as the checkpoint has them" in said
        assert via.words == ("dtensor", "fsdp2") and via.value == "dtensor"
        assert "not fsdp1: see below" in said
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: "FSDP1 has one or two axes" in words(app))
        assert f"[{own}] fsdp:8 hsdp:2x4" in words(app)
        field.value = "pp:2,dp_shard:4"
        await until(pilot, lambda: "pipeline stage" in words(app))
        assert not is_ready(app)
        field.value = "fsdp:8"
        await until(pilot, lambda: is_ready(app) and "placements" not in words(app))
        assert via.words == VIAS
        await until(pilot, lambda: "[dtensor] fsdp2 fsdp1" in words(app))


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
async def test_v_says_what_will_run_before_it_runs(size: tuple[int, int]) -> None:
    async with opened(SAMPLE, "v", size=size) as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        await quiet(pilot, 0.2)
        said = words(app)
        mesh = setup_screen(app).query_one("#setup-mesh", Input).value
        assert f"6 entries, 576 B, under {mesh} then" in said
        assert "reads about" in said
        assert "scratch" in said and "free in" in said
        assert "KiB of tensors and about 250.0 MiB" in said
        assert "torch.distributed.run" in said
        assert "Start" in said and "Cancel" in said
        await press(pilot, "escape", at_least_s=0.2)
        assert isinstance(app.screen, MainScreen)
        assert app.verification is None


async def test_a_mesh_that_is_none_is_said_where_it_was_typed() -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        setup_screen(app).query_one("#setup-mesh", Input).value = "hsdp:2by2"
        await until(pilot, lambda: "'hsdp:2by2' is not a mesh" in words(app))
        assert not is_ready(app)
        await press(pilot, "enter", at_least_s=0.4)
        assert isinstance(app.screen, VerifySetupScreen)
        assert app.verification is None


async def test_enter_starts_and_does_nothing_more(stub: StubJob) -> None:
    async with opened(SAMPLE, size=(80, 24)) as (app, pilot):
        await pilot.press("v")
        await until(pilot, lambda: is_ready(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.verification is not None)
        stub.let()
        await until(pilot, lambda: app.verification is not None and app.verification.is_over)
        # The same key went on to the list of tensors below once, and opened what lay there.
        assert not app.screen.query_one(TensorsView).is_zoomed


async def test_enter_on_cancel_cancels(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        setup_screen(app).query_one("#setup-cancel", Button).focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        await quiet(pilot, 0.2)
        assert app.verification is None


async def test_a_mesh_that_was_emptied_is_asked_for(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        setup_screen(app).query_one("#setup-mesh", Input).value = ""
        await until(pilot, lambda: "Which mesh? Type one, or choose one." in words(app))
        await press(pilot, "enter", at_least_s=0.2)
        assert isinstance(app.screen, VerifySetupScreen) and app.verification is None


@pytest.mark.slow
async def test_everything_can_be_chosen_by_keys_alone(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        await until(pilot, lambda: is_ready(app))
        screen = setup_screen(app)
        meshes = screen.query_one("#setup-meshes", ChoiceLine)
        await pilot.press("tab", "left", "left", "left", "left", "left", "right", "right")
        assert meshes.value == meshes.words[2]
        assert screen.query_one("#setup-mesh", Input).value == meshes.words[2]
        meshes.focus()
        while meshes.value != "fsdp:2":
            await pilot.press("left")
        await pilot.press("tab", "tab", "right")
        assert screen.wishes.then == "none"
        await pilot.press("tab", "right")
        assert screen.wishes.via == "fsdp2"
        await pilot.press("tab", "right")
        assert screen.wishes.device == "cpu"
        await pilot.press("tab", *"net", "enter")
        # It starts as soon as it is known what that comes to.
        await until(pilot, lambda: app.verification is not None)
        assert app.verification is not None
        spec = app.verification.plan.spec
        assert (spec.mesh, spec.then, spec.via, spec.filter) == ("fsdp:2", (), "fsdp2", "net")
        stub.let()
        await until(pilot, lambda: app.verification is not None and app.verification.is_over)


# While it runs.


async def started(app: InspectApp, pilot: object) -> Verification:
    await until(pilot, lambda: is_ready(app))  # type: ignore[arg-type]
    setup_screen(app).query_one("#setup-mesh", Input).value = "fsdp:2"
    await pilot.press("enter")  # type: ignore[attr-defined]
    await until(pilot, lambda: app.verification is not None)  # type: ignore[arg-type]
    assert app.verification is not None
    return app.verification


async def test_a_job_from_start_to_end_and_what_it_leaves(stub: StubJob, tmp_path: Path) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        await until(pilot, lambda: "STARTING torchrun" in words(app))
        stub.let(30)
        await until(pilot, lambda: "RUNNING" in screen_text(app))
        await pilot.press("1")  # leaving the view does not stop it
        stub.let()
        await until(pilot, lambda: run.is_over)
        await until(pilot, lambda: "It differs" in screen_text(app))  # the toast
        entries = app.screen.query_one("#entries", VirtualTable)
        await until(pilot, lambda: any(entries.source.marker(row) for row in range(6)))
        # One list, one verdict: it is in the badge, in Findings and in the table.
        assert "DAMAGED: 1 error" in screen_text(app) and "3 Findings 1" in screen_text(app)
        await press(pilot, "3", shows="ERROR verify DIFFER in compare on rank 1")
        await pilot.press("1")
        bad = [row for row in range(6) if entries.source.marker(row) == "error"]
        assert [entries.source.cell(row, "name") for row in bad] == ["model.net2.bias"]
        entries.select_row(bad[0])
        await until(pilot, lambda: "DIFFER in compare on rank 1" in words(app))
        await press(pilot, "4", at_least_s=0.3)
        said = words(app)
        assert "DIFFERS 1 entry of 6" in said
        assert "recorded in" in said
        assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "differs"
        assert "model.net2.bias" in (tmp_path / "report.txt").read_text()
        await pilot.press("r")  # read anew: the marks stay, as it is the same checkpoint
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        await until(pilot, lambda: entries.source.marker(bad[0]) == "error")


async def test_space_holds_the_display_and_x_asks_and_stops(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        stub.let(10)
        await press(pilot, "space", shows="PAUSED")
        await pilot.press("space")
        await until(pilot, lambda: "PAUSED" not in screen_text(app))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("enter")  # the answer that changes nothing has the focus
        await quiet(pilot, 0.2)
        assert not stub.was_stopped
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("y")
        await until(pilot, lambda: stub.was_stopped and run.is_over)
        await until(pilot, lambda: "CANCELLED" in screen_text(app))


async def test_a_second_v_goes_to_the_job_that_runs(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        stub.let(10)
        await press(pilot, "1", "v", at_least_s=0.2)
        assert isinstance(app.screen, MainScreen) and app.screen.view.id == "verify"
        assert app.verification is run
        stub.let()
        await until(pilot, lambda: not run.is_alive)


async def test_leaving_the_app_asks_and_stops_the_job(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        stub.let(10)
        await press(pilot, "q", shows="Leaving ends it")
        await press(pilot, "escape", at_least_s=0.2)
        assert not stub.was_stopped and app.is_running
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("y")
        await until(pilot, lambda: not run.is_alive)
        assert stub.was_stopped
        await until(pilot, lambda: app.return_value == 0)


async def test_the_verdicts_go_when_another_job_begins(stub: StubJob) -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        stub.let()
        await until(pilot, lambda: not run.is_alive)
        assert isinstance(app.screen, MainScreen)
        screen = app.screen
        await until(pilot, lambda: bool(screen.standing.verified))
        stub.__init__(stub_events(), stub.folder.path)  # type: ignore[misc]
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, VerifySetupScreen))
        again = await started(app, pilot)
        assert again is not run
        assert not screen.standing.verified
        assert screen.standing.badge[0] == "metadata sound, bytes unread"
        stub.let()
        await until(pilot, lambda: not again.is_alive)
        await until(pilot, lambda: "EXACT" in screen_text(app))
        assert not screen.standing.verified
        await until(pilot, lambda: "metadata sound, EXACT on fsdp:2" in screen_text(app))


# For real.


@pytest.mark.torchrun
async def test_two_ranks_verify_the_sample_for_real() -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        await until(pilot, lambda: "RUNNING" in screen_text(app), 120)
        await until(pilot, lambda: not run.is_alive, 120)
        await until(pilot, lambda: "EXACT all 6 entries are bit for bit as stored" in words(app))
        assert "✓ 0 exact" in screen_text(app) and "✓ 1 exact" in screen_text(app)
        folder = Path(run.folder)
        assert json.loads((folder / "report.json").read_text())["verdict"] == "exact"
        assert (folder / "events.jsonl").read_text().splitlines()


@pytest.mark.torchrun
async def test_no_rank_survives_the_app() -> None:
    async with opened(SAMPLE, "v") as (app, pilot):
        run = await started(app, pilot)
        await until(pilot, lambda: any(r.pid for r in run.moment.snapshot.ranks), 120)
        pids = [rank.pid for rank in run.moment.snapshot.ranks if rank.pid is not None]
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("y")
        await until(pilot, lambda: not run.is_alive, 60)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
