"""Columns: as high as their counts, whatever the room; nothing that is there is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.tui.values.pane import HistogramBars, column_lines
from inspector.values.stats import TensorStats, collect_stats
from tests.diff.making import write
from tests.tui.widgets.hosting import Host, drawn

_HEIGHTS = {char: n for n, char in enumerate(" ▁▂▃▄▅▆▇█")}


def stats_of(folder: Path, tensor: torch.Tensor) -> TensorStats:
    path = str(write(folder, {"w": tensor}))
    return collect_stats(open_checkpoint(path), folder_of(path)).tensors[0]


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=30), st.integers(1, 12))
def test_columns_are_as_high_as_their_counts(counts: list[float], height: int) -> None:
    lines = column_lines(np.array(counts), 2, height)
    assert len(lines) == height
    for n, count in enumerate(counts):
        eighths = sum(_HEIGHTS[line[2 * n]] for line in lines)
        assert all(line[2 * n] == line[2 * n + 1] for line in lines)
        exact = 8 * height * count / max(counts) if max(counts) else 0
        assert abs(eighths - exact) <= (0.5 if exact >= 1 else 1)
        assert (eighths > 0) == (count > 0)


@pytest.mark.parametrize("size", [(80, 24), (20, 5), (8, 3), (7, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("scale", ["linear", "log"])
async def test_it_fits_any_room(tmp_path: Path, size: tuple[int, int], scale: str) -> None:
    widget = HistogramBars()
    async with Host(widget).run_test(size=size) as pilot:
        drawn(widget)
        widget.set_scale(scale)  # type: ignore[arg-type]
        for n, tensor in enumerate(
            (
                torch.randn(5000),
                torch.zeros(10),
                torch.full((4,), float("nan")),
                torch.tensor([1e308, -1e308], dtype=torch.float64),
                torch.tensor([True, False, True]),
                torch.tensor(5),
            )
        ):
            widget.show(stats_of(tmp_path / f"{size}{n}", tensor))
            await pilot.pause()
            drawn(widget)


async def test_the_range_and_the_highest_column_are_told(tmp_path: Path) -> None:
    widget = HistogramBars()
    async with Host(widget).run_test(size=(50, 10)) as pilot:
        numbers = torch.linspace(-1, 3, 4001)
        numbers[numbers.abs() < 1e-3] = 0
        widget.show(stats_of(tmp_path / "a", numbers))
        await pilot.pause()
        lines = drawn(widget)
        assert lines[-1].split() == ["-1", "0", "3"]
        assert abs(lines[-1].index("0") - 50 / 4) <= 1
        assert lines[0].startswith("value: bars to ")
        widget.set_scale("log")
        await pilot.pause()
        assert drawn(widget)[0].startswith("|value|, log: bars to ")
        assert ", 2 zeros " in drawn(widget)[0]


async def test_a_few_integers_have_a_column_each(tmp_path: Path) -> None:
    widget = HistogramBars()
    async with Host(widget).run_test(size=(40, 10)) as pilot:
        widget.show(stats_of(tmp_path / "a", torch.tensor([0] * 8 + [1] * 4 + [3] * 2)))
        await pilot.pause()
        lines = drawn(widget)[1:-1]
        columns = [sum(_HEIGHTS[line[10 * n]] for line in lines) for n in range(4)]
        assert columns == [64, 32, 0, 16]
