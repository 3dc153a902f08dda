"""What the ranks found -> what one process would have: the sum of their portions.

The rule this module keeps: a payload counts as read only if a whole line of the rank whose share
it is in says so, of the very checkpoint that is judged. Whatever else is the case with a rank, the
rest of its share is named as not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import PayloadPlan, plan_payloads
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.checks.findings import DeepReport, RankShare, Report
from inspector.checks.judge import check_storage
from inspector.checks.payload.deep import DeepRequest, check_deep
from inspector.checks.payload.judgement import PayloadTally
from inspector.checks.payload.payloads import Untold, conclude
from inspector.errors import InspectError, UsageError
from inspector.values.fingerprint import Fingerprints
from inspector.values.stats import STOPPED, NotRead, StatsReport, wanted_tensors
from inspector.verify.progress import RankView, Snapshot
from inspector.verify.recording import snapshot_of
from inspector.verify.shares.digests import (
    Figures,
    add_digests,
    add_figures,
    sealed_items,
    tensor_sizes,
)
from inspector.verify.shares.division import cut, state_of, unit_firsts
from inspector.verify.shares.portion import add_portion, read_portions, share_file
from inspector.verify.spec import ReadSpec, read_spec

__all__ = [
    "EndedRanks",
    "_quiet",
    "find_job",
    "judge_shares",
    "judged",
    "merge_digests",
    "merge_figures",
    "merge_shares",
    "shares_sentence",
]

_OTHER_STATE = (
    "it read another state of the checkpoint: something in the folder has changed since, or "
    "another time or size is seen from there"
)
_MAX_LOST = 3
_NOT_WHOLE = "what it wrote down of it cannot be read"


def find_job(folder: str, task: str) -> tuple[ReadSpec, Path]:
    """The job whose ranks wrote into a folder, and where their files lie.

    Args:
        folder: Of a run, or of the ranks' events.
        task: What they should have read for.

    Raises:
        UsageError: There is none, or it is of something else.
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
            if isinstance(spec, ReadSpec) and spec.task == task:
                return spec, events
            if isinstance(spec, ReadSpec):
                raise UsageError(
                    f"the ranks of {printable(folder)} have read for {spec.task}, not for {task}",
                    f"hsdp-inspect {spec.task} takes it",
                )
            raise UsageError(
                f"{printable(folder)} is of a verification, whose ranks have no shares",
                "hsdp-inspect replay shows it",
            )
    raise UsageError(
        f"{printable(folder)} holds no job",
        "give the folder that --print-command or --events wrote",
    )


@dataclass(frozen=True, slots=True)
class EndedRanks:
    """Ranks that have read, or were ended before.

    Attributes:
        spec: Their job.
        events: Where their files lie.
        snapshot: How they ended.
        is_cancelled: Whether the user stopped them.
    """

    spec: ReadSpec
    events: Path
    snapshot: Snapshot
    is_cancelled: bool = False

    @classmethod
    def by_now(cls, spec: ReadSpec, events: Path) -> EndedRanks:
        """As they stand by what they have told."""
        return cls(spec, events, snapshot_of(events))

    def view(self, rank: int) -> RankView:
        """How a rank ended; one that was never heard of, too."""
        ranks = self.snapshot.ranks
        return ranks[rank] if rank < len(ranks) else RankView(rank)

    def added(
        self, shares: Iterable[range], state: str, add: Callable[[dict[str, Any]], None]
    ) -> Iterator[tuple[int, range, str]]:
        """Add what each rank told of its share: the rank, its share, why some does not count.

        Args:
            shares: Of each rank, its items.
            state: Of the checkpoint (`division.state_of`).
            add: Takes a portion; raises ValueError, TypeError or KeyError for what cannot be.
        """
        for rank, share in enumerate(shares):
            wanted = {"run": self.spec.run, "rank": rank, "state": state}
            yield rank, share, _add_rank(self.events, share, wanted, add)

    def why_not(self, rank: int) -> str:
        """Why a rank has not told of all of its share; printable."""
        view, failures = self.view(rank), self.snapshot.failures
        own = [failure for failure in failures if failure.rank == rank]
        if own and not (self.is_cancelled and not own[0].is_root):
            return printable(f"it failed: {own[0].message}", 400)
        if self.is_cancelled:
            return "it was stopped"
        if view.status == "done":
            return _NOT_WHOLE
        others = [failure for failure in failures if failure.rank != rank]
        if others:
            first = others[0]
            who = "the job" if first.rank is None else f"rank {first.rank}"
            return printable(f"it was ended with the job: {who}: {first.message}", 400)
        if view.status == "waiting":
            return "nothing was ever heard of it"
        return "no end was heard of it"


