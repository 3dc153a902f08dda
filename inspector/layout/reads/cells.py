"""`CellRuns`: which ranks read which items where several axes cut several dims.

The rule this module keeps: a rank is looked at by the piece that it holds of each cut dim. The
ranks of one placement with the same pieces share a *cell*, and read alike; no rank is looked at by
itself but the one whose reads are listed. Tensors of one placement and one shape are one group,
whose chunks and cells meet in a few numpy calls. Plain meshes, which cut the first dim alone, have
the quicker `Runs`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint
from inspector.layout.geometry import Ints, unique
from inspector.layout.mesh import Mesh
from inspector.layout.reads.items import ReadItems
from inspector.layout.reads.runs import Box, RankFigures, Read, put_boxes, reads_of_rows
from inspector.layout.target.placement import TargetPlacement

__all__ = ["CellRuns"]

#: Pairs of an item and a cell, or of a rank and a file, that are held at one time.
_AT_ONCE = 1 << 22
_Pairs = tuple[Ints, Ints, Ints]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Tensors of one shape and one placement.

    Attributes:
        lies: Number of the placement.
        shape: Their global shape.
        members: Positions in `ReadItems.tensors`.
        rows: Their items.
        starts, stops: What the items hold of each cut dim, shape (num_cut_dims, num_items).
        rest: Bytes of an item for one element along all cut dims.
    """

    lies: int
    shape: tuple[int, ...]
    members: Ints
    rows: Ints
    starts: Ints
    stops: Ints
    rest: Ints


@dataclass(slots=True, eq=False)
class _Sums:
    """Figures of the cells of one placement, each of shape (num_cells,)."""

    needed: Ints
    read: Ints
    covered: Ints
    num_reads: Ints
    num_empty: Ints
    largest: Ints
    files: list[Ints] = field(default_factory=list)

    @classmethod
    def zeros(cls, num: int) -> _Sums:
        a, b, c, d, e, f = np.zeros((6, num), dtype=np.int64)
        return cls(a, b, c, d, e, f)


