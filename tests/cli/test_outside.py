"""No option writes into the checkpoint that is looked at, however the place is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from inspector.checkpoint.outside import lies_inside
from inspector.cli.group import run_command
from inspector.errors import InspectError, UsageError
from inspector.verify.job.run_folder import RunFolder
from tests.conftest import SAMPLES

SOURCE = SAMPLES / "hsdp_uneven_2x2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SOURCE, tmp_path / "ckpt")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "ckpt")
    (tmp_path / "data").symlink_to(tmp_path / "ckpt" / "__0_0.distcp")
    return tmp_path / "ckpt"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("option", ["--report", "--events", "--scratch"])
@pytest.mark.parametrize(
    "place", ["ckpt", "ckpt/new/deep", "elsewhere/x", "other/../ckpt/x", "data", "ckpt/out"]
)
def test_verify_refuses_a_place_in_the_checkpoint(folder: Path, option: str, place: str) -> None:
    (folder.parent / "other").mkdir()
    (folder / "out").symlink_to(folder.parent)
    before = contents(folder)
    # The option is looked at before the interpreter is, which this one would not pass.
    given = os.path.join(folder.parent, place)
    for path in (folder, folder.parent / "elsewhere", folder / ".metadata"):
        args = ["verify", str(path), "--mesh", "fsdp:2", "--python", "/bin/false", option, given]
        with pytest.raises(UsageError, match="nothing is written there") as refused:
            run_command(args)
        assert refused.value.message.startswith(option)
    assert contents(folder) == before
    assert not (folder / "new").exists()


def test_a_place_beside_it_is_none_in_it(folder: Path) -> None:
    for place in ("ckpt2", "ckpt.json", ".", "none/ckpt"):
        assert not lies_inside(folder.parent / place, folder)


@pytest.mark.parametrize("option", ["--report", "--events", "--scratch"])
def test_a_path_that_is_none(folder: Path, option: str) -> None:
    args = ("verify", str(folder), "--mesh", "fsdp:2", "--python", "/bin/false")
    with pytest.raises(InspectError):
        run_command([*args, option, "x" * 5000])


def test_a_state_folder_in_the_checkpoint_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(folder.parent))
    before = contents(folder)
    run = RunFolder.create("step", inspected=str(folder))
    assert run.path.parent == folder.parent
    assert contents(folder) == before and not (folder / "state").exists()


@pytest.mark.parametrize("place", ["ckpt/x.html", "elsewhere/x", "other/../ckpt/x", "data"])
def test_output_refuses_a_place_in_the_checkpoint(folder: Path, place: str) -> None:
    (folder.parent / "other").mkdir()
    other = folder.parent / "other" / "link"
    other.symlink_to(folder / ".metadata")
    before = contents(folder)
    given = os.path.join(folder.parent, place)
    elsewhere = str(folder.parent / "elsewhere")
    for path in (str(folder), elsewhere, f"file://{folder}", str(folder / ".metadata"), str(other)):
        for args in (
            ["check", path],
            ["plan", path, "--mesh", "fsdp:2"],
            ["diff", path, str(SOURCE)],
            ["diff", str(SOURCE), path],
        ):
            with pytest.raises(UsageError, match="nothing is written there"):
                run_command([*args, "--output", given])
    assert contents(folder) == before