def merge_shares(checkpoint: Checkpoint, storage: Storage, ended: EndedRanks) -> DeepReport:
    """The report of all ranks together."""
    plan = plan_payloads(checkpoint)
    tally = PayloadTally.of(checkpoint, plan)
    add = partial(add_portion, checkpoint, plan, tally)
    untold: list[Untold] = []
    ranks: list[RankShare] = []
    shares = cut(plan.length, ended.spec.world_size, unit_firsts(plan))
    for rank, share, why in ended.added(shares, state_of(checkpoint, plan), add):
        left = np.flatnonzero(~tally.tried[share.start : share.stop]) + share.start
        why_not = ""
        if len(left):
            why_not = why or ended.why_not(rank)
            untold.append(Untold(f"the share of rank {rank}", left, why_not))
        ranks.append(_share(plan, tally, share, ended.view(rank), why_not))
    report = conclude(checkpoint, storage, plan, tally, untold)
    checked = replace(report.checked, ranks=tuple(ranks))
    return replace(report, checked=checked, is_cancelled=ended.is_cancelled and bool(untold))


def merge_digests(checkpoint: Checkpoint, ended: EndedRanks) -> Fingerprints:
    """The digests of all ranks together.

    Raises:
        InspectError: A rank did not hash its share.
    """
    items, sizes = sealed_items(checkpoint)
    found = Fingerprints()

    def add(told: dict[str, Any]) -> None:
        add_digests(found, told, items[told["first"] : told["last"]])

    def is_known(is_tensor: bool, index: int) -> bool:
        if is_tensor:
            return index in found.tensors or index in found.tensor_errors
        return index in found.entries or index in found.entry_errors

    lost = []
    state = state_of(checkpoint, plan_payloads(checkpoint))
    for rank, share, why in ended.added(cut(sizes, ended.spec.world_size), state, add):
        left = sum(not is_known(*item) for item in items[share.start : share.stop])
        if left:
            of, why = plural(len(share), "entry", "entries"), why or ended.why_not(rank)
            lost.append(f"rank {rank} did not hash {left:,} of its {of}: {why}")
    if lost:
        more = f"; and {len(lost) - _MAX_LOST} more ranks" if len(lost) > _MAX_LOST else ""
        raise InspectError(
            f"{printable(checkpoint.path)} was not sealed: {'; '.join(lost[:_MAX_LOST])}{more}",
            "run it again: a seal is of everything",
        )
    return found


def merge_figures(checkpoint: Checkpoint, ended: EndedRanks) -> StatsReport:
    """The statistics of all ranks together.

    Returns:
        Tensors of a rank that did not read them are in `not_read`, and `lost` says why.
    """
    tensors = wanted_tensors(checkpoint, ended.spec.filter)
    figures = Figures()

    def add(told: dict[str, Any]) -> None:
        add_figures(checkpoint, figures, told, tensors[told["first"] : told["last"]])

    lost = []
    shares = cut(tensor_sizes(checkpoint, tensors), ended.spec.world_size)
    state = state_of(checkpoint, plan_payloads(checkpoint))
    for rank, share, why in ended.added(shares, state, add):
        left = [i for i in tensors[share.start : share.stop] if i not in figures.told]
        if not left:
            continue
        of, why = plural(len(share), "tensor"), why or ended.why_not(rank)
        lost.append(f"rank {rank} did not read {len(left):,} of its {of}: {why}")
        for index in left:
            if index not in figures.tensors and index not in figures.not_read:
                tensor = checkpoint.tensors[index]
                said = (
                    STOPPED if ended.is_cancelled else f"it is of the share of rank {rank}: {why}"
                )
                figures.not_read[index] = NotRead(index, tensor.fqn, tensor.num_elements, said)
    return StatsReport(
        tuple(figures.tensors[i] for i in tensors if i in figures.tensors),
        tuple(figures.not_read[i] for i in tensors if i in figures.not_read),
        figures.payload_bytes,
        ended.is_cancelled and bool(lost),
        lost=tuple(lost),
    )


def _add_rank(
    events: Path, share: range, wanted: Mapping[str, Any], add: Callable[[dict[str, Any]], None]
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
                is_int = type(first) is int and type(last) is int
                mine = slice(first - share.start, last - share.start)
                if not is_int or not share.start <= first <= last <= share.stop or seen[mine].any():
                    raise ValueError("not of its share, or told twice")
                add(told)
                seen[mine] = True
            except (ValueError, TypeError, KeyError):
                why = _NOT_WHOLE
    except OSError:
        pass  # It has written nothing; why, its events tell.
    return why


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


def judged(spec: ReadSpec, events: Path) -> tuple[str, int]:
    """What has come of a job by now, judged as of one process that reads all, and the exit code.

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
