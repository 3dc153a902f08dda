"""Findings on the page: what is wrong, what torch does, what to do; and where, as pictures.

Both are bounded: of a checkpoint with sixty thousand findings the page names the worst few
hundred and counts the rest, and a few entries are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.report.html.maps import MAX_MARKS, MapMark, MarkKind, chunk_map
from inspector.report.html.markup import Html, bounded, join, tag
from inspector.report.html.page import facts

__all__ = ["MAX_BYTES", "MAX_FINDINGS", "MAX_MAPS", "finding_maps", "findings_list", "maps_of"]

#: Findings that are written out; the rest are counted by their code.
MAX_FINDINGS = 300
#: Bytes that they, and pictures, may take.
MAX_BYTES = 700_000
#: Entries that are drawn.
MAX_MAPS = 12
_MAX_WORDS = 1_000

_KINDS: dict[str, MarkKind] = {
    "chunk-gap": "gap",
    "chunk-overlap": "overlap",
    "chunk-duplicate": "overlap",
}
# They name a file: what is lost are the chunks in it.
_IN_FILES = ("file-missing", "file-truncated", "file-unreadable")


def findings_list(
    findings: Sequence[Finding], limit: int = MAX_FINDINGS, max_bytes: int = MAX_BYTES
) -> Html:
    """What is wrong, each with what torch does and what to do; the rest counted by code."""
    shown, _ = bounded(map(_finding, findings[:limit]), max_bytes)
    rest = Counter((f.severity, f.code) for f in findings[len(shown) :])
    if not rest:
        return join(shown)
    items = [tag("li", f"{n:,} more {severity} {code}") for (severity, code), n in rest.items()]
    return join(
        (*shown, tag("p", "Left out here, for length (--json has all):"), tag("ul", *items))
    )


def _finding(finding: Finding) -> Html:
    told = [
        (label, printable(said, _MAX_WORDS))
        for label, said in (
            ("what", finding.message),
            ("torch", finding.torch_does),
            ("do", finding.hint),
        )
        if said
    ]
    head = (tag("b", finding.severity.upper()), tag("code", finding.code))
    return tag("div", *head, facts(told), class_=f"finding {finding.severity}")


def maps_of(
    checkpoint: Checkpoint, marks: Iterable[tuple[str, MapMark | None]], limit: int = MAX_MAPS
) -> Html:
    """Pictures of the tensors that marks are of, in that order.

    Args:
        checkpoint: Where they are from.
        marks: The raw name of a tensor, and what is to be pointed at in it (None: nothing);
            what is no tensor is passed over.
        limit: Tensors that are drawn; how many are not is said.
    """
    wanted: dict[str, list[MapMark]] = {}
    for fqn, mark in marks:
        told = wanted.setdefault(fqn, [])
        if mark is not None:
            told.append(mark)
    if not wanted:
        return Html("")
    index = {fqn: i for i, fqn in enumerate(checkpoint.columns.fqns) if fqn in wanted}
    known = [fqn for fqn in wanted if fqn in index]
    made = (
        chunk_map(checkpoint, checkpoint.columns.tensor(index[fqn]), wanted[fqn])
        for fqn in known[:limit]
    )
    drawn, _ = bounded(made, MAX_BYTES)
    left = len(known) - len(drawn)
    more = tag("p", f"{plural(left, 'more entry', 'more entries')} not drawn.") if left else ""
    return join((*drawn, more))


def finding_maps(
    checkpoint: Checkpoint, findings: Iterable[Finding], limit: int = MAX_MAPS
) -> Html:
    """Pictures of the entries that findings point into: gaps, overlaps, chunks that are lost."""
    findings = list(findings)
    return maps_of(checkpoint, [*_boxes(findings), *_lost(checkpoint, findings)], limit)


def _boxes(findings: Iterable[Finding]) -> Iterable[tuple[str, MapMark]]:
    for finding in findings:
        if finding.fqn is None or finding.offsets is None or not finding.sizes:
            continue
        kind = _KINDS.get(finding.code, "other")
        what = f"{_DRAWN[kind]} = {finding.code}"
        yield finding.fqn, MapMark(finding.offsets, finding.sizes, kind, what)


_DRAWN: dict[MarkKind, str] = {
    "gap": "red stripes",
    "overlap": "orange stripes",
    "other": "broken line",
}


def _lost(checkpoint: Checkpoint, findings: Iterable[Finding]) -> Iterable[tuple[str, MapMark]]:
    """Chunks in files that are not there, or that reach past a file's end."""
    codes = {f.file: f.code for f in findings if f.code in _IN_FILES and f.severity == "error"}
    columns = checkpoint.columns
    for number, file in enumerate(checkpoint.files):
        code = codes.get(file.path)
        if code is None:
            continue
        is_lost = columns.file == number
        if code == "file-truncated":
            end = columns.byte_offset + columns.byte_length
            is_lost &= end > (file.num_bytes or 0)
        chunks = np.flatnonzero(is_lost)
        tensors = np.searchsorted(columns.chunk_start, chunks, side="right") - 1
        first = np.flatnonzero(np.diff(tensors, prepend=-1))
        for place, members in enumerate(np.split(chunks, first[1:]) if len(chunks) else ()):
            tensor = columns.tensor(int(tensors[first[place]]))
            start = int(columns.chunk_start[tensor.index])
            # Of those that will not be drawn, one mark counts them.
            for chunk in members[: MAX_MARKS if place < MAX_MAPS else 1].tolist():
                yield tensor.fqn, _chunk_mark(tensor, chunk - start, code)


def _chunk_mark(tensor: Tensor, chunk: int, code: str) -> MapMark:
    offsets, sizes = tensor.offsets[chunk].tolist(), tensor.sizes[chunk].tolist()
    return MapMark(tuple(offsets), tuple(sizes), "other", f"{_DRAWN['other']} = {code}")
