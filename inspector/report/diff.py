"""A `Diff` -> text and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from inspector.checkpoint.text import (
    Number,
    format_bytes,
    format_count,
    format_placements,
    format_shape,
    json_number,
    plural,
    printable,
)
from inspector.checks.seal.manifest import Manifest
from inspector.diff.model import UNMOVED, VERDICTS, Diff, MeshSide, TensorDiff, unmoved_weights
from inspector.report.json import SCHEMA, dicts, dump, dump_list
from inspector.report.table import TextColumn, render_table

if TYPE_CHECKING:
    from inspector.report.documents.values import (
        ComparedTensor,
        DiffHead,
        DiffTolerance,
        SealDocument,
    )

__all__ = [
    "TENSOR_COLUMNS",
    "counts",
    "diff_json",
    "diff_text",
    "format_difference",
    "placement_lines",
    "seal_json",
    "seal_text",
    "side_words",
    "tensor_cells",
    "tolerance_lines",
    "unequal_tensors",
    "verdict_sentence",
]

# On a terminal, a list stops here.
_MAX_LISTED = 12
_MAX_ROWS = 200


def counts(diff: Diff) -> dict[str, int]:
    """How many tensors have each verdict, the worst verdict first; none that no tensor has."""
    found = Counter(tensor.verdict for tensor in diff.tensors)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


def format_difference(value: float | int | None) -> str:
    """A difference in four digits: `1.192e-07`, `3`; `-` for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def verdict_sentence(diff: Diff) -> str:
    """The verdict and what it rests on, in one line."""
    what = [plural(len(diff.tensors), "tensor")]
    if diff.num_entries:
        what.append(plural(diff.num_entries, "bytes entry", "bytes entries"))
    if diff.is_cancelled:
        return f"stopped before everything was compared; so far {_said(diff)}"
    if diff.verdict == "different":
        return f"different: {_said(diff)}"
    if diff.verdict == "unknown":
        if not diff.num_compared and not diff.not_compared and not diff.unreadable:
            return "unknown: there is nothing that both hold, so nothing was compared"
        if diff.damage and not diff.values_compared:
            sides = " and ".join(sorted({damage.side for damage in diff.damage}))
            verb = "are" if " " in sides else "is"
            return f"unknown: {sides} {verb} damaged, not everything is there; {_said(diff)}"
        return f"unknown: not everything could be compared; {_said(diff)}"
    if not diff.values_compared:
        return f"same structure: {' and '.join(what)}; values were not compared (--values does)"
    empty = sum(tensor.is_empty for tensor in diff.tensors)
    rest = f" ({format_count(empty)} without elements)" if empty else ""
    otherwise = sum(entry.verdict == "EXACT" and bool(entry.detail) for entry in diff.entries)
    if otherwise:
        entries = plural(otherwise, "bytes entry", "bytes entries")
        rest += f"; {entries} by value, pickled otherwise"
    return f"same: {' and '.join(what)}, every bit{rest}"


def _said(diff: Diff) -> str:
    found = counts(diff)
    if not diff.values_compared:
        # What was not asked for is no fault of the tensors.
        found.pop("NOT_COMPARED", None)
    num_empty = sum(tensor.is_empty for tensor in diff.tensors)
    if "NOT_COMPARED" in found:
        found["NOT_COMPARED"] -= num_empty
    parts = [f"{n:,} {verdict}" for verdict, n in found.items() if n]
    if parts and diff.num_entries:
        # Where there are both kinds, it says which is counted: the screen counts rows.
        first, verdict = parts[0].split()
        parts[0] = f"{first} {'tensor' if first == '1' else 'tensors'} {verdict}"
    for number, what in (
        (num_empty if diff.values_compared else 0, "without elements"),
        (len(diff.only_in_a), "only in A"),
        (len(diff.only_in_b), "only in B"),
        (len(diff.renamed), "renamed"),
    ):
        if number:
            parts.append(f"{number:,} {what}")
    for verdict in ("DIFFER", "NOT_COMPARED"):
        number = sum(entry.verdict == verdict for entry in diff.entries)
        if number:
            parts.append(f"{plural(number, 'bytes entry', 'bytes entries')} {verdict}")
    if not diff.values_compared:
        parts.append("values were not compared (--values does)")
    return ", ".join(parts) or "nothing differs"


