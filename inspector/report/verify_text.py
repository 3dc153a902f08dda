"""A verification as text: one line while it runs, and a summary at its end.

Both are made of the same snapshot that the screen shows. Every name and every line of a rank
passes the display gate.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inspector.checkpoint.text import (
    format_bytes,
    format_count,
    format_ranks,
    format_shape,
    plural,
    printable,
)
from inspector.verify.job.commands import asked_words
from inspector.verify.preflight import RANK_BASE_BYTES, Preflight
from inspector.verify.progress import Failure, RankView, Snapshot
from inspector.verify.result import EXIT_CODES
from inspector.verify.verdicts import Fault, TensorView

__all__ = [
    "fault_sentence",
    "figures_sentence",
    "memory_text",
    "meshes_text",
    "num_wrong",
    "patterns_sentence",
    "payloads_sentence",
    "phases_sentence",
    "plan_text",
    "progress_line",
    "report_json",
    "stack_lines",
    "summary_sentence",
    "torch_sentence",
    "unverified_reasons",
    "verify_text",
]

_MAX_LISTED = 20
_FIGURES = (
    ("payloads_checked", "payload checksums verified"),
    ("payloads_unsummed", "payloads without a checksum"),
    ("payload_faults", "payload faults"),
    ("stored_dtypes", "tensors loaded in the dtype that is stored, not the metadata's"),
    ("peak_anon_bytes", ""),
)
_MAX_STACK_LINES = 12
_MAX_PATTERNS = 6


def plan_text(plan: Preflight) -> Iterator[str]:
    """What is about to run, in a few lines."""
    spec = plan.spec
    meshes = meshes_text(spec.mesh, spec.then)
    yield (
        f"{plural(len(plan.expected.names), 'entry', 'entries')} ({format_bytes(plan.num_bytes)}) "
        f"under {meshes}, {plural(spec.world_size, 'rank')}, {spec.device}, {spec.backend}"
    )
    yield (
        f"reads about {format_bytes(plan.read_bytes)}; memory of a rank: {memory_text(plan)}; "
        f"scratch {format_bytes(plan.scratch_bytes)} in {printable(plan.scratch_parent, 200)}"
    )
    for note in plan.notes:
        yield printable(note, 400)


def meshes_text(mesh: str, then: Sequence[str]) -> str:
    """The meshes of a job in the order in which it loads under them."""
    text = before = mesh
    for other in then:
        # Otherwise it reads as a slip of the pen.
        text += f", saved, then {other} again" if other == before else f" then {other}"
        before = other
    return text


def memory_text(plan: Preflight) -> str:
    """What a rank of a job takes: of the tensors, and by itself."""
    tensors = f"{format_bytes(plan.rank_bytes)} of tensors"
    if plan.num_waves > 1:
        tensors += f" at a time, in {plan.num_waves:,} waves,"
    base = f"about {format_bytes(RANK_BASE_BYTES)} of Python and torch"
    return f"{tensors} and {base}{'' if plan.spec.device == 'cpu' else ', and more of CUDA'}"


def progress_line(snapshot: Snapshot, now_t: float, width: int | None = None) -> str:
    """How a running job stands, in one line.

    Args:
        snapshot: The job.
        now_t: The time, seconds since the epoch.
        width: Cells it may take.
    """
    ranks = snapshot.ranks
    elapsed = f"{max(0.0, now_t - snapshot.first_t):.0f} s" if snapshot.first_t else ""
    up = [rank for rank in ranks if rank.status != "waiting"]
    if len(up) < len(ranks) or not ranks:
        text = f"starting {plural(len(ranks), 'rank')}: {len(up)} up"
    else:
        # The slowest rank says where the job is.
        slowest = min(ranks, key=lambda r: (r.bytes_total and r.bytes_done / r.bytes_total, r.rank))
        text = _where(slowest)
        total = sum(rank.bytes_total for rank in ranks if rank.phase == slowest.phase)
        done = sum(rank.bytes_done for rank in ranks if rank.phase == slowest.phase)
        if total:
            text += f" {min(100 * done // total, 100)} % of {format_bytes(total)}"
    counts = f"{format_count(snapshot.num_exact)} exact"
    if snapshot.num_entries:
        counts = f"{format_count(snapshot.num_exact)} of {format_count(snapshot.num_entries)} exact"
    wrong = snapshot.num_bad
    if snapshot.spec.get("task"):
        counts, wrong = payloads_sentence(snapshot), num_wrong(snapshot)
    parts = [text, counts]
    if wrong:
        parts.append(f"{format_count(wrong)} WRONG")
    if snapshot.failures:
        parts.append(f"{plural(len(snapshot.failures), 'failure')}")
    line = ", ".join([*parts, elapsed] if elapsed else parts)
    return line if width is None else printable(line, max(width - 1, 10))


def payloads_sentence(snapshot: Snapshot) -> str:
    """How far ranks are that only read: `12 of 24 payloads read`."""
    done = sum(rank.tensors_done for rank in snapshot.ranks)
    total = sum(rank.tensors_total for rank in snapshot.ranks)
    return f"{format_count(done)} of {format_count(total)} payloads read"


def num_wrong(snapshot: Snapshot) -> int:
    """Errors that ranks have told of which only read."""
    return sum(rank.num_bad for rank in snapshot.ranks)


def _where(rank: RankView) -> str:
    if not rank.phase:
        return "preparing"
    under = f" under {printable(rank.mesh, 40)}" if rank.mesh else ""
    return printable(rank.phase, 40) + under


def summary_sentence(result: Mapping[str, Any]) -> str:
    """The whole result in one sentence.

    Args:
        result: A `result` event that is our own, or passed the gate of `verify.events`.
    """
    if result.get("task"):
        return _read_sentence(result)
    tensors: Mapping[str, Any] = result.get("tensors") or {}
    exact, total = tensors.get("exact") or 0, tensors.get("total") or 0
    different = tensors.get("different") or []
    meshes = meshes_text(result.get("mesh") or "?", result.get("then") or ())
    under = (
        f"under {printable(meshes, 120)} ({plural(result.get('world_size') or 0, 'rank')}, "
        f"{result.get('device') or '?'}, {result.get('backend') or '?'}{_ways(result)}"
        f"{_stage(result)})"
    )
    verdict = result.get("verdict")
    took = f"{result.get('elapsed_s') or 0:.1f} s"
    if verdict == "exact":
        entries = f"all {total:,} entries are" if exact == total else f"{exact:,} of {total:,} are"
        return f"EXACT: {entries} bit for bit as stored {under}; {took}"
    why = printable(str(result.get("why") or "it did not say why"), 600)
    so_far = f"{exact:,} of {total:,} entries were exact"
    if different:
        so_far += f", {len(different):,} were not"
    if verdict not in EXIT_CODES:
        return f"?: the recording ends without a verdict that is known, {under}; {so_far}"
    if verdict == "unreadable":
        held = "the payloads are what they should be" if not different else "payloads differ, too"
        if exact < total and not different:
            held = "the payloads that were compared are what they should be"
        return f"UNREADABLE: {torch_sentence(result)} {held}; {so_far} {under}; {took}"
    if verdict == "partial":
        done = f"{exact:,} of {total:,} entries are exact {under}"
        return f"PARTIAL: {done}, and not all was verified: {why}; {took}"
    if verdict == "differs":
        return f"DIFFERS: {plural(len(different), 'entry', 'entries')} of {total:,} {under}; {took}"
    if verdict == "cancelled":
        return f"CANCELLED {under} after {took}: {so_far}"
    return f"FAILED {under} after {took}: {why}; {so_far}"


def _read_sentence(result: Mapping[str, Any]) -> str:
    """What became of ranks that only read; on what they read it is no verdict."""
    ranks = plural(result.get("world_size") or 0, "rank")
    payloads = plural(result.get("payloads_read") or 0, "payload")
    errors = plural(result.get("num_wrong") or 0, "error")
    read = f"{payloads} ({format_bytes(result.get('bytes_read') or 0)}), {errors} told of"
    took = f"{result.get('elapsed_s') or 0:.1f} s"
    if result.get("verdict") == "read":
        return f"READ: by {ranks}, each its share: {read}; {took}; this is no verdict"
    why = printable(str(result.get("why") or "it did not say why"), 600)
    word = "CANCELLED" if result.get("verdict") == "cancelled" else "FAILED"
    return f"{word} after {took}: {why}; of {ranks} those that came to their end read {read}"


def _ways(result: Mapping[str, Any]) -> str:
    """What was loaded into, and how many entries were; nothing if that was not recorded."""
    told = (result.get("tensors") or {}).get("via")
    counts: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    via = str(result.get("via") or "dtensor")
    if not counts:
        return ""
    if via == "dtensor":
        return "; as DTensors"
    through, beside = counts.get(via) or 0, counts.get("dtensor") or 0
    said = f"; {through:,} through {printable(via, 40).upper()}"
    return f"{said}, {beside:,} beside it as DTensors or bytes" if beside else said


def _stage(result: Mapping[str, Any]) -> str:
    """Of which pipeline stage the job was, `all/2` being each in turn; nothing if of none."""
    stage = str(result.get("stage") or "")
    return f"; stage {printable(stage, 20)}" if stage else ""


def patterns_sentence(spec: Mapping[str, Any]) -> str:
    """What `--placements` told a job, `[stages]` among it; nothing if it was not given.

    Args:
        spec: A `spec` event that is our own, or passed the gate of `verify.events`.
    """
    told = [(item, "cuts") for item in spec.get("placements") or ()]
    told += [(item, "stages") for item in spec.get("stages") or ()]
    shown = []
    for item, what in told[:_MAX_PATTERNS]:
        before = "stage " if what == "stages" else ""
        pattern, value = (printable(str(item.get(key) or "?"), 60) for key in ("pattern", what))
        shown.append(f'"{pattern}" = {before}{value}')
    more = len(told) - len(shown)
    return ", ".join(shown) + (f" and {plural(more, 'pattern')} more" if more else "")


def torch_sentence(result: Mapping[str, Any]) -> str:
    """What torch itself said of the metadata, if it does not read it as we do; else nothing."""
    told: Mapping[str, Any] = result.get("torch_reads") or {}
    if not told or told.get("ok") is True:
        return ""
    version = printable(str(told.get("torch") or "?"), 40)
    error = printable(str(told.get("error") or "it did not say why"), 500)
    if told.get("tried") is True:
        return f"torch {version} cannot load it: {error};"
    return f"torch {version} did not read the metadata: {error};"


def verify_text(snapshot: Snapshot, result: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The lines of a finished verification, the sentence that sums it up first.

    Args:
        snapshot: The job after its last event.
        result: Its `result` event (default: the snapshot's).
    """
    result = snapshot.result if result is None else result
    if snapshot.spec.get("task"):
        yield from _read_text(snapshot, result)
        return
    if result is None:
        yield "The recording ends before the job did."
        yield f"{format_count(snapshot.num_exact)} entries were exact by then"
        result = {}
    else:
        yield summary_sentence(result)
    tensors: Mapping[str, Any] = result.get("tensors") or {}
    wrong = [view for view in snapshot.tensors.values() if view.is_bad]
    for view in wrong[:_MAX_LISTED]:
        yield from _wrong(view)
    if len(wrong) > _MAX_LISTED:
        yield f"... {format_count(len(wrong) - _MAX_LISTED)} more (--json names them all)"
    yield from _failures(snapshot.failures)
    yield from _unverified(tensors)
    yield from _beside(snapshot, result)
    if patterns := patterns_sentence(snapshot.spec):
        yield f"  as --placements says: {patterns}"
    if result and result.get("verdict") not in ("unreadable", "exact"):
        sentence = torch_sentence(result)
        if sentence and result.get("torch_reads", {}).get("torch"):
            yield f"  {sentence.rstrip(';')}"
    if result:
        yield from _figures(snapshot, result)


