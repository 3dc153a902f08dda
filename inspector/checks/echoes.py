"""Findings that only repeat what another check found, folded into that one.

An entry that cannot be read cannot be compared with its seal either; that is one fault with one
way out, however many checks run into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural
from inspector.checks.findings import Finding

__all__ = ["without_echoes"]


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
