"""The judgement of a checkpoint that ranks have read: as of one process that reads all."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_bytes, plural
from inspector.checks.findings import DeepReport, Report
from inspector.checks.judge import check_storage
from inspector.checks.payload.deep import DeepRequest, check_deep
from inspector.verify.shares.merge import EndedRanks, merge_digests, merge_figures, merge_shares
from inspector.verify.spec import ReadSpec

__all__ = ["judge_shares", "judged", "shares_sentence"]


def judged(spec: ReadSpec, events: Path) -> tuple[str, int]:
    """What has come of a job by now, in a sentence, and the exit code.

    Raises:
        InspectError: The checkpoint, or the job's folder, is not there; a seal is not whole.
    """
    if spec.task == "check":
        judgement = judge_shares(spec, events)
        return shares_sentence(judgement), judgement.exit_code
    checkpoint = read_checkpoint(folder_of(spec.path))
    if spec.task == "stats":
        report = merge_figures(checkpoint, EndedRanks.by_now(spec, events))
        said = f"{plural(len(report.tensors), 'tensor')} by {plural(spec.world_size, 'rank')}"
        if report.lost:
            return f"NOT ALL READ: {report.lost[0]}; {said}", 2
        if report.not_read:
            return f"NOT ALL READ: {said}, {len(report.not_read):,} not in full", 1
        return f"READ: {said}", 0
    found = merge_digests(checkpoint, EndedRanks.by_now(spec, events))
    count = plural(len(found.tensors) + len(found.entries), "entry", "entries")
    ranks = plural(spec.world_size, "rank")
    if errors := len(found.tensor_errors) + len(found.entry_errors):
        return f"NOT ALL HASHED: {count} by {ranks}, {errors:,} could not be read", 2
    return f"HASHED: {count} by {ranks}; the seal is still to be written", 0


def judge_shares(spec: ReadSpec, events: Path) -> Report:
    """The report on what the ranks of a job have read by now, and on everything beside it.

    Raises:
        InspectError: The checkpoint, or the job's folder, is not there.
    """

    def merged(checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        return merge_shares(checkpoint, storage, EndedRanks.by_now(spec, events))

    def deep(checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        wanted = DeepRequest(payloads=True, values=spec.values, read=merged)
        return check_deep(checkpoint, storage, wanted, _quiet)

    return check_storage(folder_of(spec.path), deep=deep)


def _quiet() -> AbstractContextManager[Any]:
    return nullcontext(lambda progress: False)


def shares_sentence(report: Report) -> str:
    """The verdict, and how much of the payloads the ranks have read."""
    checked = report.checked
    counts = [plural(n, word) for word in ("error", "warning") if (n := report.count(word))]
    said = ", ".join(counts) or "nothing is wrong"
    lost = [rank for rank in checked.ranks if rank.why_not]
    verdict = f"{report.verdict.upper()}: {said}"
    if lost:
        which = ", ".join(str(rank.rank) for rank in lost[:8]) + (" ..." if lost[8:] else "")
        noun = "rank" if len(lost) == 1 else "ranks"
        verdict = f"NOT READ TO ITS END: {noun} {which}: {lost[0].why_not}; in the rest {said}"
    return (
        f"{verdict}; {plural(len(checked.ranks), 'rank')} read "
        f"{plural(checked.payloads, 'payload')} ({format_bytes(checked.payload_bytes)})"
    )