def _read_text(snapshot: Snapshot, result: Mapping[str, Any] | None) -> Iterator[str]:
    """The lines of ranks that only read, and what tells what it comes to."""
    if result is None:
        yield f"The recording ends before the job did: {payloads_sentence(snapshot)}"
    else:
        yield summary_sentence(result)
    yield from _failures(snapshot.failures)
    for rank in snapshot.ranks:
        share = f"{rank.tensors_done:,} of {rank.tensors_total:,} payloads, "
        share += f"{format_bytes(rank.bytes_done)} of {format_bytes(rank.bytes_total)}"
        host = f" on {printable(rank.host, 60)}" if rank.host else ""
        yield f"  rank {rank.rank}{host}: {rank.status}, {share}"
    spec = snapshot.spec
    values = spec.get("values") is True
    words = asked_words(
        str(spec["task"]),
        str(spec.get("path") or "PATH"),
        values=values,
        filter_text=str(spec.get("filter") or ""),
    )
    folder = (result or {}).get("run_folder") or "DIR"
    yield f"  what comes of it: {printable(shlex.join([*words, '--shares', folder]), 600)}"


def report_json(snapshot: Snapshot) -> dict[str, Any]:
    """The report as one JSON document: the result, and all that was wrong."""
    return {
        "schema": 1,
        "result": dict(snapshot.result or {}),
        "ranks": [
            {
                "rank": rank.rank,
                "status": rank.status,
                "pid": rank.pid,
                "host": rank.host,
                "device": rank.device,
                **dict(rank.extra),
            }
            for rank in snapshot.ranks
        ],
        "wrong": [
            {
                "fqn": view.fqn,
                "verdict": view.verdict,
                "num_faults": view.num_faults,
                "faults": [fault._asdict() for fault in view.faults],
            }
            for view in snapshot.tensors.values()
            if view.is_bad
        ],
        "via": _names_by_way(snapshot),
        "failures": [dataclasses.asdict(failure) for failure in snapshot.failures],
    }


