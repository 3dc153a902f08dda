"""A recording may come from anybody: known words, checked numbers, and `?` for all else."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from inspector.__main__ import main
from inspector.report.verify_text import progress_line, report_json, verify_text
from inspector.tui.verification.figures import Rates, mesh_of, rank_figures, totals
from inspector.tui.verification.head import head_text, verdict_text
from inspector.tui.verification.playback import Playback
from inspector.tui.verification.run import ALL
from inspector.tui.verification.sources import RANK_COLUMNS, RankSource, log_lines
from inspector.verify.events import UNKNOWN, checked, decode
from inspector.verify.progress import JobState, Snapshot
from inspector.verify.recording import read_events
from inspector.verify.result import exit_code
from tests.conftest import run_process

RECORDING = Path(__file__).parent.parent / "data/runs/hsdp_2x4/events.jsonl"

#: Obeyed by a terminal, in C0 and C1; a title, a clear, a cursor move.
ESCAPES = ("\x1b]0;x\x07", "\x1b[2J", "\x9b2J", "\x9d0;x\x9c", "\r", "\x08", "\u202e", "\ud800")
ODD: tuple[Any, ...] = (
    *ESCAPES,
    None,
    True,
    False,
    -1,
    0,
    1 << 70,
    10**400,
    1e300,
    -1e300,
    float("nan"),
    float("inf"),
    "",
    "EXACT",
    "exact",
    "x" * 5000,
    "e\u0301" * 2000,
    [],
    {},
    [[]],
    [{}],
    {"why": 3},
    [None, "a", 1],
    {"exact": "x", "different": 3, "total": -1, "not_verified": [1, {"why": [], "fqn": {}}]},
)


def _events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


def _text(snapshot: Snapshot) -> list[str]:
    """Whatever a command prints of it, and whatever the screen draws."""
    lines = [*verify_text(snapshot), progress_line(snapshot, 1.0, 80), progress_line(snapshot, 1.0)]
    ranks = rank_figures(snapshot, Rates().feed(snapshot))
    now = totals(snapshot, ranks, 5.0)
    lines += head_text(snapshot, now, 100).plain.split("\n")
    assert mesh_of(snapshot).world_size == max(1, len(snapshot.ranks))
    for view in list(snapshot.tensors.values())[:20]:
        lines += verdict_text(view).plain.split("\n")
    source = RankSource()
    source.update(snapshot, ranks)
    for row in range(min(source.num_rows, 20)):
        for column in RANK_COLUMNS:
            source.cell(row, column.key)  # the table's own gate prints it
    return lines


def _bad(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.isprintable()]


def test_the_gate_changes_nothing_that_a_job_tells() -> None:
    for event in _events():
        assert checked(event) == event


@pytest.mark.parametrize("field", ["verdict", "kind", "phase", "mesh", "device", "backend", "via"])
@pytest.mark.parametrize("escape", ESCAPES)
def test_a_word_of_no_known_set_is_a_question_mark(field: str, escape: str) -> None:
    for name in ("spec", "hello", "phase", "tensor", "failed", "result"):
        told = checked({"schema": 1, "event": name, "rank": 0, "t": 1.0, field: f"a{escape}b"})
        assert told[field] in (UNKNOWN, f"a{escape}b")
    state = JobState()
    for event in _events():
        state.apply({**event, field: f"a{escape}b"} if field in event else event)
    failed = {"schema": 1, "event": "failed", "rank": 0, "t": 2.0, "kind": f"x{escape}"}
    state.apply(failed)
    assert not _bad(_text(state.snapshot()))


def test_words_that_are_shown_without_the_display_gate_are_known_ones() -> None:
    state = JobState()
    for event in _events():
        state.apply({**event, "verdict": "\x1b]0;owned\x07"} if "verdict" in event else event)
    snapshot = state.snapshot()
    assert {view.verdict for view in snapshot.tensors.values()} == {UNKNOWN}
    assert snapshot.num_exact == 0
    assert (snapshot.result or {})["verdict"] == UNKNOWN
    assert exit_code(snapshot.result or {}) == 2


@pytest.mark.parametrize(
    "tensors",
    [None, {}, {"exact": 0, "total": 0}, {"exact": 6, "total": 6, "different": ["a"]}, [], "x"],
)
def test_exact_without_a_count_that_bears_it_out_is_none(tensors: Any) -> None:
    *events, result = _events()
    state = JobState()
    for event in [*events, {**result, "tensors": tensors}]:
        state.apply(event)
    assert "EXACT" not in next(verify_text(state.snapshot()))
    assert exit_code(state.snapshot().result or {}) == 2


def test_every_field_of_every_event_may_be_odd() -> None:
    turn = itertools.cycle(ODD)
    kinds: dict[str, dict[str, Any]] = {}
    for event in _events():
        kinds.setdefault(event["event"], {}).update(event)
    for name, sample in kinds.items():
        for key in sample:
            state, value = JobState(), next(turn)
            for event in (*kinds.values(), {**sample, "event": name, key: value}):
                state.apply(event)
            assert not _bad(_text(state.snapshot())), (name, key)
            json.dumps(report_json(state.snapshot()), allow_nan=False)


def test_json_of_a_replay_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "events.jsonl"
    lines = [
        '{"schema": 1, "event": "spec", "t": NaN, "sample": Infinity, "x": 1e999, "y": -1e999}',
        '{"schema": 1, "event": ["spec"]}',
        '{"schema": 1, "event": {"a": 1}}',
    ]
    place.write_text("\n".join(lines))
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(place), "--json"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().out.splitlines()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    told = json.loads(line, parse_constant=refuse)
    assert (told["t"], told["sample"], told["x"], told["y"]) == ("nan", "inf", "inf", "-inf")


def test_a_recording_with_escapes_prints_none(tmp_path: Path) -> None:
    place = tmp_path / "events.jsonl"
    events = _events()
    for event in events:
        for key in ("verdict", "kind", "phase", "host", "why", "mesh", "fqn", "detail"):
            if isinstance(event.get(key), str):
                event[key] += "\x1b]0;owned\x07\x9b2J\ud800"
    place.write_text("".join(json.dumps(event) + "\n" for event in events))
    ran = run_process("replay", place)
    assert ran.code == 2
    assert "internal error" not in ran.err
    assert all(line.isprintable() for line in ran.out.split("\n"))


def _mutated(events: list[dict[str, Any]], random_: random.Random) -> list[bytes]:
    """A recording with a few things in it that no job writes."""
    events = [dict(event) for event in events]
    for _ in range(random_.choice((1, 1, 2, 4, 8))):
        event = random_.choice(events)
        what = random_.randrange(8)
        key = random_.choice(list(event))
        if what < 4:
            event[key] = random_.choice(ODD)
        elif what == 4:
            event.pop(key)
        elif what == 5:
            other = random_.choice(events)
            event[key] = random_.choice(list(other.values()))
        elif what == 6 and isinstance(event.get(key), dict) and event[key]:
            inner = random_.choice(list(event[key]))
            event[key] = {**event[key], inner: random_.choice(ODD)}
        else:
            event[random_.choice(ESCAPES)] = random_.choice(ODD)
    lines = [json.dumps(event).encode() for event in events]
    if random_.random() < 0.2:
        index = random_.randrange(len(lines))
        line = bytearray(lines[index])
        line[random_.randrange(len(line))] = random_.randrange(256)
        lines[index] = bytes(line)
    if random_.random() < 0.1:
        random_.shuffle(lines)
    return lines


def _sample() -> list[dict[str, Any]]:
    """A short recording with every kind of event in it."""
    kept: list[dict[str, Any]] = []
    seen: dict[tuple[str, Any], int] = {}
    for event in _events():
        key = (event["event"], event.get("phase"))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 8:
            kept.append(event)
    fields = {"schema": 1, "t": kept[-1]["t"] - 1}
    return [
        *kept[:-1],
        {**fields, "event": "log", "rank": 1, "stream": "stderr", "text": "a line"},
        {**fields, "event": "failed", "rank": 1, "kind": "killed", "message": "m", "stack": "s"},
        {
            **fields,
            "event": "tensor",
            "rank": 2,
            "phase": "compare",
            "fqn": "w",
            "verdict": "DIFFER",
            "num_elements": 4,
            "num_different": 2,
            "first_index": [1, 0],
            "expected": "1.0",
            "found": "2.0",
            "file": "__0_0.distcp",
            "detail": "a detail",
        },
        kept[-1],
    ]


@pytest.mark.slow
def test_three_thousand_mutated_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command, and what the screen plays: no traceback, no control character."""
    place = tmp_path / "events.jsonl"
    events = _sample()
    seed = random.Random(20261129)  # noqa: S311 - no secret
    for number in range(3000):
        lines = _mutated(events, seed)
        place.write_bytes(b"\n".join(lines))
        with pytest.raises(SystemExit) as ended:
            main(["replay", str(place), "--no-tui"])
        said = capsys.readouterr()
        assert ended.value.code in (0, 1, 2), number
        assert "internal error" not in said.err, (number, said.err)
        assert "Traceback" not in said.err, (number, said.err)
        assert not _bad((said.out + said.err).split("\n")), number
        if number % 10 == 0:
            told = [event for event in map(decode, lines) if event is not None]
            playback = Playback(told)
            playback.seek(playback.end_s)
            assert 0 <= playback.end_s < 1e10
            assert not _bad(_text(playback.moment.snapshot)), number
            assert list(log_lines(playback.moment, ALL)) is not None
        if number % 30 == 0:
            assert all(event is None or event for event in read_events(str(place)))
