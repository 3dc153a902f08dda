"""How requests of one storage share what there is: slots, time and addresses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from inspector.checkpoint.storage.remote import calls as storage_calls
from inspector.checkpoint.storage.remote.calls import Calls


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