def _names_by_way(snapshot: Snapshot) -> dict[str, list[str]]:
    ways: dict[str, list[str]] = {}
    for view in snapshot.tensors.values():
        if view.via:
            ways.setdefault(view.via, []).append(view.fqn)
    return ways


def _wrong(view: TensorView) -> Iterator[str]:
    yield f"  {view.verdict or '?'}  {printable(view.fqn, 200)}"
    for fault in view.faults[:4]:
        yield f"      {fault_sentence(fault)}"
    if view.num_faults > 4:
        yield f"      ... {view.num_faults - 4} more reports like these"


def fault_sentence(fault: Fault) -> str:
    """What one rank found wrong with an entry: where, how much, what it should have been."""
    parts = [f"rank {fault.rank}, {printable(fault.phase, 40)}"]
    if fault.num_different:
        of = "" if fault.num_elements is None else f" of {fault.num_elements:,}"
        parts.append(f"{fault.num_different:,}{of} elements")
    if fault.num_missing:
        parts.append(f"{fault.num_missing:,} elements in no chunk")
    if fault.num_different and fault.first_index is not None:
        parts.append(f"first at {format_shape(fault.first_index)}")
    for label, said in (("expected", fault.expected), ("found", fault.found)):
        if said:
            parts.append(f"{label} {printable(said, 60)}")
    if fault.file:
        parts.append(printable(fault.file, 120))
    line = ", ".join(parts)
    return f"{line}: {printable(fault.detail, 300)}" if fault.detail else line


