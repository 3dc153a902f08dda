"""`Finding`: one thing that is wrong. `Report`: all of them, what was checked, the verdict.

The codes, and what each means, are the contract with scripts and CI; none is renamed or dropped
without raising the JSON's `schema`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast

__all__ = [
    "CODES",
    "INTEGRITY",
    "SEVERITIES",
    "Against",
    "Coverage",
    "DeepReport",
    "Finding",
    "NotChecked",
    "RankShare",
    "Report",
    "Severity",
    "Verdict",
    "verdict",
]

Severity = Literal["error", "warning", "note"]
#: The worst first.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
Verdict = Literal["sound", "damaged", "suspicious", "unreadable"]

#: Megatron's digests of the files.
INTEGRITY = "integrity.json"

#: Every finding code with its usual severity.
CODES: dict[str, Severity] = {
    "metadata-missing": "error",
    "save-unfinished": "error",
    "metadata-truncated": "error",
    "metadata-unreadable": "error",
    "metadata-unsafe": "error",
    "metadata-unknown-class": "note",
    "metadata-trailing-bytes": "note",
    "metadata-version": "note",
    "rank-missing": "error",
    "name-unprintable": "warning",
    "entry-malformed": "error",
    "path-escapes": "error",
    "chunk-gap": "error",
    "chunk-overlap": "error",
    "chunk-duplicate": "error",
    "chunk-out-of-bounds": "error",
    "chunk-unstored": "error",
    "storage-orphan": "warning",
    "byte-range-overlap": "error",
    "range-too-short": "error",
    "optimizer-incomplete": "warning",
    "local-state": "warning",
    "family-hole": "warning",
    "alias-shape": "warning",
    "file-missing": "error",
    "file-truncated": "error",
    "file-unreadable": "error",
    "file-unreferenced": "warning",
    "file-leftover": "note",
    "file-newer": "warning",
    "bytes-unreferenced": "note",
    "part-missing": "error",
    "part-damaged": "error",
    "not-resumable": "warning",
    "tracker-mismatch": "warning",
    "sidecar-times": "warning",
    "index-mismatch": "warning",
    "payload-unreadable": "error",
    "payload-mismatch": "error",
    "payload-corrupt": "error",
    "payload-unsafe": "error",
    "replicas-differ": "error",
    "payload-format": "note",
    "payload-no-checksum": "note",
    "payload-foreign-class": "note",
    "payload-unproven": "note",
    "packed-tensor": "note",
    "step-mismatch": "warning",
    "values-nan": "warning",
    "values-inf": "warning",
    "seal-mismatch": "error",
    "seal-missing": "error",
    "seal-extra": "warning",
    "integrity-mismatch": "error",
    "integrity-unreadable": "warning",
}

_SUSPICIOUS = frozenset({"metadata-unsafe", "payload-unsafe", "path-escapes"})
_UNREADABLE = frozenset(
    {"metadata-missing", "save-unfinished", "metadata-truncated", "metadata-unreadable"}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: One of `CODES`; `plan` and the screen have a few of their own.
        severity: `error`, `warning` or `note`; if not given, the usual one of its code (an error
            where it is none of `CODES`).
        message: What is wrong, where and how much, in one plain sentence. Printable.
        torch_does: What `dcp.load` would do about it today.
        hint: What to do next.
        fqn: Raw name of the entry concerned, or None.
        file: Raw path of the file concerned, or None.
        offsets: Lower corner of the box concerned, or None.
        sizes: Extent of that box, or None.
        num_elements: Elements concerned, exact, or None.
        is_echo: True if it says no more than that an entry cannot be compared, so that it goes
            where another finding tells why (see `echoes`).
        other_fqn: Raw name that the entry seems to have on the other side, or None.
        entries: Raw names of the entries concerned, where one finding tells of many.
    """

    code: str
    severity: Severity = field(default=cast("Severity", ""), kw_only=True)
    message: str
    torch_does: str = ""
    hint: str = ""
    fqn: str | None = None
    file: str | None = None
    offsets: tuple[int, ...] | None = None
    sizes: tuple[int, ...] | None = None
    num_elements: int | None = None
    is_echo: bool = False
    other_fqn: str | None = None
    entries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", CODES.get(self.code, "error"))


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something that was left out, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Against:
    """Digests that were kept elsewhere, and compared.

    Attributes:
        kind: `seal`, or `integrity.json`.
        path: Where they are, raw.
        num_compared: How many tensors and bytes entries (of `integrity.json`: files) it has.
        num_matching: How many of them are as it says.
    """

    kind: str
    path: str
    num_compared: int
    num_matching: int


