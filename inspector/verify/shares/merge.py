"""What the ranks found -> what one process would have: the sum of their portions.

The rule this module keeps: a payload counts as read only if a whole line of the rank whose share
it is in says so, of the very checkpoint that is judged. Whatever else is the case with a rank, the
rest of its share is named as not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import PayloadPlan, plan_payloads
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.checks.findings import RankShare
from inspector.checks.payload.judgement import PayloadTally
from inspector.checks.payload.payloads import PayloadReport, Untold, conclude
from inspector.errors import UsageError
from inspector.verify.progress import JobState, RankView, Snapshot
from inspector.verify.recording import read_events
from inspector.verify.shares.division import divide, state_of
from inspector.verify.shares.portion import add_portion, read_portions, share_file
from inspector.verify.spec import ReadSpec, read_spec

__all__ = ["find_job", "merge_shares", "told_by"]

_OTHER_STATE = (
    "it read another state of the checkpoint: something in the folder has changed since, or "
    "another time or size is seen from there"
)
_NOT_WHOLE = "what it wrote down of it cannot be read"


def find_job(folder: str) -> tuple[ReadSpec, Path]:
    """The job whose ranks wrote into a folder, and where their files lie.

    Args:
        folder: Of a run, or of the ranks' events.

    Raises:
        UsageError: There is none, or it is a verification.
    """
    where = Path(folder)
    events = where / "events" if (where / "events").is_dir() else where
    for place in (where / "spec.json", where.parent / "spec.json"):
        if place.is_file():
            try:
                spec = read_spec(place)
            except OSError as error:
                raise UsageError(
                    f"cannot read {printable(str(place))}: {error.strerror}"
                ) from error
            if isinstance(spec, ReadSpec):
                return spec, events
            raise UsageError(
                f"{printable(folder)} is of a verification, whose ranks have no shares",
                "hsdp-inspect replay shows it",
            )
    raise UsageError(
        f"{printable(folder)} holds no job",
        "give the folder that --print-command or --events wrote",
    )


def told_by(events: Path) -> Snapshot:
    """How a job stands by what its ranks, and its nodes, have told."""
    state = JobState()
    for event in read_events(str(events)):
        if event is not None and event["event"] != "result":
            state.apply(event)
    return state.snapshot()


def merge_shares(
    checkpoint: Checkpoint,
    storage: Storage,
    spec: ReadSpec,
    events: Path,
    snapshot: Snapshot,
    *,
    is_cancelled: bool = False,
) -> PayloadReport:
    """The report of all ranks together.

    Args:
        checkpoint: The checkpoint, as it is now.
        storage: Its folder.
        spec: The job.
        events: Where the ranks' files lie.
        snapshot: How the job ended.
        is_cancelled: Whether its user stopped it.
    """
    plan = plan_payloads(checkpoint)
    state = state_of(checkpoint, plan)
    tally = PayloadTally.of(checkpoint, plan)
    untold: list[Untold] = []
    ranks: list[RankShare] = []
    for rank, share in enumerate(divide(plan, spec.world_size)):
        wanted = {"run": spec.run, "rank": rank, "state": state}
        why = _add_rank(checkpoint, plan, tally, events, share, wanted)
        left = np.flatnonzero(~tally.tried[share.start : share.stop]) + share.start
        view = snapshot.ranks[rank] if rank < len(snapshot.ranks) else RankView(rank)
        if len(left):
            why = why or _why(snapshot, view, is_cancelled=is_cancelled)
            untold.append(Untold(f"the share of rank {rank}", left, why))
        ranks.append(_share(plan, tally, share, view, why if len(left) else ""))
    report = conclude(checkpoint, storage, plan, tally, untold)
    checked = replace(report.checked, ranks=tuple(ranks))
    return replace(report, checked=checked, is_cancelled=is_cancelled and bool(untold))


def _add_rank(
    checkpoint: Checkpoint,
    plan: PayloadPlan,
    tally: PayloadTally,
    events: Path,
    share: range,
    wanted: Mapping[str, Any],
) -> str:
    """Add the portions of a rank; why some of them do not count, or nothing."""
    why = ""
    seen = np.zeros(len(share), np.bool_)
    try:
        for told in read_portions(share_file(events, wanted["rank"])):
            if any(told.get(name) != wanted[name] for name in ("run", "rank")):
                why = "what was found in its place is of another job"
                continue
            if told.get("state") != wanted["state"]:
                why = _OTHER_STATE
                continue
            try:
                first, last = told["first"], told["last"]
                mine = slice(first - share.start, last - share.start)
                if not share.start <= first <= last <= share.stop or seen[mine].any():
                    raise ValueError("not of its share, or told twice")
                add_portion(checkpoint, plan, tally, told)
                seen[mine] = True
            except (ValueError, TypeError, KeyError):
                why = _NOT_WHOLE
    except OSError:
        pass  # It has written nothing; why, its events tell.
    return why


def _why(snapshot: Snapshot, view: RankView, *, is_cancelled: bool) -> str:
    """Why a rank has not told of all of its share; printable."""
    own = [failure for failure in snapshot.failures if failure.rank == view.rank]
    if own and not (is_cancelled and not own[0].is_root):
        return printable(f"it failed: {own[0].message}", 400)
    if is_cancelled:
        return "it was stopped"
    if view.status == "done":
        return _NOT_WHOLE
    others = [failure for failure in snapshot.failures if failure.rank != view.rank]
    if others:
        first = others[0]
        who = "the job" if first.rank is None else f"rank {first.rank}"
        return printable(f"it was ended with the job: {who}: {first.message}", 400)
    if view.status == "waiting":
        return "nothing was ever heard of it"
    return "no end was heard of it"


def _share(
    plan: PayloadPlan, tally: PayloadTally, share: range, view: RankView, why: str
) -> RankShare:
    lengths = plan.length[share.start : share.stop]
    read: Ints = np.flatnonzero(tally.read[share.start : share.stop])
    return RankShare(
        view.rank,
        view.host,
        len(share),
        int(lengths.sum()),
        len(read),
        int(lengths[read].sum()),
        why,
    )
