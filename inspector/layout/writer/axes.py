"""`AxisRoles`: what each axis of a mesh does to the tensors, and what it may be for.

The rule this module keeps: what an axis does (which dims it cuts, in which order, and which
tensors it leaves whole) is read off the boxes and is as sure as they are. What an axis is *for*
is never in the file: it is evidence, never called certain, and says what it rests on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inspector.checkpoint.child.names import as_text
from inspector.layout.mesh import FAMILIES, Mesh
from inspector.layout.placements import ORDINALS, fit_of
from inspector.layout.writer.groups import (
    AXIS_WORDS,
    PlacementUse,
    TensorGroup,
    flat_pattern,
    groups_of,
    is_flat,
)
from inspector.layout.writer.survey import Assignment, Survey

__all__ = [
    "AxisRoles",
    "DimCut",
    "MeshAxis",
    "PlacementUse",
    "TensorGroup",
    "layout_of",
    "prefer_flat",
    "uses_of",
]

_KINDS = {
    "replicate": "data replicate",
    "shard": "FSDP",
    "tensor": "tensor parallel",
    "expert": "expert parallel",
    None: "not told",
}
_EXPERT = re.compile(r"(?:^|[._])(?:experts?|grouped_mlp)(?:[._]|$)", re.IGNORECASE)
_NEARLY_ALL = 0.9
_FEW = 0.1  # of the cut tensors: a lone one along another dim is no tensor parallelism
_SOME = 0.2  # columns and rows in turn
_MAX_CUTS = 12


@dataclass(frozen=True, slots=True)
class MeshAxis:
    """One axis of a mesh.

    Attributes:
        size: Ranks along it.
        kind: `replicate`, `shard`, `tensor` or `expert`: what it looks like. None if nothing
            tells. Never certain.
        evidence: What that rests on.
    """

    size: int
    kind: str | None
    evidence: str

    @property
    def name(self) -> str | None:
        """The field's name of such an axis (`dp_shard`), None if the kind is not told."""
        return None if self.kind is None else AXIS_WORDS[self.kind]


@dataclass(frozen=True, slots=True)
class DimCut:
    """Tensors whose dims are cut by the same axes in the same order.

    Attributes:
        dims: (dim, axes that cut it, the one that cuts first in front); empty for whole tensors.
        num_tensors: How many tensors.
        example: The first of them, by its raw name.
        experts: They are named as experts are.
    """

    dims: tuple[tuple[int, tuple[int, ...]], ...]
    num_tensors: int
    example: str
    experts: bool = False

    def words(self, num_axes: int) -> str:
        """`dim 0 cut by the second axis, then the first`."""
        if not self.dims:
            return "in one piece"
        if num_axes == 1:
            return " and ".join(f"dim {dim}" for dim, _ in self.dims) + " cut"
        return ", ".join(
            f"dim {dim} cut by the {', then the '.join(ORDINALS[a] for a in axes)} axis"
            for dim, axes in self.dims
        )


