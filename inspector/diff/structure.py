"""Two checkpoints' metadata, compared: `Structure`. Reads no payload.

The rule this module keeps: how a tensor is cut and where it lies is no difference of content; it
is told beside it. A name is looked for on the other side as it is, byte for byte; what names
alone suggest is in `likely_renamed` and believed by nobody. Shapes and dtypes that agree say
nothing of elements that no chunk holds, or that lie in no file: what `check` finds wrong with
those is told beside the structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_shape, printable
from inspector.checks.findings import Finding
from inspector.checks.folder.files import check_files
from inspector.checks.folder.stored import check_stored
from inspector.checks.metadata.entries import entries_of
from inspector.checks.metadata.metadata import check_metadata
from inspector.checks.metadata.structure import check_structure
from inspector.checks.payload.packed import without_packed
from inspector.diff.model import Damage, Diff, MeshSide, PlacementChange, Side, TensorDiff
from inspector.errors import StorageError
from inspector.layout.aliases import likely_renames
from inspector.layout.contents import missing_parts
from inspector.layout.writer.written_by import infer

__all__ = ["Pair", "Structure", "compare_structure", "likely_renames"]

#: What a tensor must share with another to be it under a new name: shape and dtype.
Kind = tuple[tuple[int, ...], str]

# torch's state dicts keep the names of its parameters in every group.
_GROUP = re.compile(r"(?:\A|(?<=\.))param_groups\.(\d{1,6})\.params(?:\.|\Z)")
_NOT_COMPARED = "values were not compared"
# Metadata that names code holds its tensors all the same.
_NO_DAMAGE = frozenset({"metadata-unsafe"})


@dataclass(frozen=True, slots=True)
class Pair:
    """An entry that both sides name: its raw name, and its index on either side."""

    fqn: str
    index_a: int
    index_b: int


@dataclass(frozen=True, slots=True)
class Structure:
    """What the metadata of two checkpoints have in common, and what not.

    Attributes:
        a, b: The two.
        pairs: Tensors that both name, with the same shape (the dtype may differ), in A's order.
        entries: Bytes entries that both name, in A's order.
        diffs: What is known of every tensor that both name, in A's order; the verdict of those
            in `pairs` is DTYPE or NOT_COMPARED until their values are compared.
        only_in_a, only_in_b: Names of tensors and bytes entries that the other side lacks.
        tensors_only_in_a, tensors_only_in_b: Indices of the tensors among them.
        likely_renamed: Pairs of these names that shape, dtype and the names themselves suggest.
        placements: Tensors that are placed otherwise.
        unreadable: Names that a side's metadata holds, but not as a value that can be read.
        sides: What A and B are.
        damage: What either side lacks.
        param_groups: As of `Diff`.
    """

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    entries: tuple[Pair, ...]
    diffs: tuple[TensorDiff, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    tensors_only_in_a: tuple[int, ...]
    tensors_only_in_b: tuple[int, ...]
    likely_renamed: tuple[tuple[str, str], ...]
    placements: tuple[PlacementChange, ...]
    unreadable: tuple[str, ...]
    sides: tuple[MeshSide, MeshSide]
    damage: tuple[Damage, ...] = ()
    param_groups: tuple[tuple[str, int, int], ...] = ()

    def both(self, pair: Pair) -> tuple[tuple[Side, int], tuple[Side, int]]:
        """Either side, and the index of an entry there."""
        return (self.a, pair.index_a), (self.b, pair.index_b)

    def num_bytes(self, pair: Pair) -> int:
        """Bytes of a tensor's elements on both sides together."""
        return sum(side.checkpoint.columns.num_bytes[index] for side, index in self.both(pair))

    def diff(self) -> Diff:
        """The comparison, as far as the metadata goes."""
        return Diff(
            *self.sides,
            tensors=self.diffs,
            num_entries=len(self.entries),
            only_in_a=self.only_in_a,
            only_in_b=self.only_in_b,
            likely_renamed=self.likely_renamed,
            placements=self.placements,
            unreadable=self.unreadable,
            missing_parts=tuple(
                f"{name}: {part}"
                for name, side in (("A", self.a), ("B", self.b))
                for part in missing_parts(side.checkpoint)
            ),
            damage=self.damage,
            param_groups=self.param_groups,
        )