# Text.


def diff_text(diff: Diff, width: int | None = None) -> Iterator[str]:
    """The lines of `diff`, for a terminal `width` cells wide; all of them if there is none."""
    yield f"A  {side_words(diff.a)}"
    yield f"B  {side_words(diff.b)}"
    yield verdict_sentence(diff)
    yield from _names("not whole, so nothing is called the same", diff.missing_parts, width)
    yield from _damage(diff, width)
    yield from tolerance_lines(diff)
    yield from _names("only in A", diff.only_in_a, width)
    yield from _names("only in B", diff.only_in_b, width)
    yield from _names(
        "optimizers with other numbers of parameter groups",
        [f"{name}: {a:,} in A, {b:,} in B" for name, a, b in diff.param_groups],
        width,
    )
    yield from _pairs("renamed, the content is the same", diff.renamed, width)
    yield from _pairs("likely renamed, by name, shape and dtype", diff.likely_renamed, width)
    placed = f"placed otherwise ({len(diff.placements):,}), which is no difference of content"
    yield from _listed(placed, placement_lines(diff), width)
    yield from _tensors(diff, width)
    yield from _exact(diff, width)
    yield from _names(UNMOVED, unmoved_weights(diff), width)
    listed = [entry for entry in diff.entries if entry.verdict != "EXACT"]
    if listed:
        yield ""
        rows = [
            (printable(entry.fqn), entry.verdict, printable(entry.detail))
            for entry in _cut(listed, width)
        ]
        yield from render_table(_ENTRY_COLUMNS, rows, width)
        yield from _more(len(listed), len(rows))


def side_words(side: MeshSide) -> str:
    """What one side is: path, mesh, counts."""
    by = side.mesh or "mesh unknown"
    entries = plural(side.num_bytes_entries, "bytes entry", "bytes entries")
    return f"{printable(side.path)}: {by}, {plural(side.num_tensors, 'tensor')}, {entries}"


def _cut(items: Sequence[Any], width: int | None, limit: int = _MAX_LISTED) -> Sequence[Any]:
    return items if width is None else items[:limit]


def _more(total: int, shown: int) -> Iterator[str]:
    if total > shown:
        yield f"  ... and {total - shown:,} more: send this to a file to see all"


def _names(title: str, names: Sequence[str], width: int | None) -> Iterator[str]:
    yield from _listed(f"{title} ({len(names):,})", names, width)


def _listed(head: str, items: Sequence[str], width: int | None) -> Iterator[str]:
    if items:
        yield ""
        yield head
        shown = _cut(items, width)
        yield from (f"  {printable(item)}" for item in shown)
        yield from _more(len(items), len(shown))


def _pairs(title: str, pairs: Sequence[tuple[str, str]], width: int | None) -> Iterator[str]:
    yield from _names(title, [f"{printable(a)} -> {printable(b)}" for a, b in pairs], width)


def placement_lines(diff: Diff) -> list[str]:
    """How tensors are placed otherwise, and how many: `3 tensors: [Shard(0)] in A, ...`."""
    found = Counter((change.a, change.b) for change in diff.placements)
    return [
        f"{plural(number, 'tensor')}: {format_placements(a)} in A, {format_placements(b)} in B"
        for (a, b), number in found.most_common()
    ]


TENSOR_COLUMNS = (
    # A name cut short is no name: figures go first.
    TextColumn("TENSOR", min_width=36),
    TextColumn("VERDICT"),
    TextColumn("DIFFERENT", "right", priority=1),
    TextColumn("OF", "right", priority=5),
    TextColumn("FIRST", priority=2),
    TextColumn("MAX ABS", "right", priority=3),
    TextColumn("AT", priority=4),
    TextColumn("MAX REL", "right", priority=6),
    TextColumn("ULPS", "right", priority=7),
    TextColumn("DETAIL", min_width=12, priority=8),
)
_STRUCTURE_COLUMNS = (
    TextColumn("TENSOR", min_width=16),
    TextColumn("VERDICT"),
    TextColumn("DETAIL"),
)
_ENTRY_COLUMNS = (
    TextColumn("BYTES ENTRY", min_width=16),
    TextColumn("VERDICT"),
    TextColumn("DETAIL", min_width=20),
)