@dataclass(frozen=True, slots=True)
class AxisRoles:
    """What the axes of a mesh do, and what they look like.

    Attributes:
        mesh: The mesh, named for what its axes look like.
        axes: Its axes.
        cuts: What they do to the tensors, the most tensors first.
        looks_like: `FSDP over tensor parallel`, for people.
        speaks_against: What in the boxes does not go with the common name of the mesh (`fsdp`,
            `hsdp`); empty if nothing does.
        doubts: Other readings of the same boxes.
        groups: The tensors by the mesh they lie on: experts may have another than the rest.
    """

    mesh: Mesh
    axes: tuple[MeshAxis, ...]
    cuts: tuple[DimCut, ...]
    looks_like: str
    speaks_against: str = ""
    doubts: tuple[str, ...] = ()
    groups: tuple[TensorGroup, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Replicas and shards by the common rule: dim 0, or one copy each."""
        # Not with the shard axis first: so lie the pieces of FSDP beside context parallelism.
        return self.mesh.family in ("fsdp", "hsdp") and not self.speaks_against

    @property
    def cuts_in_two_orders(self) -> bool:
        """True if some axes cut one dim of some tensors in one order, of others in another."""
        orders: dict[tuple[int, frozenset[int]], set[tuple[int, ...]]] = {}
        for cut in self.cuts:
            for dim, axes in cut.dims:
                orders.setdefault((dim, frozenset(axes)), set()).add(axes)
        return any(len(found) > 1 for found in orders.values())

    @property
    def named_axes(self) -> str | None:
        """`dp_replicate:2,dp_shard:4,tp:2`, None if what an axis is for is not told."""
        if any(axis.name is None for axis in self.axes):
            return None
        return ",".join(f"{axis.name}:{axis.size}" for axis in self.axes)

    def shape_words(self) -> str:
        """`8 ranks as 2 x 4; dim 0 cut by the second axis`: what the boxes prove."""
        sizes = self.mesh.sizes
        ranks = f"{self.mesh.world_size} ranks"
        if len(sizes) > 1:
            ranks += f" as {' x '.join(map(str, sizes))}"
        cuts = [c for c in self.cuts if c.dims]
        parts = [
            f"{c.words(len(sizes))} ({'experts, ' if c.experts else ''}{_count(c.num_tensors)})"
            for c in cuts[:_MAX_CUTS]
        ]
        whole = sum(c.num_tensors for c in self.cuts if not c.dims)
        if whole:
            parts.append(f"{_count(whole)} in one piece")
        return "; ".join([ranks, *parts])


def _count(num: int) -> str:
    return f"{num} tensor" + ("" if num == 1 else "s")


def uses_of(survey: Survey, assignment: Assignment) -> list[PlacementUse]:
    """The tensors of an assignment by their placements."""
    result = []
    for number, fit, rows in assignment.rows():
        members = survey.classes[number]
        result.append(PlacementUse(members.cut, fit, members.tensors[rows]))
    return result


def layout_of(mesh: Mesh, uses: Sequence[PlacementUse], fqns: Sequence[str]) -> AxisRoles:
    """What the axes of a mesh do and look like.

    Args:
        mesh: The mesh; its family tells which axes may cut, not what they are for.
        uses: The tensors by their placements on it.
        fqns: Raw name of every tensor.
    """
    tally = _Tally(mesh.sizes, uses, fqns)
    kinds, reasons, against, doubts = _kinds(tally)
    family = _family(kinds) or mesh.family
    named = Mesh(family, mesh.sizes)
    axes = tuple(
        MeshAxis(size, kind, reason)
        for size, kind, reason in zip(mesh.sizes, kinds, reasons, strict=True)
    )
    return AxisRoles(
        named,
        axes,
        tally.cuts(),
        _looks_like(kinds, tally),
        against,
        tuple(doubts),
        groups_of(
            mesh.sizes,
            kinds,
            tally.dense,
            tally.experts,
            fqns,
            experts_differ=tally.experts_differ(),
        ),
    )


def _family(kinds: Sequence[str | None]) -> str | None:
    wanted = tuple(kinds)
    if wanted == ("expert",):
        return None
    return next((name for name, axes in FAMILIES.items() if axes == wanted), None)


def _looks_like(kinds: Sequence[str | None], tally: _Tally) -> str:
    known = tuple(k for k in kinds if k is not None)
    if len(known) < len(kinds):
        return ""
    words = {
        ("shard",): "FSDP",
        ("tensor",): "tensor parallel alone",
        ("replicate", "shard"): "HSDP",
        ("shard", "replicate"): "HSDP with the shard axis first",
        ("replicate", "tensor"): "data parallel replicas of tensor parallel (DDP x TP)",
        ("shard", "tensor"): "FSDP over tensor parallel",
        ("tensor", "shard"): "FSDP over tensor parallel, the tensor axis first",
        ("replicate", "shard", "tensor"): "HSDP over tensor parallel",
        ("shard", "expert"): "FSDP over all ranks, the experts cut by expert parallel first",
        ("replicate", "shard", "expert"): "HSDP, the experts cut by expert parallel first",
    }.get(known, " x ".join(_KINDS[k] for k in known))
    if "expert" not in known and tally.experts_differ():
        words += " for all but the experts, which lie otherwise: expert parallel"
    return words


class _Tally:
    """Counts of what each axis does, experts and all others apart."""

    def __init__(
        self, sizes: tuple[int, ...], uses: Sequence[PlacementUse], fqns: Sequence[str]
    ) -> None:
        self.sizes = sizes
        self.fqns = fqns
        # A hundred thousand names are looked through only if one of them could be stacked experts'.
        is_deep = any(len(use.cut.shape) >= 3 for use in uses)
        names_of_all = as_text(fqns) if is_deep else ""
        any_expert = "expert" in names_of_all.lower() or bool(_EXPERT.search(names_of_all))
        self.dense: list[PlacementUse] = []
        self.experts: list[PlacementUse] = []
        for use in uses:
            is_expert = np.zeros(len(use.tensors), dtype=bool)
            # Stacked experts alone: one tensor holds them all, along its first dim.
            if any_expert and len(use.cut.shape) >= 3:
                names = [fqns[t] for t in use.tensors.tolist()]
                is_expert = np.asarray([bool(_EXPERT.search(n)) for n in names], dtype=bool)
            for group, mask in ((self.dense, ~is_expert), (self.experts, is_expert)):
                if mask.any():
                    group.append(replace(use, tensors=use.tensors[mask]))

    def cut(self, uses: Iterable[PlacementUse]) -> list[PlacementUse]:
        return [use for use in uses if use.cut.touched]

    def num_whole(self) -> int:
        """Whole tensors that every sharding would have cut: no scalars, no single rows."""
        return sum(
            len(use.tensors)
            for use in self.dense
            if not use.cut.touched and use.cut.shape and use.cut.shape[0] > 1
        )

    def num_left_whole(self) -> int:
        """Of these the parameters: called as tensors that are cut are, or `weight` or `bias`.

        FSDP cuts every parameter that it is not told to leave alone; buffers stay whole.
        """
        whole = Counter(
            _last_part(self.fqns[t])
            for use in self.dense
            if not use.cut.touched and use.cut.shape and use.cut.shape[0] > 1
            for t in use.tensors.tolist()
        )
        counted = whole.keys() & {"weight", "bias"}
        # A hundred thousand names are looked through only for what is called otherwise.
        if whole.keys() - counted:
            counted |= whole.keys() & {
                _last_part(self.fqns[t])
                for use in self.cut(self.dense + self.experts)
                for t in use.tensors.tolist()
            }
        return sum(whole[part] for part in counted)

    def dims_of(self, uses: Iterable[PlacementUse], axis: int) -> dict[int, int]:
        """Dim -> tensors of two dims and more that the axis cuts there."""
        result: dict[int, int] = {}
        for use in uses:
            dim = use.fit.pattern.dims[axis]
            if dim is not None and len(use.cut.shape) > 1:
                result[dim] = result.get(dim, 0) + len(use.tensors)
        return result

    def num_unused(self, uses: Iterable[PlacementUse], axis: int) -> int:
        """Cut tensors that lie alike along an axis."""
        return sum(len(u.tensors) for u in uses if u.fit.pattern.dims[axis] is None)

    def flat_share(self, axes: Sequence[int]) -> float:
        """Share of the cut dense tensors that the axes cut as one longer axis would."""
        total = flat = 0
        for use in self.cut(self.dense):
            total += len(use.tensors)
            flat += len(use.tensors) if is_flat(use, axes, self.sizes) else 0
        return flat / total if total else 0.0

    def experts_differ(self) -> bool:
        """Whether experts are placed as no other tensor is."""
        dense = {u.fit.pattern for u in self.cut(self.dense)}
        experts = {u.fit.pattern for u in self.cut(self.experts)}
        return bool(dense and experts) and not experts & dense

    def cuts(self) -> tuple[DimCut, ...]:
        found: dict[tuple[tuple[tuple[int, tuple[int, ...]], ...], bool], list[int]] = {}
        for group, experts in ((self.dense, False), (self.experts, True)):
            for use in group:
                dims = tuple(
                    (d, use.fit.pattern.axes_of(d))
                    for d in sorted({d for d in use.fit.pattern.dims if d is not None})
                )
                found.setdefault((dims, experts), []).extend(use.tensors.tolist())
        ranking = sorted(found.items(), key=lambda item: -len(item[1]))
        return tuple(
            DimCut(dims, len(tensors), self.fqns[min(tensors)], experts)
            for (dims, experts), tensors in ranking
        )


def prefer_flat(survey: Survey, assignment: Assignment, layout: AxisRoles) -> bool:
    """Of two placements that give every rank the same box, takes the flat one beside experts.

    Whether there may be such.

    A router of four rows over eight ranks lies alike under `[Shard(0), Shard(0)]` and under a
    strided one; where the dense tensors lie flat, the first is what was meant.
    """
    if not any(axis.kind == "expert" for axis in layout.axes):
        return False
    sizes = assignment.mesh.sizes
    axes = [a for a, axis in enumerate(layout.axes) if axis.kind != "replicate"]
    flat = flat_pattern(axes, len(sizes))
    for number, found in enumerate(assignment.fits):
        cut = survey.classes[number].cut
        if not cut.touched or len(cut.shape) >= 3:
            continue
        other = fit_of(cut, sizes, flat)
        if other is not None:
            found[:] = [other if np.array_equal(other.cells, f.cells) else f for f in found]
    return True


_Kinds = tuple[list[str | None], list[str], str, list[str]]

_DOUBT_COPIES = (
    "That copies are data parallel's is what they look like; ranks of context parallelism hold "
    "copies as well."
)
_DOUBT_ONE_AXIS = (
    "That the axis is FSDP's is what it looks like; tensor parallel whose every layer is cut "
    "along dim 0 writes the same boxes."
)


def _kinds(tally: _Tally) -> _Kinds:
    """What each axis looks like, why, what speaks against it, and other readings."""
    uses = tally.cut(tally.dense + tally.experts)
    dense = tally.cut(tally.dense) or uses
    num_axes = len(tally.sizes)
    kinds: list[str | None] = [None] * num_axes
    reasons = [""] * num_axes
    cutting = []
    for axis in range(num_axes):
        if all(u.fit.pattern.dims[axis] is None for u in dense):
            kinds[axis] = "replicate"
            all_of_them = all(u.fit.pattern.dims[axis] is None for u in uses)
            held = "every tensor" if all_of_them else "every tensor but the experts"
            reasons[axis] = f"{held} is held {tally.sizes[axis]} times along it"
        else:
            cutting.append(axis)
    found = (
        _one_axis(tally, dense, kinds, reasons, cutting[0])
        if len(cutting) == 1
        else _several_axes(tally, dense, kinds, reasons, cutting)
    )
    if "replicate" in found[0]:
        found[3].append(_DOUBT_COPIES)
    return found


def _one_axis(
    tally: _Tally, dense: list[PlacementUse], kinds: list[str | None], reasons: list[str], axis: int
) -> _Kinds:
    dims = tally.dims_of(dense, axis)
    whole = tally.num_whole()
    shown = _dims_words(dims)
    doubts = []
    against = ""
    num_cut = sum(len(use.tensors) for use in dense)
    others = (sum(dims.values()) - dims.get(0, 0)) / max(1, sum(dims.values()))
    left = tally.num_left_whole()
    if left and not tally.cut(tally.dense):
        kinds[axis] = "expert"
        reasons[axis] = f"it cuts the experts alone, and leaves {_count(left)} whole"
        against = f"the experts alone are cut, and {_count(left)} left whole: FSDP cuts all"
    elif others < _FEW and left >= _FEW * num_cut:
        reasons[axis] = (
            f"it cuts dim 0, but leaves {_count(left)} whole: tensor parallel along dim 0 alone, "
            "or FSDP that was told to leave them"
        )
        against = f"dim 0 is cut, but {_count(left)} left whole: FSDP cuts dim 0 of all"
    elif others < _FEW:
        kinds[axis] = "shard"
        what = "every tensor that is cut" if not others else "nearly every tensor that is cut"
        reasons[axis] = f"it cuts dim 0 of {what}, as FSDP does"
        doubts.append(_DOUBT_ONE_AXIS)
    elif _SOME <= others <= 1 - _SOME and whole >= _FEW * num_cut:
        kinds[axis] = "tensor"
        reasons[axis] = f"it cuts {shown}, and leaves {_count(whole)} whole, as norms are"
        against = f"{shown} are cut, and {_count(whole)} left whole: FSDP cuts dim 0 of all"
    else:
        reasons[axis] = f"it cuts {shown}: FSDP with dims of choice, or tensor parallel"
        against = f"{shown} are cut: FSDP cuts dim 0 unless told otherwise"
    if tally.experts_differ():
        against = against or "the experts lie otherwise than all other tensors"
    elif tally.experts and kinds[axis] == "shard":
        doubts.append(
            "The experts are cut along dim 0 by the same axis: expert parallel over all of these "
            "ranks writes the same boxes."
        )
    return kinds, reasons, against, doubts


def _last_part(fqn: str) -> str:
    return fqn.rpartition(".")[2]


def _dims_words(dims: dict[int, int]) -> str:
    return " and ".join(f"dim {d} of {_count(n)}" for d, n in sorted(dims.items()))


def _several_axes(
    tally: _Tally,
    dense: list[PlacementUse],
    kinds: list[str | None],
    reasons: list[str],
    cutting: list[int],
) -> _Kinds:
    experts = tally.cut(tally.experts)
    if experts and tally.dense and tally.flat_share(cutting) >= _NEARLY_ALL:
        first = [use.fit.pattern.axes_of(0)[:1] for use in experts]
        outer = {axes[0] for axes in first if axes}
        if len(outer) == 1 and all(first):
            inner = outer.pop()
            for axis in cutting:
                is_expert = axis == inner
                kinds[axis] = "expert" if is_expert else "shard"
                reasons[axis] = (
                    "it cuts dim 0 of the experts first, while all other tensors lie flat over "
                    "the cutting axes together"
                    if is_expert
                    else "it cuts all tensors that are no experts flat with the other cutting "
                    "axes, and the experts after the expert axis"
                )
            against = "experts are cut in another order than all other tensors"
            return kinds, reasons, against, []
    tensor = [axis for axis in cutting if _like_tensor(tally, dense, axis)]
    sharded = [axis for axis in cutting if set(tally.dims_of(dense, axis)) <= {0}]
    if len(tensor) == 1 and set(cutting) - set(tensor) <= set(sharded):
        for axis in cutting:
            kinds[axis] = "tensor" if axis in tensor else "shard"
            dims = _dims_words(tally.dims_of(dense, axis))
            unused = tally.num_unused(dense, axis)
            reasons[axis] = f"it cuts {dims}" + (
                f", and leaves {_count(unused)} uncut, as norms are" if unused else ""
            )
        return kinds, reasons, "", []
    for axis in cutting:
        reasons[axis] = f"it cuts {_dims_words(tally.dims_of(dense, axis))}"
    return kinds, reasons, "nothing tells which axis is for what", []


def _like_tensor(tally: _Tally, dense: list[PlacementUse], axis: int) -> bool:
    """Whether an axis treats tensors differently: columns, rows, and norms left whole."""
    dims = tally.dims_of(dense, axis)
    strided = any(u.fit.pattern.strided and u.fit.pattern.axes_of(0)[:1] == (axis,) for u in dense)
    unused = tally.num_unused(dense, axis) > 0
    return len(dims) > 1 or (bool(dims) and (unused or strided))
