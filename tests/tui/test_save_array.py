"""`e` in the values: the tensor or the slice shown becomes a `.npy`, or it is told why not."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from textual.pilot import Pilot
from textual.widgets import Checkbox, Input

from inspector.tui.app import InspectApp
from inspector.tui.screens.dialogs import SaveArrayScreen, file_name
from inspector.tui.values.view import ValuesView
from tests.diff.making import place_of, shards, tiling, write
from tests.tui.app_driver import opened, until, words
from tests.tui.test_values_view import open_values

CUBE = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1))
BAD = torch.full((8, 4), 0.75)
HALF = torch.randn(20, 4, generator=torch.Generator().manual_seed(2)).bfloat16()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {"cube": CUBE, "half": HALF, "bad": BAD}
    cuts = {"cube": tiling((3, 6, 5), 2, 9), "half": shards((20, 4), 1, 2)}
    folder = write(tmp_path / "ck", state, cuts, num_files=2)
    file, offset, _ = place_of(folder, "bad")
    data = bytearray(file.read_bytes())
    data[data.index(BAD.numpy().tobytes(), offset)] ^= 1
    file.write_bytes(data)
    return folder


async def ask(app: InspectApp, pilot: Pilot[int], name: str) -> SaveArrayScreen:
    await open_values(app, pilot, name)
    await pilot.press("e")
    await until(pilot, lambda: isinstance(app.screen, SaveArrayScreen))
    screen = app.screen
    assert isinstance(screen, SaveArrayScreen)
    return screen


async def save(app: InspectApp, pilot: Pilot[int], screen: SaveArrayScreen, path: Path) -> None:
    screen.query_one(Input).value = str(path)
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(app.screen, SaveArrayScreen))
    view = app.screen.query_one(ValuesView)
    await until(pilot, lambda: not view._saving.is_busy)


@pytest.mark.slow
async def test_the_whole_tensor_and_the_slice_shown(folder: Path, tmp_path: Path) -> None:
    async with opened(folder) as (app, pilot):
        screen = await ask(app, pilot, "cube")
        assert screen.query_one(Input).value.endswith("/cube.npy")
        await save(app, pilot, screen, tmp_path / "cube.npy")
        assert np.array_equal(np.load(tmp_path / "cube.npy"), CUBE.numpy())
        await pilot.press("right_square_bracket", "e")
        await until(pilot, lambda: isinstance(app.screen, SaveArrayScreen))
        assert "[1, :, :]" in words(app)
        app.screen.query_one("#save-slice", Checkbox).value = True
        app.screen.query_one(Input).value = str(tmp_path / "slice.npy")
        await pilot.press("enter")
        await until(pilot, (tmp_path / "slice.npy").exists)
        assert np.array_equal(np.load(tmp_path / "slice.npy"), CUBE[1].numpy())


@pytest.mark.slow
async def test_what_numpy_lacks_becomes_float32_or_stays_as_bits(
    folder: Path, tmp_path: Path
) -> None:
    async with opened(folder) as (app, pilot):
        screen = await ask(app, pilot, "half")
        await save(app, pilot, screen, tmp_path / "a.npy")
        found = np.load(tmp_path / "a.npy")
        assert found.dtype == np.float32
        assert np.array_equal(found, HALF.float().numpy())
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, SaveArrayScreen))
        app.screen.query_one("#save-float32", Checkbox).value = False
        app.screen.query_one(Input).value = str(tmp_path / "b.npy")
        await pilot.press("enter")
        await until(pilot, (tmp_path / "b.npy").exists)
        raw = np.load(tmp_path / "b.npy").view(ml_dtypes.bfloat16)
        assert np.array_equal(raw.astype(np.float32), HALF.float().numpy())


@pytest.mark.slow
async def test_what_is_refused_is_told(folder: Path, tmp_path: Path) -> None:
    async with opened(folder) as (app, pilot):
        screen = await ask(app, pilot, "cube")
        await save(app, pilot, screen, folder / "cube.npy")
        await until(pilot, lambda: "nothing is written there" in words(app))
        assert not (folder / "cube.npy").exists()
        screen = await ask(app, pilot, "bad")
        await save(app, pilot, screen, tmp_path / "bad.npy")
        await until(pilot, lambda: "CRC32" in words(app))
        assert not (tmp_path / "bad.npy").exists()
        screen = await ask(app, pilot, "cube")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, SaveArrayScreen))


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", ".hidden", "", "a\x1b[2Jb", "\udc80", "..", "x" * 5000]
)
def test_a_file_is_never_called_what_a_name_asks_for(name: str) -> None:
    found = file_name(name)
    assert found.isascii()
    assert found.isprintable()
    assert "/" not in found
    assert not found.startswith(".")
    assert len(found) < 130
    assert found.endswith(".npy")