def unequal_tensors(diff: Diff) -> list[TensorDiff]:
    """The tensors that are not the same, the worst verdict first."""
    unreadable = set(diff.unreadable)
    listed = [
        tensor
        for tensor in diff.tensors
        if tensor.verdict != "EXACT"
        and not tensor.is_empty
        and (diff.values_compared or tensor.verdict != "NOT_COMPARED" or tensor.fqn in unreadable)
    ]
    rank = {verdict: i for i, verdict in enumerate(VERDICTS)}
    return sorted(listed, key=lambda tensor: rank[tensor.verdict])


def _tensors(diff: Diff, width: int | None) -> Iterator[str]:
    listed = unequal_tensors(diff)
    if not listed:
        return
    yield ""
    shown = _cut(listed, width, _MAX_ROWS)
    if not any(tensor.num_compared for tensor in listed):
        rows: Iterable[Sequence[str]] = [
            (printable(tensor.fqn), tensor.verdict, printable(tensor.detail)) for tensor in shown
        ]
        yield from render_table(_STRUCTURE_COLUMNS, rows, width)
    else:
        yield from render_table(TENSOR_COLUMNS, [tensor_cells(tensor) for tensor in shown], width)
    yield from _more(len(listed), len(shown))


def _exact(diff: Diff, width: int | None) -> Iterator[str]:
    """The tensors that are the same, where others differ."""
    exact = [tensor.fqn for tensor in diff.tensors if tensor.verdict == "EXACT"]
    different = sum(tensor.is_different for tensor in diff.tensors)
    if not exact or not different:
        return
    yield ""
    yield f"EXACT, every bit ({len(exact):,})"
    # Where they are the exception each is of interest.
    shown = exact if width is None and len(exact) <= different else exact[:_MAX_LISTED]
    for name in shown:
        yield f"  {printable(name)}"
    if len(exact) > len(shown):
        yield f"  ... and {len(exact) - len(shown):,} more: --json names all"


def tensor_cells(tensor: TensorDiff) -> tuple[str, ...]:
    """One tensor as the cells of `TENSOR_COLUMNS`."""
    is_compared = tensor.num_compared > 0
    first = tensor.first_non_finite if tensor.verdict == "NON_FINITE" else tensor.first_index
    return (
        printable(tensor.fqn),
        tensor.verdict,
        f"{tensor.num_different:,}" if is_compared else "-",
        f"{tensor.num_elements:,}",
        "-" if first is None else format_shape(first),
        format_difference(tensor.max_abs),
        "-" if tensor.max_abs_index is None else format_shape(tensor.max_abs_index),
        format_difference(tensor.max_rel),
        "-" if tensor.max_ulps is None else f"{tensor.max_ulps:,}",
        printable(tensor.detail),
    )


def _damage(diff: Diff, width: int | None) -> Iterator[str]:
    for side, head in (("A", diff.a), ("B", diff.b)):
        found = [damage for damage in diff.damage if damage.side == side]
        if not found:
            continue
        yield ""
        shown = _cut(found, width)
        for damage in shown:
            yield f"{side} is damaged: {damage.code}: {printable(damage.message)}"
        yield from _more(len(found), len(shown))
        yield f"  (hsdp-inspect check {printable(head.path)} says all)"


def tolerance_lines(diff: Diff) -> Iterator[str]:
    """What CLOSE means, for every dtype of which a tensor is."""
    if diff.tolerance is None:
        return
    dtypes = dict.fromkeys(t.dtype_a for t in diff.tensors if t.verdict == "CLOSE")
    for dtype in dtypes:
        yield f"CLOSE for {dtype}: {diff.tolerance.bound(dtype)}"


# JSON.