class CellRuns:
    """The items of a checkpoint on a mesh of any axes.

    Args:
        checkpoint: The checkpoint.
        items: What can be read.
        mesh: The mesh.
        placements: How each of `items.tensors` lies.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        items: ReadItems,
        mesh: Mesh,
        placements: Sequence[TargetPlacement],
    ) -> None:
        self.checkpoint = checkpoint
        self.items = items
        self.mesh = mesh
        self.placements = placements
        #: Without any cut: bytes entries, and tensors that every rank holds whole.
        whole = TargetPlacement(mesh, (None,) * len(mesh.sizes))
        self._all = list(dict.fromkeys([whole, *placements]))
        number = {placement: i for i, placement in enumerate(self._all)}
        self._lies = np.asarray([number[p] for p in placements], dtype=np.int64)
        self._own = checkpoint.per_rank_metadata
        self._cell_of_rank = [self._cells(p)[0] for p in self._all]
        self._num_cells = [self._cells(p)[1] for p in self._all]
        self._group_of = np.zeros(len(placements), dtype=np.int64)
        self._groups = self._make_groups()
        self._kept: list[_Sums] | None = None

    def _cells(self, placement: TargetPlacement) -> tuple[Ints, int]:
        """The cell of each rank, and how many there are; where ranks see their own: its number."""
        if self._own:
            return np.arange(self.mesh.world_size, dtype=np.int64), self.mesh.world_size
        cell, num = np.zeros(self.mesh.world_size, dtype=np.int64), 1
        for dim in placement.cut_dims:
            pieces = math.prod(placement.shards(dim))
            cell, num = cell * pieces + placement.piece_of_rank(dim), num * pieces
        return cell, num

    def _make_groups(self) -> list[_Group]:
        columns, tensors = self.checkpoint.columns, self.items.tensors
        members: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        shapes = columns.shapes.tolist()
        starts = columns.dim_start.tolist()
        for place, (index, lies) in enumerate(
            zip(tensors.tensor.tolist(), self._lies.tolist(), strict=True)
        ):
            shape = tuple(shapes[starts[index] : starts[index + 1]])
            members.setdefault((lies, shape), []).append(place)
        order = np.argsort(self.items.owner, kind="stable")
        owner = self.items.owner[order]
        groups: list[_Group] = []
        for (lies, shape), places in members.items():
            of = np.asarray(places, dtype=np.int64)
            self._group_of[of] = len(groups)
            low, high = np.searchsorted(owner, of), np.searchsorted(owner, of, "right")
            rows = order[_spans(low, high)]
            groups.append(self._group(lies, shape, of, rows))
        return groups

    def _group(self, lies: int, shape: tuple[int, ...], members: Ints, rows: Ints) -> _Group:
        dims = self._all[lies].cut_dims
        item_bytes = self._item_bytes(self.items.owner[rows])
        if not shape:
            none = np.zeros((0, len(rows)), dtype=np.int64)
            return _Group(lies, shape, members, rows, none, none, item_bytes)
        offsets, extent = self._boxes_of(rows, shape)
        rest = np.delete(extent, dims, axis=1).prod(axis=1, dtype=np.int64) * item_bytes
        if not dims:
            none = np.zeros((0, len(rows)), dtype=np.int64)
            return _Group(lies, shape, members, rows, none, none, rest)
        low = offsets[:, dims].T.copy()
        return _Group(lies, shape, members, rows, low, low + extent[:, dims].T, rest)

    def _boxes_of(self, rows: Ints, shape: tuple[int, ...]) -> tuple[Ints, Ints]:
        """Offsets and extents of items' chunks, as far as they lie in their tensors."""
        columns, ndim = self.checkpoint.columns, len(shape)
        tensor = self.items.tensors.tensor[self.items.owner[rows]]
        begin = columns.box_start[tensor] + self.items.number[rows] * ndim
        index = begin[:, None] + np.arange(ndim)
        offsets = columns.offsets[index]
        return offsets, np.minimum(columns.sizes[index], np.asarray(shape, np.int64) - offsets)

    def _item_bytes(self, owner: Ints) -> Ints:
        columns = self.checkpoint.columns
        index = self.items.tensors.tensor
        sizes = [
            columns.num_bytes[i] // columns.num_elements[i] if columns.num_elements[i] else 0
            for i in index.tolist()
        ]
        return np.asarray(sizes, dtype=np.int64)[owner]

    # --- pairs of an item and a cell

    def _pairs(self, group: _Group, keep: npt.NDArray[np.bool_] | None = None) -> Iterator[_Pairs]:
        """(items, cells, bytes that the one brings to the other), in blocks."""
        place = np.arange(len(group.rows)) if keep is None else np.flatnonzero(keep)
        if self._own:
            yield from self._own_pairs(group, place)
            return
        placement = self._all[group.lies]
        spans = []
        counts = np.ones(len(place), dtype=np.int64)
        for number, dim in enumerate(placement.cut_dims):
            starts, lengths = placement.bounds(dim, group.shape[dim])
            pieces = np.flatnonzero(lengths)
            low, high = starts[pieces], (starts + lengths)[pieces]
            if placement.is_torn(dim, group.shape[dim]):
                # Pieces in no order, that may overlap: each is a candidate.
                first = np.zeros(len(place), dtype=np.int64)
                last = first + len(pieces)
            else:
                first = np.searchsorted(high, group.starts[number, place], "right")
                last = np.searchsorted(low, group.stops[number, place], "left")
            spans.append((number, pieces, low, high, first, last - first))
            counts *= last - first
        if not len(place):
            return
        borders = np.flatnonzero(np.diff(np.cumsum(counts) // _AT_ONCE)) + 1
        for part in np.split(np.arange(len(place)), borders):
            num = counts[part]
            of = np.repeat(part, num)
            step = np.arange(len(of)) - np.repeat(np.cumsum(num) - num, num)
            cell = np.zeros(len(of), dtype=np.int64)
            brought = group.rest[place[of]]
            hit = np.ones(len(of), dtype=bool)
            for number, pieces, low, high, first, width in reversed(spans):
                step, digit = np.divmod(step, width[of])
                at = first[of] + digit
                begin = np.maximum(low[at], group.starts[number, place[of]])
                end = np.minimum(high[at], group.stops[number, place[of]])
                brought = brought * np.maximum(end - begin, 0)
                hit &= begin < end
                cell += pieces[at] * self._stride(placement, number)
            yield group.rows[place[of[hit]]], cell[hit], brought[hit]

    @staticmethod
    def _stride(placement: TargetPlacement, number: int) -> int:
        return math.prod(math.prod(placement.shards(d)) for d in placement.cut_dims[number + 1 :])

    def _own_pairs(self, group: _Group, place: Ints) -> Iterator[_Pairs]:
        """Where every rank sees what its own metadata names: cells are ranks."""
        writer = self.items.writer[group.rows[place]]
        is_here = (writer >= 0) & (writer < self.mesh.world_size)
        place, writer = place[is_here], writer[is_here]
        placement, brought = self._all[group.lies], group.rest[place]
        for number, dim in enumerate(placement.cut_dims):
            starts, lengths = placement.bounds(dim, group.shape[dim])
            piece = placement.piece_of_rank(dim)[writer]
            low, high = starts[piece], (starts + lengths)[piece]
            begin = np.maximum(low, group.starts[number, place])
            brought = brought * np.maximum(np.minimum(high, group.stops[number, place]) - begin, 0)
        # An item without a byte is a chunk of a dtype that is not known: it is read all the same.
        hit = brought > 0 if (group.rest > 0).all() else self._meets(group, place, writer)
        yield group.rows[place[hit]], writer[hit], brought[hit]

    def _meets(self, group: _Group, place: Ints, ranks: Ints) -> npt.NDArray[np.bool_]:
        placement = self._all[group.lies]
        hit = np.ones(len(place), dtype=bool)
        for number, dim in enumerate(placement.cut_dims):
            starts, lengths = placement.bounds(dim, group.shape[dim])
            piece = placement.piece_of_rank(dim)[ranks]
            hit &= group.starts[number, place] < (starts + lengths)[piece]
            hit &= (group.stops[number, place] > starts[piece]) & (lengths[piece] > 0)
        return hit

    # --- figures

    def _sums(self) -> list[_Sums]:
        """The figures of the cells of every placement; kept."""
        if self._kept is None:
            sums = [_Sums.zeros(num) for num in self._num_cells]
            for group in self._groups:
                self._add_needed(group, sums[group.lies])
                for rows, cells, brought in self._pairs(group):
                    self._add(sums[group.lies], rows, cells, brought)
            entries = np.flatnonzero(self.items.owner < 0)
            cells = np.zeros(len(entries), dtype=np.int64)
            if self._own:
                cells = self.items.writer[entries]
                is_here = (cells >= 0) & (cells < self.mesh.world_size)
                entries, cells = entries[is_here], cells[is_here]
            self._add(sums[0], entries, cells, np.zeros(len(entries), dtype=np.int64))
            np.add.at(sums[0].needed, cells, self.items.num_bytes[entries])
            self._kept = sums
        return self._kept

    def _add(self, sums: _Sums, rows: Ints, cells: Ints, brought: Ints) -> None:
        items, num_files = self.items, max(1, len(self.checkpoint.files))
        if self.checkpoint.format == "safetensors":
            # Its reader takes slices (torch/distributed/checkpoint/hf_storage.py).
            read = in_flight = brought
        else:
            read, in_flight = items.num_bytes[rows], items.in_flight[rows]
        sums.num_reads += np.bincount(cells, minlength=len(sums.num_reads))
        np.add.at(sums.read, cells, read)
        np.add.at(sums.covered, cells, brought)
        np.maximum.at(sums.largest, cells, in_flight)
        is_stored = items.file[rows] >= 0
        sums.files.append(unique(cells[is_stored] * num_files + items.file[rows[is_stored]]))

    def _volumes(self, group: _Group) -> Ints:
        """Elements that each cell holds of a tensor of a group."""
        placement = self._all[group.lies]
        if self._own:
            volume = np.full(self.mesh.world_size, math.prod(group.shape), dtype=np.int64)
            for dim in placement.cut_dims:
                _, lengths = placement.bounds(dim, group.shape[dim])
                volume //= max(group.shape[dim], 1)
                volume *= lengths[placement.piece_of_rank(dim)]
            return volume
        rest = [n for d, n in enumerate(group.shape) if d not in placement.cut_dims]
        volume = np.full(1, math.prod(rest), dtype=np.int64)
        for dim in placement.cut_dims:
            _, lengths = placement.bounds(dim, group.shape[dim])
            volume = (volume[:, None] * lengths).ravel()
        return volume

    def _add_needed(self, group: _Group, sums: _Sums) -> None:
        volume = self._volumes(group)
        sums.needed += volume * int(self._item_bytes(group.members).sum())
        if math.prod(group.shape):
            sums.num_empty += (volume == 0) * len(group.members)

    def figures(self) -> RankFigures:
        sums = self._sums()
        needed = self._per_rank([s.needed for s in sums])
        largest = np.zeros(self.mesh.world_size, dtype=np.int64)
        for cells, s in zip(self._cell_of_rank, sums, strict=True):
            np.maximum(largest, s.largest[cells], out=largest)
        return RankFigures(
            bytes_needed=needed,
            bytes_read=self._per_rank([s.read for s in sums]),
            num_reads=self._per_rank([s.num_reads for s in sums]),
            num_files=self._num_files(sums),
            num_empty_tensors=self._per_rank([s.num_empty for s in sums]),
            peak_bytes=needed + largest,
            largest_read=largest,
        )

    def _per_rank(self, by_cell: list[Ints]) -> Ints:
        total = np.zeros(self.mesh.world_size, dtype=np.int64)
        for cells, values in zip(self._cell_of_rank, by_cell, strict=True):
            total += values[cells]
        return total

    @property
    def _lanes(self) -> tuple[Ints, Ints]:
        """A rank of each lane (ranks whose cells are all the same), and the lane of each rank."""
        table = np.stack(self._cell_of_rank, axis=1)
        _, first, lane = np.unique(table, axis=0, return_index=True, return_inverse=True)
        return first.astype(np.int64), lane.reshape(-1).astype(np.int64)

    @property
    def num_replicas(self) -> int:
        """How many ranks read alike, if that is the same for all of them; else 1."""
        if self._own:
            return 1
        num = unique(np.bincount(self._lanes[1]))
        return int(num[0]) if len(num) == 1 else 1

    def _num_files(self, sums: list[_Sums]) -> Ints:
        """Different files of each rank, over all placements."""
        num_files = max(1, len(self.checkpoint.files))
        first, lane = self._lanes
        keys = [unique(np.concatenate(s.files)) if s.files else np.zeros(0, np.int64) for s in sums]
        result = np.zeros(len(first), dtype=np.int64)
        block = max(1, _AT_ONCE // num_files)
        for begin in range(0, len(first), block):
            ranks = first[begin : begin + block]
            seen = np.zeros((len(ranks), num_files), dtype=bool)
            for cells, of in zip(self._cell_of_rank, keys, strict=True):
                low = np.searchsorted(of, cells[ranks] * num_files)
                high = np.searchsorted(of, (cells[ranks] + 1) * num_files)
                files = of[_spans(low, high)] % num_files
                seen[np.repeat(np.arange(len(ranks)), high - low), files] = True
            result[begin : begin + block] = seen.sum(axis=1)
        return result[lane]

    def bytes_covered(self) -> Ints:
        """Bytes of elements that the reads of each rank bring."""
        return self._per_rank([s.covered for s in self._sums()])

    def bytes_of_tensors(self) -> Ints:
        """Bytes of the elements that each rank holds: what it needs but for bytes entries."""
        total = np.zeros(self.mesh.world_size, dtype=np.int64)
        for group in self._groups:
            volume = self._volumes(group)[self._cell_of_rank[group.lies]]
            total += volume * int(self._item_bytes(group.members).sum())
        return total

    @property
    def num_ranks_without(self) -> Ints:
        """Per tensor of `items.tensors` the ranks that hold none of its elements, if it has any."""
        result = np.zeros(len(self.placements), dtype=np.int64)
        for group in self._groups:
            if math.prod(group.shape):
                held = self._volumes(group)[self._cell_of_rank[group.lies]]
                result[group.members] = np.count_nonzero(held == 0)
        return result

    def elements_in(self, index: int, offsets: Ints, sizes: Ints) -> Ints:
        """Elements of boxes of a tensor that lie in each rank's part, shape (world_size,).

        Args:
            index: Position in `items.tensors`.
            offsets: The boxes' lower corners, shape (num_boxes, ndim).
            sizes: Their extents, likewise.
        """
        placement = self.placements[index]
        shape = self._groups[int(self._group_of[index])].shape
        total = np.zeros(self.mesh.world_size, dtype=np.int64)
        for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
            common = np.ones(self.mesh.world_size, dtype=np.int64)
            for dim, (begin, extent) in enumerate(zip(offset, size, strict=True)):
                if dim not in placement.cut_dims:
                    common *= extent
                    continue
                starts, lengths = placement.bounds(dim, shape[dim])
                piece = placement.piece_of_rank(dim)
                low = np.maximum(starts[piece], begin)
                high = np.minimum((starts + lengths)[piece], begin + extent)
                common *= np.maximum(high - low, 0)
            total += common
        return total

    # --- reads

    def readers(self, rows: Ints) -> Ints:
        """The ranks that read any of these items, in rising order."""
        wanted = np.zeros(len(self.items.owner), dtype=bool)
        wanted[rows] = True
        hit = np.zeros(self.mesh.world_size, dtype=bool)
        entries = rows[self.items.owner[rows] < 0]
        if len(entries) and not self._own:
            hit[:] = True
        elif len(entries):
            writer = self.items.writer[entries]
            hit[writer[(writer >= 0) & (writer < self.mesh.world_size)]] = True
        owners = self.items.owner[rows]
        for number in unique(self._group_of[owners[owners >= 0]]).tolist():
            group = self._groups[number]
            cells = np.zeros(self._num_cells[group.lies], dtype=bool)
            for _, found, _ in self._pairs(group, wanted[group.rows]):
                cells[found] = True
            hit |= cells[self._cell_of_rank[group.lies]]
        return np.flatnonzero(hit).astype(np.int64)

    def read_rows(self, rank: int) -> Ints:
        """The items that a rank reads: tensors in the order of the plan, then bytes entries."""
        items = self.items
        hit = items.owner < 0
        for group in self._groups:
            place = np.arange(len(group.rows))
            ranks = np.full(len(place), rank, dtype=np.int64)
            hit[group.rows] = self._meets(group, place, ranks)
        if self._own:
            hit &= items.writer == rank
        return items.in_plan_order(hit)

    def reads(self, rank: int, rows: Ints | None = None) -> Iterator[Read]:
        """The reads of a rank; of all `read_rows`, or of a part of them."""
        if rows is None:
            rows = self.read_rows(rank)
        chunks = rows[self.items.owner[rows] >= 0]
        yield from reads_of_rows(self.checkpoint, self.items, rows, self._boxes(chunks, rank))

    def _boxes(self, rows: Ints, rank: int) -> list[Box]:
        """Storage offsets, destination offsets and lengths of reads, in the order of `rows`."""
        result: list[Box] = [((), (), ())] * len(rows)
        group_of = self._group_of[self.items.owner[rows]]
        for number in unique(group_of).tolist():
            group = self._groups[number]
            if not group.shape:
                continue
            here = np.flatnonzero(group_of == number)
            offsets, extent = self._boxes_of(rows[here], group.shape)
            low, size = map(np.asarray, self._all[group.lies].box(rank, group.shape))
            begin = np.maximum(offsets, low)
            length = np.minimum(offsets + extent, low + size) - begin
            put_boxes(result, here, begin - offsets, begin - low, length)
        return result


def _spans(low: Ints, high: Ints) -> Ints:
    """All numbers from each of `low` up to, and without, its `high`, one span after the other."""
    num = high - low
    return np.repeat(low - (np.cumsum(num) - num), num) + np.arange(int(num.sum()))
