"""`Walk`: the items of a checkpoint in DCP's order, compared with what a mesh would give.

An item is what one rank writes at once: a chunk or a bytes entry. The rule this module keeps:
an item is explained only if the rank in its file's name is the very rank that the replay gives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.geometry import Ints
from inspector.layout.mesh import Mesh
from inspector.layout.placements import Pattern, apply
from inspector.layout.writer.items import ItemColumns, Items, items_of
from inspector.layout.writer.replay import GroupTable, balance
from inspector.layout.writer.survey import Assignment, Bools, Survey, count_known, is_one_row

__all__ = ["BALANCED_SINCE", "Outcome", "Rule", "Trial", "Walk", "meshes_of", "try_meshes"]

#: The first torch whose DCP gives what several ranks hold to the one with the fewest bytes.
BALANCED_SINCE = 2, 3

_NUMBER = re.compile(r"[0-9]+")
_MAX_OWNED_ROUNDS = 12
_MAX_OWNED_SHARE = 0.25


class Rule(Enum):
    """How DCP chooses the one rank that writes an item which several ranks hold."""

    BALANCED = "the rank with the fewest bytes so far"
    BALANCED_BYTES_ON_0 = "the rank with the fewest bytes so far, bytes entries on rank 0"
    LOWEST = "the lowest rank"
    ALL = "every rank, nothing deduplicated"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay says.

    Attributes:
        rule: The rule that was replayed.
        num_items: Items that were compared.
        num_placed: Those of them that are where the replay puts them.
        sampled: The replay stopped before the end of the walk.
        wrong: Row of each deviating item in `Walk.items`.
        predicted: Rank the replay gives to each of those.
        one_row_alone: Tensors of one row were taken for ShardedTensors, which only the first
            shard holds: they record no empty chunk, so nothing shows that they are cut.
        num_owned: Whole items that were taken to exist on one rank alone, and not compared.
    """

    rule: Rule
    num_items: int
    num_placed: int
    sampled: bool
    wrong: Ints
    predicted: Ints
    one_row_alone: bool = False
    num_owned: int = 0

    @property
    def score(self) -> float:
        return self.num_placed / self.num_items if self.num_items else 0.0


