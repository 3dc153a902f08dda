"""The load plan as a user sees it: meshes chosen by key, mouse and typing; ranks, reads, lines."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.text import format_stages
from inspector.errors import InspectError
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import Planner, load_plan
from inspector.layout.target.stages import stages_by_files
from inspector.layout.writer.written_by import infer
from inspector.report.plan import headline
from inspector.tui.app import InspectApp
from inspector.tui.kit.lines import ChoiceLine
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.mesh.picker import MeshStepper
from inspector.tui.plan.desk import Order, Planned
from inspector.tui.plan.grid import PlanGrid
from inspector.tui.plan.sources import EmptySource, PlanRankSource, ReadSource
from inspector.tui.plan.view import LoadPlanView
from inspector.tui.screens.dialogs import CopyScreen
from inspector.tui.screens.main import MainScreen
from inspector.tui.verification.setup import VerifySetupScreen
from tests.conftest import SAMPLES, several_fast, some_fast
from tests.tui.app_driver import CONTROL, opened, press, quiet, screen_text, until, words

# A screen for each: long by nature.
pytestmark = pytest.mark.slow

SIZES = [(80, 24), (160, 50)]
SAMPLE = SAMPLES / "fsdp2_hsdp_2x4_adamw"


def view_of(app: InspectApp) -> LoadPlanView:
    main = next(screen for screen in app.screen_stack if isinstance(screen, MainScreen))
    return main.query_one(LoadPlanView)


def shown(app: InspectApp) -> str:
    """The mesh whose plan is on the screen."""
    planned = view_of(app).planned
    return "" if planned is None else str(planned.plan.mesh)


def table(app: InspectApp, name: str) -> VirtualTable:
    return view_of(app).query_one(f"#plan-{name}", VirtualTable)


async def settled(app: InspectApp, pilot: Pilot[int]) -> None:
    """Until the plan that was asked for, and the reads of the rank, are on the screen."""
    view = view_of(app)

    def is_settled() -> bool:
        planned, reads = view.planned, table(app, "reads").source
        if planned is None or planned.plan.mesh != view.mesh:
            return False
        if planned.order.filter_text != view.filter_text:
            return False
        return isinstance(reads, ReadSource) and reads.plan is planned.plan

    await until(pilot, is_settled)
    await quiet(pilot, 0.1)


async def type_mesh(app: InspectApp, pilot: Pilot[int], mesh: str) -> None:
    await pilot.press("m", *(("colon" if char == ":" else char) for char in mesh), "enter")
    await settled(app, pilot)


@asynccontextmanager
async def planning(
    path: Path | str = SAMPLE, size: tuple[int, int] = (160, 50)
) -> AsyncIterator[tuple[InspectApp, Pilot[int]]]:
    async with opened(path, "5", size=size) as (app, pilot):
        await settled(app, pilot)
        yield app, pilot


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_it_opens_on_the_mesh_that_wrote_it_and_says_it_in_a_sentence(
    size: tuple[int, int],
) -> None:
    async with planning(size=size) as (app, _):
        plan = load_plan(open_checkpoint(str(SAMPLE)), Mesh.parse("hsdp:2x4"))
        said = words(app)
        assert shown(app) == "hsdp:2x4"
        assert headline(plan) in said
        assert "8 ranks" in said and "this very mesh" in said
        assert "102.5 KiB" in said and "R0 S3" in said and "R1" in said
        assert view_of(app).table.num_lines == 8


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_a_typed_mesh_is_planned_and_compared_with_the_writers(size: tuple[int, int]) -> None:
    async with planning(size=size) as (app, pilot):
        await type_mesh(app, pilot, "hsdp:8x64")
        plan = load_plan(open_checkpoint(str(SAMPLE)), Mesh.parse("hsdp:8x64"))
        said = words(app)
        assert headline(plan) in said
        if size != (80, 24):  # The answer and the plan in short go before it.
            assert "written by hsdp:2x4; under that mesh 8 ranks would read 3.10x" in said
        ranks = table(app, "ranks")
        assert ranks.has_focus and ranks.num_lines == 512
        source = ranks.source
        assert isinstance(source, PlanRankSource)
        figures = Planner(open_checkpoint(str(SAMPLE))).plan(plan.mesh).ranks
        assert source.plan.ranks.bytes_read.tolist() == figures.bytes_read.tolist()
        assert "512 ranks" in said


async def test_sizes_go_up_and_down_by_key_and_presets_divide_evenly() -> None:
    async with planning() as (app, pilot):
        seen = []
        for key in ("plus", "plus", "minus", "greater_than_sign", "less_than_sign"):
            await pilot.press(key)
            await settled(app, pilot)
            seen.append(shown(app))
        # 1, 2, 5 and 10 divide every first dim of the sample.
        assert seen == ["hsdp:2x5", "hsdp:2x10", "hsdp:2x5", "hsdp:4x5", "hsdp:2x5"]
        planned = view_of(app).planned
        assert planned is not None and not planned.plan.empty_tensors
        await pilot.press("less_than_sign", "f")
        await settled(app, pilot)
        assert shown(app) == "hsdp:1x5"
        for _ in range(20):
            await pilot.press("plus", "greater_than_sign")
        await settled(app, pilot)
        assert view_of(app).mesh.world_size <= 65_536
        for _ in range(30):
            await pilot.press("minus", "less_than_sign")
        await settled(app, pilot)
        assert shown(app) == "fsdp:1"


async def test_sizes_and_presets_by_mouse() -> None:
    async with planning() as (app, pilot):
        stepper = view_of(app).query_one(MeshStepper)
        line = str(stepper.render())
        await pilot.click(MeshStepper, offset=(line.index("+"), 0))
        await settled(app, pilot)
        assert shown(app) == "hsdp:2x5"
        await pilot.click(MeshStepper, offset=(line.index("fsdp"), 0))
        await settled(app, pilot)
        assert shown(app) == "fsdp:10"
        presets = view_of(app).query_one("#plan-presets", ChoiceLine)
        assert presets.value == "fsdp:10"
        await pilot.click(ChoiceLine, offset=(str(presets.render()).index("fsdp:2"), 0))
        await settled(app, pilot)
        assert shown(app) == "fsdp:2"


async def test_a_mesh_that_is_typed_in_one_burst_arrives_whole() -> None:
    async with planning() as (app, pilot):
        await pilot.press("m")
        for char in "HSDP:16x64":
            name = {":": "colon"}.get(char, char)
            app.post_message(events.Key(name, char))
        await until(pilot, lambda: shown(app) == "hsdp:16x64")
        field = view_of(app).query_one("#plan-mesh", Input)
        assert field.value == "HSDP:16x64"
        # What is good on the way does not take what follows out of the field.
        await pilot.press(*["backspace"] * 4, "x", "4", "enter")
        await until(pilot, lambda: shown(app) == "hsdp:1x4" and field.value == "hsdp:1x4")
        assert view_of(app).table.has_focus


async def test_the_line_of_sizes_answers_to_the_arrows() -> None:
    async with planning() as (app, pilot):
        view_of(app).query_one(MeshStepper).focus()
        await pilot.press("up", "left", "up")
        await settled(app, pilot)
        assert shown(app) == "hsdp:4x5"
        await pilot.press("left", "down")
        await settled(app, pilot)
        assert shown(app) == "fsdp:20"


BAD_MESHES = [
    ("hsdp:8x", "is not a mesh"),
    ("hsdp:0x4", "an axis of size 0 has no ranks"),
    ("pp:4", "not the mesh's to say"),
    ("fsdp:99999", "more than 65536 ranks"),
    ("[bold]", "is not a mesh"),
]


@pytest.mark.parametrize(
    ("typed", "said"),
    several_fast(BAD_MESHES, BAD_MESHES[2:4]),
)
async def test_a_bad_mesh_is_told_while_the_last_good_one_stays(typed: str, said: str) -> None:
    async with planning(size=(80, 24)) as (app, pilot):
        await type_mesh(app, pilot, "fsdp:3")
        field = view_of(app).query_one("#plan-mesh", Input)
        await pilot.press("m")
        field.value = typed
        await press(pilot, "enter", at_least_s=0.1)
        assert said in words(app) and "Below is fsdp:3" in words(app)
        assert shown(app) == "fsdp:3" and field.has_focus
        await press(pilot, "escape", at_least_s=0.1)
        assert said not in words(app) and field.value == "fsdp:3"
        assert view_of(app).table.has_focus


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_a_rank_shows_its_reads_and_escape_leads_back(size: tuple[int, int]) -> None:
    async with planning(size=size) as (app, pilot):
        await pilot.press("j", "j", "j", "enter")
        await settled(app, pilot)
        reads = table(app, "reads")
        assert reads.has_focus and "rank 3: 69 reads" in screen_text(app)
        source = reads.source
        assert isinstance(source, ReadSource)
        plan = load_plan(open_checkpoint(str(SAMPLE)), Mesh.parse("hsdp:2x4"))
        expected = list(plan.reads(3))
        assert [source.read(row) for row in range(source.num_rows)] == expected
        row = next(row for row, read in enumerate(expected) if "mlp" in read.fqn)
        # The last of four shards of ten rows has one row.
        assert source.cell(row, "box") == "[9:10, 0:10]"
        assert source.corner(row) == (9, 0)
        assert expected[row].file in screen_text(app)
        await pilot.press("escape")
        assert view_of(app).table.has_focus


async def test_the_grid_and_the_table_point_at_the_same_rank() -> None:
    async with planning() as (app, pilot):
        grid, ranks = view_of(app).query_one(PlanGrid), table(app, "ranks")
        grid.focus()
        await pilot.press("right", "down")
        await settled(app, pilot)
        assert grid.chosen == 5 and ranks.cursor_row == 5
        layout = grid.grid_layout(grid.size.width)
        x, y = layout.origin(2)
        await pilot.click(PlanGrid, offset=(x, y + grid.legend_lines))
        await settled(app, pilot)
        assert ranks.cursor_row == 2 and "rank 2:" in screen_text(app)
        ranks.focus()
        await pilot.press("G")
        await settled(app, pilot)
        assert grid.chosen == 7


async def test_a_change_of_mesh_keeps_the_rank() -> None:
    async with planning() as (app, pilot):
        await pilot.press("j", "j", "j", "plus")
        await settled(app, pilot)
        assert table(app, "ranks").cursor_row == 3
        await type_mesh(app, pilot, "fsdp:2")
        assert table(app, "ranks").cursor_row == 1


async def test_the_worst_rank_is_one_key_away_and_marked() -> None:
    async with planning() as (app, pilot):
        await pilot.press("G", "w")
        await settled(app, pilot)
        plan = load_plan(open_checkpoint(str(SAMPLE)), Mesh.parse("hsdp:2x4"))
        ranks = table(app, "ranks")
        assert ranks.cursor_row == plan.worst_rank
        assert ranks.source.marker(plan.worst_rank) == "warning"
        assert f"▲ rank {plan.worst_rank} reads most" in screen_text(app)
        await type_mesh(app, pilot, "fsdp:1")
        assert "every rank reads 262.8 KiB" in screen_text(app)
        await pilot.press("w")
        assert "as much as every other" in words(app)


async def test_ranks_are_sorted_by_any_figure() -> None:
    async with planning() as (app, pilot):
        await type_mesh(app, pilot, "fsdp:16")
        ranks = table(app, "ranks")
        source = ranks.source
        assert isinstance(source, PlanRankSource)
        figures = source.plan.ranks
        for key, column in [
            ("needs", figures.bytes_needed),
            ("reads", figures.bytes_read),
            ("files", figures.num_files),
            ("items", figures.num_reads),
            ("empty", figures.num_empty_tensors),
            ("peak", figures.peak_bytes),
        ]:
            assert ranks.sort(key, reverse=True)
            values = [int(column[row]) for row in ranks.rows]
            assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_tensors_that_leave_ranks_empty(size: tuple[int, int]) -> None:
    async with planning(size=size) as (app, pilot):
        await pilot.press("e")
        assert "No tensor leaves a rank" in words(app)
        await type_mesh(app, pilot, "fsdp:16")
        await press(pilot, "e", at_least_s=0.1)
        empty = table(app, "empty")
        assert empty.has_focus and isinstance(empty.source, EmptySource)
        plan = load_plan(open_checkpoint(str(SAMPLE)), Mesh.parse("fsdp:16"))
        assert empty.num_lines == len(plan.empty_tensors) == 33
        assert "model.layers.0.mlp.weight" in screen_text(app)
        assert empty.source.cell(1, "ranks") == "6"  # ten rows over sixteen ranks
        await pilot.press("e")
        assert view_of(app).table.has_focus


async def test_a_filter_plans_only_what_it_leaves() -> None:
    async with planning() as (app, pilot):
        await pilot.press("slash", *"exp_avg", "space", *"!sq", "enter")
        await settled(app, pilot)
        checkpoint = open_checkpoint(str(SAMPLE))
        chosen = [i for i, t in enumerate(checkpoint.tensors) if t.fqn.endswith("exp_avg")]
        plan = Planner(checkpoint, chosen, []).plan(Mesh.parse("hsdp:2x4"))
        planned = view_of(app).planned
        assert planned is not None and planned.plan.bytes_read == plan.bytes_read
        assert f"8 ranks, {len(chosen)} of 69 entries" in screen_text(app)
        await press(pilot, "slash", *" nothing like it", shows="no name matches the filter")
        await pilot.press("escape")
        await settled(app, pilot)
        assert "8 ranks" in screen_text(app) and "of 69" not in screen_text(app)


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_too_many_ranks_for_this_machine_give_the_lines_to_run_elsewhere(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inspector.verify.machine.free_memory", lambda: 8 << 30)
    async with planning(size=size) as (app, pilot):
        await type_mesh(app, pilot, "hsdp:8x64")
        await press(pilot, "v", at_least_s=0.2)
        assert isinstance(app.screen, CopyScreen)
        said = words(app)
        assert "hsdp:8x64 does not run on this machine: 512 ranks need about" in said
        assert "cd SHARED_DIR/import && python node.py --nnodes" in said
        await press(pilot, "j", "y", at_least_s=0.2)
        line = "cd SHARED_DIR/import && python node.py --nnodes=64"
        assert app.clipboard.startswith(line)
        assert "--nproc-per-node=8" in app.clipboard and "OSC 52" in words(app)
        await press(pilot, "j", "y", at_least_s=0.2)
        assert "srun --nodes=64" in app.clipboard
        await pilot.press("escape")
        assert shown(app) == "hsdp:8x64"


async def test_what_the_machine_can_run_is_asked_with_this_mesh_and_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inspector.verify.machine.free_memory", lambda: 8 << 30)
    async with planning() as (app, pilot):
        await pilot.press("slash", *"norm", "enter")
        await type_mesh(app, pilot, "fsdp:3")
        await press(pilot, "v", shows="3 ranks on")
        screen = app.screen
        assert isinstance(screen, VerifySetupScreen)
        assert (screen.wishes.mesh, screen.wishes.filter_text) == ("fsdp:3", "norm")
        await pilot.press("escape")
        await press(pilot, "1", "v", at_least_s=0.3)
        assert isinstance(app.screen, VerifySetupScreen)
        assert app.screen.wishes.filter_text == ""


async def test_the_sentence_and_the_lines_can_be_copied_at_any_time() -> None:
    async with planning() as (app, pilot):
        await press(pilot, "y", at_least_s=0.1)
        assert "python node.py --standalone" in words(app)
        await press(pilot, "j", "y", at_least_s=0.1)
        plan = load_plan(open_checkpoint(str(SAMPLE)), Mesh.parse("hsdp:2x4"))
        assert app.clipboard == headline(plan)


async def test_keys_of_the_plan_mean_nothing_elsewhere() -> None:
    async with planning() as (app, pilot):
        await pilot.press("1", "plus", "w", "greater_than_sign", "5")
        await settled(app, pilot)
        assert shown(app) == "hsdp:2x4"


@pytest.mark.parametrize("size", some_fast([*SIZES, (40, 12), (20, 8)], SIZES[:1]), ids=str)
async def test_large_meshes_fit_and_windows_may_shrink(size: tuple[int, int]) -> None:
    async with planning(size=size) as (app, pilot):
        for mesh in ("hsdp:2x512", "fsdp:1024", "hsdp:64x1024", "fsdp:1"):
            view_of(app).choose(Mesh.parse(mesh))
            await settled(app, pilot)
            text = screen_text(app)
            assert not CONTROL.search(text.replace("\n", ""))
            grid = view_of(app).query_one(PlanGrid)
            assert grid.size.height <= max(1, grid.max_lines) + grid.legend_lines
            assert view_of(app).table.num_lines == Mesh.parse(mesh).world_size
        for smaller in [(30, 10), (5, 3), (160, 50)]:
            await pilot.resize_terminal(*smaller)
            await quiet(pilot, 0.1)
        assert "every rank reads" in screen_text(app)


async def test_a_grid_reads_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with planning(size=(80, 24)) as (app, pilot):
        await type_mesh(app, pilot, "fsdp:512")
        text = screen_text(app)
        # Two ranks a cell; those past the first thirty hold norms alone.
        assert "▲" + "█" * 4 + "▅" * 10 + "▄" in text
        assert "▄ 48.3 KiB" in text


@pytest.mark.parametrize(
    "theme", some_fast(["hsdp-light", "ansi-dark", "ansi-light"], ["ansi-light"])
)
async def test_other_themes(theme: str) -> None:
    async with planning() as (app, pilot):
        app.theme = theme
        await type_mesh(app, pilot, "hsdp:2x32")
        assert "64 ranks" in screen_text(app)


async def test_names_are_shown_and_never_obeyed() -> None:
    for size in SIZES:
        async with planning(SAMPLES / "names_hostile_1", size) as (app, pilot):
            await type_mesh(app, pilot, "fsdp:64")
            for keys in (("enter", "G"), ("escape", "e", "G"), ("y",)):
                await press(pilot, *keys, at_least_s=0.1)
                assert not CONTROL.search(screen_text(app).replace("\n", ""))


def remade(tmp_path: Path, change: Callable[[Any], None]) -> Path:
    """The sample with other metadata."""
    from torch.distributed.checkpoint import FileSystemReader

    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / "ckpt"))
    metadata = FileSystemReader(folder).read_metadata()
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


async def test_an_empty_checkpoint_has_no_plan(tmp_path: Path) -> None:
    def empty(metadata: Any) -> None:
        metadata.state_dict_metadata.clear()
        metadata.storage_data.clear()
        metadata.planner_data = {}

    async with opened(remade(tmp_path, empty), "5", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "there is nothing to load" in words(app))
        await press(pilot, "plus", "w", "e", "v", "escape", "y", at_least_s=0.2)
        assert "There is nothing under the cursor" in words(app)


async def test_sizes_that_no_memory_holds_are_refused_in_words(tmp_path: Path) -> None:
    import torch

    def huge(metadata: Any) -> None:
        entries = metadata.state_dict_metadata
        for fqn, entry in list(entries.items()):
            for copy in range(700):
                size = torch.Size([1 << 25, 1 << 23])
                entries[f"{fqn}.{copy}"] = dataclasses.replace(entry, size=size, chunks=[])

    async with opened(remade(tmp_path, huge), "5", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "claims more than four exbibytes" in words(app))
        assert view_of(app).planned is None
        # A part of it may be planned.
        await press(
            pilot, "slash", *"net1.bias", "space", *"!.1", "space", *"!.2", "enter", at_least_s=0.2
        )
        assert not CONTROL.search(screen_text(app).replace("\n", ""))


async def test_what_would_go_wrong_is_said_first(tmp_path: Path) -> None:
    def gap(metadata: Any) -> None:
        metadata.state_dict_metadata["model.net1.weight"].chunks.pop()

    for size in SIZES:
        folder = tmp_path / str(size[0])
        async with planning(remade(folder, gap), size) as (app, _):
            said = words(app)
            assert "model.net1.weight" in said and "lie in no chunk" in said
            assert "loads silently" in said


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("byte_ranges_overlap", "takes bytes 841 to 2,418"),
        ("metadata_unsafe", "names code to be run: posix.system"),
    ],
)
async def test_what_is_wrong_with_the_checkpoint_goes_wrong_too(
    name: str, said: str, size: tuple[int, int]
) -> None:
    """As `plan` prints: no rank's reads show it, and yet the load is wrong or worse."""
    async with planning(SAMPLES / "broken" / name, size=size) as (app, pilot):
        await until(pilot, lambda: said in words(app))
        assert "nothing that the metadata tells" not in words(app)


