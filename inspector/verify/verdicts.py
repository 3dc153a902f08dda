"""The verdict on one entry, merged over the ranks that looked at it and the phases of the job.

The rule this module keeps: the worst word wins, and EXACT is said only where every rank that is
expected to look has looked and found no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["EXACT", "MAX_FAULTS", "WORDS", "Fault", "PhaseVerdict", "TensorView", "worst"]

EXACT = "EXACT"
#: Words that are no difference: the entry was not compared, and that is said.
_UNCOMPARED = ("SKIPPED", "NOT_COMPARED", "NOT_VERIFIED")
_SEVERITY = {
    EXACT: 0,
    "EMPTY": 0,
    **dict.fromkeys(_UNCOMPARED, 1),
    "DTYPE": 3,
    "SHAPE": 3,
    "DIFFER": 4,
    "MISSING": 5,
    "FAILED": 6,
}
#: Every word that a rank says of an entry.
WORDS = frozenset(_SEVERITY)
#: Of one entry, so many faults are kept; the rest are only counted.
MAX_FAULTS = 16


def severity(verdict: str) -> int:
    """How bad a word is: 0 equal, 1 not compared, more than 1 wrong. An unknown word is wrong."""
    return _SEVERITY.get(verdict, 2)


def worst(a: str, b: str) -> str:
    """The worse of two words."""
    return b if severity(b) > severity(a) else a


class Fault(NamedTuple):
    """What one rank found wrong with one entry in one phase; as the `tensor` event tells it."""

    rank: int
    hop: int
    phase: str
    verdict: str
    num_elements: int | None
    num_different: int | None
    first_index: tuple[int, ...] | None
    expected: str
    found: str
    file: str
    detail: str
    #: Elements that no stored chunk holds, or None if nobody counted.
    num_missing: int | None = None

    @property
    def num_wrong(self) -> int | None:
        """Elements that differ and those that are missing; None if nobody counted."""
        if self.num_different is None and self.num_missing is None:
            return None
        return (self.num_different or 0) + (self.num_missing or 0)


class PhaseVerdict(NamedTuple):
    """The verdict of one phase on one entry.

    `verdict` is that of the ranks that have reported; `num_ranks` of `num_expected` have.
    """

    hop: int
    phase: str
    verdict: str
    num_ranks: int
    num_expected: int

    @property
    def is_complete(self) -> bool:
        return self.num_ranks >= self.num_expected


class TensorView(NamedTuple):
    """Everything told of one entry so far.

    Attributes:
        fqn: Raw name.
        verdict: The worst word; an empty string while no phase is complete and none is bad.
        phases: By phase, in the order of their first report.
        faults: What is wrong, at most `MAX_FAULTS`.
        num_faults: How many reports were bad in all.
        detail: What the first report that was no plain EXACT said.
        is_asked: The user left it out.
        has_elements: A rank held elements of it.
        via: The way it was loaded, as the ranks say; empty if they do not.
    """

    fqn: str
    verdict: str
    phases: tuple[PhaseVerdict, ...]
    faults: tuple[Fault, ...]
    num_faults: int
    detail: str
    is_asked: bool = False
    has_elements: bool = True
    via: str = ""

    @property
    def is_bad(self) -> bool:
        return severity(self.verdict) > 1 if self.verdict else False


@dataclass(slots=True)
class _Phase:
    verdict: str = EXACT
    ranks: int = 0  # a bit per rank, so that a report told twice counts once
    expected: int = 0


@dataclass(slots=True)
class TensorMerge:
    """The reports on one entry; `view` gives what they come to."""

    fqn: str
    phases: dict[tuple[int, str], _Phase] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0
    detail: str = ""
    is_asked: bool = False
    has_elements: bool = False
    via: str = ""

    def add(self, rank: int, hop: int, event: dict[str, Any], world_size: int) -> None:
        """Take one `tensor` event, which passed the gate of `events`."""
        phase = event.get("phase") or ""
        verdict = event.get("verdict") or "?"
        # Who says nothing of elements has some.
        self.has_elements |= verdict != "EMPTY" and event.get("num_elements") != 0
        self.is_asked |= event.get("asked") or False
        self.via = self.via or event.get("via") or ""
        key = (hop, phase)
        merge = self.phases.get(key)
        if merge is None:
            merge = self.phases[key] = _Phase()
        merge.expected = event.get("ranks") or world_size
        is_told = bool(merge.ranks >> rank & 1)
        merge.ranks |= 1 << rank
        if verdict == EXACT:
            return
        merge.verdict = worst(merge.verdict, verdict)
        self.detail = self.detail or event.get("detail") or ""
        if severity(verdict) > 1:
            fault = _fault(rank, hop, phase, verdict, event)
            if is_told and fault in self.faults:
                return
            self.num_faults += 1
            if len(self.faults) < MAX_FAULTS:
                self.faults.append(fault)

    def view(self) -> TensorView:
        """The value of it as of now."""
        phases = tuple(
            PhaseVerdict(hop, phase, merge.verdict, merge.ranks.bit_count(), merge.expected)
            for (hop, phase), merge in self.phases.items()
        )
        told = EXACT
        for phase in phases:
            told = worst(told, phase.verdict)
        # One bad report settles it; a good word needs every rank's.
        if severity(told) == 0 and not any(phase.is_complete for phase in phases):
            told = ""
        return TensorView(
            self.fqn,
            told,
            phases,
            tuple(self.faults),
            self.num_faults,
            self.detail,
            self.is_asked,
            self.has_elements,
            self.via,
        )


def _fault(rank: int, hop: int, phase: str, verdict: str, event: dict[str, Any]) -> Fault:
    index = event.get("first_index")
    return Fault(
        rank,
        hop,
        phase,
        verdict,
        event.get("num_elements"),
        event.get("num_different"),
        None if index is None else tuple(index),
        event.get("expected") or "",
        event.get("found") or "",
        event.get("file") or "",
        event.get("detail") or "",
        event.get("num_uncovered"),
    )