class Walk(Survey):
    """The items of a checkpoint, ready to be compared with meshes.

    Args:
        checkpoint: Its `world_size` must be known.
        max_items: How many items a replay walks at most.
    """

    def __init__(self, checkpoint: Checkpoint, max_items: int) -> None:
        super().__init__(checkpoint)
        self.max_items = max_items
        self.weights = checkpoint.columns.num_bytes
        self.table = GroupTable(self.world_size)

    def replay(self, assignment: Assignment, rules: tuple[Rule, ...]) -> Outcome:
        """The best outcome of the rules; the first that explains all ends the search."""
        best: Outcome | None = None
        for one_row_alone in (False, True) if assignment.may_be_alone(self) else (False,):
            items = self.items(assignment, one_row_alone=one_row_alone)
            for rule in rules:
                outcome = self._compare(items, rule)
                if best is None or outcome.score > best.score:
                    best = replace(outcome, one_row_alone=one_row_alone)
                if outcome.num_placed == outcome.num_items:
                    break
        assert best is not None  # noqa: S101  (there is at least one rule)
        return best

    def replay_owned(
        self, assignment: Assignment, rule: Rule, one_row_alone: bool
    ) -> Outcome | None:
        """A replay in which whole items that exist on one rank alone are found out.

        Per-rank RNG or data loader states are offered by their own rank only, and by nothing in
        the metadata do they differ from what every rank holds. Each whole item that lies
        elsewhere than the replay says is taken for one, until all the others lie as it says.

        Returns:
            An outcome that explains every item it compares; None if there is none with at most
            a quarter of the items taken so.
        """
        items = self.items(assignment, one_row_alone=one_row_alone)
        whole = items.group == self.table.everyone
        owned = np.zeros(len(whole), dtype=bool)
        for _ in range(_MAX_OWNED_ROUNDS):
            # The first rounds keep to what was really written, so that one item in a place of
            # its own does not move all that come after it.
            group, first, actual = items.group.copy(), items.first.copy(), items.actual.copy()
            for row in np.flatnonzero(owned).tolist():
                group[row] = self.table.alone(int(items.actual[row]))
                first[row] = items.actual[row]
            actual[owned] = -1
            tried = replace(items, group=group, first=first, actual=actual)
            outcome = self._compare(tried, rule)
            if not len(outcome.wrong):
                found = replace(outcome, one_row_alone=one_row_alone)
                return replace(found, num_owned=int(owned.sum()))
            wrong = self._compare(tried, rule, written=items.actual).wrong
            wrong = wrong[whole[wrong] & ~owned[wrong]]
            if not len(wrong):
                wrong = outcome.wrong[whole[outcome.wrong] & ~owned[outcome.wrong]]
            owned[wrong] = True
            owned |= self._siblings(items, whole, owned)
            most = (len(owned) + items.num_settled) * _MAX_OWNED_SHARE
            if not len(wrong) or owned.sum() > most:
                return None
        return None

    def _siblings(self, items: Items, whole: Bools, owned: Bools) -> Bools:
        """Whole items named as the owned ones are, but for a number that is their rank's.

        Of `rng.rank0` to `rng.rank3` some may lie by chance where the replay would put them.
        """
        rows = np.flatnonzero(whole & (items.actual >= 0))
        names = [fqn for fqn, _ in self.item_names(items, rows)]
        patterns = [_NUMBER.sub("#", name) for name in names]
        wanted = {p for p, row in zip(patterns, rows.tolist(), strict=True) if owned[row]}
        result = np.zeros(len(owned), dtype=bool)
        for name, pattern, row in zip(names, patterns, rows.tolist(), strict=True):
            rank = int(items.actual[row])
            result[row] = pattern in wanted and str(rank) in _NUMBER.findall(name)
        return result

    def item_names(self, items: Items, rows: Ints) -> list[tuple[str, tuple[int, ...] | None]]:
        """(fqn, offset) of some rows of the items; the offset of a bytes entry is None."""
        checkpoint, columns = self.checkpoint, self.checkpoint.columns
        result: list[tuple[str, tuple[int, ...] | None]] = []
        for row in rows.tolist():
            tensor, chunk = int(items.tensor[row]), int(items.chunk[row])
            if chunk < 0:
                entry = checkpoint.bytes_entries[tensor - columns.num_tensors]
                result.append((entry.fqn, None))
                continue
            found = columns.tensor(tensor)
            place = chunk - int(columns.chunk_start[tensor])
            result.append((found.fqn, tuple(found.offsets[place].tolist())))
        return result

    def items(self, assignment: Assignment, *, one_row_alone: bool = False) -> Items:
        """All items under an assignment; tensors that are damaged take part uncounted."""
        votes = assignment.votes(self)
        parts: list[ItemColumns] = []
        explained: dict[int, list[tuple[Bools | slice, Ints]]] = {}
        for number, fit, rows in assignment.rows():
            members = self.classes[number]
            holders = fit.cells
            if one_row_alone and is_one_row(members.cut):
                holders = apply(votes[0][0], members.cut.shape, assignment.mesh.sizes)
            explained.setdefault(number, []).append((rows, holders))
        unexplained = 0
        for number, members in enumerate(self.classes):
            if number in explained:
                continue
            if self.sound[number]:
                unexplained += count_known(self.ranks[number])
            elif votes and not self.checkpoint.per_rank_metadata:
                ndim = len(members.cut.shape)
                pattern = next((p for p, n, _ in votes if n == ndim), votes[0][0])
                mesh = assignment.mesh
                parts += [self._as_others(t, pattern, mesh) for t in members.tensors.tolist()]
        num = len(self.bytes_ranks)
        first_entry = self.checkpoint.num_tensors
        parts.append(
            (
                np.arange(first_entry, first_entry + num),
                np.full(num, -1),
                self.bytes_ranks,
                np.zeros(num, dtype=np.int64),
                np.full(num, self.table.everyone),
                np.ones(num, dtype=bool),
            )
        )
        num_settled = 0
        after = self._last_shared(parts, explained)
        alone = np.asarray([len(ranks) == 1 for ranks in self.table.members])
        written: list[ItemColumns] = []
        for number, uses in explained.items():
            for rows, holders in uses:
                part, settled = items_of(
                    self.classes[number],
                    self.ranks[number],
                    rows,
                    holders,
                    self.table.partition(holders),
                    alone,
                    after,
                )
                written.append(part)
                num_settled += settled
        tensor, chunk, actual, first, group, inside = zip(*written, *parts, strict=True)
        return Items(
            np.concatenate(tensor),
            np.concatenate(chunk),
            np.concatenate(actual),
            np.concatenate(first),
            np.concatenate(group),
            np.concatenate(inside),
            unexplained,
            num_settled,
        )

    def _last_shared(
        self, parts: list[ItemColumns], explained: dict[int, list[tuple[Bools | slice, Ints]]]
    ) -> int:
        """The last rank in whose plan an item may be that several ranks hold; -1 if none does."""
        found = [
            self.table.partition(holders) for uses in explained.values() for _, holders in uses
        ]
        of_each = [(p.first, p.group) for p in found] + [(part[3], part[4]) for part in parts]
        shared = np.asarray([len(members) > 1 for members in self.table.members])
        return max((int(f[shared[g]].max(initial=-1)) for f, g in of_each), default=-1)

    def _as_others(self, tensor: int, pattern: Pattern, mesh: Mesh) -> ItemColumns:
        """A damaged tensor as it would be if it were cut like the others.

        Its bytes moved the balance when the checkpoint was written, so the replay needs them.
        """
        found = self.checkpoint.columns.tensor(tensor)
        whole = found.num_chunks <= 1
        cells = (
            np.zeros(self.world_size, dtype=np.int64)
            if whole
            else apply(pattern, found.shape, mesh.sizes)
        )
        part = self.table.partition(cells)
        num = len(part.cells)
        nothing = np.full(num, -1, dtype=np.int64)
        inside = np.zeros(num, dtype=bool)
        return np.full(num, tensor), nothing, nothing, part.first, part.group, inside

    def _compare(self, items: Items, rule: Rule, written: Ints | None = None) -> Outcome:
        counted = items.actual >= 0
        if rule is Rule.ALL:
            wrong = np.flatnonzero(counted & ~items.inside)
            num = int(counted.sum()) + items.num_settled
            predicted = items.first[wrong]
            num_items = num + items.num_unexplained + self._num_unwritten(items)
            return Outcome(rule, num_items, num - len(wrong), False, wrong, predicted)
        if rule is Rule.LOWEST:
            predicted, known = items.first, np.ones(len(counted), dtype=bool)
        else:
            predicted, known = self._balanced(items, rule, written)
        counted &= known
        wrong = np.flatnonzero(counted & (predicted != items.actual))
        num = int(counted.sum()) + items.num_settled
        return Outcome(
            rule,
            num + items.num_unexplained,
            num - len(wrong),
            not bool(known.all()),
            wrong,
            predicted[wrong],
        )

    def _num_unwritten(self, items: Items) -> int:
        """Pieces that ranks hold by the mesh, and did not write though every rank writes its own.

        What is whole may exist on some ranks alone.
        """
        rows = np.flatnonzero(items.inside & (items.group != self.table.everyone))
        # The lowest holder tells the pieces of one tensor apart.
        columns = items.tensor[rows], items.first[rows], items.group[rows]
        written = np.unique(np.stack([*columns, items.actual[rows]], axis=1), axis=0)
        pieces = np.unique(written[:, :3], axis=0)
        sizes = np.asarray([len(members) for members in self.table.members])
        return int(sizes[pieces[:, 2]].sum()) - len(written)

    def _balanced(
        self, items: Items, rule: Rule, written: Ints | None = None
    ) -> tuple[Ints, Bools]:
        """The rank of each item, and which items the walk reached.

        With `written` (rank by item, -1 if unknown) each is told where those before it really
        lie, whatever was predicted for them.
        """
        group = items.group
        if rule is Rule.BALANCED_BYTES_ON_0:
            alone = self.table.alone(0)
            group = np.where(items.tensor >= self.checkpoint.num_tensors, alone, group)
        shared = np.asarray([len(m) > 1 for m in self.table.members])[group]
        predicted = items.first.copy()
        known = ~shared
        if not shared.any():
            return predicted, known
        key = items.first * (len(self.position) + 1) + self.position[items.tensor]
        usable = np.arange(len(key))
        if self.partial:
            # The walk of rank 0 is whole up to the first tensor not looked at; later ranks' are
            # not.
            last = self.position[self.in_order[self.num_seen - 1]] if self.num_seen else -1
            usable = np.flatnonzero((items.first == 0) & (self.position[items.tensor] <= last))
        # After the last shared item nothing is left to choose.
        usable = usable[key[usable] <= key[shared].max()]
        if len(usable) > self.max_items:
            usable = usable[np.argpartition(key[usable], self.max_items)[: self.max_items]]
        walk = usable[np.argsort(key[usable])]
        weights = self.weights
        num_tensors = self.checkpoint.num_tensors
        ranks = balance(
            group[walk].tolist(),
            [weights[t] if t < num_tensors else 1 for t in items.tensor[walk].tolist()],
            self.table.members,
            self.world_size,
            None if written is None else written[walk].tolist(),
        )
        predicted[walk] = ranks
        known[walk] = True
        return predicted, known


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


