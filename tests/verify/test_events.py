"""The wire: one line, at most 4 KiB, whatever is in the event."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.verify import recording
from inspector.verify.events import MAX_LINE_BYTES, EventWriter, decode, encode, rank_file
from inspector.verify.progress import JobState
from inspector.verify.recording import EventFollower, LineFollower, LogFollower, read_events
from inspector.verify.spec import JobSpec

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


@pytest.mark.slow
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


def _ranks_folder(folder: Path, *ranks: list[dict[str, Any]]) -> JobSpec:
    spec = JobSpec("/somewhere/step-1", f"fsdp:{len(ranks)}", run="this", events_dir=str(folder))
    (folder / "spec.json").write_text(spec.to_json())
    for rank, events in enumerate(ranks):
        head = {"schema": 1, "run": spec.run, "rank": rank, "t": 1.0}
        lines = [json.dumps({**head, **event}) + "\n" for event in events]
        rank_file(folder, rank).write_text("".join(lines))
    return spec


def test_a_rank_that_falls_silent_is_named_and_ends_the_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_BEAT_S", 0.0)
    monkeypatch.setattr(recording, "_POLL_S", 0.0)
    monkeypatch.setattr(recording, "_SILENT_BEATS", 3)
    hello = {"event": "hello", "pid": 7, "host": "node-b"}
    _ranks_folder(tmp_path, [{**hello, "host": "node-a"}, {"event": "bye"}], [hello])
    told = [event for event in read_events(str(tmp_path), follow=True) if event is not None]
    (failed,) = [event for event in told if event["event"] == "failed"]
    assert failed["rank"] == 1
    assert "rank 1 on node-b has told nothing for 4 s" in failed["message"]
    assert told[-1]["verdict"] == "failed"
    assert "node-b" in told[-1]["why"]


def test_the_follow_ends_with_the_last_node(tmp_path: Path) -> None:
    """Ranks that their node has ended say nothing more: nobody waits for them."""
    hello = {"event": "hello", "pid": 7, "host": "node-a"}
    _ranks_folder(tmp_path, [hello], [{**hello, "host": "node-b"}])
    head = {"schema": 1, "run": "this", "t": 2.0}
    said = {**head, "event": "failed", "rank": 1, "kind": "timeout", "message": "rank 1 on node-b"}
    for node in ("node-a", "node-b"):
        beats = [{**head, "event": "heartbeat", "rank": None, "node": node, "pid": 5}]
        beats += [{**said, "node": node}] if node == "node-b" else []
        beats += [{**beats[0], "is_over": True}]
        lines = "".join(json.dumps(beat) + "\n" for beat in beats)
        (tmp_path / f"node-{node}.jsonl").write_text(lines)
    told = [event for event in read_events(str(tmp_path), follow=True) if event is not None]
    assert (told[-1]["event"], told[-1]["verdict"]) == ("result", "failed")
    assert "rank 1 on node-b" in told[-1]["why"]


def test_names_that_no_event_can_hold_go_by_their_entry() -> None:
    # Alike in all that is left of them.
    names = ["\u5b57" * 700 + str(i) for i in range(2)]
    head = {"schema": 1, "event": "tensor", "run": "", "rank": 0, "t": 1.0, "phase": "compare"}
    events = []
    for entry, fqn in enumerate(names):
        line = encode({**head, "fqn": fqn, "entry": entry, "verdict": "EXACT", "num_elements": 1})
        assert len(line) <= MAX_LINE_BYTES
        event = decode(line)
        assert event is not None
        events.append(event)
    known, unknown = JobState(), JobState()
    known.long_names = dict(enumerate(names))
    for event in events:
        known.apply(event)
        unknown.apply(event)
    assert list(known.snapshot().tensors) == names
    first, second = unknown.snapshot().tensors
    assert first.endswith(" ... (entry 0)") and second.endswith(" ... (entry 1)")


def test_a_result_that_names_thousands_of_entries_is_replayed(tmp_path: Path) -> None:
    names = [{"fqn": f"layers.{i}.{'w' * 90}", "why": "asked"} for i in range(10_000)]
    head = {"schema": 1, "event": "result", "run": "", "rank": None, "t": 1.0, "verdict": "partial"}
    line = json.dumps({**head, "tensors": {"not_verified": names}})
    assert len(line) > 1 << 20
    (tmp_path / "events.jsonl").write_text(line + "\n")
    (told,) = [event for event in read_events(str(tmp_path)) if event is not None]
    assert told["verdict"] == "partial"
