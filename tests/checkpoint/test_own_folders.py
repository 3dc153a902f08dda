"""Cache, state and temporary folders are this user's alone, and none stays behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.checkpoint import own_folders
from inspector.checkpoint.child import cache
from inspector.checkpoint.own_folders import (
    open_own,
    private_folder,
    read_own,
    remove_abandoned,
    temporary_folder,
    write_whole,
)
from inspector.verify.job.run_folder import RunFolder, make_scratch, remove_leftovers, scratch_dir
from tests.conftest import ROOT


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    top = tmp_path / "hsdp-inspect"
    private_folder(top / "a" / "b", top)
    assert [mode(p) for p in (top, top / "a", top / "a" / "b")] == [0o700] * 3
    run = RunFolder.create("step")
    for folder in (run.path, run.path.parent, run.path.parent.parent):
        assert mode(folder) == 0o700, folder
    make_scratch(scratch_dir())
    assert mode(scratch_dir()) == 0o700


def test_folders_of_an_older_version_are_closed(tmp_path: Path) -> None:
    top = tmp_path / "hsdp-inspect"
    (top / "a").mkdir(parents=True)
    for folder in (top, top / "a"):
        folder.chmod(0o777)
    private_folder(top / "a", top)
    assert (mode(top), mode(top / "a")) == (0o700, 0o700)


def test_the_cache_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        cache.keep(5, {"digest": "0" * 64}, {})
    finally:
        os.umask(before)
    root = cache.folder()
    assert root is not None
    assert (mode(root), mode(root.parent)) == (0o700, 0o700)


def test_a_link_a_fifo_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    assert read_own(tmp_path / "file") == "hello"
    for name in ("link", "fifo", "."):
        with pytest.raises(OSError):
            open_own(tmp_path / name)
    with pytest.raises(ValueError, match="larger"):
        read_own(tmp_path / "file", 4)


def test_a_fifo_in_the_place_of_a_cache_entry_or_a_job_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "entry")
    with pytest.raises(OSError):
        cache._load(tmp_path / "entry", "0" * 64)
    run = RunFolder.create("step")
    run.spec.write_text("{}")
    os.mkfifo(run.guard_job)
    remove_leftovers()


_KILLED = """
import os, signal, sys
from inspector.checkpoint.own_folders import temporary_folder
with temporary_folder() as folder:
    open(os.path.join(folder, "x"), "w").close()
    print(folder, flush=True)
    sys.stdin.read()
"""


def _start(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_killed_process_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process, folder = _start(tmp_path)
    other = tmp_path / folder.name.replace("hsdp-inspect-tmp-", "hsdp-inspect-tmp-00000000-")
    other.mkdir()
    assert mode(folder) == 0o700
    remove_abandoned()
    assert (folder / "x").exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with temporary_folder() as mine:
        assert not folder.exists()
        assert os.listdir(mine) == []
    # That of another machine or container cannot be judged from here.
    assert sorted(tmp_path.iterdir()) == [other]


def test_a_link_with_such_a_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process, folder = _start(tmp_path)
    process.communicate()
    assert not folder.exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    folder.symlink_to(tmp_path / "kept")
    remove_abandoned()
    assert (tmp_path / "kept" / "file").exists()


def test_a_process_that_cannot_be_looked_at_is_not_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread had the last descriptor: the folder of a job that ran was removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process, folder = _start(tmp_path)

    def out_of_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(own_folders, "open", out_of_descriptors, raising=False)
        remove_abandoned()
    assert (folder / "x").exists()
    process.kill()
    process.communicate()
    remove_abandoned()
    assert not folder.exists()


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)  # No room for an addition to the name.
    write_whole(path, [b"one", memoryview(b" two")], mode=0o600)
    assert path.read_bytes() == b"one two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_whole(path, pieces())
    assert path.read_bytes() == b"one two"
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(str(link), [b"other"], is_synced=False)
    assert (path.read_bytes(), link.read_bytes(), link.is_symlink()) == (
        b"one two",
        b"other",
        False,
    )
    assert sorted(tmp_path.iterdir()) == sorted([path, link])
