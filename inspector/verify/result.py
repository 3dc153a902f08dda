"""The last event of a job: `result`, which says what was proved and what was not.

The rule this module keeps: EXACT is earned. A job in which a rank failed or did not say bye, an
entry that not every rank reported in every phase, and a job that checked nothing are never exact;
nor is one whose metadata torch itself does not read as we do, one whose checks did not report a
byte that was changed on purpose, one that lost a payload, or one that left out what nobody asked it
to leave out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.verify.events import event_head
from inspector.verify.progress import Snapshot
from inspector.verify.spec import JobSpec, RankSpec, ReadSpec
from inspector.verify.verdicts import TensorView, severity

__all__ = ["EXIT_CODES", "ExpectedEntries", "confirmed", "exit_code", "result_event"]

#: Exit code of each verdict.
EXIT_CODES = {
    "exact": 0,
    "differs": 1,
    "unreadable": 1,
    "partial": 2,
    "failed": 2,
    "cancelled": 2,
    # What ranks read is judged by whoever asked for it: by itself it proves nothing.
    "read": 2,
}

#: Names listed under `not_verified`; `num_not_verified` counts all.
_MAX_NAMES = 10_000
_NOTHING = "nothing was checked"
_SECOND = "a second, plain reading of the metadata does not bear it out"


@dataclass(frozen=True, slots=True)
class ExpectedEntries:
    """What the front end expects to hear of.

    Attributes:
        names: Entries that the job is to verify.
        left_out: Entries that it will not, with the reason: pairs of reason and names.
        asked: Those of the reasons that are the user's (`--filter`, `--sample`).
        long_names: Names that are too long for an event, by the position of their entry.
    """

    names: tuple[str, ...] = ()
    left_out: tuple[tuple[str, tuple[str, ...]], ...] = ()
    asked: frozenset[str] = frozenset()
    long_names: Mapping[int, str] = field(default_factory=dict)


def result_event(
    snapshot: Snapshot,
    spec: RankSpec,
    elapsed_s: float,
    cancelled: bool,
    expected: ExpectedEntries | None = None,
) -> dict[str, Any]:
    """The `result` event of a job that has ended.

    Args:
        snapshot: All that was told, after the last event.
        spec: The job.
        elapsed_s: How long it took.
        cancelled: Whether the user stopped it.
        expected: What should have been told; without it, entries never heard of are only
            counted, by the number in the ranks' `plan`.
    """
    if isinstance(spec, ReadSpec):
        return _read_result(snapshot, spec, elapsed_s, cancelled)
    expected = expected or ExpectedEntries()
    exact, different, unverified = _sort(snapshot, spec)
    left_out = {fqn: why for why, fqns in expected.left_out for fqn in fqns}
    left_out |= _not_compared(snapshot)
    unasked = _unasked(snapshot, spec, expected, left_out)
    exact = [fqn for fqn in exact if fqn not in left_out]
    heard = snapshot.tensors
    names = dict.fromkeys(expected.names)
    unverified += [(fqn, "no rank reported it") for fqn in names if fqn not in heard]
    num_told = len(exact) + len(different) + len(unverified)
    # Entries that only the ranks' own count knows of.
    num_unnamed = 0 if names else max((snapshot.num_entries or 0) - num_told, 0)
    num_unverified = len(unverified) + num_unnamed
    verdict, why = _verdict(snapshot, cancelled, different, num_unverified)
    if verdict == "exact":
        verdict, why = _proof(snapshot, spec, exact, unasked)
    if why == _NOTHING and left_out:
        why = f"{_NOTHING}: {next(iter(left_out.values()))}"
    missing = [*unverified, *left_out.items()]
    return {
        **event_head("result", None, spec.run, snapshot.last_t),
        "verdict": verdict,
        "why": why,
        "path": spec.path,
        "mesh": spec.mesh,
        "then": list(spec.then),
        "via": spec.via,
        "device": spec.device,
        "backend": spec.backend,
        "world_size": spec.world_size,
        "stage": spec.stage,
        "elapsed_s": round(elapsed_s, 3),
        "bytes_read": _bytes_read(snapshot),
        "torch_reads": _torch_reads(snapshot),
        "phases": [{"phase": p.phase, "elapsed_s": round(p.elapsed_s, 3)} for p in snapshot.phases],
        "failures": _failures(snapshot),
        "tensors": {
            "total": len(exact) + len(different) + len(missing) + num_unnamed,
            "verified": len(exact) + len(different),
            "exact": len(exact),
            "different": different,
            "raw": snapshot.num_raw,
            "via": _vias(snapshot, exact, different),
            "num_not_verified": len(missing) + num_unnamed,
            "num_not_asked": len(unverified) + num_unnamed + len(unasked),
            "not_verified": [{"fqn": fqn, "why": why} for fqn, why in missing[:_MAX_NAMES]],
        },
    }


def _read_result(
    snapshot: Snapshot, spec: ReadSpec, elapsed_s: float, cancelled: bool
) -> dict[str, Any]:
    """The `result` of ranks that only read: whether each came to its end."""
    verdict, why = _verdict(snapshot, cancelled, [], 0)
    return {
        **event_head("result", None, spec.run, snapshot.last_t),
        "verdict": "read" if verdict == "exact" else verdict,
        "why": why,
        "path": spec.path,
        "task": spec.task,
        "world_size": spec.world_size,
        "elapsed_s": round(elapsed_s, 3),
        "bytes_read": _sum(snapshot, "bytes_read"),
        "payloads_read": _sum(snapshot, "payloads_read"),
        "num_wrong": sum(rank.num_bad for rank in snapshot.ranks),
        "failures": _failures(snapshot),
    }


def _failures(snapshot: Snapshot) -> list[dict[str, Any]]:
    first = snapshot.failures[:100]
    return [{"rank": f.rank, "kind": f.kind, "message": f.message} for f in first]


def _sort(snapshot: Snapshot, spec: JobSpec) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """The entries that are exact, those that are not, and those not fully looked at, with why."""
    exact: list[str] = []
    different: list[str] = []
    unverified: list[tuple[str, str]] = []
    needed = [(0, "compare")] + [(hop, "recheck") for hop in range(len(spec.then))]
    for fqn, view in snapshot.tensors.items():
        worst = max((severity(p.verdict) for p in view.phases), default=0)
        if worst > 1:
            different.append(fqn)
        elif worst == 0:
            why = _unfinished(view, needed)
            if why:
                unverified.append((fqn, why))
            else:
                exact.append(fqn)
    return exact, different, unverified


def _not_compared(snapshot: Snapshot) -> dict[str, str]:
    """Entries that a rank says cannot be compared, with its reason."""
    return {
        fqn: view.detail or "it was not compared"
        for fqn, view in snapshot.tensors.items()
        if max((severity(p.verdict) for p in view.phases), default=0) == 1
    }


def _unasked(
    snapshot: Snapshot, spec: JobSpec, expected: ExpectedEntries, left_out: Mapping[str, str]
) -> dict[str, str]:
    """Of the entries that are not verified those that the user did not leave out, with why."""
    if not spec.filter and not spec.stage and spec.sample >= 1:
        asked: set[str] = set()
    else:
        asked = {f for why, fqns in expected.left_out if why in expected.asked for f in fqns}
        asked |= {fqn for fqn, view in snapshot.tensors.items() if view.is_asked}
    found = {fqn: why for fqn, why in left_out.items() if fqn not in asked}
    # Of very many the ranks name the first.
    for why, count, is_asked in snapshot.left_out:
        if count and not is_asked and why not in found.values():
            found[""] = why
    return found


def _torch_reads(snapshot: Snapshot) -> dict[str, Any]:
    told = snapshot.torch_reads or {"error": "no rank told"}
    return {
        "ok": told.get("ok") is True,
        "torch": told.get("torch"),
        "error": told.get("error"),
        "tried": told.get("tried") is True,
    }


def _unfinished(view: TensorView, needed: Sequence[tuple[int, str]]) -> str:
    """Why an entry without a fault is not verified yet, or an empty string.

    Every rank reports every entry in each comparing phase; in the others only what is wrong.
    """
    told = {(p.hop, p.phase): p for p in view.phases}
    for key in needed:
        p = told.get(key)
        if p is None:
            return f"no rank reported it in {key[1]}"
        if not p.is_complete:
            return f"only {p.num_ranks} of {p.num_expected} ranks reported it in {p.phase}"
    return ""


def _verdict(
    snapshot: Snapshot, cancelled: bool, different: list[str], num_unverified: int
) -> tuple[str, str]:
    """The verdict, and the reason in a few words where it says more than the verdict does.

    `exact` here means that nothing speaks against it yet (`_proof` has the last word).
    """
    gone = [r.rank for r in snapshot.ranks if r.status != "done"]
    is_whole = not gone and bool(snapshot.ranks) and not snapshot.failures
    if cancelled and not (is_whole and not num_unverified):
        return "cancelled", "it was stopped before it was done"
    if snapshot.failures:
        first = snapshot.failures[0]
        where = "" if first.rank is None else f"rank {first.rank}: "
        return "failed", where + first.message
    if not is_whole:
        named = ", ".join(map(str, gone[:8])) + (" ..." if len(gone) > 8 else "")
        why = f"no end was heard of rank {named}" if gone else "no rank was heard of"
        return "failed", f"{why}; the events are another job's" if snapshot.num_foreign else why
    reads = snapshot.torch_reads or {}
    if reads.get("second_reading"):
        # Before torch is said to read it otherwise: it is we who do.
        return "failed", f"{_SECOND}: {reads['second_reading']}"
    if reads and reads.get("ok") is not True and (reads.get("tried") or reads.get("unsafe")):
        return "unreadable", str(reads.get("error") or "torch did not say why")
    if different:
        return "differs", ""
    if num_unverified:
        return "failed", f"{num_unverified} entries were not reported by every rank"
    return "exact", ""


def _proof(
    snapshot: Snapshot, spec: JobSpec, exact: list[str], unasked: Mapping[str, str]
) -> tuple[str, str]:
    """The verdict on a job in which all that was looked at is equal, and why it is not EXACT."""
    reads = snapshot.torch_reads
    if reads is None:
        return "failed", "no rank told whether torch itself reads the metadata"
    if reads.get("second_reading") != "":
        return "failed", f"{_SECOND}: nobody did read it"
    if reads.get("num_forgotten"):
        names = ", ".join(map(str, reads.get("forgotten") or ()))
        return "failed", f"entries were neither verified nor left out: {names}"
    if not exact:
        return "failed", _NOTHING
    if not any(snapshot.tensors[fqn].has_elements for fqn in exact):
        return "partial", "nothing but empty tensors was there to compare"
    if snapshot.started_twice is not None:
        twice = f"rank {snapshot.started_twice} was started twice"
        return "failed", f"the events are of two runs: {twice} (print the job anew for each)"
    if snapshot.other_mesh:
        return "failed", f"entries were compared under another mesh: {snapshot.other_mesh}"
    if named := _worse_than_told(snapshot):
        return "failed", f"ranks found what no entry says: {named}"
    blind = _untried(snapshot, spec)
    if blind:
        return "failed", f"the check itself was not tried out ({blind})"
    if faults := _sum(snapshot, "payload_faults"):
        return "failed", f"{faults} payloads are not as they were written, and no entry says so"
    if unasked:
        return "partial", next(iter(unasked.values()))
    if spec.via != "dtensor" and not _vias(snapshot, exact, []).get(spec.via):
        return "partial", f"no entry went through {spec.via.upper()}, all went as plain DTensors"
    wanted, seen = reads.get("num_payloads"), _sum(snapshot, "payloads_checked")
    seen += _sum(snapshot, "payloads_unsummed")
    if wanted != seen:
        return "failed", f"of {wanted} stored payloads {seen} were accounted for"
    if reads.get("ok") is not True:
        return "partial", str(reads.get("error") or "torch did not read the metadata")
    return "exact", ""


def _vias(snapshot: Snapshot, *names: list[str]) -> dict[str, int]:
    """How many entries went each way, as the ranks say."""
    ways = Counter(snapshot.tensors[fqn].via for fqns in names for fqn in fqns)
    del ways[""]
    return dict(ways)


def _worse_than_told(snapshot: Snapshot) -> str:
    """Verdicts that a rank counted and that are no plain EXACT: each was to be told."""
    counts: Counter[str] = Counter()
    for rank in snapshot.ranks:
        told = rank.extra.get("verdicts")
        if isinstance(told, dict):
            counts.update({w: n for w, n in told.items() if severity(w) and type(n) is int})
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _untried(snapshot: Snapshot, spec: JobSpec) -> str:
    """Which checks reported no byte that was changed on purpose; empty if all did."""
    told = [rank.extra.get("canaries") for rank in snapshot.ranks]
    counts = [canaries for canaries in told if isinstance(canaries, dict)]
    needed = ["compare"]
    if spec.then:
        needed += ["reload", "recheck"]
    if spec.world_size > 1:
        needed.append("replicas")
    if _sum(snapshot, "payloads_checked"):
        needed.append("checksums")
    return ", ".join(name for name in needed if not any(c.get(name) for c in counts))


def _sum(snapshot: Snapshot, name: str) -> int:
    found = (rank.extra.get(name) for rank in snapshot.ranks)
    return sum(n for n in found if isinstance(n, int))


def confirmed(snapshot: Snapshot) -> Mapping[str, Any]:
    """The result of a recording, which is exact only if what was recorded before it says so too.

    A recording that ends in a result can still be of two jobs, or lack a part.
    """
    result = snapshot.result or {}
    if result.get("verdict") != "exact":
        return result
    why = ""
    if result.get("run", "") != snapshot.spec.get("run", "") or snapshot.num_foreign:
        why = "the recording holds events of another job"
    elif not snapshot.ranks or any(rank.status != "done" for rank in snapshot.ranks):
        why = "the recording does not hold the end of every rank"
    elif snapshot.failures or snapshot.num_bad:
        why = "the recording holds failures or differences"
    return {**result, "verdict": "failed", "why": why} if why else result


def _bytes_read(snapshot: Snapshot) -> int:
    """What was loaded through torch, and what was read beside it to compare."""
    loaded = sum(
        done
        for rank in snapshot.ranks
        for phase, (done, _) in rank.done.items()
        if phase in ("load", "reload")
    )
    return loaded + _sum(snapshot, "bytes_read")


def exit_code(result: Mapping[str, Any]) -> int:
    """The exit code for a `result` event."""
    return EXIT_CODES.get(str(result.get("verdict")), 2)
