"""What the screen says of a verification: each thing once, and nothing that is not so."""

from __future__ import annotations

import pytest

from inspector.tui.verification.control import findings_of, proof_of
from inspector.tui.verification.figures import Rates, rank_figures, totals
from inspector.tui.verification.head import head_text, verdict_text
from inspector.tui.verification.sources import VerdictSource
from inspector.verify.progress import Snapshot
from tests.tui.verify_driver import NAMES, job_events
from tests.verify.jobs import snapshot_of


def head_of(snapshot: Snapshot, width: int = 78, report: str = "") -> list[str]:
    ranks = rank_figures(snapshot, Rates().feed(snapshot))
    now = totals(snapshot, ranks, snapshot.last_t)
    return head_text(snapshot, now, width, report=report).plain.split("\n")


def test_a_job_that_runs_is_not_through_whatever_it_has_moved() -> None:
    events = [event for event in job_events() if event["event"] not in ("bye", "result")]
    head = head_of(snapshot_of(events))
    assert head[0].startswith(" RUNNING ")
    assert "100%" not in head[1] and head[1].endswith(" 99%")
    assert "left" not in head[2] and "finishing" in head[2]
    assert head_of(snapshot_of(job_events()))[1].endswith("100%")


@pytest.mark.parametrize("verdict", ["exact", "differs", "cancelled", "failed", "starting"])
def test_no_verdict_stands_twice_in_one_line(verdict: str) -> None:
    events = job_events()
    if verdict == "starting":
        events = events[:3]
    else:
        events[-1] = {**events[-1], "verdict": verdict}
    first = head_of(snapshot_of(events), 200)[0]
    assert first.lower().count(verdict) == 1


@pytest.mark.parametrize("report", ["", "/state/runs/20261130-101431-hsdp_tp-dp_replicate_2"])
@pytest.mark.parametrize("differs", [(), ((NAMES[0], 1),)], ids=["exact", "differs"])
def test_of_a_long_mesh_no_half_is_told(report: str, differs: tuple[tuple[str, int], ...]) -> None:
    mesh = "dp_replicate:2,dp_shard:2,tp:2"
    snapshot = snapshot_of(job_events(mesh, differs=differs))
    for width in (78, 100, 158):
        first, *_, last = head_of(snapshot, width, report)
        assert mesh in first or (mesh in last and "dp_" not in first)
        assert "…" not in first and ("recorded in" in last) is bool(report)
        assert max(len(first), len(last)) <= width


def test_a_cancelled_job_reads_as_cancelled() -> None:
    events = job_events(killed=5)
    events[-1] = {**events[-1], "verdict": "cancelled"}
    snapshot = snapshot_of(events)
    head = "\n".join(head_of(snapshot))
    assert "CANCELLED" in head and "failure" not in head and "killed" not in head
    ranks = rank_figures(snapshot, Rates().feed(snapshot))
    assert ranks[5].state == "stopped" and ranks[4].state == "done"
    assert proof_of(snapshot) == ""


def test_missing_says_how_many_elements() -> None:
    events = job_events()
    for event in events:
        if event["event"] == "tensor" and event["fqn"] == NAMES[2] and event["rank"] == 0:
            event |= {"verdict": "MISSING", "num_elements": 40, "num_uncovered": 8}
    snapshot = snapshot_of(events)
    source = VerdictSource()
    source.update(snapshot)
    assert source.cell(source.row_names.index(NAMES[2]), "different") == "8"
    assert "8 of 40 elements are in no chunk" in verdict_text(snapshot.tensors[NAMES[2]]).plain
    (finding,) = findings_of(snapshot)
    assert finding.num_elements == 8
    assert finding.message.startswith("MISSING in compare on rank 0, 8 of 40 elements")


def test_what_an_exact_job_proves() -> None:
    assert proof_of(snapshot_of(job_events())) == "EXACT on hsdp:2x4"
    filtered = job_events()
    filtered[0] = {**filtered[0], "filter": "attn"}
    assert proof_of(snapshot_of(filtered)) == ""


def test_a_tensor_says_which_way_it_went() -> None:
    for via, said in (("fsdp2", "through FSDP2"), ("dtensor", "without FSDP")):
        events = [e | {"via": via} if e["event"] == "tensor" else e for e in job_events()]
        view = snapshot_of(events).tensors[NAMES[0]]
        assert said in verdict_text(view).plain
