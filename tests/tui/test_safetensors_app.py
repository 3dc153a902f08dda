"""safetensors checkpoints and frameworks in the real app."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inspector.tui.folder.picker import PickerScreen
from inspector.tui.screens.main import MainScreen
from tests.conftest import SAMPLES, some_fast
from tests.tui.app_driver import CONTROL, opened, press, screen_text, until, words

SIZES = [(80, 24), (160, 50)]
PATHS = ("hf_dcp_sharded_4", "hf_dcp_consolidated_2", "safetensors_1", "transformers_1")


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]))
@pytest.mark.parametrize("name", some_fast(PATHS, PATHS[:1]))
async def test_a_safetensors_checkpoint_opens_and_is_checked_to_its_last_byte(
    name: str, size: tuple[int, int]
) -> None:
    async with opened(SAMPLES / name, size=size) as (app, pilot):
        assert isinstance(app.screen, MainScreen)
        assert "safetensors" in screen_text(app)
        await press(pilot, "c", shows="every byte read")
        assert not CONTROL.search(screen_text(app).replace("\n", ""))


async def test_the_summary_names_the_framework_with_its_evidence() -> None:
    async with opened(SAMPLES / "nemo_2", "i") as (app, _):
        text = words(app)
        assert "NeMo (Megatron-Core), certain" in text
        assert "metadata.json names its sharded backend" in text


async def test_a_hole_shows_among_the_findings() -> None:
    async with opened(SAMPLES / "broken" / "st_shard_missing", "3") as (app, _):
        assert "chunk-gap" in screen_text(app)
        assert "DAMAGED" in screen_text(app)


async def test_files_side_by_side_are_picked_and_opened_apart(tmp_path: Path) -> None:
    for name, size in (("one", 2), ("two", 3)):
        save_file({"lora.weight": torch.zeros(size)}, tmp_path / f"{name}.safetensors")
    async with opened(tmp_path) as (app, pilot):
        assert isinstance(app.screen, PickerScreen)
        await until(pilot, lambda: screen_text(app).count("sound") >= 2)
        table = app.screen.query_one("VirtualTable")
        table.select_row(1)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        await until(pilot, lambda: "float32 [3]" in screen_text(app) or "[3]" in screen_text(app))
        assert "two.safetensors" in screen_text(app)


@pytest.mark.slow
async def test_a_verification_is_offered() -> None:
    async with opened(SAMPLES / "hf_dcp_sharded_4", "v") as (app, pilot):
        await until(pilot, lambda: "8 entries, 3.4 KiB, under" in words(app))
