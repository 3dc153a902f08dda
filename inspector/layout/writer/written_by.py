"""`WrittenBy`: the mesh that wrote a checkpoint, with evidence and doubt.

The rule this module keeps: a mesh is certain only if replaying DCP's writer on it puts every
item that was compared into the very file it lies in, and no other mesh does.

What cannot be told, whatever is done: replicas outside the process group that saved (a shard
group alone looks like `fsdp:S`), plain tensors from `Replicate()` DTensors, names of mesh axes,
which rank was on which host, and sizes hidden by tools that drop empty data files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh
from inspector.layout.placements import TensorPlacement
from inspector.layout.placer import Placer
from inspector.layout.writer import evidence as say
from inspector.layout.writer.survey import Assignment
from inspector.layout.writer.walk import Outcome, Trial, Walk, try_meshes

__all__ = ["Candidate", "Deviation", "WrittenBy", "infer"]

_MAX_DEVIATIONS = 1_000
_WORTH_NAMING = 0.8


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mesh that was tried, and how many items it puts where they are.

    Attributes:
        mesh: The mesh.
        num_placed: Items that are where the replay puts them; at most that many if not
            `replayed`.
        num_items: Items that were compared.
        replayed: False if a bound was enough to tell that it loses.
    """

    mesh: Mesh
    num_placed: int
    num_items: int
    replayed: bool = True

    @property
    def score(self) -> float:
        return self.num_placed / self.num_items if self.num_items else 0.0


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
        certain: The replay explains every compared item, and on this mesh alone.
        evidence: Plain ASCII sentences that a person can check.
        alternatives: Other meshes that were tried, best first.
        writer: `DTensor`, `ShardedTensor`, `DTensor or ShardedTensor`, `FSDP1 flat parameters`
            or `plain` (no tensor is cut).
        num_items: Items (chunks and bytes entries) that were compared.
        num_placed: Those that lie where the replay puts them.
        sampled: Only the first items of DCP's walk were compared.
        deviating: Items that lie elsewhere, at most 1,000.
        deviating_by_rank: How many there are in each rank's file.
    """

    mesh: Mesh | None
    world_size: int | None
    certain: bool
    evidence: tuple[str, ...]
    placer: Placer = field(repr=False)
    alternatives: tuple[Candidate, ...] = ()
    writer: str = "plain"
    num_items: int = 0
    num_placed: int = 0
    sampled: bool = False
    deviating: tuple[Deviation, ...] = ()
    deviating_by_rank: dict[int, int] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return self.num_placed / self.num_items if self.num_items else 0.0

    def placements(self, index: int) -> TensorPlacement:
        """How the tensor at `index` of `Checkpoint.tensors` is placed; cheap, and kept."""
        return self.placer.placements(index)


def infer(checkpoint: Checkpoint, *, max_items: int = 100_000) -> WrittenBy:
    """Finds the mesh that wrote a checkpoint.

    Every mesh whose size is the number of ranks is tried that could have made these chunks:
    FSDP, HSDP in both orders of axes, FSDP over tensor parallelism, and that replicated.

    Args:
        checkpoint: The checkpoint.
        max_items: Items that one replay walks at most; beyond it the answer is sampled.
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
    if not walk.touched:
        return _without_mesh(checkpoint, *say.nothing_cut(walk))
    return _judge(walk, try_meshes(walk))


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
    believed = best.support() >= _WORTH_NAMING
    rivals = [t for t in others if t.proven()] if best.proven() else []
    assignment = best.assignment if believed else None
    deviating, by_rank = _deviations(walk, best.assignment, outcome)
    return WrittenBy(
        mesh=best.assignment.mesh if believed else None,
        world_size=walk.world_size,
        certain=believed and best.proven() and not rivals,
        evidence=tuple(say.judgement(walk, best, others, rivals, believed=believed)),
        placer=Placer(walk.checkpoint, walk, assignment),
        alternatives=tuple(_candidate(t, walk) for t in others),
        writer=say.writer(walk.checkpoint, walk, assignment),
        num_items=outcome.num_items,
        num_placed=outcome.num_placed,
        sampled=outcome.sampled or walk.partial,
        deviating=deviating,
        deviating_by_rank=by_rank,
    )


def _candidate(trial: Trial, walk: Walk) -> Candidate:
    mesh, outcome = trial.assignment.mesh, trial.outcome
    if outcome is None:
        return Candidate(mesh, trial.assignment.num_possible, walk.num_items, replayed=False)
    return Candidate(mesh, outcome.num_placed, outcome.num_items)


def _deviations(
    walk: Walk, assignment: Assignment, outcome: Outcome
) -> tuple[tuple[Deviation, ...], dict[int, int]]:
    """The items that lie elsewhere, and how many of them each rank's file holds."""
    if not len(outcome.wrong):
        return (), {}
    items = walk.items(assignment, one_row_alone=outcome.one_row_alone)
    ranks, counts = np.unique(items.actual[outcome.wrong], return_counts=True)
    rows = outcome.wrong[:_MAX_DEVIATIONS]
    found = zip(
        walk.item_names(items, rows),
        outcome.predicted[: len(rows)].tolist(),
        items.actual[rows].tolist(),
        items.inside[rows].tolist(),
        strict=True,
    )
    deviations = tuple(Deviation(*name, *values) for name, *values in found)
    return deviations, dict(zip(ranks.tolist(), counts.tolist(), strict=True))
