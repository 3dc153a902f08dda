"""The view of a verification, on recordings: a real one at three moments, and made-up trouble."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.mesh.paint import MeshGrid
from inspector.tui.one_screen import ReplayApp, run_replay
from inspector.tui.verification.log_pane import LogPane
from inspector.tui.verification.playback import Playback, read_recording
from inspector.tui.verification.replay import ReplayScreen
from inspector.tui.verification.view import VerificationView
from tests.conftest import some_fast
from tests.tui.app_driver import CONTROL, press, quiet, screen_text, until, words
from tests.tui.verify_driver import NAMES, RECORDING, event, job_events, replayed
from tests.tui.widgets.hosting import HOSTILE

SIZES = [(80, 24), (160, 50)]
HUNT = "model.\x1b]52;c;QUJD\x07w[bold]x[/bold]\x1b[2J\u202eend"


def moment_of(events: list[dict[str, object]], name: str, **fields: object) -> float:
    """When an event comes, in seconds from the first."""
    times = [
        e["t"]
        for e in events
        if e["event"] == name and all(e.get(key) == value for key, value in fields.items())
    ]
    return float(min(times)) - float(events[0]["t"]) + 0.001  # type: ignore[type-var, arg-type]


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_the_real_recording_at_its_beginning(size: tuple[int, int]) -> None:
    events = read_recording(str(RECORDING))
    async with replayed(events, moment_of(events, "hello") + 0.0, size=size) as (app, _):
        text = screen_text(app)
        assert "REPLAY" in text and "PAUSED" in text
        assert "STARTING" in text
        assert "8 ranks, 1 up" in text
        assert "hsdp:2x4 then fsdp:8 · dtensor · cpu · gloo" in text
        assert "R0" in text and "R1" in text
        assert "waiting" in text
        assert "No verdict has come yet" in text
        assert "0 of 6 exact so far" in text


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_the_real_recording_in_its_middle(size: tuple[int, int]) -> None:
    events = read_recording(str(RECORDING))
    at_s = moment_of(events, "phase", phase="reload")
    async with replayed(events, at_s, size=size) as (app, _):
        text = screen_text(app)
        assert "RUNNING" in text
        assert "6 of 6 exact so far" in text
        assert "✓ EXACT" in text
        assert "model.net1.weight" in text
        for phase in ("load", "compare", "save", "reload", "recheck"):
            assert f"{phase} ━" in text or f"{phase} ─" in text
        # A rank after the other goes on; the screen is that of one instant.
        assert "▸ 0 " in text and "▸ 7 " in text
        assert "60%" in text or "59%" in text or "61%" in text


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_the_real_recording_at_its_end(size: tuple[int, int]) -> None:
    events = read_recording(str(RECORDING))
    async with replayed(events, 1e9, size=size) as (app, _):
        text = screen_text(app)
        assert "EXACT   all 6 entries are bit for bit as stored under hsdp:2x4 then" in text
        assert "END" in text
        assert "6 of 6 exact · 0 wrong" in text
        for rank in range(8):
            assert f"✓ {rank} exact" in text
        assert "recheck" in text
        assert "100%" in text


async def test_what_differs_comes_first_with_where_and_what() -> None:
    events = job_events(differs=[(NAMES[7], 3)])
    async with replayed(events, 1e9) as (app, pilot):
        table = app.screen.query_one("#verify-table", VirtualTable)
        assert table.source.cell(int(table.rows[0]), "name") == NAMES[7]
        said = words(app)
        assert "DIFFERS 1 entry of 12 under hsdp:2x4" in said
        assert "✗ DIFFER" in said
        assert "rank 3, compare: DIFFER 17 of 4,096 elements differ, first at [513, 7]" in said
        assert "expected 0x3f80 found 0x3f81" in said
        assert "stored in __3_0.distcp" in said
        assert "≠ 3 differs" in said
        await pilot.press("enter")  # takes the pane away where there is room, and back
        await quiet(pilot, 0.2)
        assert "expected 0x3f80" not in words(app)


async def test_on_a_small_screen_enter_opens_the_detail_and_escape_closes_it() -> None:
    def is_open() -> bool:
        return app.screen.query_one("#verify-detail-scroll").display

    async with replayed(job_events(), 1e9, size=(80, 24)) as (app, pilot):
        assert not is_open()
        await pilot.press("enter")
        await until(pilot, is_open)
        await pilot.press("escape")
        await until(pilot, lambda: not is_open())


async def test_on_a_small_screen_what_is_wrong_is_open_and_enter_closes_it() -> None:
    events = job_events(differs=[(NAMES[7], 3)])
    async with replayed(events, 1e9, size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "rank 3, compare: DIFFER" in words(app))
        await pilot.press("enter")
        await until(pilot, lambda: "rank 3, compare: DIFFER" not in words(app))


async def test_the_failure_is_told_with_its_stack_and_the_rank_that_had_it() -> None:
    async with replayed(job_events(killed=5), 1e9) as (app, pilot):
        text = screen_text(app)
        assert "✗ rank 5: rank 5 was killed by SIGKILL" in text
        assert "✗ 5 failed" in text
        assert "at line 1\\x1b[2J" in text
        grid = app.screen.query_one(MeshGrid)
        grid.focus()
        for _ in range(2):
            await pilot.press("l")
        await quiet(pilot, 0.3)
        assert "rank 1: what it printed" in screen_text(app)
        assert "at line 1" not in screen_text(app)  # that is rank 5's


@pytest.mark.slow
async def test_nothing_hostile_reaches_the_screen() -> None:
    logs = [(rank, text.replace("\n", " ")) for rank, text in enumerate(HOSTILE[:8])]
    names = [HUNT, *HOSTILE, *NAMES]
    events = job_events(names=names, differs=[(HUNT, 1)], logs=logs, killed=2)
    events[0] |= {"mesh": "hsdp:2x4", "via": HUNT, "device": HUNT, "backend": HUNT, "filter": HUNT}
    events.insert(40, event(2.5, "phase", 0, phase=HUNT, mesh=HUNT))
    events.insert(40, event(1.5, "hello", 4, pid=1, host=HUNT, device=HUNT))
    for at_s in (2.6, 1e9):
        for size in SIZES:
            async with replayed(events, at_s, "enter", "o", size=size) as (app, pilot):
                assert not CONTROL.search(screen_text(app).replace("\n", ""))
                await press(pilot, "j", at_least_s=0.2)
                assert not CONTROL.search(screen_text(app).replace("\n", ""))


@pytest.mark.slow
async def test_events_that_make_no_sense_do_no_harm() -> None:
    odd = [
        event(3, "progress", 0, phase="load", bytes_done=10**400, bytes_total=-1, rss_bytes=-5),
        event(3, "progress", 1, phase="load", bytes_done=-(10**30), bytes_total=0),
        event(3, "tensor", 0, phase="compare", fqn="x", verdict="WORSE", first_index=["a", None]),
        event(3, "tensor", 0, phase="", fqn="", verdict=""),
        {**event(3, "progress", 0), "t": float("inf")},
        {**event(3, "progress", 0), "t": float("nan")},
        {**event(3, "progress", 0), "t": -1e300},
        event(3, "hello", 100, pid="x"),
        event(3, "failed", None, kind=None, message=None, stack=None),
    ]
    for mesh, size in (("hsdp:2x4", 8), ("fsdp:3", 8), ("nonsense\x1b", 8), ("hsdp:2x4", 0)):
        events = job_events(mesh, 8)
        events[0] |= {"world_size": size}
        events[60:60] = odd
        events[-1] |= {"elapsed_s": "x", "tensors": {"exact": [], "total": None}, "then": 5}
        for at_s in (3.1, 1e9):
            async with replayed(events, at_s) as (app, _):
                assert not CONTROL.search(screen_text(app).replace("\n", ""))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp:1", "hsdp:8x8", "fsdp:64", "hsdp:16x32"])
async def test_every_rank_has_its_cell(mesh: str) -> None:
    world = {"fsdp:1": 1, "hsdp:8x8": 64, "fsdp:64": 64, "hsdp:16x32": 512}[mesh]
    for size in SIZES:
        events = job_events(mesh, world, names=NAMES[:2], killed=world - 1)
        async with replayed(events, 6.1, size=size) as (app, _):
            grid = app.screen.query_one(MeshGrid)
            layout = grid.grid_layout(grid.size.width)
            cells = range(layout.num_cells)
            shown = [rank for cell in cells for rank in grid.ranks_in(layout, cell)]
            assert shown == list(range(world))
            if world <= 64:
                assert all(str(rank) in screen_text(app) for rank in range(world))
        async with replayed(events, 1e9, size=size) as (app, _):
            assert "✗" in screen_text(app)


async def test_the_filter_narrows_and_keeps_the_bad_ones_first() -> None:
    events = job_events(differs=[("model.layers.4.mlp.weight", 0)])
    async with replayed(events, 1e9, "slash", *"mlp", "enter") as (app, pilot):
        table = app.screen.query_one("#verify-table", VirtualTable)
        names = [table.source.cell(int(row), "name") for row in table.rows]
        assert names[0] == "model.layers.4.mlp.weight"
        assert len(names) == 6 and all("mlp" in str(name) for name in names)
        await press(pilot, "escape", at_least_s=0.2)
        assert table.num_lines == 12


async def test_a_space_in_the_filter_is_a_space() -> None:
    async with replayed(job_events(), 1e9, "slash", *"mlp", "space", "3") as (app, _):
        screen = app.screen
        assert isinstance(screen, ReplayScreen)
        assert screen.playback is not None and screen.playback.is_paused
        table = screen.query_one("#verify-table", VirtualTable)
        assert table.num_lines == 1


async def test_the_ranks_and_what_each_printed() -> None:
    logs = [(3, "from rank three"), (0, "from rank zero"), (None, "torchrun itself")]
    async with replayed(job_events(logs=logs), 1e9, size=(80, 24)) as (app, pilot):
        assert "from rank three" not in screen_text(app)
        await press(pilot, "o", at_least_s=0.3)
        text = screen_text(app)
        assert "r3  from rank three" in text and "torchrun  torchrun itself" in text
        for _ in range(4):
            await pilot.press("j")
        await quiet(pilot, 0.4)
        text = screen_text(app)
        assert "rank 3: what it printed" in text
        assert "from rank three" in text and "from rank zero" not in text
        await pilot.press("enter")
        assert app.screen.query_one(LogPane).has_focus
        await press(pilot, "o", at_least_s=0.2)
        assert app.screen.query_one("#verify-table", VirtualTable).has_focus


async def test_the_replay_keys() -> None:
    events = job_events()
    async with replayed(events, 0.0, size=(120, 40)) as (app, pilot):
        screen = app.screen
        assert isinstance(screen, ReplayScreen) and screen.playback is not None
        playback = screen.playback
        await pilot.press("plus")
        assert playback.speed == 2.0
        await pilot.press("minus", "minus")
        assert playback.speed == 0.5
        await pilot.press("right")
        await until(pilot, lambda: playback.position_s == pytest.approx(11 / 20))
        await pilot.press("end")
        await until(pilot, lambda: playback.is_at_end)
        await until(pilot, lambda: "EXACT" in screen_text(app))
        await pilot.press("left")
        await until(pilot, lambda: not playback.is_at_end)
        await pilot.press("home")
        await until(pilot, lambda: playback.position_s == 0.0)
        await pilot.press("plus", "plus", "plus", "plus", "plus", "plus")
        await pilot.press("space")
        await until(pilot, lambda: playback.is_at_end)


async def test_the_display_can_be_held_while_a_job_goes_on() -> None:
    events = job_events()
    async with replayed(events, 3.0) as (app, pilot):
        view = app.screen.query_one(VerificationView)
        view.action_pause()
        assert view.run is not None
        playback = view.run
        assert isinstance(playback, Playback)
        playback.seek(9.0)
        await until(pilot, lambda: playback.moment.snapshot.num_exact > 0)
        await quiet(pilot, 0.3)
        assert "PAUSED" in screen_text(app) and "0 of 12 exact" in screen_text(app)
        view.action_pause()
        await until(pilot, lambda: "0 of 12 exact" not in screen_text(app))


async def test_without_colour_and_in_a_terminal_theme() -> None:
    os.environ["NO_COLOR"] = "1"
    try:
        async with replayed(job_events(killed=5, differs=[(NAMES[0], 1)]), 1e9) as (app, pilot):
            text = screen_text(app)
            assert "✗ 5 failed" in text and "≠ 1 differs" in text and "✓ 0 exact" in text
            app.theme = "ansi-dark"
            await quiet(pilot, 0.2)
            assert "✗ 5 failed" in screen_text(app)
    finally:
        os.environ.pop("NO_COLOR", None)


def test_the_exit_code_is_the_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    def left_at_once(self: ReplayApp) -> int:
        return 0

    monkeypatch.setattr(ReplayApp, "run", left_at_once)
    assert run_replay(str(RECORDING)) == 0


def test_the_exit_code_of_a_job_that_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import json

    path = tmp_path / "events.jsonl"
    events = job_events(differs=[(NAMES[0], 0)])
    path.write_text("".join(json.dumps(e) + "\n" for e in events))
    monkeypatch.setattr(ReplayApp, "run", lambda self: 0)
    assert run_replay(str(path)) == 1
    path.write_text("".join(json.dumps(e) + "\n" for e in events[:-1]))
    assert run_replay(str(path)) == 2
