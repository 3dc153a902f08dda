"""`WrittenBy`: the mesh that wrote a checkpoint, with evidence and doubt.

The rule this module keeps: sizes, boxes and owners are proven only if replaying DCP's writer
puts every item that was compared into the very file it lies in, and on no other mesh does. What
an axis is for is evidence; a mesh whose name says more than replicas and shards is never
certain, and one that explains under nine tenths of the items is never named.

What cannot be told, whatever is done: replicas outside the process group that saved (a shard
group alone looks like `fsdp:S`), another group that saved into the same folder before, plain
tensors from `Replicate()` DTensors, names of mesh axes, which rank was on which host, and sizes
hidden by tools that drop empty data files.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.cuts import Cut, analyse, cell_ids
from inspector.layout.geometry import num_pieces, unique
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh
from inspector.layout.placements import ORDINALS, Fit, TensorPlacement, fits, to_strings
from inspector.layout.writer import evidence as say
from inspector.layout.writer.axes import AxisRoles, layout_of, prefer_flat, uses_of
from inspector.layout.writer.survey import Assignment, ranks_in
from inspector.layout.writer.walk import BALANCED_SINCE, Outcome, Rule, Trial, Walk, try_meshes

if TYPE_CHECKING:
    from inspector.layout.writer.stages import StageGroups

__all__ = ["Deviation", "WrittenBy", "infer"]

_EITHER = "one chunk holds all of it: a plain tensor or Replicate(), which cannot be told apart"
_NO_ELEMENT = "it holds no element, in one empty chunk: every placement looks so"
_MAX_CUTS_SHOWN = 5


class Placer:
    """The placements of any one tensor, found when they are asked for and kept.

    Args:
        checkpoint: The checkpoint whose tensors it places.
        walk: Its items, where a mesh was inferred.
        assignment: The mesh and the placements on it; None if no mesh was inferred. Then
            placements are along one axis.
    """

    def __init__(
        self, checkpoint: Checkpoint, walk: Walk | None, assignment: Assignment | None
    ) -> None:
        self.checkpoint = checkpoint
        self._assignment = assignment
        self._kept: dict[Hashable, TensorPlacement] = {}
        self._walk = walk if assignment is not None else None
        num = checkpoint.num_tensors
        self._class = np.full(num if self._walk else 0, -1, dtype=np.int64)
        self._choice = np.zeros(len(self._class), dtype=np.int64)
        if self._walk is not None and assignment is not None:
            for number, members in enumerate(self._walk.classes):
                self._class[members.tensors] = number
                self._choice[members.tensors] = assignment.choice[number]

    def placements(self, index: int) -> TensorPlacement:
        """The placements of the tensor at `index`, and why."""
        number = int(self._class[index]) if len(self._class) else -1
        key = (number, int(self._choice[index])) if number >= 0 else self._looks(index)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._find(index, number)
        return found

    def holders(self, index: int) -> list[tuple[int, ...]] | None:
        """The ranks that hold each chunk of a tensor, the one that wrote it among them.

        Returns:
            Ranks by chunk, ascending; None without a mesh, if nothing explains the chunks, and
            for a tensor in one piece, which one rank alone may have had.
        """
        if self._assignment is None:
            return None
        number = int(self._class[index])
        cut = self._walk.classes[number].cut if number >= 0 and self._walk else self._cut(index)
        known = self._assignment.fits[number] if number >= 0 else []
        if number >= 0:
            fit = known[int(self._choice[index])] if known else None
        else:
            fit = self._best_fit(index, cut, self._assignment.mesh)
        if fit is None or not cut.touched:
            return None
        tensor = self.checkpoint.columns.tensor(index)
        cells = cell_ids(cut, tensor.offsets, tensor.sizes)
        return [tuple(np.flatnonzero(fit.cells == cell).tolist()) for cell in cells.tolist()]

    def _looks(self, index: int) -> Hashable:
        """What decides the placements of a tensor that the walk did not reach.

        Most tensors of a checkpoint look like many others, so that 100,000 of them are few cases.
        """
        tensor = self.checkpoint.columns.tensor(index)
        boxes = tensor.shape, tensor.offsets.tobytes(), tensor.sizes.tobytes()
        return boxes if self._assignment is None else (*boxes, tensor.file.tobytes())

    def _find(self, index: int, number: int) -> TensorPlacement:
        if self._assignment is None:
            return self._along_one_axis(index)
        mesh = self._assignment.mesh
        if number >= 0 and self._walk is not None:
            cut = self._walk.classes[number].cut
            known = self._assignment.fits[number]
            fit = known[int(self._choice[index])] if known else None
            return _explain(cut, fit, mesh)
        cut = self._cut(index)
        return _explain(cut, self._best_fit(index, cut, mesh), mesh)

    def _cut(self, index: int) -> Cut:
        tensor = self.checkpoint.columns.tensor(index)
        repeated = self.checkpoint.per_rank_metadata
        return analyse(tensor.offsets, tensor.sizes, tensor.shape, repeated=repeated)

    def _best_fit(self, index: int, cut: Cut, mesh: Mesh) -> Fit | None:
        """For a tensor that the walk did not reach: the fit whose ranks are the files' ranks."""
        found = fits(cut, mesh.sizes, tuple(axis != "replicate" for axis in mesh.axes))
        if not found:
            return None
        tensor = self.checkpoint.columns.tensor(index)
        ranks = self.checkpoint.chunk_ranks(tensor.file)
        cells = cell_ids(cut, tensor.offsets, tensor.sizes)
        return max(found, key=lambda f: int(((f.cells[ranks] == cells) & (ranks >= 0)).sum()))

    def _along_one_axis(self, index: int) -> TensorPlacement:
        """Placements without a mesh: over as many shards as there are chunks."""
        cut = self._cut(index)
        if cut.starts is None:
            return TensorPlacement(None, (cut.problem,))
        if not cut.touched:
            return TensorPlacement(("Replicate()",), (_whole(cut),))
        if len(cut.touched) > 1:
            dims = " and ".join(map(str, cut.touched))
            return TensorPlacement(None, (f"cut along dims {dims}: no one axis does that",))
        dim = cut.touched[0]
        shards = self._num_shards(cut, dim)
        found = fits(cut, (shards,), (True,))
        if not found:
            return TensorPlacement(None, (f"{_cuts(cut, dim)}: not torch.chunk's rule",))
        why = f"{_cuts(cut, dim)}, as torch.chunk does for {shards} shards"
        return TensorPlacement((f"Shard({dim})",), (why,))

    def _num_shards(self, cut: Cut, dim: int) -> int:
        pieces = len((cut.starts or ())[dim])
        world_size = self.checkpoint.world_size or 0
        if cut.has_empty and 0 < world_size <= 1 << 16:
            if num_pieces(cut.shape[dim], (world_size,)) == pieces:
                return world_size
            return pieces + 1
        return pieces