def diff_json(diff: Diff) -> Iterator[str]:
    """The document of `diff --json`, in pieces."""
    side_a, side_b = dicts((diff.a, diff.b))
    head: DiffHead = {
        "schema": SCHEMA,
        "verdict": diff.verdict,
        "values_compared": diff.values_compared,
        "cancelled": diff.is_cancelled,
        "a": side_a,
        "b": side_b,
        "counts": counts(diff),
        "only_in_a": diff.only_in_a,
        "only_in_b": diff.only_in_b,
        "unmoved_weights": unmoved_weights(diff),
        "renamed": diff.renamed,
        "missing_parts": diff.missing_parts,
        "param_groups": [{"fqn": name, "num_a": a, "num_b": b} for name, a, b in diff.param_groups],
        "damage": dicts(diff.damage),
        "tolerance": _tolerance_json(diff),
        "likely_renamed": diff.likely_renamed,
        "placements_changed": dicts(diff.placements),
        "bytes": dicts(diff.entries),
    }
    yield dump(head)[:-1] + ', "tensors": '
    yield from dump_list(map(_tensor_json, diff.tensors))
    yield "}\n"


def _tolerance_json(diff: Diff) -> DiffTolerance | None:
    tolerance = diff.tolerance
    if tolerance is None:
        return None
    compared = (tensor for tensor in diff.tensors if tensor.num_compared)
    dtypes = dict.fromkeys(dtype for t in compared for dtype in (t.dtype_a, t.dtype_b))
    return {
        "atol": tolerance.atol,
        "rtol": {dtype: tolerance.rtol_of(dtype) for dtype in dtypes},
        "one_ulp_is_close": tolerance.neighbours_are_close,
    }


def _tensor_json(tensor: TensorDiff) -> ComparedTensor:
    return {
        "fqn": tensor.fqn,
        "verdict": tensor.verdict,
        "dtype_a": tensor.dtype_a or None,
        "dtype_b": tensor.dtype_b or None,
        "shape_a": tensor.shape_a,
        "shape_b": tensor.shape_b,
        "num_elements": tensor.num_elements,
        "num_compared": tensor.num_compared,
        "num_different": tensor.num_different,
        "first_index": tensor.first_index,
        "max_abs": _number(tensor.max_abs),
        "max_abs_index": tensor.max_abs_index,
        "max_rel": _number(tensor.max_rel),
        "max_ulps": tensor.max_ulps,
        "num_not_close": tensor.num_not_close,
        "num_non_finite": tensor.num_non_finite,
        "first_non_finite": tensor.first_non_finite,
        "num_nan_both": tensor.num_nan_both,
        "same_elements": tensor.is_reordered,
        "detail": tensor.detail,
    }


def _number(value: float | int | None) -> Number | None:
    return None if value is None else json_number(value)


# Seals.


def seal_text(manifest: Manifest, output: str, *, is_new: bool) -> Iterator[str]:
    """The lines of `seal`."""
    entries = plural(len(manifest.entries), "bytes entry", "bytes entries")
    what = f"{plural(len(manifest.tensors), 'tensor')}, {entries}"
    yield f"{printable(manifest.path)}: sealed {what} ({format_bytes(manifest.num_bytes)})"
    yield f"  content  sha256 {manifest.content_sha256}"
    if manifest.not_sealed:
        left = plural(len(manifest.not_sealed), "entry", "entries")
        first, why = next(iter(manifest.not_sealed.items()))
        yield f"  left out {left}, which could not be digested: {printable(first, 120)}: {why}"
    how = "seal" if is_new else "seal, there already, and the same"
    yield f"  {how}  {printable(output)}"


def seal_json(manifest: Manifest, output: str, *, is_new: bool) -> Iterator[str]:
    """The document of `seal --json`."""
    document: SealDocument = {
        "schema": SCHEMA,
        "path": manifest.path,
        "manifest": output,
        "written": is_new,
        "content_sha256": manifest.content_sha256,
        "tensors": len(manifest.tensors),
        "bytes": len(manifest.entries),
        "num_bytes": manifest.num_bytes,
        "not_sealed": [{"fqn": fqn, "why": why} for fqn, why in manifest.not_sealed.items()],
    }
    yield dump(document) + "\n"
