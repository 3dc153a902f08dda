"""How requests of one storage share what there is: slots, time and addresses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.storage.remote import calls as storage_calls
from inspector.checkpoint.storage.remote import storage as remote_storage
from inspector.checkpoint.storage.remote.bounds import SlowAnswerError
from inspector.checkpoint.storage.remote.calls import Calls
from inspector.checkpoint.storage.remote.storage import RemoteStorage
from inspector.checkpoint.workers import until
from inspector.errors import Cancelled, StorageError
from inspector.verify.ranks.torch_dcp import open_stream


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_request_that_waits_to_ask_again_holds_nobody_up(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_calls, "MAX_IN_FLIGHT", 1)
    monkeypatch.setattr(storage_calls, "_backoff", lambda attempt: 1.0)
    calls = Calls(loop)
    order: list[str] = []

    async def failing() -> str:
        order.append("first")
        if order.count("first") == 1:
            raise ConnectionResetError
        return "late"

    async def quick() -> str:
        order.append("other")
        return "soon"

    slow = calls.start(failing)
    other = calls.start(quick)
    assert calls.wait(other, patience_s=10) == "soon"
    assert calls.wait(slow, patience_s=10) == "late"
    assert order == ["first", "other", "first"]


def test_no_more_than_allowed_run_at_a_time(loop: asyncio.AbstractEventLoop) -> None:
    calls = Calls(loop)
    now = most = 0

    async def work() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    for future in [calls.start(work) for _ in range(60)]:
        calls.wait(future, patience_s=10)
    assert most == storage_calls.MAX_IN_FLIGHT


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, in tenths of a second."""
    monkeypatch.setattr(storage_calls, "_LOST_S", 0.15)
    monkeypatch.setattr(storage_calls, "_REST_S", 0.05)
    monkeypatch.setattr(storage_calls, "_backoff", lambda attempt: 0.0)


@pytest.mark.usefixtures("short")
def test_slow_answers_take_so_much_of_a_commands_time_and_no_more(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Calls(loop)
    asked = []

    async def silent() -> None:
        asked.append(1)
        await asyncio.sleep(60)

    while not asked or time.monotonic() < calls._lost_until + 0.3:
        with pytest.raises(SlowAnswerError):
            calls.run(silent, most_s=0.1)
        time.sleep(0.01)
    # The second one at the latest took what was left; each short rest was over long ago.
    assert 1 <= len(asked) <= 2


def test_requests_side_by_side_are_slow_once(loop: asyncio.AbstractEventLoop) -> None:
    calls = Calls(loop)

    async def silent() -> None:
        await asyncio.sleep(60)

    for future in [calls.start(silent, most_s=0.1) for _ in range(8)]:
        with pytest.raises(SlowAnswerError):
            calls.wait(future)
    assert 0.1 <= calls._lost_s < 0.8


def test_a_server_that_refuses_one_request_after_another_is_left_alone(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_calls, "_backoff", lambda attempt: 0.0)
    calls = Calls(loop)
    asked = []

    async def refused() -> None:
        asked.append(1)
        raise ConnectionResetError

    async def answered() -> str:
        return "well"

    for number in range(200):
        if number == 20:
            assert calls.run(answered) == "well"  # They are counted anew.
        with pytest.raises((ConnectionResetError, SlowAnswerError)):
            calls.run(refused)
    assert len(asked) == storage_calls._ATTEMPTS * (20 + storage_calls._MOST_FAILED)


def test_a_file_system_that_blocks_is_waited_for_no_longer_than_another() -> None:
    """sftp, hdfs and their like: a request runs in a thread of its own."""
    calls, answer = Calls(None), threading.Event()
    try:
        began = time.monotonic()
        with pytest.raises(SlowAnswerError):
            calls.run(answer.wait, most_s=0.1)
        assert time.monotonic() - began < 30
        with pytest.raises(SlowAnswerError):
            calls.run(lambda: "it rests", most_s=0.1)
    finally:
        answer.set()


def test_a_file_system_that_blocks_can_be_left() -> None:
    calls, answer = Calls(None), threading.Event()
    try:
        with until(lambda: True), pytest.raises(Cancelled):
            calls.run(answer.wait, most_s=60)
    finally:
        answer.set()


def test_a_tree_that_takes_long_is_listed_folder_by_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was called slow, and its folders were not asked for any more."""
    monkeypatch.setattr(remote_storage, "_TREE_S", 0.2)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        files = _Folders(Calls(loop))
        storage = RemoteStorage("x://top", "top", files, remote_storage._Seen("top"))
        assert [entry.name for entry in storage.list("step-1")] == ["a"]
        assert files.asked == ["tree", "top/step-1"]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Folders:
    has_listing = has_tree = True
    endpoint = query = ""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.asked: list[str] = []

    async def tree(self, path: str) -> None:
        self.asked.append("tree")
        await asyncio.sleep(60)

    async def list(self, path: str) -> Any:
        self.asked.append(path)
        return [{"name": f"{path}/a", "size": 1}]

    def entry(self, info: dict[str, Any], base: str) -> Entry:
        return Entry(info["name"].rpartition("/")[2], "file", info["size"])


def test_a_file_object_reads_as_the_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 500
    (tmp_path / "f").write_bytes(data)
    with (
        open_stream(LocalStorage(str(tmp_path)), "f") as stream,
        (tmp_path / "f").open("rb") as file,
    ):
        for offset, whence, length in [
            (0, 0, 10),
            (-22, 2, 100),
            (5, 1, 5),
            (1000, 0, 70_000),
            (-5, 1, -1),
            (1 << 30, 0, 4),
        ]:
            assert stream.seek(offset, whence) == file.seek(offset, whence)
            assert stream.read(length) == file.read(length)
            assert stream.tell() == file.tell()
    with pytest.raises(StorageError, match="there is no such file"):
        open_stream(LocalStorage(str(tmp_path)), "g")
