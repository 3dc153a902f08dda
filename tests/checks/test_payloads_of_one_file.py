"""A file that is wrong as a whole is one finding, with its count; others stay one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint.find.locate import locate_one, read_checkpoint
from inspector.checkpoint.payload.sweep import PayloadProgress
from inspector.checks.findings import Finding
from inspector.checks.payload.payloads import check_payloads
from inspector.tui.app import InspectApp
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.view import TensorsView
from tests.conftest import run_cli
from tests.tui.app_driver import opened, press, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {f"layers.{n}.w": torch.full((8,), 1000.5 + n) for n in range(60)}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path / "ckpt"), no_dist=True)
    return tmp_path / "ckpt"


def zero(file: Path, start: int = 0, stop: int | None = None) -> None:
    data = bytearray(file.read_bytes())
    stop = len(data) if stop is None else stop
    data[start:stop] = bytes(stop - start)
    file.write_bytes(data)


def found(folder: Path) -> tuple[list[Finding], list[PayloadProgress]]:
    storage = locate_one(str(folder))
    told: list[PayloadProgress] = []
    report = check_payloads(
        read_checkpoint(storage), storage, progress=lambda p: bool(told.append(p))
    )
    return [f for f in report.findings if f.severity == "error"], told


def test_a_file_of_zeros_is_one_finding(folder: Path) -> None:
    zero(folder / "__0_0.distcp")
    (one,), told = found(folder)
    assert one.code == "payload-unreadable" and one.file == "__0_0.distcp" and one.fqn is None
    assert one.message.startswith("60 of 60 payloads of __0_0.distcp: only zeros are there")
    assert len(one.entries) == 60 and one.num_elements == 480
    assert told[-1].num_wrong == 60
    ran = run_cli("check", "--deep", "--json", folder)
    assert ran.code == 1 and ran.json()["verdict"] == "damaged"
    assert [len(f["entries"]) for f in ran.json()["findings"]] == [60]


def test_of_a_file_that_is_wrong_in_part_the_first_entry_is_named(folder: Path) -> None:
    storage = locate_one(str(folder))
    columns = read_checkpoint(storage).columns
    file = folder / "__0_0.distcp"
    zero(file, 0, int(columns.byte_offset[columns.byte_offset.argsort()[10]]))
    (one,), _ = found(folder)
    assert one.message.startswith("10 of 60 payloads") and len(one.entries) == 10
    assert "the first is of layers." in one.message


def test_few_are_told_one_by_one(folder: Path) -> None:
    columns = read_checkpoint(locate_one(str(folder))).columns
    starts = sorted(columns.byte_offset.tolist())
    zero(folder / "__0_0.distcp", starts[0], starts[3])
    findings, _ = found(folder)
    assert len(findings) == 3 and all(f.fqn and not f.entries for f in findings)


def test_flipped_bits_all_over_a_file_are_one_finding(folder: Path) -> None:
    file = folder / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    for n in range(60):
        data[data.index(torch.tensor(1000.5 + n).numpy().tobytes())] ^= 1
    file.write_bytes(data)
    (one,), _ = found(folder)
    assert one.code == "payload-corrupt" and len(one.entries) == 60


async def test_the_screen_marks_the_entries_and_goes_to_the_file(folder: Path) -> None:
    zero(folder / "__0_0.distcp")
    async with opened(folder) as (app, pilot):
        assert isinstance(app, InspectApp) and isinstance(app.screen, MainScreen)
        screen = app.screen
        await press(pilot, "c", shows="DAMAGED: 1 error")
        source = screen.query_one(TensorsView).source
        assert source is not None
        await until(pilot, lambda: len(source.badges) == 60)
        await press(pilot, "3", shows="60 of 60 payloads")
        await pilot.press("enter")
        await until(pilot, lambda: screen.view.id == "files")
        await pilot.press("escape")
        await until(pilot, lambda: screen.view.id == "findings")
