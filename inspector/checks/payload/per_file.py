"""What is wrong with many payloads of one file, told once: a file of zeros is one fault.

Ten thousand times the same sentence hides what else there is; and what they have in common, the
file, is what is to be copied again. Which entries it concerns is still told: `Finding.entries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from inspector.checkpoint.text import printable
from inspector.checks.findings import Finding

__all__ = ["by_file"]

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
