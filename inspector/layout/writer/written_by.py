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

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh
from inspector.layout.placements import TensorPlacement
from inspector.layout.placer import Placer
from inspector.layout.writer import evidence as say
from inspector.layout.writer.axes import AxisRoles, layout_of, prefer_flat, uses_of
from inspector.layout.writer.survey import Assignment, ranks_in
from inspector.layout.writer.walk import Outcome, Rule, Trial, Walk, try_meshes

if TYPE_CHECKING:
    from inspector.layout.writer.stages import StageGroups

__all__ = ["Deviation", "WrittenBy", "infer"]

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
    caveats = say.caveats(walk, best, layout) if layout is not None else ()
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
        placer=Placer(walk.checkpoint, walk, assignment),
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
    mesh, band = assignment.mesh, walk.checkpoint.provenance.torch_band or ""
    if "replicate" not in mesh.axes or outcome.rule is Rule.ALL:
        return False
    if not band or band.startswith(("1.", "2.0", "2.1", "2.2")):
        return False
    if walk.checkpoint.provenance.num_plans is not None:
        return False
    axis = mesh.axes.index("replicate")
    ranks = {rank for number in walk.touched for rank in ranks_in(walk.ranks[number]).tolist()}
    return len({mesh.coordinate(rank)[axis] for rank in ranks}) < 2


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