async def test_errors_of_the_checkpoint_are_told_once_and_only_of_what_is_loaded() -> None:
    folder = SAMPLES / "broken" / "chunk_overlap_and_gap"
    async with planning(folder) as (app, pilot):
        await until(pilot, lambda: "and 1 more problem: 3 lists them" in words(app))
        # The gap is told by rank, so it is not told again for the whole.
        assert words(app).count("lie in no chunk") == 1
        await pilot.press("slash", *"net2")
        await settled(app, pilot)
        await until(pilot, lambda: "nothing that the metadata tells" in words(app))


async def test_metadata_of_every_rank() -> None:
    async with planning(SAMPLES / "per_rank_metadata_2") as (app, pilot):
        await type_mesh(app, pilot, "fsdp:8")
        assert "wrote metadata of their own" in words(app)


async def test_a_reload_plans_anew(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLE, tmp_path / "ckpt"))
    async with planning(folder) as (app, pilot):
        before = view_of(app).planned
        shutil.rmtree(folder)
        shutil.copytree(SAMPLES / "fsdp_4", folder)
        await pilot.press("r")
        await until(pilot, lambda: shown(app) == "fsdp:4" and view_of(app).planned is not before)
        await quiet(pilot, 0.2)
        assert "4 ranks" in screen_text(app)


