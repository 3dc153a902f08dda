"""A recording as it plays: the same moments as the job had, in either direction."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.errors import StorageError, UsageError
from inspector.tui.verification.figures import Rates, rank_figures, totals
from inspector.tui.verification.playback import SPEEDS, Playback, read_recording
from inspector.verify.progress import JobState, Snapshot
from tests.tui.app_driver import CONTROL, screen_text
from tests.tui.verify_driver import NAMES, RECORDING, event, job_events, replayed


def folded(events: list[dict[str, object]], position_s: float) -> Snapshot:
    state = JobState()
    first = events[0]["t"]
    for item in events:
        if float(item["t"]) - float(first) <= position_s:  # type: ignore[arg-type]
            state.apply(item)
    return state.snapshot()


def test_any_moment_is_the_fold_of_what_came_before() -> None:
    events = job_events()
    playback = Playback(events)
    for position_s in (0.0, 5.3, 9.0, 2.0, 11.0, 0.0, 6.5):
        playback.seek(position_s)
        assert playback.moment.snapshot == folded(events, position_s)
        assert playback.moment.position_s == position_s
        assert playback.moment.now_t == pytest.approx(1.7e9 + position_s)


def test_it_plays_to_its_end_and_stays_there() -> None:
    playback = Playback(job_events())
    steps = 0
    while not playback.is_at_end:
        playback.advance(0.5)
        steps += 1
    assert steps == 22
    playback.advance(100)
    assert playback.position_s == playback.end_s == 11.0
    assert playback.is_over
    playback.toggle()  # at the end, it begins anew
    assert playback.position_s == 0.0 and not playback.is_over


def test_the_thread_plays_by_the_clock() -> None:
    playback = Playback(job_events(), speed=64.0)
    playback.start()
    for _ in range(400):
        if playback.is_at_end and playback.is_over:
            break
        playback._is_closed.wait(0.02)
    assert playback.is_over
    playback.seek(3.0)
    for _ in range(200):
        if playback.position_s >= 3.0 and playback._wanted_s is None:
            break
        playback._is_closed.wait(0.02)
    playback.close()
    playback.join(300)
    assert not playback.is_alive


def test_a_long_recording_is_folded_in_slices() -> None:
    events = [event(0, "spec", None, mesh="fsdp:1", world_size=1)]
    events += [event(1, "log", 0, stream="stdout", text=str(i)) for i in range(12_000)]
    playback = Playback(events)
    playback.advance(5.0)
    assert 0 < playback.moment.snapshot.num_log_lines < 12_000
    playback.seek(playback.end_s)
    assert playback.moment.snapshot.num_log_lines == 12_000
    assert len(playback.moment.lines) == 500


def test_the_speeds() -> None:
    playback = Playback(job_events())
    assert [playback.faster(1) for _ in range(6)] == [2.0, 4.0, 8.0, 16.0, 64.0, 64.0]
    assert [playback.faster(-1) for _ in range(10)][-1] == SPEEDS[0]


def test_the_lines_of_the_rank_that_is_watched() -> None:
    playback = Playback(job_events(logs=[(1, "one"), (2, "two"), (None, "torchrun")]))
    playback.seek(11.0)
    assert [line.text for line in playback.moment.lines] == ["one", "two", "torchrun"]
    playback.watch(2)
    assert [line.text for line in playback.moment.lines] == ["two"]


@pytest.mark.parametrize("t", [float("nan"), float("inf"), -5.0, "x", None, True, 0])
def test_times_that_make_no_sense(t: object) -> None:
    events = job_events()
    events[20] = {**events[20], "t": t}
    playback = Playback(events)
    playback.seek(playback.end_s)
    assert playback.is_at_end and playback.is_over


def test_the_figures_of_the_real_recording() -> None:
    events = read_recording(str(RECORDING))
    playback, rates = Playback(events), Rates()
    shares = []
    while not playback.is_at_end:
        playback.advance(0.1)
        snapshot = playback.moment.snapshot
        ranks = rank_figures(snapshot, rates.feed(snapshot))
        now = totals(snapshot, ranks, playback.moment.now_t)
        shares.append(now.share)
    assert shares == sorted(shares)
    assert shares[0] == 0.0 and shares[-1] == 1.0
    assert now.state == "exact"
    assert {rank.state for rank in ranks} == {"done"}
    assert now.left_s is None
    assert now.memory is not None and now.memory > 100 << 20


def test_a_recording_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_recording(str(tmp_path / "nothing.jsonl"))
    (tmp_path / "empty.jsonl").write_text("no event\n{}\n")
    with pytest.raises(UsageError):
        read_recording(str(tmp_path / "empty.jsonl"))


async def test_no_control_character_of_a_recording_reaches_the_screen() -> None:
    """C0 and C1, in every text and word that a recording holds."""
    odd = "\x1b]0;x\x07\x9b2J\x9d\ud800\u202e"
    events = job_events(differs=[(NAMES[0], 1)], logs=[(1, f"line{odd}")], killed=2)
    words = {"verdict", "kind", "phase", "host", "device", "mesh", "message", "stack", "why"}
    words |= {"fqn", "file", "detail", "expected", "found", "backend", "via", "path"}
    for number, told in enumerate(events):
        for key in words & told.keys():
            if isinstance(told[key], str) and number % 2:
                told[key] += odd
    async with replayed(events, 11.0, "o", "enter") as (app, _):
        text = screen_text(app)
    assert not CONTROL.search(text), CONTROL.findall(text)
    assert "\ud800" not in text
