"""The fold: any order across ranks, any number of repetitions, anything that JSON can hold."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.report.verify_text import progress_line, report_json, verify_text
from inspector.verify.progress import JobState, Snapshot
from inspector.verify.result import ExpectedEntries, confirmed, exit_code, result_event
from inspector.verify.spec import JobSpec
from tests.verify.fake_worker import CANARIES, READS
from tests.verify.jobs import snapshot_of

SPEC = JobSpec("/c", "hsdp:1x2", then=("fsdp:2",))
NAMES = ("a", "b")

Event = dict[str, Any]


def _event(event: str, rank: int | None, t: float, **fields: Any) -> Event:
    return {"schema": 1, "event": event, "rank": rank, "t": t, **fields}


def _spec() -> Event:
    return _event("spec", None, 0.5, mesh="hsdp:1x2", then=["fsdp:2"], world_size=2)


def _rank(rank: int, verdicts: dict[tuple[str, str], str] | None = None) -> list[Event]:
    """The events of a rank that goes well, but for some verdicts by (phase, name)."""
    clock = itertools.count(1)
    events = [_event("hello", rank, next(clock), pid=100 + rank, host="h", device="cpu")]
    events.append(_event("plan", rank, next(clock), tensors=2, entries=0))
    for phase in ("load", "compare", "replicas", "save", "reload", "recheck"):
        events.append(_event("phase", rank, next(clock), phase=phase, mesh="hsdp:1x2"))
        if phase in ("compare", "recheck"):
            for name in NAMES:
                verdict = (verdicts or {}).get((phase, name), "EXACT")
                fields = {"num_elements": 4, "num_different": int(verdict != "EXACT")}
                events.append(
                    _event("tensor", rank, next(clock), phase=phase, fqn=name, verdict=verdict)
                    | fields
                )
        counts = {"bytes_done": 10, "bytes_total": 10, "tensors_done": 2, "tensors_total": 2}
        events.append(_event("progress", rank, next(clock), phase=phase, **counts))
    events.append(_event("heartbeat", rank, next(clock), rss_bytes=7, anon_bytes=5))
    if rank == 0:
        events.append(_event("torch_reads", rank, next(clock), **READS | {"num_payloads": 6}))
    counts = {"bytes_read": 20, "payloads_checked": 3, "canaries": CANARIES}
    events.append(_event("bye", rank, next(clock), **counts))
    return events


def _result(snapshot: Snapshot, cancelled: bool = False, names: tuple[str, ...] = NAMES) -> Event:
    return result_event(snapshot, SPEC, 1.0, cancelled, ExpectedEntries(names))


def test_a_whole_job() -> None:
    snapshot = snapshot_of([_spec(), *_rank(0), *_rank(1)])
    assert [rank.status for rank in snapshot.ranks] == ["done", "done"]
    assert snapshot.ranks[0].rss == 7
    assert snapshot.ranks[1].extra["payloads_checked"] == 3
    assert snapshot.num_exact == 2
    assert snapshot.num_entries == 2
    assert [p.phase for p in snapshot.phases][:2] == ["load", "compare"]
    result = _result(snapshot)
    assert result["verdict"] == "exact"
    assert result["bytes_read"] == 2 * (10 + 10 + 20)
    assert exit_code(result) == 0
    assert json.loads(json.dumps(result)) == result
    text = list(verify_text(snapshot, result))
    assert text[0].startswith("EXACT: all 2 entries are bit for bit as stored under hsdp:1x2")
    assert "2 of 2 exact" in progress_line(snapshot, 100.0, 80)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_ranks_and_repetition_change_nothing(
    order: random.Random, repeat: bool
) -> None:
    streams = [_rank(0), _rank(1, {("recheck", "b"): "DIFFER"})]
    plain = snapshot_of([_spec(), *streams[0], *streams[1]])
    mixed = [_spec()]
    while any(streams):
        stream = order.choice([stream for stream in streams if stream])
        mixed.append(stream.pop(0))
        if repeat and order.random() < 0.5:
            mixed.append(mixed[-1])
    snapshot = snapshot_of(mixed)
    assert snapshot.ranks == plain.ranks
    assert dict(snapshot.tensors) == dict(plain.tensors)
    assert (snapshot.num_exact, snapshot.num_bad) == (1, 1)
    assert _result(snapshot) == _result(plain)


def test_any_order_at_all_gives_the_same_verdicts() -> None:
    events = [*_rank(0), *_rank(1, {("compare", "a"): "MISSING"})]
    random.Random(3).shuffle(events)  # noqa: S311 - no secret
    snapshot = snapshot_of([_spec(), *events])
    assert snapshot.tensors["a"].verdict == "MISSING"
    assert snapshot.tensors["b"].verdict == "EXACT"
    assert _result(snapshot)["verdict"] == "differs"


@pytest.mark.parametrize("gone", range(2))
def test_a_rank_without_bye_is_never_exact(gone: int) -> None:
    streams = [_rank(0), _rank(1)]
    streams[gone] = streams[gone][:-1]
    result = _result(snapshot_of([_spec(), *streams[0], *streams[1]]))
    assert result["verdict"] == "failed"
    assert result["why"] == f"no end was heard of rank {gone}"
    assert exit_code(result) == 2


def test_an_entry_that_one_rank_did_not_report_is_never_exact() -> None:
    lost = [e for e in _rank(1) if not (e.get("fqn") == "b" and e.get("phase") == "recheck")]
    result = _result(snapshot_of([_spec(), *_rank(0), *lost]))
    assert result["verdict"] == "failed"
    assert result["tensors"]["exact"] == 1
    assert result["tensors"]["not_verified"] == [
        {"fqn": "b", "why": "only 1 of 2 ranks reported it in recheck"}
    ]


def test_an_entry_that_nobody_reported_is_never_exact() -> None:
    result = _result(snapshot_of([_spec(), *_rank(0), *_rank(1)]), names=("a", "b", "c"))
    assert result["verdict"] == "failed"
    assert {"fqn": "c", "why": "no rank reported it"} in result["tensors"]["not_verified"]


def test_nothing_was_checked_is_never_exact() -> None:
    silent = [e for rank in (0, 1) for e in _rank(rank) if e["event"] not in ("tensor", "plan")]
    result = _result(snapshot_of([_spec(), *silent]), names=())
    assert result["verdict"] == "failed"
    assert result["why"] == "nothing was checked"
    assert _result(snapshot_of([]), names=())["verdict"] == "failed"


def _with(spec: JobSpec = SPEC, expected: ExpectedEntries | None = None, **changes: Any) -> Event:
    """The result of a whole job in which `torch_reads` (by `reads`) or `bye` say something else."""
    reads, bye = changes.pop("reads", {}), changes.pop("bye", {})
    events = [*_rank(0), *_rank(1), *changes.pop("more", [])]
    for event in events:
        event.update(reads if event["event"] == "torch_reads" else {})
        event.update(bye if event["event"] == "bye" else {})
    expected = expected or ExpectedEntries(NAMES)
    snapshot = snapshot_of([_spec(), *events])
    result = result_event(snapshot, spec, 1.0, False, expected)
    assert all("EXACT" not in line for line in verify_text(snapshot, result)) or (
        result["verdict"] == "exact"
    )
    return result


LEFT_OUT = (("quantised", ("q",)), ("filter", ("z",)))


def test_what_is_left_out_unasked_makes_it_partial() -> None:
    left_out = _event(
        "tensor", 0, 3.5, phase="load", fqn="q", verdict="NOT_VERIFIED", detail="quantised"
    )
    result = _with(
        expected=ExpectedEntries(NAMES, LEFT_OUT, frozenset({"filter"})), more=[left_out]
    )
    assert (result["verdict"], exit_code(result)) == ("partial", 2)
    assert result["why"] == "quantised"
    assert result["tensors"]["total"] == 4
    assert result["tensors"]["num_not_verified"] == 2


@pytest.mark.parametrize("fields", [{"filter": "a"}, {"stage": "1/2"}, {"sample": 0.5}])
def test_what_the_user_left_out_does_no_harm(fields: dict[str, Any]) -> None:
    asked = ExpectedEntries(NAMES, LEFT_OUT[1:], frozenset({"filter"}))
    spec = JobSpec("/c", "hsdp:1x2", then=("fsdp:2",), **fields)
    result = _with(spec, asked)
    assert (result["verdict"], exit_code(result)) == ("exact", 0)
    assert result["tensors"]["num_not_verified"] == 1
    assert result["tensors"]["num_not_asked"] == 0
    assert result["stage"] == spec.stage
    # Nobody asked where there is no filter, stage or sample, whoever says so.
    assert _with(SPEC, asked)["verdict"] == "partial"


def test_ranks_alone_say_what_they_left_out() -> None:
    more = [_event("plan", 0, 9.0, left_out=[{"why": "too large", "count": 1, "asked": False}])]
    result = _with(expected=ExpectedEntries(), more=more)
    assert (result["verdict"], result["why"]) == ("partial", "too large")


def test_what_torch_does_not_read_is_never_exact() -> None:
    no = {"ok": False, "error": "ValueError: too many values"}
    result = _with(reads=no)
    assert (result["verdict"], exit_code(result)) == ("unreadable", 1)
    assert result["torch_reads"] == {**no, "torch": "2.13.0", "tried": True}
    # What was not let in or ran out of time accuses nobody, and proves nothing.
    result = _with(reads={**no, "tried": False})
    assert (result["verdict"], exit_code(result)) == ("partial", 2)
    result = _with(reads={**no, "tried": False, "unsafe": True})
    assert (result["verdict"], exit_code(result)) == ("unreadable", 1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reads": {"second_reading": "a: it is elsewhere"}}, "a: it is elsewhere"),
        ({"reads": {"second_reading": None}}, "second, plain reading"),
        ({"reads": {"num_forgotten": 1, "forgotten": ["c"]}}, "neither verified nor left out: c"),
        ({"reads": {"num_payloads": 7}}, "of 7 stored payloads 6"),
        ({"reads": {"num_payloads": None}}, "of None stored payloads"),
        ({"bye": {"payload_faults": 1}}, "2 payloads are not as they were written"),
        ({"bye": {"canaries": None}}, "not tried out (compare, reload, recheck, replicas"),
        ({"bye": {"canaries": {**CANARIES, "reload": 0}}}, "not tried out (reload)"),
        ({"bye": {"canaries": {**CANARIES, "checksums": 0}}}, "not tried out (checksums)"),
    ],
)
def test_a_job_that_does_not_prove_itself_has_failed(changes: dict[str, Any], why: str) -> None:
    result = _with(**changes)
    assert (result["verdict"], exit_code(result)) == ("failed", 2)
    assert why in result["why"]


def test_a_job_that_says_nothing_of_torch_is_never_exact() -> None:
    events = [e for rank in (0, 1) for e in _rank(rank) if e["event"] != "torch_reads"]
    result = _result(snapshot_of([_spec(), *events]))
    assert result["verdict"] == "failed"
    assert "no rank told" in result["why"]


def test_nothing_but_empty_tensors_is_partial() -> None:
    events = [e for rank in (0, 1) for e in _rank(rank)]
    for event in events:
        if event["event"] == "tensor":
            event |= {"verdict": "EMPTY", "num_elements": 0}
    result = _result(snapshot_of([_spec(), *events]))
    assert (result["verdict"], exit_code(result)) == ("partial", 2)
    assert "empty" in result["why"]


def test_events_of_another_job_are_passed_over() -> None:
    mine = [{**e, "run": "one"} for e in [_spec(), *_rank(0)]]
    other = [{**e, "run": "two"} for e in _rank(1)]
    snapshot = snapshot_of([*mine, *other])
    assert snapshot.num_foreign == len(other)
    result = _result(snapshot)
    assert result["verdict"] == "failed"
    assert "another job" in result["why"]


def test_a_recorded_result_is_believed_only_with_what_was_recorded() -> None:
    whole = [_spec(), *_rank(0), *_rank(1)]
    exact = _result(snapshot_of(whole))
    assert confirmed(snapshot_of([*whole, exact])) == exact
    for cut in ([_spec(), *_rank(0)], [_spec()], []):
        found = confirmed(snapshot_of([*cut, exact]))
        assert found["verdict"] == "failed", len(cut)
        text = list(verify_text(snapshot_of([*cut, exact]), found))
        assert not any("EXACT" in line for line in text)
    bad = [_spec(), *_rank(0, {("compare", "a"): "DIFFER"}), *_rank(1)]
    assert confirmed(snapshot_of([*bad, exact]))["verdict"] == "failed"
    assert confirmed(snapshot_of([*whole, {**exact, "run": "another"}]))["verdict"] == "failed"
    assert confirmed(snapshot_of([])) == {}


def test_a_failure_outweighs_a_difference_and_both_are_told() -> None:
    failed = _event("failed", 1, 9.0, kind="killed", message="gone", stack="")
    echo = _event("failed", 0, 8.0, kind="exception", message="peer", stack="", is_echo=True)
    events = [*_rank(0, {("compare", "a"): "DIFFER"})[:-1], *_rank(1)[:-1], echo, failed]
    snapshot = snapshot_of([_spec(), *events])
    assert [f.message for f in snapshot.failures] == ["gone", "peer"]
    result = _result(snapshot)
    assert result["verdict"] == "failed"
    assert result["why"] == "rank 1: gone"
    assert result["tensors"]["different"] == ["a"]


def test_cancelled() -> None:
    snapshot = snapshot_of([_spec(), *_rank(0)[:6], *_rank(1)[:6]])
    result = _result(snapshot, cancelled=True)
    assert result["verdict"] == "cancelled"
    assert exit_code(result) == 2
    # A stop that comes when all is done takes nothing away.
    assert _result(snapshot_of([_spec(), *_rank(0), *_rank(1)]), True)["verdict"] == "exact"


def test_replicas_report_only_what_is_wrong() -> None:
    torn = _event("tensor", 1, 5.5, phase="replicas", fqn="b", verdict="DIFFER", detail="torn")
    intact = _event("tensor", 0, 5.5, phase="replicas", fqn="b", verdict="EXACT", detail="torn")
    snapshot = snapshot_of([_spec(), *_rank(0), intact, *_rank(1), torn])
    assert snapshot.tensors["b"].verdict == "DIFFER"
    [fault] = snapshot.tensors["b"].faults
    assert (fault.rank, fault.phase, fault.detail) == (1, "replicas", "torn")
    assert report_json(snapshot)["wrong"][0]["fqn"] == "b"


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
_KEYS = (
    "rank t pid host device phase hop mesh fqn verdict num_elements num_different first_index "
    "expected found file detail kind message stack stream text tensors entries bytes_done "
    "bytes_total rss_bytes world_size ranks num_entries root"
).split()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("spec hello plan phase progress tensor log failed bye".split()),
            st.dictionaries(st.sampled_from(_KEYS), _ANY, max_size=8),
        ),
        max_size=12,
    )
)
def test_nonsense_is_survived(events: list[tuple[str, Event]]) -> None:
    snapshot = snapshot_of([{**fields, "schema": 1, "event": name} for name, fields in events])
    result = result_event(snapshot, SPEC, 1.0, False)
    assert result["verdict"] != "exact"
    assert all(line.isprintable() for line in verify_text(snapshot, result))
    assert progress_line(snapshot, 1.0, 80).isprintable()


def test_two_runs_in_one_folder_prove_nothing() -> None:
    """The second was killed without a word: what the first has found is not of the second."""
    first = [_spec(), *_rank(0), *_rank(1)]
    assert _result(snapshot_of([*first, *first]))["verdict"] == "exact"
    second = [{**event, "t": event["t"] + 1000} for event in _rank(1)]
    for events in (second[:1], second):
        result = _result(snapshot_of([*first, *events]))
        assert result["verdict"] == "failed"
        assert "two runs: rank 1 was started twice" in result["why"]


def test_snapshots_do_not_change() -> None:
    state = JobState()
    for event in [_spec(), *_rank(0)]:
        state.apply(event)
    before = state.snapshot()
    copy = (before.ranks, dict(before.tensors), before.num_exact, before.phases)
    for event in _rank(1, {("compare", "a"): "DIFFER"}):
        state.apply(event)
    assert (before.ranks, dict(before.tensors), before.num_exact, before.phases) == copy
    assert state.snapshot().num_bad == 1


def test_twenty_thousand_events_a_second_are_cheap() -> None:
    events = [_spec()]
    for i in range(5000):
        for rank in range(4):
            fields = {"phase": "compare", "fqn": f"layer.{i}.weight", "verdict": "EXACT"}
            events.append(_event("tensor", rank, 1.0 + i, **fields))
    state = JobState()
    began = time.process_time()
    for number, event in enumerate(events):
        state.apply(event)
        if number % 2000 == 0:
            state.snapshot()
    spent = time.process_time() - began
    assert state.snapshot().num_exact == 5000
    # Less than a tenth of it here; what looks at all entries for each event takes many times that.
    assert spent < 5, f"{len(events)} events took {spent:.2f} s of CPU"