@dataclass(frozen=True, slots=True)
class RankShare:
    """What one of several ranks was to read of the payloads, and what it did.

    Attributes:
        rank: Its number.
        host: Where it ran; raw, empty if it never said.
        payloads, num_bytes: Its share.
        payloads_read, bytes_read: Those of them that it told of.
        why_not: Why that is not all; empty if it is.
    """

    rank: int
    host: str
    payloads: int
    num_bytes: int
    payloads_read: int
    bytes_read: int
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was looked at: counts, what it was compared with, and what was not looked at.

    `num_unread` payloads should have been read and were not, for a reason that is none of theirs
    (a package that is not installed, a storage that does not answer); `not_checked` says which.
    `ranks` are those who read them, where several did.
    """

    tensors: int = 0
    chunks: int = 0
    files: int = 0
    payloads: int = 0
    payload_bytes: int = 0
    not_checked: tuple[NotChecked, ...] = ()
    against: tuple[Against, ...] = ()
    num_unread: int = 0
    ranks: tuple[RankShare, ...] = ()


@dataclass(frozen=True, slots=True)
class DeepReport:
    """What a check that reads many bytes found, and what it read; if cancelled, until then."""

    findings: tuple[Finding, ...]
    checked: Coverage
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The judgement of one checkpoint."""

    path: str
    findings: tuple[Finding, ...] = ()
    checked: Coverage = field(default_factory=Coverage)
    num_bytes_entries: int = 0

    @property
    def is_empty(self) -> bool:
        """True if there was nothing to check: an empty state dict, whatever lies beside it."""
        nothing = not (self.checked.tensors or self.num_bytes_entries)
        return nothing and verdict(self.findings) == "sound"

    @property
    def verdict(self) -> Verdict:
        """The sum of the findings. What holds nothing is never sound: it is suspicious.

        Nor is what was to be read to its last byte, and could not be: it is unreadable here.
        """
        if self.is_empty:
            return "suspicious"
        return "unreadable" if self.is_unread else verdict(self.findings)

    @property
    def is_unread(self) -> bool:
        """True if nothing is wrong with what was read, but not all could be that should be."""
        return bool(self.checked.num_unread) and verdict(self.findings) == "sound"

    @property
    def exit_code(self) -> int:
        """0 sound, 1 something is wrong, 2 it could not be read or there was nothing to check.

        Also 2 where a rank did not read its share, whatever the others found.
        """
        if self.is_empty or any(rank.why_not for rank in self.checked.ranks):
            return 2
        return {"sound": 0, "damaged": 1, "suspicious": 1, "unreadable": 2}[self.verdict]

    def count(self, severity: Severity) -> int:
        """How many findings are of a severity."""
        return sum(f.severity == severity for f in self.findings)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """`unreadable` before `suspicious` before `damaged` before `sound`, as the contract says.

    A file whose pickle names code is suspicious even where it cannot be read to its end.
    """
    errors = {f.code for f in findings if f.severity == "error"}
    if errors & _SUSPICIOUS:
        return "suspicious"
    if errors & _UNREADABLE:
        return "unreadable"
    return "damaged" if errors else "sound"
