"""The cache of parsed metadata: the same answers with and without it, whatever befalls it."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.child import cache, isolated
from inspector.checkpoint.model import Checkpoint
from inspector.errors import Cancelled, MetadataError
from sample_ckpts.maker import editing as ed
from tests.conftest import run_cli
from tests.helpers import golden_columns
from tests.helpers.make_metadata import Wanted, make

TENSORS: list[Wanted] = [
    ("model.embed.weight", (96, 40), torch.float32),
    ("model.norm.weight", (48,), torch.bfloat16),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkpoint, and a cache that keeps small ones too."""
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    make(tmp_path / "ckpt", TENSORS, 24)
    return tmp_path / "ckpt"


def entries() -> list[Path]:
    root = cache.folder()
    assert root is not None
    return sorted(root.iterdir()) if root.exists() else []


def facts(checkpoint: Checkpoint) -> Any:
    columns = checkpoint.columns
    arrays = (
        columns.property_id,
        columns.shapes,
        columns.dim_start,
        columns.chunk_start,
        columns.box_start,
        columns.offsets,
        columns.sizes,
        columns.file,
        columns.byte_offset,
        columns.byte_length,
        checkpoint.order,
    )
    return (
        columns.fqns,
        columns.properties,
        [column.tolist() for column in arrays],
        checkpoint.files,
        checkpoint.provenance,
        dict(checkpoint.state_paths),
    )


def opened(folder: Path) -> Any:
    return facts(open_checkpoint(str(folder)))


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, no child process can be started."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was parsed again")

    monkeypatch.setattr(isolated, "ChildProcess", refuse)


def without_child(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(isolated, "ChildProcess", None)
        return opened(folder)


def test_the_second_opening_starts_no_child_and_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in folder.iterdir()}
    first = opened(folder)
    assert len(entries()) == 1
    assert without_child(folder, monkeypatch) == first
    assert {path.name for path in folder.iterdir()} == before, "nothing is written beside it"
    checkpoint = open_checkpoint(str(folder))
    assert not checkpoint.columns.offsets.flags.writeable
    assert checkpoint.columns.offsets.flags.aligned


def test_it_belongs_to_the_user_alone(folder: Path) -> None:
    opened(folder)
    (entry,) = entries()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(entry.parent.stat().st_mode) == 0o700


def test_a_copy_elsewhere_is_recognised(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(folder)
    folder.rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / ".metadata", (1, 1))
    assert without_child(tmp_path / "moved", monkeypatch)[:3] == first[:3]


