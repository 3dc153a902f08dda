"""The wire: one line, at most 4 KiB, whatever is in the event."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.verify.events import MAX_LINE_BYTES, EventWriter, decode, encode, rank_file
from inspector.verify.recording import EventFollower, LineFollower, LogFollower, read_events

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3000),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=200), inner),
    max_leaves=30,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=50), _VALUES, max_size=20))
def test_every_event_fits_its_line(fields: dict[str, Any]) -> None:
    event = {**fields, "schema": 1, "event": "tensor", "rank": 3, "t": 1.5}
    line = encode(event)
    assert len(line) <= MAX_LINE_BYTES
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    told = decode(line)
    assert told is not None
    assert (told["event"], told["rank"], told["t"]) == ("tensor", 3, 1.5)
    if len(json.dumps(event, separators=(",", ":"))) < MAX_LINE_BYTES:
        assert told == event


@given(st.binary(max_size=300))
def test_noise_is_no_event(line: bytes) -> None:
    assert decode(line) is None


def test_what_is_no_event() -> None:
    for line in (
        "1",
        "null",
        "[]",
        '{"event": "bye"}',
        '{"schema": 2, "event": "bye"}',
        "[" * 10**5,
    ):
        assert decode(line) is None


def test_lines_come_when_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = LineFollower(path)
    assert follower.read() == []
    path.write_bytes(b"one\ntw")
    assert follower.read() == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\nthree")
    assert follower.read() == [b"two"]
    assert follower.read(whole=True) == [b"three"]
    follower.close()


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (1 << 20))
    follower = LineFollower(path)
    lines = follower.read(whole=True)
    assert sum(map(len, lines)) == 1 << 20
    assert len(lines) > 1
    follower.close()


def test_events_of_all_ranks_in_the_order_of_time(tmp_path: Path) -> None:
    for rank in (1, 0):
        writer = EventWriter(tmp_path, rank)
        writer.send("hello", pid=rank)
        writer.send("bye")
        writer.close()
    with rank_file(tmp_path, 1).open("a") as file:
        file.write("no event\n")
    follower = EventFollower(tmp_path)
    told = [event for event, _ in follower.read()]
    assert [(e["rank"], e["event"]) for e in told if e["event"] != "log"] == [
        (1, "hello"),
        (1, "bye"),
        (0, "hello"),
        (0, "bye"),
    ]
    assert [e["text"] for e in told if e["event"] == "log"] == ["no event"]
    assert follower.read() == []
    follower.close()


def test_the_logs_of_torchrun_and_its_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "id_abc" / "attempt_0" / "3"
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_bytes(b"oh \xff\r\n")
    (tmp_path / "torchrun.err").write_text("W: something\n")
    follower = LogFollower(tmp_path)
    told = [(e["rank"], e["stream"], e["text"]) for e in follower.read()]
    assert told == [(None, "stderr", "W: something"), (3, "stderr", "oh \ufffd")]
    follower.close()


def test_a_full_disk_is_no_failure_of_the_job(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, 0)
    os.close(writer._fd)
    writer._fd = os.open("/dev/full", os.O_WRONLY) if os.path.exists("/dev/full") else -1
    writer.send("bye")


def test_a_fifo_among_the_events_holds_nobody_up(tmp_path: Path) -> None:
    EventWriter(tmp_path, 0).send("hello", pid=1)
    os.mkfifo(tmp_path / "rank-00001.jsonl")
    os.mkfifo(tmp_path / "events.jsonl")
    events = [event for event in read_events(str(tmp_path)) if event is not None]
    assert [event["event"] for event in events] == ["hello"]
