"""What whoever starts a command has ignored stays so: `nohup` outlives the terminal."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from inspector.cli.verify import interrupting
from inspector.cli.watch import _stopped_by_signals
from inspector.verify.job.node import _Node
from inspector.verify.spec import JobSpec
from tests.verify.jobs import make_job


@contextmanager
def _node() -> Iterator[None]:
    spec = JobSpec("/somewhere", "fsdp:2", events_dir="/nowhere", run="x")
    _Node(spec, Path("/nowhere"), argparse.Namespace())._listen()
    yield


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals are the main's"
)
@pytest.mark.parametrize(
    "listening",
    [lambda: interrupting(make_job()), lambda: _stopped_by_signals(threading.Event()), _node],
    ids=["verify", "watch", "node"],
)
def test_a_signal_that_is_ignored_stays_so(listening: type[AbstractContextManager[None]]) -> None:
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening():
            held = [signal.getsignal(number) for number in numbers]
            assert held[0] is signal.SIG_IGN
            assert callable(held[1]) and callable(held[2])
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