async def test_only_the_plan_that_was_asked_for_last_is_shown() -> None:
    async with planning() as (app, pilot):
        view = view_of(app)
        seen: list[str] = []
        real = view._show_planned

        def show(planned: Planned) -> None:
            seen.append(str(planned.plan.mesh))
            real(planned)

        view._show_planned = show  # type: ignore[method-assign]
        desk = view._desk
        assert desk is not None
        make = desk.make

        def slow(order: Order) -> Planned | InspectError:
            time.sleep(0.2)
            return make(order)

        desk.make = slow  # type: ignore[method-assign]
        for shards in (3, 5, 6, 7, 9):
            view.choose(Mesh("fsdp", (shards,)))
            await pilot.pause(0.02)
        # Meanwhile the keys are answered, and what is waited for is named.
        await pilot.pause(0.15)
        assert "planning fsdp:9" in screen_text(app)
        await until(pilot, lambda: shown(app) == "fsdp:9")
        assert seen == ["fsdp:9"]


async def test_a_small_screen_has_room_for_ranks_below_their_grid() -> None:
    async with opened(SAMPLES / "hsdp_tp_2x2x2", "5", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: shown(app) != "")
        await quiet(pilot)
        lines = screen_text(app).splitlines()
        header = next(n for n, line in enumerate(lines) if " Rank " in line and "Peak mem" in line)
        assert len(lines) - 1 - (header + 1) >= 6


