"""`LoadPlan`: what every rank of a mesh would read to load a checkpoint with `dcp.load`.

    planner = Planner(checkpoint)            # once; what does not depend on the mesh
    plan = planner.plan(Mesh.parse("hsdp:8x64"))
    plan.bytes_read, plan.worst_rank, plan.ranks.num_files[7]
    for read in plan.reads(7): ...           # as torch's planner makes them

The rule this module keeps: under `fsdp:S` and `hsdp:RxS` a tensor of one dim or more is cut along
its first dim by torch's own rule (`Shard(0)`: `torch.chunk`, as FSDP2 and DTensor do), under axes
by name as `TargetPlacements` says; a 0-d tensor and a bytes entry are read whole by every rank, and
replicas read alike. That is what `create_default_local_load_plan` plans
for such DTensors (torch/distributed/checkpoint/default_planner.py).

Needed and read are two figures. *Needed* is what a rank holds afterwards: the elements of its
shards, and its bytes entries. *Read* is what `FileSystemReader.read_data` hands to `torch.load`
(torch/distributed/checkpoint/filesystem.py): of every payload that the rank needs a part of, all of
it, container included; the part is taken out in memory. (Counted at the file with torch 2.13:
16.81 MB for a payload of 16.78 MB, of which one row was asked for. `FsspecReader` does the same
through fsspec's cache, which may fetch more.) Of safetensors the slice alone is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.errors import InspectError
from inspector.layout.geometry import Ints
from inspector.layout.mesh import Mesh
from inspector.layout.reads.cells import CellRuns
from inspector.layout.reads.items import NotPlanned, ReadItems, read_items
from inspector.layout.reads.runs import RankFigures, Read, Runs
from inspector.layout.target.placement import TargetPlacement
from inspector.layout.target.rules import TargetPlacements

__all__ = ["EmptyTensor", "LoadPlan", "NotPlanned", "Planner", "RankFigures", "Read", "load_plan"]

_MAX_TOTAL = 1 << 62


@dataclass(frozen=True, slots=True)
class EmptyTensor:
    """A tensor with elements of which some ranks hold none. `fqn` is raw."""

    index: int
    fqn: str
    num_ranks: int


@dataclass(frozen=True, eq=False)
class LoadPlan:
    """A checkpoint under a mesh: what each rank would read.

    Attributes:
        checkpoint: The checkpoint.
        mesh: The mesh it would be loaded under.
        ranks: The figures of every rank.
        not_planned: Entries that are left out, and why.
        sources: How many tensors lie as whom says (keys of `SOURCES`); empty on a plain mesh.
    """

    checkpoint: Checkpoint
    mesh: Mesh
    ranks: RankFigures
    _runs: Runs | CellRuns = field(repr=False)
    sources: dict[str, int] = field(default_factory=dict)

    @property
    def not_planned(self) -> tuple[NotPlanned, ...]:
        return self._runs.items.left_out

    @property
    def world_size(self) -> int:
        return self.mesh.world_size

    @cached_property
    def num_replicas(self) -> int:
        """How many ranks read the very same bytes as one another (1: none do).

        Where every rank wrote metadata of its own, replicas read what each of them wrote.
        """
        return self._runs.num_replicas

    @property
    def num_replicas_after(self) -> int:
        """The same, if the first ranks are one replica and the others come after them; else 1."""
        return self.num_replicas if self.mesh.is_plain else 1

    @cached_property
    def bytes_needed(self) -> int:
        """What all ranks need, together."""
        return sum(self.ranks.bytes_needed.tolist())

    @cached_property
    def bytes_read(self) -> int:
        """What all ranks read, together."""
        return sum(self.ranks.bytes_read.tolist())

    @cached_property
    def checkpoint_bytes(self) -> int:
        """The payloads of the planned entries, each once: one read of the checkpoint."""
        return int(self._runs.items.groups.num_bytes.sum())

    @property
    def amplification(self) -> float:
        """Bytes read for each byte needed; 1.0 if nothing is needed."""
        return self.bytes_read / self.bytes_needed if self.bytes_needed else 1.0

    @property
    def times_read(self) -> float:
        """How many times the ranks together read the checkpoint; 0.0 if it is empty."""
        return self.bytes_read / self.checkpoint_bytes if self.checkpoint_bytes else 0.0

    @property
    def imbalance(self) -> float:
        """What the busiest rank reads, against the mean; 1.0 is even."""
        mean = self.bytes_read / self.world_size
        return int(self.ranks.bytes_read.max()) / mean if mean else 1.0

    @cached_property
    def worst_rank(self) -> int:
        """The rank that reads most; of several, the first."""
        return int(self.ranks.bytes_read.argmax())

    @cached_property
    def most_files_rank(self) -> int:
        """The rank that opens most files; of several, the first."""
        return int(self.ranks.num_files.argmax())

    @property
    def planned_tensors(self) -> Ints:
        """Indices of the planned tensors, in the order of the state dict."""
        return self._runs.items.tensors.tensor

    @cached_property
    def num_ranks_without(self) -> Ints:
        """For each of `planned_tensors` the ranks that hold none of its elements.

        0 for a tensor without elements: no rank lacks any.
        """
        return self._runs.num_ranks_without

    @cached_property
    def empty_tensors(self) -> tuple[EmptyTensor, ...]:
        """The tensors that leave ranks without an element, in the order of the state dict."""
        without = self.num_ranks_without
        fqns = self.checkpoint.columns.fqns
        found = []
        for i in np.flatnonzero(without).tolist():
            index = int(self.planned_tensors[i])
            found.append(EmptyTensor(index, fqns[index], int(without[i])))
        return tuple(found)

    @cached_property
    def num_ranks_with_empty(self) -> int:
        """How many ranks hold no element of some tensor that has elements."""
        return int(np.count_nonzero(self.ranks.num_empty_tensors))

    @property
    def placements(self) -> Sequence[TargetPlacement]:
        """How the planned tensors lie; empty on a plain mesh."""
        return self._runs.placements if isinstance(self._runs, CellRuns) else ()

    def placement(self, place: int) -> TargetPlacement | None:
        """How the tensor at `place` of `planned_tensors` lies; None on a plain mesh."""
        return self._runs.placements[place] if isinstance(self._runs, CellRuns) else None

    def elements_in(self, place: int, offsets: Ints, sizes: Ints) -> Ints:
        """Elements of boxes of a tensor in each rank's part, on a mesh that is not plain.

        Args:
            place: Position in `planned_tensors`.
            offsets: The boxes' lower corners, shape (num_boxes, ndim).
            sizes: Their extents, likewise.
        """
        assert isinstance(self._runs, CellRuns)  # noqa: S101 - plain meshes have shards
        return self._runs.elements_in(place, offsets, sizes)

    @property
    def items(self) -> ReadItems:
        """What can be read, whoever reads it."""
        return self._runs.items

    def readers(self, rows: Ints) -> Ints:
        """The ranks that read any of some rows of `items`, in rising order."""
        return self._runs.readers(rows)

    @cached_property
    def bytes_missing(self) -> Ints:
        """Bytes of elements that each rank needs and that no chunk it can see holds.

        At least so many: elements that two chunks hold are counted twice against them.
        """
        missing: Ints = self._runs.bytes_of_tensors() - self._runs.bytes_covered()
        return np.maximum(missing, 0)

    def reads(self, rank: int) -> Iterator[Read]:
        """Every read of a rank: its tensors in the order of the state dict, then bytes entries.

        Raises:
            ValueError: No such rank.
        """
        self.mesh.coordinate(rank)
        return self._runs.reads(rank)

    def read_rows(self, rank: int) -> Ints:
        """The reads of a rank as rows of `items`, in the order of `reads`: cheap for a million.

        Raises:
            ValueError: No such rank.
        """
        self.mesh.coordinate(rank)
        return self._runs.read_rows(rank)

    def reads_of(self, rank: int, rows: Ints) -> list[Read]:
        """The reads that some of a rank's `read_rows` stand for."""
        return list(self._runs.reads(rank, rows))