def _explain(cut: Cut, fit: Fit | None, mesh: Mesh) -> TensorPlacement:
    if cut.starts is None:
        return TensorPlacement(None, (cut.problem,))
    if fit is None:
        cuts = "; ".join(_cuts(cut, d) for d in cut.touched)
        return TensorPlacement(None, (f"{cuts}: no placement on {mesh} does that",))
    if fit.pattern.flat:
        dim = cut.touched[0]
        ranks = math.prod(mesh.sizes[a] for a in fit.pattern.axes_of(dim))
        why = (
            f"as torch.chunk does over {ranks} ranks as one axis: Shard({dim}) on a flattened mesh"
        )
        return TensorPlacement(None, (f"{_cuts(cut, dim)}, {why}",))
    placements = to_strings(fit.pattern, mesh.sizes)
    if not cut.touched:
        return TensorPlacement(placements, (_whole(cut),))
    evidence = []
    for dim in cut.touched:
        axes = fit.pattern.axes_of(dim)
        over = ", then ".join(f"{mesh.sizes[a]} ranks of {_axis(mesh, a)}" for a in axes)
        evidence.append(f"{_cuts(cut, dim)}, as torch.chunk does over {over}")
    if cut.has_empty:
        evidence.append("an empty chunk stands for the ranks that hold nothing (DTensor)")
    elif fit.empties_missing:
        evidence.append("no empty chunk for the ranks that hold nothing (ShardedTensor)")
    return TensorPlacement(placements, tuple(evidence))


