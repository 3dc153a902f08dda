"""No option writes into the checkpoint that is looked at, however the place is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from inspector.checkpoint.child import cache
from inspector.checkpoint.outside import (
    is_inspected,
    lies_inside,
    mounts,
    note_inspected,
    on_disk,
)
from inspector.checkpoint.own_folders import temporary_folder
from inspector.cli.group import run_command
from inspector.crash import internal_error
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


WRITERS = {
    "check --events": ["check", "CKPT", "--deep", "--nproc-per-node", "2", "--events", "PLACE"],
    "stats --events": ["stats", "CKPT", "--nproc-per-node", "2", "--events", "PLACE"],
    "seal --events": [
        *("seal", "CKPT", "--output", "OTHER/seal.json"),
        *("--nproc-per-node", "2", "--events", "PLACE"),
    ],
    "seal --output": ["seal", "CKPT", "--output", "PLACE"],
    "diff --output": ["diff", "OTHER/b", "CKPT", "--output", "PLACE"],
    "plan --output": ["plan", "OTHER/b", "--mesh", "fsdp:2", "--against", "CKPT"]
    + ["--output", "PLACE"],
    "export": ["export", "CKPT", "PLACE"],
    "export a folder": ["export", "CKPT", "PLACE", "--max-shard-size", "1GB"],
    "repair": ["repair", "CKPT", "PLACE"],
    "repair --from": ["repair", "OTHER/b", "PLACE", "--from", "CKPT"],
    "repair --like": ["repair", "OTHER/b", "PLACE", "--like", "CKPT"],
    "watch --write-latest": ["watch", "CKPT", "--once", "--write-latest", "PLACE"],
    "watch --metrics": ["watch", "CKPT", "--once", "--metrics", "PLACE"],
}


@pytest.mark.parametrize("place", ["ckpt/x", "elsewhere/x"])
@pytest.mark.parametrize("what", WRITERS)
def test_whatever_writes_refuses_a_place_in_the_checkpoint(
    folder: Path, what: str, place: str
) -> None:
    other = folder.parent / "other"
    shutil.copytree(SAMPLES / "broken" / "range_short", other / "b")
    before = contents(folder)
    places = {"CKPT": str(folder), "PLACE": str(folder.parent / place)}
    argv = [
        places.get(word, word.replace("OTHER", str(other)) if word[:5] == "OTHER" else word)
        for word in WRITERS[what]
    ]
    with pytest.raises(UsageError, match=r"lies in|nothing is written"):
        run_command(argv)
    assert contents(folder) == before


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


def test_a_cache_in_the_checkpoint_is_neither_used_nor_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MIN_BYTES", 1)
    for place in (folder / "cache", folder.parent / "elsewhere" / "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        before = contents(folder)
        assert run_command(["show", str(folder)]) == 0
        assert cache.folder() is None
        assert contents(folder) == before and not (folder / "cache").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    assert run_command(["show", str(folder)]) == 0
    assert list((folder.parent / "cache").rglob("*.columns"))


def test_a_temporary_folder_in_the_checkpoint_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    note_inspected(str(folder))
    with temporary_folder() as made:
        assert not lies_inside(made, folder)
    assert [p.name for p in folder.iterdir() if p.name.startswith("hsdp-inspect")] == []


def test_an_internal_error_is_not_kept_in_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    note_inspected(str(folder))
    assert "--debug" in internal_error(ValueError("odd")).hint
    assert not (folder / "state").exists()


def test_the_home_folder_is_not_meant_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    note_inspected(str(tmp_path))
    assert not is_inspected(tmp_path / "home" / ".cache")


def test_a_second_name_of_a_file_is_the_file(folder: Path) -> None:
    os.link(folder / "__0_0.distcp", folder.parent / "report.json")
    before = contents(folder)
    place = str(folder.parent / "report.json")
    args = ["verify", str(folder), "--mesh", "fsdp:2", "--python", "/bin/false", "--report", place]
    with pytest.raises(UsageError, match="nothing is written there"):
        run_command(args)
    assert contents(folder) == before


#: Device, path on it, mount point: a disk at /data, a part of it at /mnt/part, and another disk.
TABLE = [("8:1", "/", "/"), ("8:2", "/", "/data"), ("8:2", "/run/step", "/mnt/part")]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/data/run/step/x", ("8:2", "/run/step/x")),
        ("/mnt/part/x", ("8:2", "/run/step/x")),
        ("/mnt/partly", ("8:1", "/mnt/partly")),
        ("/home/a", ("8:1", "/home/a")),
    ],
)
def test_a_folder_that_is_mounted_twice_is_one(path: str, place: tuple[str, str]) -> None:
    assert on_disk(path, TABLE) == place
    assert on_disk(path, []) is None


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux tells its mounts")
def test_the_kernels_own_table_is_read(tmp_path: Path) -> None:
    table = mounts()
    assert table and all(point.startswith("/") for _, _, point in table)
    assert on_disk(str(tmp_path.resolve()), table) is not None