async def test_the_reads_beside_the_ranks_lack_no_end() -> None:
    async with opened(SAMPLES / "hsdp_tp_2x2x2", "5", size=(120, 30)) as (app, pilot):
        await until(pilot, lambda: shown(app) != "")
        await quiet(pilot)
        # It was `13.7 KiB from 5`, and boxes ended at the edge of the screen.
        title = app.screen.query_one("#plan-reads-title")
        said = " ".join(title.render_line(y).text.strip() for y in range(title.size.height))
        assert said == "rank 0: 9 reads, 13.7 KiB from 5 files"
        reads = table(app, "reads")
        assert not reads.show_horizontal_scrollbar
        assert "[0:3, 0:8]" in screen_text(app)


async def test_the_stage_of_what_a_rank_reads_is_told_where_the_files_tell_one() -> None:
    sample = SAMPLES / "pp_hsdp_2x2x2"
    checkpoint = open_checkpoint(str(sample))
    stages = stages_by_files(checkpoint, infer(checkpoint))
    assert stages is not None
    expected = {n: format_stages(of) for n, of in zip(checkpoint.fqns, stages, strict=True)}
    assert {*expected.values()} == {"", "1", "2"}
    async with opened(sample, "5", "m", *"fsdp", "colon", "4", "enter") as (app, pilot):
        view = app.screen.query_one(LoadPlanView)
        reads = view.query_one("#plan-reads", VirtualTable)
        await until(pilot, lambda: reads.source.num_rows > 0 and "Stage?" in screen_text(app))
        told = {
            str(reads.source.cell(row, "name")): reads.source.cell(row, "stage")
            for row in range(reads.source.num_rows)
        }
        assert told == {name: expected[name] for name in told}
        assert {*told.values()} == {"", "1", "2"}
        keys = np.asarray(reads.source.sort_key("stage"))
        ordered = [reads.source.cell(int(row), "stage") for row in np.argsort(keys, kind="stable")]
        assert ordered == sorted(told.values())
    async with opened(SAMPLE, "5") as (app, pilot):
        await until(pilot, lambda: "Uses" in screen_text(app))
        assert "Stage?" not in screen_text(app)