def _axis(mesh: Mesh, axis: int) -> str:
    """An axis by its name where that is what it does, by its place where it is a guess."""
    plain = mesh.family in ("fsdp", "hsdp")
    return mesh.axes[axis] if plain else f"the {ORDINALS[axis]} axis"


def _whole(cut: Cut) -> str:
    return _NO_ELEMENT if 0 in cut.shape else _EITHER


def _cuts(cut: Cut, dim: int) -> str:
    """`dim 0 is cut at 3, 6, 9`."""
    inner = (cut.starts or ())[dim][1:].tolist()
    if not inner:
        return f"dim {dim} is in one piece, with an empty one after it"
    shown = ", ".join(map(str, inner[:_MAX_CUTS_SHOWN]))
    if len(inner) > _MAX_CUTS_SHOWN:
        shown += f", ... ({len(inner)} places)"
    return f"dim {dim} is cut at {shown}"


_MAX_DEVIATIONS = 1_000
_MUST_HOLD = 0.8
_WORTH_NAMING = 0.9


@dataclass(frozen=True, slots=True)
class Deviation:
    """An item that lies in another rank's file than the replay says.

    `offsets` is None for a bytes entry. `fqn` is raw. `possible` tells whether that rank holds
    the item at all on the mesh: if not, its place cannot come of how the work was shared out.
    """

    fqn: str
    offsets: tuple[int, ...] | None
    predicted: int
    actual: int
    possible: bool = True


@dataclass(frozen=True, slots=True)
class WrittenBy:
    """Who wrote a checkpoint, as far as its chunks and file names tell.

    Attributes:
        mesh: The mesh, or None if none can be told.
        world_size: Ranks of the group that saved, or None if no file names a rank.
        certain: Sizes, boxes and owners are proven, and the name of the mesh says no more than
            they do: replicas, and shards of dim 0.
        evidence: Plain ASCII sentences that a person can check.
        writer: `DTensor`, `ShardedTensor`, `DTensor or ShardedTensor`, `FSDP1 flat parameters`
            or `plain` (no tensor is cut).
        num_items: Items (chunks and bytes entries) that were compared.
        num_placed: Those that lie where the replay puts them.
        sampled: Only the first items of DCP's walk were compared.
        deviating: Items that lie elsewhere, at most 1,000.
        proven: The replay explains every compared item, and on this mesh alone: its sizes, which
            rank holds which box, and who wrote each. Not what the axes are for.
        layout: What the axes of the mesh do, and look like; None without a mesh.
        partition: Groups of ranks that share no tensor (pipeline stages), where one mesh does not
            explain the items and they do; never certain.
        caveats: What the files cannot tell; also among `evidence`.
        replayed_on: The mesh that `deviating` is measured against: `mesh`, or the closest one
            where none is named.
    """

    mesh: Mesh | None
    world_size: int | None
    certain: bool
    evidence: tuple[str, ...]
    placer: Placer = field(repr=False)
    writer: str = "plain"
    num_items: int = 0
    num_placed: int = 0
    sampled: bool = False
    deviating: tuple[Deviation, ...] = ()
    proven: bool = False
    layout: AxisRoles | None = None
    partition: StageGroups | None = None
    caveats: tuple[str, ...] = ()
    replayed_on: Mesh | None = None

    @property
    def score(self) -> float:
        return self.num_placed / self.num_items if self.num_items else 0.0

    @property
    def num_stages(self) -> int:
        """Pipeline stages that the files look like; 0 for none."""
        return 0 if self.partition is None else len(self.partition.stages)

    def placements(self, index: int) -> TensorPlacement:
        """How the tensor at `index` of `Checkpoint.tensors` is placed; cheap, and kept."""
        return self.placer.placements(index)

    def holders(self, index: int) -> list[tuple[int, ...]] | None:
        """The ranks that hold each chunk of the tensor at `index`; as sure as `proven` is.

        None where nothing tells: without a mesh, and for a tensor in one piece.
        """
        if self.partition is not None:
            return self.partition.holders(self.placer.checkpoint, index)
        return self.placer.holders(index)


