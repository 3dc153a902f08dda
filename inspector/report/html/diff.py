"""`diff` as a page: how two checkpoints differ, and which chunks the differences lie in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable
from inspector.diff.model import UNMOVED, Diff, TensorDiff, unmoved_weights
from inspector.report.diff import (
    TENSOR_COLUMNS,
    placement_lines,
    side_words,
    tensor_cells,
    tolerance_lines,
    unequal_tensors,
    verdict_sentence,
)
from inspector.report.html.findings import maps_of
from inspector.report.html.maps import MapMark
from inspector.report.html.markup import Html, bounded, tag
from inspector.report.html.page import Tone, facts, left_out, page, section, table

__all__ = ["diff_html"]

_MAX_ROWS = 500
_MAX_NAMES = 200
_MAX_NAMES_BYTES = 60_000
_MAX_MAPS = 6


def diff_html(diff: Diff, a: Checkpoint, b: Checkpoint, command: str) -> Iterator[str]:
    """The page of a comparison, in pieces."""
    exact = [tensor.fqn for tensor in diff.tensors if tensor.verdict == "EXACT"]
    yield from page(
        f"diff of {printable(diff.a.path, 300)} and {printable(diff.b.path, 300)}",
        _tone(diff),
        verdict_sentence(diff),
        (
            section("Compared", facts(_basis(diff))),
            _names("Not whole, so nothing is called the same", diff.missing_parts),
            section("Damage", _damage(diff)),
            section("Tensors that are not the same", _tensors(unequal_tensors(diff))),
            section("Bytes entries that are not the same", _entries(diff)),
            _names("Only in A", diff.only_in_a),
            _names("Only in B", diff.only_in_b),
            _pairs("Renamed, the content is the same", diff.renamed),
            _pairs("Likely renamed, by name, shape and dtype", diff.likely_renamed),
            _names("Placed otherwise, which is no difference of content", placement_lines(diff)),
            _names("EXACT, every bit", exact) if diff.is_different else "",
            _names(UNMOVED, unmoved_weights(diff)),
            section("Chunk maps of A", _maps(diff, a, "A")),
            section("Chunk maps of B", _maps(diff, b, "B")),
        ),
        command,
    )


def _tone(diff: Diff) -> Tone:
    """Green is for what was compared to the last bit."""
    if diff.is_cancelled or diff.verdict == "unknown":
        return "open"
    if diff.verdict == "different":
        return "bad"
    return "good" if diff.values_compared else "plain"


def _basis(diff: Diff) -> list[tuple[str, str]]:
    told = [("A", side_words(diff.a)), ("B", side_words(diff.b))]
    told += [("close", line) for line in tolerance_lines(diff)]
    if not diff.values_compared:
        told.append(("not checked", "values: without --values only the structure is compared"))
    if diff.not_compared and diff.values_compared:
        what = plural(diff.not_compared, "entry", "entries")
        told.append(("not checked", f"{what} could not be compared; see NOT_COMPARED"))
    return told


def _damage(diff: Diff) -> Html:
    return table(
        ("side", "code", "what"), [(d.side, d.code, d.message) for d in diff.damage[:_MAX_NAMES]]
    )


def _tensors(tensors: Sequence[TensorDiff]) -> Html:
    return table(
        tuple(column.title.lower() for column in TENSOR_COLUMNS),
        [tensor_cells(tensor) for tensor in tensors[:_MAX_ROWS]],
        numbers=frozenset(c.title.lower() for c in TENSOR_COLUMNS if c.align == "right"),
        names=frozenset({"tensor"}),
        num_more=len(tensors) - _MAX_ROWS,
    )


def _entries(diff: Diff) -> Html:
    listed = [entry for entry in diff.entries if entry.verdict != "EXACT"]
    return table(
        ("bytes entry", "verdict", "detail"),
        [(entry.fqn, entry.verdict, entry.detail) for entry in listed[:_MAX_ROWS]],
        names=frozenset({"bytes entry"}),
        num_more=len(listed) - _MAX_ROWS,
    )


def _names(title: str, names: Sequence[str]) -> Html:
    if not names:
        return Html("")
    items, _ = bounded(
        (tag("li", tag("code", printable(name, 300))) for name in names[:_MAX_NAMES]),
        _MAX_NAMES_BYTES,
    )
    return section(
        f"{title} ({len(names):,})", tag("ul", *items), left_out(len(names) - len(items))
    )


def _pairs(title: str, pairs: Sequence[tuple[str, str]]) -> Html:
    return _names(title, [f"{a} -> {b}" for a, b in pairs])


def _maps(diff: Diff, checkpoint: Checkpoint, side: str) -> Html:
    """Where the first different element lies, and what is damaged."""
    marks = []
    for tensor in unequal_tensors(diff):
        index = tensor.index_a if side == "A" else tensor.index_b
        first = tensor.first_non_finite if tensor.verdict == "NON_FINITE" else tensor.first_index
        if index >= 0 and first is not None:
            mark = MapMark(first, (1,) * len(first), "other", "broken line = first difference")
            marks.append((tensor.fqn, mark))
    return maps_of(checkpoint, marks, _MAX_MAPS)