def _failures(failures: Sequence[Failure]) -> Iterator[str]:
    for i, failure in enumerate(failures[:8]):
        who = "the job" if failure.rank is None else f"rank {failure.rank}"
        yield f"  {failure.kind}  {who}: {printable(failure.message, 600)}"
        if i == 0 or failure.kind == "timeout":
            for line in stack_lines(failure):
                yield f"      {line}"
    if len(failures) > 8:
        yield f"  ... {len(failures) - 8} more failures"


def stack_lines(failure: Failure) -> list[str]:
    """The lines of a rank's stack that tell most; printable."""
    lines = [line for line in failure.stack.splitlines() if line.strip()]
    # Of a hang's stack the innermost call comes first, of a traceback last.
    is_hang = failure.kind == "timeout"
    shown = lines[:_MAX_STACK_LINES] if is_hang else lines[-_MAX_STACK_LINES:]
    return [printable(line, 200) for line in shown]


def _unverified(tensors: Mapping[str, Any]) -> Iterator[str]:
    count = tensors.get("num_not_verified") or 0
    if not count:
        return
    yield f"  {plural(count, 'entry', 'entries')} not verified:"
    for why, names in unverified_reasons(tensors):
        yield f"      {why}: {names}"


def unverified_reasons(tensors: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Why entries were not verified, and the first of their names; printable."""
    reasons: dict[str, list[str]] = {}
    for item in tensors.get("not_verified") or ():
        reasons.setdefault(item.get("why") or "?", []).append(item.get("fqn") or "?")
    told = []
    for why, names in list(reasons.items())[:8]:
        shown = ", ".join(printable(name, 80) for name in names[:3])
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        told.append((printable(why, 300), shown + more))
    return told


def _beside(snapshot: Snapshot, result: Mapping[str, Any]) -> Iterator[str]:
    """Which entries did not go the way that was asked for."""
    if result.get("via") not in ("fsdp1", "fsdp2"):
        return
    names = [v.fqn for v in snapshot.tensors.values() if v.via and v.via != result["via"]]
    if names:
        shown = ", ".join(printable(name, 80) for name in names[:3])
        more = f" and {len(names) - 3:,} more (--report FILE.json)" if len(names) > 3 else ""
        yield f"  not through {str(result['via']).upper()}: {shown}{more}"


def _figures(snapshot: Snapshot, result: Mapping[str, Any]) -> Iterator[str]:
    if snapshot.phases:
        yield "  phases: " + phases_sentence(snapshot)
    yield "  " + figures_sentence(snapshot, result)
    if result.get("restarted"):
        yield f"  torchrun was started once more: {printable(str(result['restarted']), 300)}"
    if result.get("run_folder"):
        yield f"  recorded in {printable(result['run_folder'], 400)}"


def phases_sentence(snapshot: Snapshot) -> str:
    """How long each phase took: `load 1.2 s, compare 0.3 s`."""
    return ", ".join(f"{printable(p.phase, 40)} {p.elapsed_s:.1f} s" for p in snapshot.phases)


def figures_sentence(snapshot: Snapshot, result: Mapping[str, Any]) -> str:
    """What was read, checked and held, in figures."""
    figures = [f"{format_bytes(result.get('bytes_read') or 0)} read by all ranks together"]
    for name, what in _FIGURES:
        told = [rank.extra.get(name) for rank in snapshot.ranks]
        numbers = [n for n in told if type(n) is int]
        if numbers and name == "peak_anon_bytes":
            figures.append(f"at most {format_bytes(max(numbers))} of memory on a rank")
        elif sum(numbers):
            figures.append(f"{format_count(sum(numbers))} {what}")
    if snapshot.num_raw:
        raw = plural(snapshot.num_raw, "bytes entry", "bytes entries")
        loaded = [n for r in snapshot.ranks if type(n := r.extra.get("unpickled")) is int]
        how = f"{min(loaded)} unpickled on every rank" if any(loaded) else "not unpickled"
        figures.append(f"{raw} compared as bytes, {how}")
    done = [rank.rank for rank in snapshot.ranks if rank.status == "done"]
    if len(done) < len(snapshot.ranks):
        figures.append(f"ranks that ended well: {format_ranks(done) or 'none'}")
    return ", ".join(figures)