def meshes_of(world_size: int) -> list[tuple[Mesh, tuple[bool, ...]]]:
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
    largest = sorted(walk.touched, key=lambda i: -classes[i].cells.size)[:_LOOK_AT]
    finest = sorted(walk.touched, key=lambda i: -len(classes[i].cut.cells))[:_LOOK_AT]
    some = list(dict.fromkeys(largest + finest))
    result: list[Assignment] = []
    seen: set[int] = set()
    for mesh, can_shard in meshes_of(walk.world_size):
        if result and not walk.may_fit(some, mesh, can_shard):
            continue
        assignment = walk.assign(mesh, can_shard)
        if assignment.signature not in seen:
            seen.add(assignment.signature)
            result.append(assignment)
    return result


def try_meshes(walk: Walk) -> list[Trial]:
    """Replays the meshes that may win, best bound first; the best result comes first."""
    rules = _rules(walk)
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


def _rules(walk: Walk) -> tuple[Rule, ...]:
    """The rules to replay, the one of the torch that wrote it first."""
    checkpoint = walk.checkpoint
    if checkpoint.per_rank_metadata:
        return (Rule.ALL,)
    release = checkpoint.provenance.first_torch
    rules = [Rule.BALANCED, Rule.LOWEST]
    if release is not None and release < BALANCED_SINCE:
        rules = [Rule.LOWEST, Rule.BALANCED]
    if len(walk.bytes_ranks) and (walk.bytes_ranks <= 0).all():
        rules.insert(0 if release == BALANCED_SINCE else 2, Rule.BALANCED_BYTES_ON_0)
    return tuple(rules)