class Planner:
    """Plans one checkpoint under many meshes; keeps what does not depend on the mesh.

    Args:
        checkpoint: The checkpoint.
        tensors: Indices of the tensors to load, in the order of the state dict (default: all).
        entries: Indices of the bytes entries to load (default: all).

    Raises:
        InspectError: The sizes that the metadata claims add up to more than 64 bits hold.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensors: Sequence[int] | None = None,
        entries: Sequence[int] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self._items = items = read_items(checkpoint, tensors, entries)
        rows = items.tensors
        needed = (rows.height.astype(np.float64) * rows.row_bytes).sum()
        if needed + items.groups.num_bytes.astype(np.float64).sum() > _MAX_TOTAL:
            raise InspectError(
                "its metadata claims more than four exbibytes: no load can be planned",
                "hsdp-inspect check says what is wrong with it",
            )

    def plan(self, mesh: Mesh, placements: TargetPlacements | None = None) -> LoadPlan:
        """The plan under a mesh: at most 0.1 s for a million chunks on a plain one.

        Args:
            mesh: The mesh.
            placements: How tensors lie on a mesh that is not plain (default: by FSDP's rule).

        Raises:
            UsageError: No load can be planned under the mesh (`why_not`).
        """
        if mesh.is_plain and placements is None:
            runs = Runs.make(self.checkpoint, self._items, mesh)
            return LoadPlan(self.checkpoint, mesh, runs.figures(), runs)
        rules = TargetPlacements(mesh) if placements is None else placements
        columns = self.checkpoint.columns
        found: list[TargetPlacement] = []
        sources: dict[str, int] = {}
        for index in self._items.tensors.tensor.tolist():
            lies, source = rules.of(columns.fqns[index], columns.shape(index), index)
            found.append(lies)
            sources[source] = sources.get(source, 0) + 1
        cells = CellRuns(self.checkpoint, self._items, mesh, found)
        return LoadPlan(self.checkpoint, mesh, cells.figures(), cells, sources)


def load_plan(
    checkpoint: Checkpoint, mesh: Mesh, placements: TargetPlacements | None = None
) -> LoadPlan:
    """Plans one checkpoint under one mesh.

    Raises:
        UsageError: No load can be planned under the mesh (`why_not`).
    """
    return Planner(checkpoint).plan(mesh, placements)