def test_other_bytes_of_the_same_size_and_time_are_not_mistaken(folder: Path) -> None:
    metadata = folder / ".metadata"
    first = opened(folder)
    info, data = metadata.stat(), metadata.read_bytes()
    changed = data.replace(b"model.norm.weight", b"model.form.weight")
    assert len(changed) == len(data)
    with metadata.open("r+b") as file:  # The same inode, too.
        file.write(changed)
    os.utime(metadata, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert metadata.stat().st_mtime_ns == info.st_mtime_ns
    second = opened(folder)
    assert "model.form.weight" in second[0]
    assert "model.norm.weight" in first[0]
    metadata.write_bytes(data)
    assert opened(folder) == first
    assert len(entries()) == 2


def test_what_cannot_be_read_is_not_kept(folder: Path) -> None:
    (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(MetadataError):
            opened(folder)
    assert entries() == []


def test_what_was_unsafe_is_so_the_second_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.checkpoint.hostile import Runs

    ed.edit(folder, lambda metadata: setattr(metadata, "extra", Runs(tmp_path / "ran")))
    first = open_checkpoint(str(folder))
    monkeypatch.setattr(isolated, "ChildProcess", None)
    second = open_checkpoint(str(folder))
    assert second.unsafe_globals == first.unsafe_globals == ("posix.system",)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_damaged_entry_is_as_good_as_none_and_is_replaced(folder: Path) -> None:
    expected = opened(folder)
    (entry,) = entries()
    sound = entry.read_bytes()
    # Every byte of the start and of the header's begin, and bytes of every column.
    places = [*range(120), *range(120, len(sound), len(sound) // 60), len(sound) - 1]
    for at in places:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        entry.write_bytes(damaged)
        assert opened(folder) == expected, at
        assert entry.read_bytes() == sound, at
    for length in (0, 1, 8, 15, 16, 17, 24, 100, len(sound) // 2, len(sound) - 1):
        entry.write_bytes(sound[:length])
        assert opened(folder) == expected, length
    for text in (sound + b"x", sound * 2, b"x" * len(sound), bytes(len(sound))):
        entry.write_bytes(text)
        assert opened(folder) == expected


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_edit_of_an_entry_changes_no_answer(folder: Path, data: st.DataObject) -> None:
    expected = opened(folder)
    (entry,) = entries()
    sound = entry.read_bytes()
    first = data.draw(st.integers(0, len(sound)))
    last = data.draw(st.integers(first, min(first + 200, len(sound))))
    entry.write_bytes(sound[:first] + data.draw(st.binary(max_size=200)) + sound[last:])
    assert opened(folder) == expected
    assert entry.read_bytes() == sound


def test_an_entry_of_another_file_under_this_name_is_not_believed(folder: Path) -> None:
    expected = opened(folder)
    (entry,) = entries()
    data = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(data.replace(b"model.norm", b"model.form"))
    opened(folder)
    (other,) = set(entries()) - {entry}
    entry.write_bytes(other.read_bytes())
    (folder / ".metadata").write_bytes(data)
    assert opened(folder) == expected


@pytest.mark.parametrize(("name", "value"), [("SCHEMA", 1000), ("__version__", "9.9")])
def test_another_version_of_the_reader_reads_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    expected = opened(folder)
    assert without_child(folder, monkeypatch) == expected
    monkeypatch.setattr(cache, name, value)
    assert opened(folder) == expected
    assert len(entries()) == 2


def test_the_number_of_the_columns_is_raised_when_they_change() -> None:
    document = json.loads(golden_columns.FILE.read_text())
    assert document["schema"] == cache.SCHEMA, "python -m tests.helpers.golden_columns"
    found = golden_columns.digests()
    assert len(found) > 20
    changed = {path for path in found if document["columns"].get(path) != found[path]}
    advice = "raise cache.SCHEMA, then run python -m tests.helpers.golden_columns"
    assert not changed and found.keys() == document["columns"].keys(), advice


@pytest.mark.parametrize("value", ["1", "yes"])
def test_it_can_be_turned_off(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    root = cache.folder()
    assert root is not None
    monkeypatch.setenv("HSDP_INSPECT_NO_CACHE", value)
    first = opened(folder)
    assert not root.exists()
    monkeypatch.setenv("HSDP_INSPECT_NO_CACHE", "0")
    assert opened(folder) == first
    assert len(entries()) == 1


def test_a_folder_that_cannot_be_written_is_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert opened(folder) == opened(folder)
    # A folder where the entry should be.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    expected = opened(folder)
    (entry,) = entries()
    entry.unlink()
    entry.mkdir()
    assert opened(folder) == expected
    assert list(entry.parent.rglob("*.tmp")) == []


def test_the_oldest_entries_go_when_there_are_too_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder)
    (entry,) = entries()
    size = entry.stat().st_size
    old = [entry.with_name(f"1-{number}.columns") for number in range(5)]
    for number, path in enumerate(old):
        path.write_bytes(bytes(size))
        os.utime(path, (1000 + number, 1000 + number))
    abandoned = entry.with_name("1-9.columns.77.tmp")
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (1000, 1000))
    fresh = entry.with_name("1-9.columns.78.tmp")
    fresh.write_bytes(b"half")
    monkeypatch.setattr(cache, "MAX_TOTAL_BYTES", 3 * size)
    entry.unlink()
    opened(folder)
    assert entries() == sorted([entry, old[3], old[4], fresh])
    # What is used is not the oldest any more.
    os.utime(old[3], (2000, 2000))
    os.utime(entry, (1, 1))
    opened(folder)
    assert entry.stat().st_mtime > time.time() - 60


def test_what_is_too_large_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_TOTAL_BYTES", 1000)
    assert opened(folder) == opened(folder)
    assert entries() == []


def test_looking_up_can_be_cancelled(folder: Path) -> None:
    opened(folder)
    with pytest.raises(Cancelled):
        path = str(folder / ".metadata")
        recall = cache.Recall.start(path, os.path.getsize(path))
        assert recall is not None
        recall._thread.join()
        recall._thread = type(recall._thread)(target=time.sleep, args=(0.3,))
        recall._thread.start()
        recall.result(lambda done, total: True)


def test_small_metadata_is_not_kept(tmp_path: Path) -> None:
    make(tmp_path / "ckpt", TENSORS, 24)
    opened(tmp_path / "ckpt")
    assert entries() == []


def test_commands_say_the_same_with_and_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    tensors: list[Wanted] = [(f"layers.{i}.weight", (256, 8), torch.float32) for i in range(80)]
    make(folder, tensors, 256)
    assert (folder / ".metadata").stat().st_size > 2 << 20
    show = ("show", folder, "--json", "--chunks")
    plain = run_cli(*show, env={"HSDP_INSPECT_NO_CACHE": "1"})
    assert entries() == []
    first = run_cli(*show)
    (entry,) = entries()
    os.utime(entry, (1, 1))
    second = run_cli(*show)
    assert entry.stat().st_mtime > 1, "it was used"
    assert plain.code == first.code == second.code == 0
    assert plain.out == first.out == second.out
    assert first.err == second.err == ""
    assert len(json.loads(first.out)["tensors"]) == 80
    checks = [
        run_cli("check", folder, "--json", env=env) for env in ({}, {"HSDP_INSPECT_NO_CACHE": "1"})
    ]
    assert checks[0].out == checks[1].out
    assert np.all([ran.code == checks[0].code for ran in checks])
