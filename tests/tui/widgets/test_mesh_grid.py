"""The mesh as a grid: where the cells stand, what is in them, and how one is chosen."""

from __future__ import annotations

import pytest

from inspector.tui.mesh.grid import MeshGrid
from inspector.tui.mesh.layout import mesh_layout
from inspector.tui.mesh.paint import GLYPHS, cell_lines, stage_bar
from inspector.tui.verification.figures import RankProgress
from tests.tui.widgets.hosting import HOSTILE, Host, drawn

MESHES = [(1, 1), (1, 3), (2, 1), (1, 8), (2, 4), (4, 2), (8, 8), (1, 64), (2, 32), (3, 7)]
ROOMS = [(158, 20), (78, 10), (78, 6), (40, 4), (10, 3), (1, 1), (30, 1)]
STATES = list(GLYPHS)


def figures(
    rank: int = 0, state: str = "running", share: float = 0.5, **other: object
) -> RankProgress:
    values: dict[str, object] = {"phase": "load", "num_bytes": 1 << 20, "rate": 3e6}
    values |= {"memory": 1 << 28, "gpu_memory": None, **other}
    return RankProgress(rank, state, shares=(share, 0.0), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("mesh", [*MESHES, (32, 32), (1, 4096), (300, 2)], ids=str)
@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_every_rank_has_a_place_and_nothing_sticks_out(
    mesh: tuple[int, int], room: tuple[int, int]
) -> None:
    grid = mesh_layout(*mesh, *room)
    world = mesh[0] * mesh[1]
    bands = 1 if grid.is_flat else mesh[0]
    assert grid.num_replicas == bands
    assert grid.num_shards * grid.per_cell >= world // bands
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
    assert mesh_layout(2, 4, 158, 20).cell_height == 4
    assert mesh_layout(2, 4, 78, 8).cell_height == 3
    assert mesh_layout(2, 4, 78, 3).cell_height == 1
    assert mesh_layout(8, 8, 78, 8).per_cell == 1
    assert mesh_layout(8, 8, 78, 8).cols == 8


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


class Mesh(Host):
    def on_mesh_grid_chosen(self, event: MeshGrid.Chosen) -> None:
        self.posted.append(event)


async def test_keys_and_clicks_choose_a_rank() -> None:
    grid = MeshGrid(max_lines=12)
    app = Mesh(grid)
    async with app.run_test(size=(100, 14)) as pilot:
        grid.show(2, 4, tuple(figures(rank) for rank in range(8)))
        await pilot.pause()
        grid.focus()
        for keys, rank in (("l", 0), ("l", 1), ("j", 5), ("h", 4), ("k", 0), ("h", 0)):
            await pilot.press(keys)
            assert grid._chosen == rank
        x, y = grid.grid_layout(grid.size.width).origin(6)
        await pilot.click(grid, offset=(x + 2, y + 1))
        chosen = [m.rank for m in app.posted if isinstance(m, MeshGrid.Chosen)]
        assert chosen == [0, 1, 5, 4, 0, 6]


async def test_it_draws_replicas_down_and_shards_across() -> None:
    grid = MeshGrid(max_lines=12)
    async with Host(grid).run_test(size=(100, 14)) as pilot:
        grid.show(2, 4, tuple(figures(rank, phase="compare") for rank in range(8)))
        await pilot.pause()
        lines = drawn(grid)
        assert lines[0].split() == ["shard", "0", "shard", "1", "shard", "2", "shard", "3"]
        first = next(line for line in lines if line.startswith("R0"))
        second = next(line for line in lines if line.startswith("R1"))
        assert [f"{rank} compare" in first for rank in range(8)] == [True] * 4 + [False] * 4
        assert [f"{rank} compare" in second for rank in range(8)] == [False] * 4 + [True] * 4
        grid.show(2, 4, tuple(figures(rank, "done", 1.0) for rank in range(8)))
        await pilot.pause()
        assert "✓ 7 exact" in "\n".join(drawn(grid))