def compare_structure(a: Side, b: Side, filter_text: str = "") -> Structure:
    """Compare what two checkpoints hold, without reading a payload.

    Args:
        a: The one.
        b: The other.
        filter_text: Only names that hold every word of it (a word after ! must not occur).
    """
    tensors_a, tensors_b = (_tensors(side.checkpoint, filter_text) for side in (a, b))
    entries_a, entries_b = (_entries(side.checkpoint, filter_text) for side in (a, b))
    bad = _malformed(a.checkpoint, filter_text) | _malformed(b.checkpoint, filter_text)
    names_a, names_b = {**tensors_a, **entries_a}, {**tensors_b, **entries_b}
    diffs, pairs = [], []
    for fqn, index in tensors_a.items():
        if fqn in tensors_b:
            found = _compared(a.checkpoint, b.checkpoint, fqn, index, tensors_b[fqn])
            diffs.append(found)
            if found.verdict != "SHAPE":
                pairs.append(Pair(fqn, index, tensors_b[fqn]))
        elif fqn in entries_b:
            diffs.append(_mixed(fqn, a.checkpoint, index, is_a=True))
    diffs += [
        _mixed(fqn, b.checkpoint, tensors_b[fqn], is_a=False)
        for fqn in entries_a
        if fqn in tensors_b
    ]
    unreadable = tuple(fqn for fqn in bad if fqn not in names_a or fqn not in names_b)
    for fqn in unreadable:
        detail = f"its metadata cannot be read: {printable(bad[fqn], 200)}"
        diffs.append(TensorDiff(fqn, "NOT_COMPARED", detail=detail))
    only_a = [fqn for fqn in names_a if fqn not in names_b and fqn not in bad]
    only_b = [fqn for fqn in names_b if fqn not in names_a and fqn not in bad]
    lone_a = {fqn: tensors_a[fqn] for fqn in only_a if fqn in tensors_a}
    lone_b = {fqn: tensors_b[fqn] for fqn in only_b if fqn in tensors_b}
    sides, placements = _placed(a.checkpoint, b.checkpoint, pairs)
    return Structure(
        a,
        b,
        tuple(pairs),
        tuple(Pair(n, entries_a[n], entries_b[n]) for n in entries_a if n in entries_b),
        tuple(diffs),
        tuple(only_a),
        tuple(only_b),
        tuple(lone_a.values()),
        tuple(lone_b.values()),
        tuple(likely_renames(_kinds(a.checkpoint, lone_a), _kinds(b.checkpoint, lone_b))),
        placements,
        unreadable,
        sides,
        (*_damage_of("A", a, filter_text), *_damage_of("B", b, filter_text)),
        _other_numbers(_num_groups(names_a), _num_groups(names_b)),
    )


def _num_groups(names: Iterable[str]) -> dict[str, int]:
    """How many groups each optimizer has, by the name of its list; none if it is flattened."""
    found: dict[str, set[str]] = {}
    for name in names:
        group = _GROUP.search(name) if "param_groups." in name else None
        if group is not None:
            found.setdefault(name[: group.start()] + "param_groups", set()).add(group[1])
    return {name: len(numbers) for name, numbers in found.items()}


def _other_numbers(a: dict[str, int], b: dict[str, int]) -> tuple[tuple[str, int, int], ...]:
    return tuple((name, n, b[name]) for name, n in a.items() if b.get(name, n) != n)


def _tensors(checkpoint: Checkpoint, filter_text: str) -> dict[str, int]:
    """Index by name, in the order of the state dict."""
    fqns = checkpoint.columns.fqns
    kept = set(matching(fqns, filter_text))
    return {fqns[i]: i for i in checkpoint.tensor_order.tolist() if i in kept}


def _entries(checkpoint: Checkpoint, filter_text: str) -> dict[str, int]:
    fqns = [entry.fqn for entry in checkpoint.bytes_entries]
    kept = set(matching(fqns, filter_text))
    return {fqns[i]: i for i in checkpoint.bytes_order.tolist() if i in kept}


def _malformed(checkpoint: Checkpoint, filter_text: str) -> dict[str, str]:
    """What is wrong, by name."""
    fqns = [part.fqn for part in checkpoint.malformed]
    kept = set(matching(fqns, filter_text))
    return {part.fqn: part.what for i, part in enumerate(checkpoint.malformed) if i in kept}


