"""`Trial`: one mesh, tried: what it can explain, and what replaying DCP's writer on it says.

The rule this module keeps: a mesh is dropped without a replay only if a bound shows that it
cannot beat the best two.
"""

from __future__ import annotations

from dataclasses import dataclass

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import Mesh
from inspector.layout.survey import Assignment
from inspector.layout.walk import Outcome, Rule, Walk

__all__ = ["Trial", "try_meshes"]

_MAX_REPLAYS = 24
_LOOK_AT = 8
_TRY_OWNED = 4
_MAX_OWNED_ITEMS = 200_000


@dataclass(frozen=True, slots=True)
class Trial:
    """A mesh that was tried.

    Attributes:
        assignment: The mesh and the placements on it.
        outcome: What the replay says, or None if a bound was enough to tell that it loses.
    """

    assignment: Assignment
    outcome: Outcome | None

    def support(self) -> float:
        """Share of the cut tensors' items that lie with a rank that holds them."""
        return self.assignment.num_touched_possible / max(1, self.assignment.num_touched)

    def proven(self) -> bool:
        outcome = self.outcome
        return outcome is not None and 0 < outcome.num_items == outcome.num_placed


def _meshes(world_size: int) -> list[tuple[Mesh, tuple[bool, ...]]]:
    """All meshes of a size, and which axes may shard; the plainest first."""
    divisors = [n for n in range(2, world_size // 2 + 1) if world_size % n == 0]
    pairs = [(n, world_size // n) for n in divisors]
    result: list[tuple[Mesh, tuple[bool, ...]]] = [(Mesh("fsdp", (world_size,)), (True,))]
    result += [(Mesh("hsdp", pair), (False, True)) for pair in pairs]
    result += [(Mesh("hsdp_reversed", pair), (True, False)) for pair in pairs]
    result += [(Mesh("fsdp_tp", pair), (True, True)) for pair in pairs]
    for replicas, rest in pairs:
        for shards in (n for n in divisors if n < rest and rest % n == 0):
            mesh = Mesh("hsdp_tp", (replicas, shards, rest // shards))
            result.append((mesh, (False, True, True)))
    return result


def _assignments(walk: Walk) -> list[Assignment]:
    """Every mesh that may explain a cut tensor, each layout once, and FSDP in any case."""
    classes = walk.classes
    # The largest, and those in the most pieces: these are cut by all axes if any are.
    largest = sorted(walk.touched, key=lambda i: -classes[i].chunks.size)[:_LOOK_AT]
    finest = sorted(walk.touched, key=lambda i: -len(classes[i].cut.cells))[:_LOOK_AT]
    some = list(dict.fromkeys(largest + finest))
    result: list[Assignment] = []
    seen: set[int] = set()
    for mesh, can_shard in _meshes(walk.world_size):
        if result and not walk.may_fit(some, mesh, can_shard):
            continue
        assignment = walk.assign(mesh, can_shard)
        if assignment.signature not in seen:
            seen.add(assignment.signature)
            result.append(assignment)
    return result


def try_meshes(walk: Walk) -> list[Trial]:
    """Replays the meshes that may win, best bound first; the best result comes first."""
    rules = _rules(walk.checkpoint)
    assignments = _assignments(walk)
    ranking = sorted(range(len(assignments)), key=lambda i: (-assignments[i].num_possible, i))
    results: list[Trial] = []
    scores: list[float] = []
    for rank in ranking:
        assignment = assignments[rank]
        outcome = None
        bound = assignment.num_possible / max(1, walk.num_items)
        second = sorted(scores)[-2] if len(scores) > 1 else 0.0
        # The best bound is replayed in any case, though it may be that it explains nothing.
        if not scores or (len(scores) < _MAX_REPLAYS and bound > second):
            outcome = walk.replay(assignment, rules)
            scores.append(outcome.score)
        results.append(Trial(assignment, outcome))
    if not any(trial.proven() for trial in results):
        results = _with_owned(walk, results, rules)
    place = {id(a): i for i, a in enumerate(assignments)}
    results.sort(
        key=lambda r: (
            r.outcome is None,
            -(r.outcome.score if r.outcome else 0.0),
            -r.assignment.num_possible,
            place[id(r.assignment)],
        )
    )
    return results


def _with_owned(walk: Walk, results: list[Trial], rules: tuple[Rule, ...]) -> list[Trial]:
    """The best few again, allowing for items that exist on one rank alone."""
    order = sorted(results, key=lambda t: -(t.outcome.score if t.outcome else 0.0))
    again = {id(t) for t in order[:_TRY_OWNED] if walk.num_items <= _MAX_OWNED_ITEMS}
    refined = []
    for trial in results:
        found = None
        if id(trial) in again and trial.outcome is not None:
            alone = trial.outcome.one_row_alone
            replays = (walk.replay_owned(trial.assignment, rule, alone) for rule in rules)
            found = next((outcome for outcome in replays if outcome is not None), None)
        refined.append(trial if found is None else Trial(trial.assignment, found))
    return refined


def _rules(checkpoint: Checkpoint) -> tuple[Rule, ...]:
    """The rules to replay, the one of the torch that wrote it first."""
    if checkpoint.per_rank_metadata:
        return (Rule.ALL,)
    band = checkpoint.provenance.torch_band or ""
    rules = [Rule.BALANCED, Rule.LOWEST]
    if band.startswith(("1.", "2.0", "2.1", "2.2")):
        rules = [Rule.LOWEST, Rule.BALANCED]
    if checkpoint.bytes_entries and all(e.rank in (0, None) for e in checkpoint.bytes_entries):
        rules.insert(0 if band.startswith("2.3") else 2, Rule.BALANCED_BYTES_ON_0)
    return tuple(rules)
