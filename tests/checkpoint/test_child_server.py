"""One process that serves many small files: as bounded and as separate as a process for each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.child import process as child_server
from inspector.checkpoint.child.isolated import Child, Limits
from inspector.checkpoint.child.process import Server
from inspector.errors import Cancelled, MetadataError
from tests.checkpoint.hostile import BOMBS
from tests.conftest import SAMPLES, folders_with_metadata

pytestmark = [
    pytest.mark.own_readers,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

SAMPLE = SAMPLES / "hsdp_2x4"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were started from here on."""
    processes: list[subprocess.Popen[bytes]] = []
    start = child_server.start

    def noted(*arguments: str) -> subprocess.Popen[bytes]:
        processes.append(start(*arguments))
        return processes[-1]

    monkeypatch.setattr(child_server, "start", noted)
    monkeypatch.setattr("inspector.checkpoint.child.process.start", noted)
    return processes


def names(folder: Path) -> list[str]:
    return open_checkpoint(str(folder)).columns.fqns


def test_one_process_reads_them_all_as_many_do(
    started: list[subprocess.Popen[bytes]],
) -> None:
    folders = list(folders_with_metadata(SAMPLES))[:12]
    alone = [open_checkpoint(str(folder)) for folder in folders]
    assert len(started) == len(folders)
    started.clear()
    with Server():
        served = [open_checkpoint(str(folder)) for folder in folders]
    assert len(started) == 1
    for one, other in zip(alone, served, strict=True):
        assert one.columns.fqns == other.columns.fqns
        assert one.columns.byte_offset.tolist() == other.columns.byte_offset.tolist()
        assert one.files == other.files
    assert started[0].returncode is not None, "it ended with the block"
    assert names(SAMPLE)
    assert len(started) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_as_alone_and_the_next_file_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(BOMBS[name])
    with pytest.raises(MetadataError) as alone:
        open_checkpoint(str(tmp_path))
    with Server():
        assert names(SAMPLE)
        with pytest.raises(MetadataError) as served:
            open_checkpoint(str(tmp_path))
        assert names(SAMPLE)
    assert served.value.message == alone.value.message


def processes_of(session: int) -> list[int]:
    """The processes of a session that are not over."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def assert_over(processes: list[subprocess.Popen[bytes]]) -> None:
    """Nothing is left of them soon: what was killed takes a moment to die."""
    give_up = time.monotonic() + 300
    while left := [pid for process in processes for pid in processes_of(process.pid)]:
        assert time.monotonic() < give_up, left
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_what_is_cancelled_or_takes_too_long_leaves_no_process(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    path = tmp_path / ".metadata"
    path.write_bytes(BOMBS["exponential hash"])
    size = path.stat().st_size
    with Server():
        child = Child([str(path)], [None], size)
        with pytest.raises(Cancelled):
            child.result(lambda done, total: len(processes_of(started[0].pid)) > 1)
        assert_over(started)
        assert names(SAMPLE)
        slow = Limits(1 << 30, 60, 1.0)
        with pytest.raises(MetadataError, match="not read after 1 s"):
            Child([str(path)], [None], size, slow).result()
        assert names(SAMPLE)
        abandoned = Child([str(path)], [None], size)
        abandoned.stop()
        assert names(SAMPLE)
    assert_over(started)
    assert len(started) == 4


def test_another_thread_and_a_second_reading_have_processes_of_their_own(
    started: list[subprocess.Popen[bytes]],
) -> None:
    path = str(SAMPLE / ".metadata")
    size = os.path.getsize(path)
    with Server():
        children = [Child([path], [None], size) for _ in range(3)]
        assert len(started) == 3
        results = [child.result() for child in children]
        thread = threading.Thread(
            target=lambda: results.append(Child([path], [None], size).result())
        )
        thread.start()
        thread.join()
        assert len(started) == 4
        assert "serve" not in started[3].args  # type: ignore[operator]
        assert names(SAMPLE)
        assert len(started) == 4
    assert all(result[0] == results[0][0] for result in results)
    assert all(process.returncode is not None for process in started)


def test_a_server_that_died_is_replaced(started: list[subprocess.Popen[bytes]]) -> None:
    with Server():
        assert names(SAMPLE)
        started[0].kill()
        started[0].wait()
        assert names(SAMPLE)
        assert len(started) == 2
