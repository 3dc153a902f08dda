"""`Runs`: which ranks read which items, as runs of neighbouring shards; the figures that follow.

The rule this module keeps: no pair of a rank and a chunk is made but for the one rank whose reads
are listed. Replicas read alike, so figures are counted for the shards of one replica (a *lane* is
what reads alike) and repeated. Where every rank wrote metadata of its own, a rank sees only what
its own names, and every rank is a lane of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint
from inspector.layout.geometry import Ints, distinct, maxima, shares, sums, unique
from inspector.layout.mesh import Mesh
from inspector.layout.reads.items import ItemGroups, ReadItems

__all__ = ["Box", "RankFigures", "Read", "Runs", "reads_of_rows"]

#: Storage offsets, destination offsets, lengths.
Box = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Read:
    """One read of one rank, as torch's planner makes it (a `ReadItem`).

    Attributes:
        fqn: Raw name of the tensor or bytes entry.
        file: Raw path of the data file, or None if the metadata stores the payload nowhere.
        storage_offsets: Where the part begins inside the stored chunk; torch writes (0,) here
            and below for a bytes entry, which is read whole.
        dest_offsets: Where it goes inside the rank's own shard.
        lengths: Its extent.
        byte_offset, byte_length: Where the payload lies in the file; all of it is read.
        is_bytes: Whether it is a bytes entry.
    """

    fqn: str
    file: str | None
    storage_offsets: tuple[int, ...]
    dest_offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    byte_offset: int
    byte_length: int
    is_bytes: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RankFigures:
    """A figure for every rank, as int64 columns of shape (world_size,).

    Attributes:
        bytes_needed: Elements of the rank's shards, and its bytes entries.
        bytes_read: What it reads for them: whole payloads, or of safetensors the slices alone.
        num_reads: Read items of its plan, bytes entries included.
        num_files: Data files that it opens.
        num_empty_tensors: Tensors with elements of which it holds none.
        peak_bytes: Host memory: what it needs, and the largest payload while it is read. Where the
            shards lie on a GPU, what is needed lies there, and only the payload on the host.
        largest_read: That payload: host memory that reading it takes.
    """

    bytes_needed: Ints
    bytes_read: Ints
    num_reads: Ints
    num_files: Ints
    num_empty_tensors: Ints
    peak_bytes: Ints
    largest_read: Ints


@dataclass(frozen=True, eq=False)
class Runs:
    """The items of a checkpoint under a mesh.

    Attributes:
        checkpoint: The checkpoint.
        mesh: `fsdp:S` or `hsdp:RxS`.
        items: What can be read.
        full: Rows of a whole shard, per tensor of `items.tensors`: torch's rule, ceil(height / S)
            rows while they last.
    """

    checkpoint: Checkpoint
    mesh: Mesh
    items: ReadItems
    full: Ints

    @classmethod
    def make(cls, checkpoint: Checkpoint, items: ReadItems, mesh: Mesh) -> Runs:
        """Cuts every tensor."""
        full = np.maximum(-(-items.tensors.height // mesh.num_shards), 1)
        return cls(checkpoint, mesh, items, full)

    @property
    def num_lanes(self) -> int:
        """Shards, or ranks where every rank wrote metadata of its own."""
        return self.mesh.world_size if self.checkpoint.per_rank_metadata else self.mesh.num_shards

    @cached_property
    def _lanes_of_items(self) -> tuple[Ints, Ints]:
        return self._lanes(self.items)

    def _lanes(self, items: ReadItems | ItemGroups) -> tuple[Ints, Ints]:
        """First and last of the lanes that read each item; `first - 1` where none does."""
        num_shards = self.mesh.num_shards
        is_cut = self._is_cut(items)
        step = self._rows_of_shard(items)
        first = np.where(is_cut, items.start // step, 0)
        last = np.where(is_cut, (items.stop - 1) // step, num_shards - 1)
        if not self.checkpoint.per_rank_metadata:
            return first, last
        lane = np.clip(items.writer, 0, self.mesh.world_size - 1)
        shard = lane % num_shards
        seen = (lane == items.writer) & (first <= shard) & (shard <= last)
        return lane, np.where(seen, lane, lane - 1)

    def _is_cut(self, items: ReadItems | ItemGroups) -> npt.NDArray[np.bool_]:
        return np.append(self.items.tensors.is_cut, False)[items.owner]

    def _rows_of_shard(self, items: ReadItems | ItemGroups) -> Ints:
        return np.append(self.full, 1)[items.owner]

    def figures(self) -> RankFigures:
        groups, lanes = self.items.groups, self.num_lanes
        first, last = self._lanes(groups)
        # All of them, but for items that no rank's own metadata names.
        seen = np.flatnonzero(first <= last)
        first, last, owner = first[seen], last[seen], groups.owner[seen]
        num_bytes, file, count = groups.num_bytes[seen], groups.file[seen], groups.count[seen]
        tensors_needed, num_empty = self._shards()
        is_entry = owner < 0
        entries_needed = sums(first[is_entry], last[is_entry], num_bytes[is_entry], lanes)
        needed = self._per_rank(tensors_needed) + self._per_rank(entries_needed)
        is_stored = file >= 0
        num_files = distinct(first[is_stored], last[is_stored], file[is_stored], lanes)
        if self.checkpoint.format == "safetensors":
            read, in_flight = self._slices(groups)
        else:
            read, in_flight = sums(first, last, num_bytes, lanes), groups.in_flight[seen]
        largest = self._per_rank(maxima(first, last, in_flight, lanes))
        return RankFigures(
            bytes_needed=needed,
            bytes_read=self._per_rank(read),
            num_reads=self._per_rank(sums(first, last, count, lanes)),
            num_files=self._per_rank(num_files),
            num_empty_tensors=self._per_rank(num_empty),
            peak_bytes=needed + largest,
            largest_read=largest,
        )

    def _slices(self, groups: ItemGroups) -> tuple[Ints, Ints]:
        """Bytes read per lane, and memory in flight per item, of a reader that takes slices.

        `HuggingFaceStorageReader` does (torch/distributed/checkpoint/hf_storage.py). There are no
        bytes entries in safetensors, and no metadata of every rank.
        """
        rows = np.minimum(groups.stop - groups.start, self._rows_of_shard(groups))
        return self._covered(), rows * groups.row_bytes

    def _covered(self) -> Ints:
        """Bytes of the elements that the reads bring, per lane; twice where chunks overlap."""
        groups, num_shards = self.items.groups, self.mesh.num_shards
        first, last = self._lanes(groups)
        is_cut, full = self._is_cut(groups), self._rows_of_shard(groups)
        row_bytes = groups.row_bytes * groups.count
        rows = np.flatnonzero(is_cut)
        if self.checkpoint.per_rank_metadata:
            rows = rows[first[rows] <= last[rows]]
            top = first[rows] % num_shards * full[rows]
            stop = np.minimum(groups.stop[rows], top + full[rows])
            own = (stop - np.maximum(groups.start[rows], top)) * row_bytes[rows]
            brought = sums(first[rows], last[rows], own, self.num_lanes)
        else:
            brought = shares(
                groups.start[rows], groups.stop[rows], full[rows], row_bytes[rows], num_shards
            )
        rest = np.flatnonzero(~is_cut)
        return brought + sums(first[rest], last[rest], row_bytes[rest], self.num_lanes)

    def bytes_covered(self) -> Ints:
        """Bytes of elements that the reads of each rank bring."""
        return self._per_rank(self._covered())

    def bytes_of_tensors(self) -> Ints:
        """Bytes of the elements that each rank holds: what it needs but for bytes entries."""
        return self._per_rank(self._shards()[0])

    def readers(self, rows: Ints) -> Ints:
        """The ranks that read any of these items, in rising order."""
        first, last = self._lanes_of_items
        lanes = sums(first[rows], last[rows], 1, self.num_lanes)
        return np.flatnonzero(self._per_rank(lanes)).astype(np.int64)

    def _per_rank(self, by_lane: Ints) -> Ints:
        return np.tile(by_lane, self.mesh.world_size // len(by_lane))

    def _shards(self) -> tuple[Ints, Ints]:
        """Per shard: bytes of the elements it holds, and tensors of which it holds none."""
        rows, num = self.items.tensors, self.mesh.num_shards
        whole = np.where(rows.is_cut, rows.height // self.full, num)
        part = np.where(rows.is_cut, rows.height % self.full, 0) * rows.row_bytes
        zeros = np.zeros_like(whole)
        needed = sums(zeros, whole - 1, self.full * rows.row_bytes, num)
        # A short shard lies after the whole ones; without one, `part` is 0.
        np.add.at(needed, np.minimum(whole, num - 1), part)
        empty = self.num_empty_shards
        has_empty = empty > 0
        begin = (num - empty)[has_empty]
        return needed, sums(begin, np.full_like(begin, num - 1), 1, num)

    @property
    def num_replicas(self) -> int:
        """How many ranks read alike."""
        return 1 if self.checkpoint.per_rank_metadata else self.mesh.num_replicas

    @property
    def num_ranks_without(self) -> Ints:
        """Per tensor of `items.tensors` the ranks that hold none of its elements, if it has any."""
        return self.num_empty_shards * self.mesh.num_replicas

    @property
    def num_empty_shards(self) -> Ints:
        """Per tensor of `items.tensors` the shards without an element; 0 if it has none at all."""
        rows = self.items.tensors
        pieces = -(-rows.height // self.full)
        return np.where(rows.is_cut & rows.has_elements, self.mesh.num_shards - pieces, 0)

    def read_rows(self, rank: int) -> Ints:
        """The items that a rank reads: tensors in the order of the plan, then bytes entries."""
        items = self.items
        lane = rank % self.num_lanes
        first, last = self._lanes_of_items
        return items.in_plan_order((first <= lane) & (lane <= last))

    def reads(self, rank: int, rows: Ints | None = None) -> Iterator[Read]:
        """The reads of a rank; of all `read_rows`, or of a part of them."""
        items = self.items
        if rows is None:
            rows = self.read_rows(rank)
        chunks = rows[items.owner[rows] >= 0]
        boxes = self._boxes(chunks, rank % self.num_lanes % self.mesh.num_shards)
        yield from reads_of_rows(self.checkpoint, items, rows, boxes)

    def _boxes(self, rows: Ints, shard: int) -> list[Box]:
        """Storage offsets, destination offsets and lengths of reads, in the order of `rows`."""
        items, columns = self.items, self.checkpoint.columns
        owner = items.owner[rows]
        tensor = items.tensors.tensor[owner]
        ndims = np.diff(columns.dim_start)[tensor]
        result: list[Box] = [((), (), ())] * len(rows)
        for ndim in unique(ndims[ndims > 0]).tolist():
            here = np.flatnonzero(ndims == ndim)
            of, member = tensor[here], rows[here]
            corner = columns.box_start[of] + items.number[member] * ndim
            index = corner[:, None] + np.arange(ndim)
            dest = columns.offsets[index]
            shape = columns.shapes[columns.dim_start[of][:, None] + np.arange(ndim)]
            length = np.minimum(columns.sizes[index], shape - dest)
            storage = np.zeros_like(dest)
            full = self.full[owner[here]]
            top = full * shard
            begin = np.maximum(items.start[member], top)
            length[:, 0] = np.minimum(items.stop[member], top + full) - begin
            storage[:, 0] = begin - items.start[member]
            dest[:, 0] = begin - top
            put_boxes(result, here, storage, dest, length)
        return result


def put_boxes(boxes: list[Box], at: Ints, storage: Ints, dest: Ints, length: Ints) -> None:
    """Write boxes, given as columns of shape (len(at), ndim), to their places in a list."""
    found = (map(tuple, column.tolist()) for column in (storage, dest, length))
    for row, *box in zip(at.tolist(), *found, strict=True):
        boxes[row] = tuple(box)


def reads_of_rows(
    checkpoint: Checkpoint, items: ReadItems, rows: Ints, boxes: list[Box]
) -> Iterator[Read]:
    """Items as reads: chunks, then bytes entries.

    Args:
        checkpoint: The checkpoint.
        items: What can be read.
        rows: The items.
        boxes: What is read of each chunk among them, in their order.
    """
    is_entry = items.owner[rows] < 0
    columns, files = checkpoint.columns, checkpoint.files
    chunks, entries = rows[~is_entry], rows[is_entry]
    tensor = items.tensors.tensor[items.owner[chunks]]
    chunk = columns.chunk_start[tensor] + items.number[chunks]
    places = zip(
        tensor.tolist(),
        columns.file[chunk].tolist(),
        columns.byte_offset[chunk].tolist(),
        columns.byte_length[chunk].tolist(),
        boxes,
        strict=True,
    )
    fqns = columns.fqns
    paths = [file.path for file in files]
    for index, file, offset, length, box in places:
        path = paths[file] if file >= 0 else None
        yield Read(fqns[index], path, *box, max(offset, 0), max(length, 0))
    for i in items.number[entries].tolist():
        entry = checkpoint.bytes_entries[i]
        path = paths[entry.file] if entry.file >= 0 else None
        place = (max(entry.byte_offset, 0), max(entry.byte_length, 0))
        yield Read(entry.fqn, path, (0,), (0,), (0,), *place, is_bytes=True)