def _compared(a: Checkpoint, b: Checkpoint, fqn: str, index_a: int, index_b: int) -> TensorDiff:
    """A tensor's dtype and shape against the other's."""
    shape_a, shape_b = a.columns.shape(index_a), b.columns.shape(index_b)
    dtype_a, dtype_b = a.columns.dtype(index_a), b.columns.dtype(index_b)
    num_elements = a.columns.num_elements[index_a]
    detail, is_empty = _NOT_COMPARED, False
    if shape_a != shape_b:
        detail = f"{format_shape(shape_a)} in A, {format_shape(shape_b)} in B"
        if dtype_a != dtype_b:
            detail += f"; {dtype_a} in A, {dtype_b} in B"
    elif dtype_a != dtype_b:
        detail = f"{dtype_a} in A, {dtype_b} in B; {_NOT_COMPARED}"
    elif not num_elements:
        detail, is_empty = "it has no elements", True
    return TensorDiff(
        fqn,
        "SHAPE" if shape_a != shape_b else "DTYPE" if dtype_a != dtype_b else "NOT_COMPARED",
        index_a,
        index_b,
        dtype_a,
        dtype_b,
        shape_a,
        shape_b,
        num_elements,
        detail=detail,
        is_empty=is_empty,
    )


def _mixed(fqn: str, checkpoint: Checkpoint, index: int, *, is_a: bool) -> TensorDiff:
    """A name that is a tensor on one side and a bytes entry on the other."""
    dtype, shape = checkpoint.columns.dtype(index), checkpoint.columns.shape(index)
    num_elements = checkpoint.columns.num_elements[index]
    if is_a:
        detail = "a tensor in A, a bytes entry in B"
        return TensorDiff(
            fqn, "DTYPE", index, -1, dtype, "", shape, None, num_elements, detail=detail
        )
    detail = "a bytes entry in A, a tensor in B"
    return TensorDiff(fqn, "DTYPE", -1, index, "", dtype, None, shape, num_elements, detail=detail)


def _placed(
    a: Checkpoint, b: Checkpoint, pairs: Sequence[Pair]
) -> tuple[tuple[MeshSide, MeshSide], tuple[PlacementChange, ...]]:
    """The meshes of both sides, and the tensors whose placements differ."""
    by_a, by_b = infer(a), infer(b)
    changes = []
    for pair in pairs:
        on_a = by_a.placements(pair.index_a).placements
        on_b = by_b.placements(pair.index_b).placements
        if on_a != on_b:
            changes.append(PlacementChange(pair.fqn, on_a, on_b))
    sides = [
        MeshSide(
            checkpoint.path,
            None if by.mesh is None else str(by.mesh),
            checkpoint.num_tensors,
            len(checkpoint.bytes_entries),
        )
        for checkpoint, by in ((a, by_a), (b, by_b))
    ]
    return (sides[0], sides[1]), tuple(changes)


# -- what is damaged ---------------------------------------------------------------------------


def _damage_of(name: Literal["A", "B"], side: Side, filter_text: str = "") -> list[Damage]:
    """What a side lacks, or holds twice: errors by its metadata and the sizes of its files.

    Args:
        name: `A` or `B`.
        side: The checkpoint.
        filter_text: Only of names that it selects; what concerns a file is told whatever it is.
    """
    checkpoint = side.checkpoint
    entries = entries_of(checkpoint)
    found = [
        *check_metadata(checkpoint),
        *without_packed(checkpoint, side.storage, entries, check_structure(checkpoint, entries)),
        *check_stored(checkpoint, entries),
    ]
    try:
        found += check_files(checkpoint, side.storage, entries)[0]
    except StorageError as error:
        found.append(Finding("file-unreadable", printable(error.message, 300)))
    errors = [f for f in found if f.severity == "error" and f.code not in _NO_DAMAGE]
    kept = set(matching([finding.fqn or "" for finding in errors], filter_text))
    return [
        Damage(name, f.code, f.message, f.fqn)
        for i, f in enumerate(errors)
        if i in kept or f.fqn is None
    ]


# -- names ---------------------------------------------------------------------------------------


def _kinds(checkpoint: Checkpoint, tensors: Mapping[str, int]) -> dict[str, Kind]:
    columns = checkpoint.columns
    return {fqn: (columns.shape(i), columns.dtype(i)) for fqn, i in tensors.items()}
