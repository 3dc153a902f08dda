"""Many findings of one fault told as one: what another check found, what all of a file have.

An entry that cannot be read cannot be compared with its seal either; that is one fault with one
way out, however many checks run into it. A file of zeros is one fault, too: ten thousand times the
same sentence hides what else there is, and the file is what is to be copied again. Which entries
it concerns is still told: `Finding.entries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding

__all__ = ["by_file", "without_echoes"]


def without_echoes(checkpoint: Checkpoint, findings: Iterable[Finding]) -> list[Finding]:
    """The findings, each echo said by the finding that it repeats, where there is one.

    That is an error of the same code about the same entry, or one about a file as a whole in
    which the entry has bytes.
    """
    found = list(findings)
    if not any(f.is_echo for f in found):
        return found
    of_entry: dict[tuple[str, str | None], int] = {}
    of_file: dict[str, int] = {}
    for number, finding in enumerate(found):
        if finding.is_echo or finding.severity != "error":
            continue
        for fqn in finding.entries:
            of_entry.setdefault((finding.code, fqn), number)
        if finding.fqn is not None:
            of_entry.setdefault((finding.code, finding.fqn), number)
        elif finding.file is not None:
            of_file.setdefault(finding.file, number)
    files = _Files(checkpoint) if of_file else None
    kept: list[int] = []
    num_echoes: dict[int, int] = {}
    for number, finding in enumerate(found):
        source = None
        if finding.is_echo and finding.fqn is not None:
            source = of_entry.get((finding.code, finding.fqn))
            if source is None and files is not None:
                paths = files.of(finding.fqn)
                source = next((of_file[path] for path in paths if path in of_file), None)
        if source is None:
            kept.append(number)
        else:
            num_echoes[source] = num_echoes.get(source, 0) + 1
    return [_with(found[number], num_echoes.get(number, 0)) for number in kept]


def _with(finding: Finding, num_echoes: int) -> Finding:
    """The finding, and that so many entries cannot be compared for its sake."""
    if not num_echoes:
        return finding
    what = "it" if finding.fqn is not None else plural(num_echoes, "entry", "entries") + " in it"
    message = f"{finding.message}; {what} cannot be compared with the seal"
    return replace(finding, message=message)


class _Files:
    """Which files an entry has bytes in, by its name."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tensors = {fqn: i for i, fqn in enumerate(checkpoint.columns.fqns)}
        self._entries = {entry.fqn: entry.file for entry in checkpoint.bytes_entries}

    def of(self, fqn: str) -> list[str]:
        """Raw paths."""
        index = self._tensors.get(fqn)
        if index is not None:
            numbers = sorted(set(self._checkpoint.columns.tensor(index).file.tolist()))
        else:
            numbers = [self._entries.get(fqn, -1)]
        return [self._checkpoint.files[number].path for number in numbers if number >= 0]


#: So many of one file are told one by one: where all are wrong in the same way, and otherwise.
_MAX_ALIKE, _MAX_OTHERS = 3, 50
_AGAIN = (
    "copy the file again from where it was written; if that file is the same, it and .metadata are "
    "of different saves: restore both from one, or take another checkpoint"
)


def by_file(findings: Iterable[Finding], num_payloads: Mapping[str, int]) -> list[Finding]:
    """The findings; of many that a file has of one code, one that says how many.

    Args:
        findings: About payloads, in the order of their bytes.
        num_payloads: Of each data file, by its path.
    """
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        key = finding.file or "", finding.code, _reason(finding)
        alike.setdefault(key, []).append(finding)
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for (file, code, reason), found in alike.items():
        key = (file, code, reason if len(found) > _MAX_ALIKE else "")
        groups.setdefault(key, []).extend(found)
    told: list[Finding] = []
    for (file, _, reason), found in groups.items():
        if file and len(found) > (_MAX_ALIKE if reason else _MAX_OTHERS):
            told.append(_together(found, reason, num_payloads.get(file, len(found))))
        else:
            told += found
    return told


def _reason(finding: Finding) -> str:
    """What is wrong with its payload, without where that lies."""
    file = printable(finding.file or "", 120)
    return finding.message.partition(f" in {file} at byte ")[2].partition(": ")[2]


def _together(found: list[Finding], reason: str, num_payloads: int) -> Finding:
    first = found[0]
    file = printable(first.file or "", 120)
    names = tuple(dict.fromkeys(f.fqn for f in found if f.fqn is not None))
    what = reason or f"{_reason(first)} (that is the first)"
    said = f"{len(found):,} of {num_payloads:,} payloads of {file}: {what}"
    if len(found) < num_payloads:
        said += f"; the first is of {printable(names[0], 200) if names else 'no entry'}"
    numbers = [f.num_elements for f in found]
    return replace(
        first,
        message=said,
        hint=_AGAIN if first.code in ("payload-unreadable", "payload-mismatch") else first.hint,
        fqn=None,
        offsets=None,
        sizes=None,
        num_elements=None if None in numbers else sum(n or 0 for n in numbers),
        entries=names,
    )
