"""`Stages`: groups of ranks that share no tensor, as pipeline stages do, and the mesh inside each.

The rule this module keeps: ranks belong together if one tensor's chunks lie with them; a
partition is believed only if replaying DCP's writer over all groups at once, what they share
included, puts nine tenths of the items where they are. That the groups are pipeline stages is
what they look like, never certain.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint
from inspector.layout.cuts import cell_ids
from inspector.layout.geometry import Ints, unique
from inspector.layout.mesh import Mesh
from inspector.layout.placements import Fit, fits
from inspector.layout.writer.axes import AxisRoles, layout_of
from inspector.layout.writer.groups import PlacementUse
from inspector.layout.writer.replay import balance
from inspector.layout.writer.survey import Bools, ranks_in
from inspector.layout.writer.walk import Walk, meshes_of

__all__ = ["Stage", "StageGroups", "find_stages", "module_of", "replicas_explain"]

_ENOUGH = 0.9
_HOPELESS = 0.4  # of the items: no turning over of whole ones will mend that
_MAX_ITEMS = 200_000
_MAX_TRIES = 12
_ROUNDS = 6
_LAYER = re.compile(r"(.*?(?:^|\.)[A-Za-z_]\w*\.)(\d+)\.")


@dataclass(frozen=True, slots=True)
class Stage:
    """One group of ranks.

    Attributes:
        ranks: Its ranks, ascending.
        layout: What its mesh does and looks like; None if all its tensors are whole.
        num_tensors: Tensors that only these ranks hold.
        example: The first of them, by its raw name.
        layers: Numbers of the modules that only these ranks hold, as `layers.0 to layers.3`;
            empty if the names have none.
        uses: Those tensors by their placements on the mesh of these ranks.
        tensors: Their indices; one in one piece may be there by chance, as others may hold it too.
    """

    ranks: tuple[int, ...]
    layout: AxisRoles | None
    num_tensors: int
    example: str
    layers: str = ""
    uses: tuple[PlacementUse, ...] = field(default=(), repr=False, compare=False)
    tensors: tuple[int, ...] = field(default=(), repr=False, compare=False)

    @property
    def mesh(self) -> Mesh | None:
        return None if self.layout is None else self.layout.mesh


@dataclass(frozen=True, slots=True)
class StageGroups:
    """The ranks in groups that share no tensor.

    Attributes:
        stages: The groups.
        num_items: Items that were compared.
        num_placed: Those that lie where the replay of all groups at once puts them.
        free: Items of one-rank groups: they can lie nowhere else, and so prove nothing.
        by_names: The groups rest on the numbers in the names alone (all tensors are whole, and
            every group is one rank).
    """

    stages: tuple[Stage, ...]
    num_items: int
    num_placed: int
    free: int = 0
    by_names: bool = False

    @property
    def score(self) -> float:
        return self.num_placed / self.num_items if self.num_items else 0.0

    def holders(self, checkpoint: Checkpoint, index: int) -> list[tuple[int, ...]] | None:
        """The ranks that hold each chunk of a tensor; None of a whole one, as others may, too."""
        for stage in self.stages:
            for use in stage.uses:
                if use.cut.touched and index in use.tensors:
                    ranks = np.asarray(stage.ranks)
                    cells = _cells(checkpoint, use, index)
                    return [tuple(ranks[use.fit.cells == cell].tolist()) for cell in cells]
        return None


def _cells(checkpoint: Checkpoint, use: PlacementUse, index: int) -> list[int]:
    tensor = checkpoint.columns.tensor(index)
    cells: list[int] = cell_ids(use.cut, tensor.offsets, tensor.sizes).tolist()
    return cells


def module_of(fqn: str) -> tuple[str, int] | None:
    """The numbered module that an entry is of: `model.layers.3.wq` is of `model.layers.`, 3."""
    match = _LAYER.match(fqn)
    return None if match is None else (match[1], int(match[2][:9]))


def replicas_explain(walk: Walk) -> float | None:
    """Share of whole items that lie where DCP's writer puts what every rank holds.

    None if the order in which it dealt them out is not known.
    """
    checkpoint = walk.checkpoint
    if checkpoint.format != "dcp" or not checkpoint.state_paths or checkpoint.per_rank_metadata:
        return None
    if not 0 < walk.num_items <= _MAX_ITEMS:
        return None
    group = _Group(walk, [tuple(range(walk.world_size))])
    found = [group.replay(None, lowest=lowest)[0] for lowest in (False, True)]
    if (walk.bytes_ranks <= 0).all():  # torch 2.3 offers them on rank 0 alone
        found.append(group.replay(None, bytes_on_0=True)[0])
    return max(found) / walk.num_items


def find_stages(walk: Walk, *, better_than: float = 0.0) -> StageGroups | None:
    """The partition of the ranks that explains the items, or None.

    Args:
        walk: The items.
        better_than: Share of the items that one mesh over all ranks explains.
    """
    checkpoint = walk.checkpoint
    usable = checkpoint.format == "dcp" and bool(checkpoint.state_paths) and not walk.partial
    if not usable or checkpoint.per_rank_metadata or not 0 < walk.num_items <= _MAX_ITEMS:
        return None
    best: StageGroups | None = None
    for blocks in _partitions(walk)[:_MAX_TRIES]:
        found = _judge(walk, blocks)
        if found is None or found.score < _ENOUGH or found.score <= better_than:
            continue
        if best is None or found.score > best.score:
            best = found
        if found.num_placed == found.num_items:
            break
    return best


def _partitions(walk: Walk) -> list[list[tuple[int, ...]]]:
    """Ways to part the ranks in equal groups so that no cut tensor lies in two, most groups first.

    A coarser partition holds as well wherever a finer one does.
    """
    size = walk.world_size
    joined = _joined(walk)
    result = []
    for count in range(size, 1, -1):
        if size % count:
            continue
        width = size // count
        for label in (np.arange(size) // width, np.arange(size) % count):
            if all(len(unique(label[row])) == 1 for row in joined):
                blocks = [tuple(np.flatnonzero(label == b).tolist()) for b in range(count)]
                if blocks not in result:
                    result.append(blocks)
    return result


def _joined(walk: Walk) -> list[Ints]:
    """Sets of ranks with which the chunks of one tensor lie, each set once."""
    found: dict[bytes, Ints] = {}
    for number in walk.touched:
        for row in unique(walk.ranks[number], axis=0):
            ranks = unique(row[row >= 0])
            if len(ranks):
                found[ranks.tobytes()] = ranks
    return list(found.values())


def _judge(walk: Walk, blocks: list[tuple[int, ...]]) -> StageGroups | None:
    group = _Group(walk, blocks)
    pure, layers = group.layers()
    if pure < _ENOUGH or len(layers) < len(blocks):
        return None  # Every stage has layers of its own, or nothing speaks for stages.
    width = len(blocks[0])
    if not walk.touched and width == 1:
        # One rank a group: where an item lies is no evidence, only its name is.
        stages = tuple(group.stage(b, None, layers) for b in range(len(blocks)))
        return StageGroups(stages, walk.num_items, walk.num_items, walk.num_items, by_names=True)
    best: tuple[int, _Inside | None] | None = None
    # Where some ranks wrote no piece the lowest rank's rule tells not what they held.
    wrote = {rank for number in walk.touched for rank in ranks_in(walk.ranks[number]).tolist()}
    rules = (False, True) if wrote >= set(range(walk.world_size)) else (False,)
    for inside, lowest in itertools.product(group.insides(), rules):
        placed, _ = group.replay(inside, lowest=lowest)
        if best is None or placed > best[0]:
            best = placed, inside
        if placed == walk.num_items:
            break
    if best is None:
        return None
    stages = tuple(group.stage(b, best[1], layers) for b in range(len(blocks)))
    if any(stage.num_tensors == 0 for stage in stages):
        return None
    return StageGroups(stages, walk.num_items, best[0])


@dataclass(frozen=True, slots=True)
class _Inside:
    """The mesh inside every group, and for each (class, block) the fit of its tensors."""

    mesh: Mesh
    fits: dict[tuple[int, int], list[tuple[Fit, Ints]]]
    num_possible: int


class _Group:
    """The items of a walk under a partition of its ranks."""

    def __init__(self, walk: Walk, blocks: Sequence[tuple[int, ...]]) -> None:
        self.walk = walk
        self.blocks = [np.asarray(b, dtype=np.int64) for b in blocks]
        self.block_of = np.zeros(walk.world_size + 1, dtype=np.int64) - 1
        self.local = np.zeros(walk.world_size + 1, dtype=np.int64)
        for number, ranks in enumerate(self.blocks):
            self.block_of[ranks] = number
            self.local[ranks] = np.arange(len(ranks))
        num = walk.checkpoint.num_tensors
        #: Block of each tensor, by the file of one of its chunks; -1 if none is known.
        self.home = np.full(num, -1, dtype=np.int64)
        for number, members in enumerate(walk.classes):
            ranks = walk.ranks[number]
            if ranks.shape[1]:
                self.home[members.tensors] = self.block_of[ranks.max(axis=1)]

    # -- names ------------------------------------------------------------------------------

    def layers(self) -> tuple[float, dict[int, list[tuple[str, int]]]]:
        """Share of numbered modules of several tensors that lie in one block; those of each."""
        seen: dict[tuple[str, int], list[int]] = {}
        fqns = self.walk.checkpoint.columns.fqns
        for tensor in range(len(self.home)):
            key = module_of(fqns[tensor])
            if key is not None and self.home[tensor] >= 0:
                seen.setdefault(key, []).append(int(self.home[tensor]))
        several = {k: v for k, v in seen.items() if len(v) > 1}
        per_block: dict[int, list[tuple[str, int]]] = {}
        for key, blocks in several.items():
            if len(set(blocks)) == 1:
                per_block.setdefault(blocks[0], []).append(key)
        pure = sum(len(set(blocks)) == 1 for blocks in several.values())
        return pure / max(1, len(several)), per_block

    def stage(
        self, block: int, inside: _Inside | None, layers: dict[int, list[tuple[str, int]]]
    ) -> Stage:
        fqns = self.walk.checkpoint.columns.fqns
        own = np.flatnonzero(self.home == block)
        ranks = tuple(self.blocks[block].tolist())
        layout = None
        uses: list[PlacementUse] = []
        if inside is not None:
            uses = [
                PlacementUse(self.walk.classes[number].cut, fit, tensors)
                for (number, place), found in inside.fits.items()
                if place == block
                for fit, tensors in found
            ]
            if any(use.cut.touched for use in uses):
                layout = layout_of(inside.mesh, uses, fqns)
        return Stage(
            ranks,
            layout,
            len(own),
            fqns[int(own[0])] if len(own) else "",
            _layer_words(layers.get(block, [])),
            tuple(uses),
            tuple(own.tolist()),
        )

    # -- meshes inside ----------------------------------------------------------------------

    def insides(self) -> Iterator[_Inside | None]:
        """Meshes that may lie inside every group, the best bound first."""
        width = len(self.blocks[0])
        if not self.walk.touched:
            yield None
            return
        found = [self._inside(mesh, may) for mesh, may in meshes_of(width)]
        found.sort(key=lambda inside: -inside.num_possible)
        yield from found[:4]

    def _inside(self, mesh: Mesh, can_shard: tuple[bool, ...]) -> _Inside:
        walk = self.walk
        chosen: dict[tuple[int, int], list[tuple[Fit, Ints]]] = {}
        possible = 0
        for number, members in enumerate(walk.classes):
            options = fits(members.cut, mesh.sizes, can_shard) if walk.sound[number] else []
            ranks, cells = walk.ranks[number], members.cells
            if not options:
                continue
            local = self.local[ranks]
            hits = np.stack(
                [((f.cells[local] == cells) & (ranks >= 0)).sum(axis=1) for f in options]
            )
            order = sorted(range(len(options)), key=lambda i: -int(hits[i].sum()))
            choice = np.asarray(order)[np.argmax(hits[order], axis=0)]
            possible += int(hits.max(axis=0).sum())
            for block in range(len(self.blocks)):
                here = self.home[members.tensors] == block
                for option in unique(choice[here]).tolist():
                    rows = np.flatnonzero(here & (choice == option))
                    chosen.setdefault((number, block), []).append(
                        (options[option], members.tensors[rows])
                    )
        return _Inside(mesh, chosen, possible)

    # -- the replay -------------------------------------------------------------------------

    def replay(
        self, inside: _Inside | None, *, lowest: bool = False, bytes_on_0: bool = False
    ) -> tuple[int, Bools]:
        """How many items lie where DCP's writer puts them, and the block of each whole item.

        Nothing tells which whole items all groups share (a step counter) and which one alone
        has: each is taken for its group's own, and turned over where that puts it elsewhere.
        """
        items = self._items(inside)
        shared = items.is_bytes.copy()
        if len(self.blocks) == 1:
            shared = items.whole.copy()
        best, turned = 0, shared
        for _ in range(_ROUNDS):
            predicted = self._predict(items, shared, lowest, bytes_on_0)
            wrong = (predicted != items.actual) & (items.actual >= 0)
            placed = int(((items.actual >= 0) & ~wrong).sum())
            if placed > best:
                best, turned = placed, shared.copy()
            again = wrong & items.whole
            hopeless = placed < _HOPELESS * len(wrong)
            if not again.any() or len(self.blocks) == 1 or hopeless:
                break
            shared = shared ^ again
        return best, turned

    def _items(self, inside: _Inside | None) -> _Columns:
        walk = self.walk
        parts: list[tuple[Ints, Ints, Ints, Ints, Bools]] = []
        for number, members in enumerate(walk.classes):
            if not walk.sound[number] or not members.cells.size:
                continue
            if not members.cut.touched or inside is None:
                tensors, actual = members.tensors, walk.ranks[number][:, 0]
                nothing = np.full(len(tensors), -1, dtype=np.int64)
                parts.append((tensors, actual, nothing, nothing, np.ones(len(tensors), bool)))
                continue
            place = {int(t): i for i, t in enumerate(members.tensors.tolist())}
            for block, ranks in enumerate(self.blocks):
                for fit, tensors in inside.fits.get((number, block), []):
                    holders = np.full(walk.world_size, -1, dtype=np.int64)
                    holders[ranks] = fit.cells
                    part = walk.table.partition(holders)
                    rows = [place[int(t)] for t in tensors.tolist()]
                    cells = members.cells[rows]
                    where = np.searchsorted(part.cells, cells.ravel())
                    where = np.minimum(where, len(part.cells) - 1)
                    parts.append(
                        (
                            np.repeat(tensors, cells.shape[1]),
                            walk.ranks[number][rows].ravel(),
                            part.first[where],
                            part.group[where],
                            np.zeros(cells.size, dtype=bool),
                        )
                    )
        num = len(walk.bytes_ranks)
        nothing = np.full(num, -1, dtype=np.int64)
        entries = np.arange(num) + walk.checkpoint.num_tensors
        parts.append((entries, walk.bytes_ranks, nothing, nothing, np.ones(num, dtype=bool)))
        tensor, actual, first, group, whole = (np.concatenate(c) for c in zip(*parts, strict=True))
        return _Columns(tensor, actual, first, group, whole, tensor >= walk.checkpoint.num_tensors)

    def _predict(self, items: _Columns, shared: Bools, lowest: bool, bytes_on_0: bool) -> Ints:
        walk = self.walk
        first, group = items.first.copy(), items.group.copy()
        for block, ranks in enumerate(self.blocks):
            holders = np.full(walk.world_size, -1, dtype=np.int64)
            holders[ranks] = 0
            number = int(walk.table.partition(holders).group[0])
            own = items.whole & ~shared & (self.block_of[items.actual] == block)
            first[own], group[own] = int(ranks[0]), number
        first[items.whole & shared], group[items.whole & shared] = 0, walk.table.everyone
        if bytes_on_0:
            group[items.is_bytes] = walk.table.alone(0)
        predicted: Ints = first.copy()
        known = group >= 0
        if lowest:
            return predicted
        position = self._position(items, shared)
        rows = np.flatnonzero(known)
        rows = rows[np.lexsort((position[rows], first[rows]))]
        num, weights = walk.checkpoint.num_tensors, walk.weights
        predicted[rows] = balance(
            group[rows].tolist(),
            [weights[t] if t < num else 1 for t in items.tensor[rows].tolist()],
            walk.table.members,
            walk.world_size,
        )
        return predicted

    def _position(self, items: _Columns, shared: Bools) -> npt.NDArray[np.float64]:
        """Where each item stands in the walk of the rank that sees it first.

        The planner's names are the last rank's, then those that only earlier ones have: what
        all share stands among the last group's. In the first group's walk it comes after the
        last entry of the same branch of the state dict.
        """
        walk = self.walk
        position = walk.position[items.tensor].astype(np.float64)
        if len(self.blocks) == 1 or not shared.any():
            return position
        # First part of an entry's name: the branch of the state dict that it hangs on.
        branch = [walk.checkpoint.fqns[i].partition(".")[0] for i in items.tensor.tolist()]
        in_first = ~shared & (self.block_of[items.actual] == 0)
        last: dict[str, float] = {}
        for row in np.flatnonzero(in_first).tolist():
            last[branch[row]] = max(last.get(branch[row], -1.0), position[row])
        others = sorted(
            (position[row], branch[row]) for row in np.flatnonzero(~shared & ~in_first).tolist()
        )
        places = np.asarray([p for p, _ in others])
        end = float(len(walk.position))
        for row in np.flatnonzero(shared).tolist():
            before = int(np.searchsorted(places, position[row])) - 1
            after = last.get(others[before][1]) if before >= 0 else -1.0
            moved = position[row] / (end + 1)
            position[row] = (end if after is None else after) + moved
        return position


@dataclass(frozen=True, slots=True)
class _Columns:
    """Items as columns: entry, rank in its file's name, lowest holder and group (-1: not yet)."""

    tensor: Ints
    actual: Ints
    first: Ints
    group: Ints
    whole: Bools
    is_bytes: Bools


def _layer_words(found: list[tuple[str, int]]) -> str:
    """`layers.0 to layers.3`, of the family with the most members."""
    families: dict[str, list[int]] = {}
    for prefix, number in found:
        families.setdefault(prefix, []).append(number)
    if not families:
        return ""
    prefix, numbers = max(families.items(), key=lambda f: (len(f[1]), -len(f[0])))
    low, high = min(numbers), max(numbers)
    if low == high:
        return f"{prefix}{low}"
    if len(numbers) == high - low + 1:
        return f"{prefix}{low} to {prefix}{high}"
    return ", ".join(f"{prefix}{n}" for n in sorted(numbers)[:4]) + (
        " ..." if len(numbers) > 4 else ""
    )