def infer(checkpoint: Checkpoint, *, max_items: int = 100_000) -> WrittenBy:
    """Finds the mesh that wrote a checkpoint.

    Every mesh whose size is the number of ranks is tried that could have made these chunks:
    FSDP, HSDP in both orders of axes, FSDP over tensor parallelism, and that replicated.
    """
    world_size = checkpoint.world_size
    if world_size is None:
        return _without_mesh(checkpoint, "No data file names the rank that wrote it.")
    if world_size > MAX_WORLD_SIZE:
        return _without_mesh(
            checkpoint,
            f"A data file names rank {world_size - 1}; meshes of more than {MAX_WORLD_SIZE} "
            "ranks are not tried.",
        )
    if world_size == 1:
        return _without_mesh(checkpoint, "One rank wrote everything.")
    walk = Walk(checkpoint, max_items)
    if walk.touched:
        return _judge(walk, try_meshes(walk))
    # lazy: as in `_judge`
    from inspector.layout.writer.stages import find_stages, replicas_explain

    explained = replicas_explain(walk)
    if explained is None or explained >= _WORTH_NAMING:
        return _without_mesh(checkpoint, *say.nothing_cut(walk))
    partition = find_stages(walk, better_than=explained)
    if partition is not None:
        return _in_stages(walk, partition)
    return _without_mesh(checkpoint, *say.not_replicated(walk, explained))


def _in_stages(walk: Walk, partition: StageGroups) -> WrittenBy:
    return replace(
        _without_mesh(walk.checkpoint, *say.stages(walk, partition)),
        writer=say.writer(walk.checkpoint, walk, None),
        partition=partition,
        num_items=partition.num_items,
        num_placed=partition.num_placed,
    )


def _without_mesh(checkpoint: Checkpoint, *evidence: str) -> WrittenBy:
    return WrittenBy(
        mesh=None,
        world_size=checkpoint.world_size,
        certain=False,
        evidence=evidence,
        placer=Placer(checkpoint, None, None),
        writer=say.writer(checkpoint, None, None),
    )


def _judge(walk: Walk, trials: list[Trial]) -> WrittenBy:
    """Makes the answer from the trials, the best of them first."""
    best, others = trials[0], trials[1:]
    outcome = best.outcome
    assert outcome is not None  # noqa: S101  (the first is always replayed)
    if not best.proven():
        # lazy: what one mesh explains has no stages
        from inspector.layout.writer.stages import find_stages

        partition = find_stages(walk, better_than=outcome.score)
        if partition is not None:
            return _in_stages(walk, partition)
    held = best.support() >= _MUST_HOLD
    unseen = held and _unseen_replicas(walk, best.assignment, outcome)
    alone = unseen and (outcome.rule is not Rule.LOWEST or outcome.num_owned > 0)
    believed = held and outcome.score >= _WORTH_NAMING and not alone
    rivals = [t for t in others if t.proven()] if best.proven() else []
    # Megatron-Core's planner gives each item to its main replica, so no replay proves replicas.
    of_dcp = walk.checkpoint.provenance.num_plans is None
    proven = believed and best.proven() and not rivals and of_dcp and not unseen
    assignment = best.assignment if believed else None
    layout = None if assignment is None else _layout(walk, assignment)
    placer = Placer(walk.checkpoint, walk, assignment)
    caveats = say.caveats(walk, best, layout) if layout is not None else []
    if (
        layout is not None
        and layout.cuts_in_two_orders
        and _unseen_orders(walk, placer, layout.mesh)
    ):
        proven = False
        caveats.append(say.UNSEEN_ORDERS)
    return WrittenBy(
        mesh=None if layout is None else layout.mesh,
        world_size=walk.world_size,
        certain=proven and layout is not None and layout.is_plain,
        evidence=(
            *(say.unseen_replicas(walk) if unseen else ()),
            *say.judgement(walk, best, others, rivals, layout, proven=proven),
        )
        if not alone
        else tuple(say.unseen_replicas(walk)),
        placer=placer,
        writer=say.writer(walk.checkpoint, walk, assignment),
        num_items=outcome.num_items,
        num_placed=outcome.num_placed,
        sampled=outcome.sampled or walk.partial,
        deviating=_deviations(walk, best.assignment, outcome),
        proven=proven,
        layout=layout,
        caveats=tuple(caveats),
        replayed_on=best.assignment.mesh if held else None,
    )


