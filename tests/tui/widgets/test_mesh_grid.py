"""The mesh as a grid: where the cells stand, what is in them, how one is chosen, axes folded."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.layout.mesh import Mesh
from inspector.tui.mesh.axes import FoldedMesh, coordinate_words, legend_parts, letters_of
from inspector.tui.mesh.layout import mesh_layout
from inspector.tui.mesh.paint import GLYPHS, MeshGrid, cell_lines, stage_bar
from inspector.tui.verification.figures import RankProgress
from tests.tui.widgets.hosting import HOSTILE, Host, drawn

MESHES = [(1, 1), (3,), (2, 1), (8,), (2, 4), (4, 2), (8, 8), (1, 64), (2, 32), (3, 7)]
MESHES += [(2, 2, 2), (2, 4, 2), (1, 8, 1), (8, 8, 8), (3, 1, 5, 2), (2,) * 8, ()]  # type: ignore[list-item]
ROOMS = [(158, 20), (78, 10), (78, 6), (40, 4), (10, 3), (1, 1), (30, 1)]
STATES = list(GLYPHS)


def figures(
    rank: int = 0, state: str = "running", share: float = 0.5, **other: object
) -> RankProgress:
    values: dict[str, object] = {"phase": "load", "num_bytes": 1 << 20, "rate": 3e6}
    values |= {"memory": 1 << 28, "gpu_memory": None, **other}
    return RankProgress(rank, state, shares=(share, 0.0), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [False, True], ids=["", "named"])
@pytest.mark.parametrize("mesh", [*MESHES, (32, 32), (4096,), (300, 2), (8, 64, 8)], ids=str)
@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_every_rank_has_a_place_and_nothing_sticks_out(
    mesh: tuple[int, ...], room: tuple[int, int], names: bool
) -> None:
    grid = mesh_layout(mesh, *room, names_columns=names)
    world = math.prod(mesh)
    bands = 1 if grid.is_flat else math.prod(mesh[: grid.num_down])
    assert grid.num_bands == bands
    assert grid.num_down == min(1, len(mesh) - 1) or 0 < grid.num_down < len(mesh) or not mesh
    places = world // bands
    assert (grid.band_cells - 1) * grid.per_cell < places <= grid.band_cells * grid.per_cell
    assert grid.height <= room[1]
    taken: set[tuple[int, int]] = set()
    for cell in range(grid.num_cells):
        x, y = grid.origin(cell)
        assert x >= 0 and x + grid.cell_width <= room[0]
        assert y >= 0 and y + grid.cell_height <= grid.height
        assert grid.cell_at(x, y) == cell
        assert grid.cell_at(x + grid.cell_width - 1, y + grid.cell_height - 1) == cell
        corners = {(x, y), (x + grid.cell_width - 1, y + grid.cell_height - 1)}
        assert not taken & corners
        taken |= corners
    on_lines = [
        cell
        for y in range(grid.height)
        if (place := grid.line_at(y)) and place[2] == 0
        for cell in grid.cells_on(*place[:2])
    ]
    assert on_lines == list(range(grid.num_cells))


def test_more_room_is_used_for_larger_cells() -> None:
    assert mesh_layout((2, 4), 158, 20).cell_height == 4
    assert mesh_layout((2, 4), 78, 8).cell_height == 3
    assert mesh_layout((2, 4), 78, 3).cell_height == 1
    assert mesh_layout((8, 8), 78, 8).per_cell == 1
    assert mesh_layout((8, 8), 78, 8).cols == 8


def test_more_axes_are_kept_apart_in_groups_with_names() -> None:
    for sizes, width, height in (((2, 2, 2), 78, 8), ((2, 2, 2), 158, 20), ((2, 4, 2), 78, 8)):
        grid = mesh_layout(sizes, width, height, names_columns=True)
        assert grid.top and grid.band_lines == 1 and grid.per_cell == 1
        assert grid.band_group > 1 or grid.cell_group_gap
    # Single characters have their groups and the names of their bands, too.
    grid = mesh_layout((8, 8, 8), 78, 8, names_columns=True)
    assert (grid.num_bands, grid.cols, grid.per_cell) == (8, 64, 1)
    assert grid.left and grid.cell_group == 8 and grid.cell_group_gap == 1
    # Of a cell that is several ranks, these are neighbours along the last axis.
    grid = mesh_layout((8, 64, 8), 78, 8, names_columns=True)
    assert grid.num_bands == 8 and grid.per_cell == 8


@pytest.mark.parametrize("state", STATES)
def test_a_cell_is_as_wide_and_high_as_asked(state: str) -> None:
    for phase in ["load", "a very long phase", "", *HOSTILE]:
        for width in (1, 2, 3, 5, 6, 8, 11, 15, 17, 19, 30):
            for height in (1, 2, 3, 4):
                rank = figures(12345, state, 0.999, phase=phase)
                lines = cell_lines(rank, width, height)
                assert len(lines) == height
                for line in lines if width > 5 or height == 1 else []:
                    text = "".join(run for run, _ in line)
                    assert len(text) == width
                    assert text.isprintable()


@pytest.mark.parametrize("width", [1, 2, 5, 9, 12, 20])
def test_a_cell_reads_without_colour(width: int) -> None:
    texts = {
        state: "".join(run for run, _ in cell_lines(figures(7, state, 0.5), width, 1)[0])
        for state in STATES
    }
    assert len(set(texts.values())) == len(STATES)
    for state, text in texts.items():
        if width > 2 or state != "running":
            assert text.startswith(GLYPHS[state])


def test_a_bar_fills_and_never_looks_done_before_it_is() -> None:
    def text(*shares: float, width: int = 20) -> str:
        return "".join(run for run, _ in stage_bar(shares, width))

    assert text(0.0, 0.0) == "───────── ──────────"
    assert text(1.0, 0.5) == "━━━━━━━━━ ━━━━━─────"
    assert text(1.0, 1.0) == "━━━━━━━━━ ━━━━━━━━━━"
    assert "─" in text(0.999, width=10) or "╸" in text(0.999, width=10)
    assert len(text(0.3, 0.4, 0.5, width=4)) == 4
    assert text(float("nan"), width=4) == "────"


class GridHost(Host):
    def on_mesh_grid_chosen(self, event: MeshGrid.Chosen) -> None:
        self.posted.append(event)


async def test_keys_and_clicks_choose_a_rank() -> None:
    grid = MeshGrid(max_lines=12)
    app = GridHost(grid)
    async with app.run_test(size=(100, 14)) as pilot:
        grid.show(Mesh.parse("hsdp:2x4"), tuple(figures(rank) for rank in range(8)))
        await pilot.pause()
        grid.focus()
        for keys, rank in (("l", 0), ("l", 1), ("j", 5), ("h", 4), ("k", 0), ("h", 0)):
            await pilot.press(keys)
            assert grid.chosen == rank
        x, y = grid.grid_layout(grid.size.width).origin(6)
        await pilot.click(grid, offset=(x + 2, y + grid.legend_lines + 1))
        chosen = [m.rank for m in app.posted if isinstance(m, MeshGrid.Chosen)]
        assert chosen == [0, 1, 5, 4, 0, 6]


async def test_it_draws_replicas_down_and_shards_across() -> None:
    grid = MeshGrid(max_lines=12)
    async with Host(grid).run_test(size=(100, 14)) as pilot:
        grid.show(
            Mesh.parse("hsdp:2x4"), tuple(figures(rank, phase="compare") for rank in range(8))
        )
        await pilot.pause()
        axes, *lines = drawn(grid)
        assert axes.rstrip().split("  ") == [
            " R replicate:2 stride 4, copies",
            "S shard:4 stride 1, FSDP",
        ]
        assert lines[0].split() == ["shard", "0", "shard", "1", "shard", "2", "shard", "3"]
        first = next(line for line in lines if line.startswith("R0"))
        second = next(line for line in lines if line.startswith("R1"))
        assert [f"{rank} compare" in first for rank in range(8)] == [True] * 4 + [False] * 4
        assert [f"{rank} compare" in second for rank in range(8)] == [False] * 4 + [True] * 4
        grid.show(Mesh.parse("hsdp:2x4"), tuple(figures(rank, "done", 1.0) for rank in range(8)))
        await pilot.pause()
        assert "✓ 7 exact" in "\n".join(drawn(grid))


# Axes.


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_a_folded_axis_is_one_place_for_all_its_ranks(
    sizes: list[int], data: st.DataObject
) -> None:
    mesh = Mesh.named(*((f"a{n}", size) for n, size in enumerate(sizes)))
    folded = frozenset(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    found = FoldedMesh(mesh, folded)
    ranks = np.arange(mesh.world_size).reshape(sizes)
    open_axes = [n for n in range(len(sizes)) if n not in folded]
    # The open axes to the front: each row is a place.
    table = ranks.transpose([*open_axes, *sorted(folded)]).reshape(found.num_places, -1)
    assert table.shape[1] == found.ranks_each
    for place, row in enumerate(table.tolist()):
        assert list(found.ranks_at(place)) == sorted(row)
        assert {found.place_of(rank) for rank in row} == {place}


def test_axes_have_letters_of_their_own() -> None:
    assert letters_of(("dp_replicate", "dp_shard", "tp")) == ("R", "S", "T")
    assert letters_of(("pp", "dp_shard", "cp", "ep")) == ("P", "S", "C", "E")
    assert letters_of(("dp_shard", "shard2", "sss", "s", "_")) == ("S", "H", "A", "B", "C")
    assert coordinate_words(Mesh.parse("dp_replicate:2,dp_shard:4,tp:2"), 13) == "R1 S2 T1"
    assert coordinate_words(Mesh.parse("fsdp:8"), 7) == "S7"
    # Experts lie on another mesh of the same ranks; the table tells both.
    assert coordinate_words(Mesh.parse("fsdp:8+dp_shard:2,ep:4"), 6) == "S6 + S1 E2"


def test_the_axes_are_told_as_far_as_there_is_room_and_no_word_is_cut() -> None:
    mesh = FoldedMesh(Mesh.parse("dp_replicate:2,dp_shard:4,tp:2"), frozenset({1}))
    said = " cell = worst of 4 ranks "
    seen = set()
    for width in range(20, 140):
        parts = legend_parts(mesh, width, 2, said)
        line = "".join(parts)
        assert len(line) <= width and len(parts) == 4
        assert "".join(legend_parts(mesh, width, None, said)) == line.replace("[", " ").replace(
            "]", " "
        )
        assert sum(how in line for how in (":4 folded", "(S dp_shard:4)", "(S4)")) == 1
        assert parts[2][0] == "[" and parts[2][-1] == "]" and parts[-1] in ("", said)
        seen.add(line)
    assert len(seen) >= 5
    assert " R dp_replicate:2 stride 8, copies " in line and "T tp:2 stride 1, tensor" in line
    eight = FoldedMesh(Mesh.parse(",".join(f"{n}:2" for n in "tp a b c d e f g".split())))
    assert "".join(legend_parts(eight, 30, None, "")).split() == [f"{c}2" for c in "TABCDEFG"]


async def test_an_axis_is_chosen_and_folded_and_says_the_worst_of_its_ranks() -> None:
    grid = MeshGrid(max_lines=8)
    mesh = Mesh.parse("dp_replicate:2,dp_shard:2,tp:2")
    states = ["done"] * 5 + ["wrong", "done", "done"]
    async with GridHost(grid).run_test(size=(80, 14)) as pilot:
        grid.show(mesh, tuple(figures(r, state, 1.0) for r, state in enumerate(states)))
        await pilot.pause()
        lines = drawn(grid)
        assert "S dp_shard:2 stride 2" in lines[0]
        assert lines[1].split() == ["S0", "T0", "S0", "T1", "S1", "T0", "S1", "T1"]
        assert [line[:2] for line in lines if "exact" in line] == ["R0", "R1"]
        grid.next_axis()
        await pilot.pause()
        assert drawn(grid)[0].startswith("[R dp_replicate:2] ")
        assert "enter folds it" in drawn(grid)[0]
        await pilot.press("enter")
        await pilot.pause()
        lines = drawn(grid)
        assert lines[0].startswith("[R dp_replicate:2 folded]")
        assert "cell = worst of 2 ranks" in lines[0]
        assert lines[1].split() == ["tp", "0", "tp", "1"]
        cells = [line for line in lines if "exact" in line]
        assert [cell[:2] for cell in cells] == ["S0", "S1"]
        # Ranks 1 and 5 share a cell, and 5 found a difference.
        assert "✓ 0 +1 exact" in cells[0] and "≠ 1 +1 load" in cells[0]
        assert "2 +1 exact" in cells[1] and "≠" not in cells[1]
        # The cursor goes from cell to cell: the first rank of each.
        for keys, rank in (("l", 0), ("l", 1), ("j", 3), ("h", 2), ("l", 3), ("l", 3)):
            await pilot.press(keys)
            assert grid.chosen == rank
        # All folded, by mouse: one cell, which is the worst of all.
        for axis in (1, 2):
            parts = drawn(grid)[0]
            await pilot.click(grid, offset=(parts.index(f"{mesh.axes[axis]}:"), 0))
            await pilot.pause()
        assert [line.split()[:3] for line in drawn(grid) if "≠" in line] == [["≠", "0", "+7"]]
        # As wide as it comes, nothing is left of what was drawn before.
        narrow, wide = "(T tp:2)", "T tp:2 folded, tensor parallel"
        for width, told in ((76, narrow), (160, wide), (80, narrow)):
            await pilot.resize_terminal(width, 14)
            await pilot.pause()
            axes = drawn(grid)[0]
            assert len(axes) == width and "cell = worst of 8 ranks" in axes
            assert [words for words in (narrow, wide) if words in axes] == [told]
        # Another mesh of the same axes keeps them folded, one of others does not.
        grid.show(Mesh.parse("dp_replicate:1,dp_shard:8,tp:1"), tuple(figures(r) for r in range(8)))
        assert len(grid.mesh.folded) == 3 and grid.axis == 0
        grid.show(Mesh.parse("dp_shard:4,tp:2"), tuple(figures(r) for r in range(8)))
        assert not grid.mesh.folded and grid.axis is None
        for axis in (0, 1, None):
            grid.next_axis()
            assert grid.axis == axis
        assert not grid.leave_axes()


async def test_every_rank_is_in_one_cell_whatever_is_folded() -> None:
    grid = MeshGrid(max_lines=8)
    async with Host(grid).run_test(size=(80, 14)) as pilot:
        for text in ("dp_replicate:2,dp_shard:3,tp:4", "dp_shard:16,cp:8,tp:8", "hsdp:300x2"):
            mesh = Mesh.parse(text)
            ranks = tuple(figures(r, STATES[r % 6]) for r in range(mesh.world_size))
            for axes in range(1 << len(mesh.axes)):
                grid.show(mesh, ranks)
                for axis in range(len(mesh.axes)):
                    if bool(axes >> axis & 1) is not (axis in grid.mesh.folded):
                        grid._turn(axis)
                await pilot.pause()
                drawn(grid)
                layout = grid.grid_layout(80)
                cells = [list(grid.ranks_in(layout, cell)) for cell in range(layout.num_cells)]
                assert sorted(r for cell in cells for r in cell) == list(range(mesh.world_size))
                assert all(cell for cell in cells)
                assert grid.size.height <= 9
