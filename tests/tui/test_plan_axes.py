"""The load plan on meshes of named axes: what a user does there, on a small and a large screen."""

from __future__ import annotations

from textual.widgets import Input

from inspector.checkpoint import open_checkpoint
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import Planner
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.writer.written_by import infer
from inspector.tui.kit.lines import ChoiceLine
from inspector.tui.mesh.picker import MeshPicker
from inspector.tui.plan.grid import PlanGrid
from inspector.tui.plan.view import LoadPlanView
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, quiet, screen_text, until, words
from tests.tui.widgets.hosting import Host

SAMPLE = SAMPLES / "hsdp_tp_2x2x2"
OWN = "dp_replicate:2,dp_shard:2,tp:2"


async def test_the_mesh_that_wrote_it_is_planned_folded_and_stepped() -> None:
    checkpoint = open_checkpoint(str(SAMPLE))
    written_by = infer(checkpoint)

    def read(mesh: str) -> list[int]:
        parsed = Mesh.parse(mesh)
        plan = Planner(checkpoint).plan(parsed, TargetPlacements(parsed, written_by))
        return plan.ranks.bytes_read.tolist()

    async with opened(SAMPLE, "5", size=(80, 24)) as (app, pilot):
        view = app.screen.query_one(LoadPlanView)
        grid, field = view.query_one(PlanGrid), view.query_one("#plan-mesh", Input)

        async def planned(mesh: str) -> list[int]:
            await until(
                pilot, lambda: view.planned is not None and str(view.planned.plan.mesh) == mesh
            )
            assert view.planned is not None
            return view.planned.plan.ranks.bytes_read.tolist()

        assert await planned(OWN) == read(OWN)
        await quiet(pilot)
        said = screen_text(app)
        assert "R dp_replicate:2 stride 4  S dp_shard:2 stride 2  T tp:2 stride 1" in said
        assert "S1 T0" in said and "R0 S1 T0" in said and field.value == OWN and OWN in said
        # The axes are chosen with a, folded with enter, and left with esc.
        assert grid.mesh.folded == frozenset()
        await press(pilot, "a", "a", "enter")
        said = words(app)
        assert "[S dp_shard:2 folded]" in said and "cell = most of 2 ranks" in said
        assert "tp 0" in said and "▲ 0 +1" in said
        await pilot.resize_terminal(160, 50)
        await quiet(pilot)
        said = words(app)
        assert "S dp_shard:2 folded, FSDP" in said and "a Fold axis" in said
        assert "enter opens it" in said and "3 tensors as the checkpoint cuts them" in said
        await press(pilot, "enter", "escape")
        assert grid.axis is None and not grid.mesh.folded and view.table.has_focus
        assert "R dp_replicate:2 stride 4, copies" in words(app)
        # Sizes by key: of the shards, of the replicas; by step and mouse of any axis.
        await pilot.press("plus")
        larger = "dp_replicate:2,dp_shard:4,tp:2"
        assert await planned(larger) == read(larger)
        await pilot.press("minus", "less_than_sign")
        alone = "dp_replicate:1,dp_shard:2,tp:2"
        assert await planned(alone) == read(alone)
        view.query_one(MeshPicker).step("tp", 1)
        wide = "dp_replicate:1,dp_shard:2,tp:4"
        assert await planned(wide) == read(wide)
        # The same ranks as FSDP, and what cannot be is said where it was typed.
        await pilot.press("f")
        await planned("fsdp:8")
        await quiet(pilot)
        assert "R dp_replicate" not in words(app)
        await pilot.press("m")
        field.value = "pp:2,dp_shard:4"
        await until(
            pilot, lambda: "pipeline stage" in words(app) and "Below is fsdp:8" in words(app)
        )
        field.value = OWN + "+dp_replicate:2,dp_shard_mod_ep:2,ep:2"
        await planned(field.value)
        await quiet(pilot)
        assert view.query_one(MeshPicker).error is None


async def test_a_line_of_choices_cuts_no_word() -> None:
    words_offered = ("dp_replicate:2,dp_shard:2,tp:2", "fsdp:8", "hsdp:2x4", "fsdp:2", "fsdp:4")
    line = ChoiceLine(words_offered, "hsdp:2x4")
    async with Host(line).run_test(size=(30, 3)) as pilot:
        for width in (30, 50, 80, 12, 30):
            await pilot.resize_terminal(width, 3)
            for value in words_offered:
                line.choose(value)
                await pilot.pause()
                shown = line.render_line(0).text
                parts = shown.replace("[", " ").replace("]", " ").split()
                assert set(parts) <= {*words_offered, "…"} and len(shown) <= width
                is_there = value in parts
                assert is_there or len(value) + 6 > width
                assert is_there is (f"[{value}]" in shown)
                assert ("…" in parts) is (len(parts) - parts.count("…") < len(words_offered))