def _unseen_replicas(walk: Walk, assignment: Assignment, outcome: Outcome) -> bool:
    """Whether one replica alone wrote all pieces: then a sub-group may have held them alone.

    Before torch 2.3 that is how DCP shared out the work, whatever the ranks held.
    """
    mesh, release = assignment.mesh, walk.checkpoint.provenance.first_torch
    if "replicate" not in mesh.axes or outcome.rule is Rule.ALL:
        return False
    if release is None or release < BALANCED_SINCE:
        return False
    if walk.checkpoint.provenance.num_plans is not None:
        return False
    axis = mesh.axes.index("replicate")
    ranks = {rank for number in walk.touched for rank in ranks_in(walk.ranks[number]).tolist()}
    return len({mesh.coordinate(rank)[axis] for rank in ranks}) < 2


def _unseen_orders(walk: Walk, placer: Placer, mesh: Mesh) -> bool:
    """Whether replicas hold pieces by an order of axes in which they were never seen to write.

    Of replicas whose ranks stand in another order, each writes tensors that look cut in an order
    of its own. So where copies are cut by the same axes in two orders, each replica must have
    written, in both, a piece that the order moves.
    """
    checkpoint = walk.checkpoint
    columns = checkpoint.columns
    wrote: dict[tuple[str, ...], dict[tuple[str, ...], set[tuple[int, ...]]]] = {}
    for index in np.flatnonzero(columns.num_chunks_of > 1).tolist():
        placements = placer.placements(index).placements
        if placements is None or "Replicate()" not in placements:
            continue
        # `_StridedShard(0, sf=2)` and `Shard(0)` cut the same dim.
        axes = tuple(text.lstrip("_").replace("Strided", "").split(",")[0] for text in placements)
        axes = tuple(text.rstrip(")") for text in axes)
        replicas = wrote.setdefault(axes, {}).setdefault(placements, set())
        cut = [n for n, text in enumerate(placements) if text != "Replicate()"]
        ranks = checkpoint.chunk_ranks(columns.tensor(index).file)
        for rank in unique(ranks[ranks >= 0]).tolist():
            where = mesh.coordinate(rank)
            shares = {where[n] / max(mesh.sizes[n] - 1, 1) for n in cut}
            # The first and the last piece lie with the same rank in every order.
            if len(shares) > 1:
                replicas.add(tuple(c for n, c in enumerate(where) if n not in cut))
    return any(
        len(orders) > 1 and any(len(found) < _num_replicas(axes, mesh) for found in orders.values())
        for axes, orders in wrote.items()
    )


def _num_replicas(axes: tuple[str, ...], mesh: Mesh) -> int:
    return math.prod(
        size for text, size in zip(axes, mesh.sizes, strict=True) if text.startswith("Replicate")
    )


def _layout(walk: Walk, assignment: Assignment) -> AxisRoles:
    """What the axes do and look like; the assignment's mesh takes the name that goes with it."""
    fqns = walk.checkpoint.columns.fqns
    layout = layout_of(assignment.mesh, uses_of(walk, assignment), fqns)
    if prefer_flat(walk, assignment, layout):
        layout = layout_of(assignment.mesh, uses_of(walk, assignment), fqns)
    assignment.mesh = layout.mesh
    return layout


def _deviations(walk: Walk, assignment: Assignment, outcome: Outcome) -> tuple[Deviation, ...]:
    """The first of the items that lie elsewhere."""
    if not len(outcome.wrong):
        return ()
    items = walk.items(assignment, one_row_alone=outcome.one_row_alone)
    rows = outcome.wrong[:_MAX_DEVIATIONS]
    found = zip(
        walk.item_names(items, rows),
        outcome.predicted[: len(rows)].tolist(),
        items.actual[rows].tolist(),
        items.inside[rows].tolist(),
        strict=True,
    )
    return tuple(Deviation(*name, *values) for name, *values in found)
