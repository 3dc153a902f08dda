"""`ReadItems`: what can be read of a checkpoint, as columns: a row for each chunk and bytes entry.

The rule this module keeps: nothing here depends on a mesh, so that it is made once and planned
under many. FSDP and HSDP cut the first dim of a tensor alone, so the rows that a chunk holds are
all that decides who reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint
from inspector.layout.geometry import Ints, unique
from inspector.layout.tilings import tilings_of

__all__ = ["ItemGroups", "NotPlanned", "ReadItems", "TensorRows", "read_items"]

# A pebibyte: no tensor and no payload comes near it.
_MAX_BYTES = 1 << 50
_MAX_OFFSET = 1 << 62
# Sets of files in which tensors of one tiling may lie.
_MAX_RIVALS = 4
_COLUMNS = "owner number start stop row_bytes file num_bytes end in_flight writer".split()


@dataclass(frozen=True, slots=True)
class NotPlanned:
    """An entry that was left out of a plan. `fqn` is raw; `why` is a plain phrase.

    `is_later` as of `Malformed`.
    """

    fqn: str
    why: str
    is_later: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TensorRows:
    """The tensors of a plan, as a mesh cuts them; columns of shape (num_tensors,).

    Attributes:
        tensor: Index in the checkpoint.
        height: Size of the first dim; 1 for a 0-d tensor.
        row_bytes: Bytes of the elements of one row.
        is_cut: False for a 0-d tensor, which every rank holds whole.
        has_elements: False if a dim is 0.
    """

    tensor: Ints
    height: Ints
    row_bytes: Ints
    is_cut: npt.NDArray[np.bool_]
    has_elements: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ItemGroups:
    """Items that the same ranks read under every mesh, as one; columns of shape (num_groups,).

    They are the chunks of one number of tensors that are tiled alike, take the same bytes an
    element and lie in the same files, chunk by chunk; and each other item by itself.

    Attributes:
        owner: Position of one of the tensors; -1 for a bytes entry.
        start, stop, row_bytes, file, writer: As of `ReadItems`; the same for all of a group.
        count: How many items.
        num_bytes: The lengths of their payloads, together.
        end: Where the last of the payloads ends in the file.
        in_flight: The most host memory in bytes that reading one of them takes.
    """

    owner: Ints
    start: Ints
    stop: Ints
    row_bytes: Ints
    file: Ints
    writer: Ints
    count: Ints
    num_bytes: Ints
    end: Ints
    in_flight: Ints


@dataclass(frozen=True, eq=False)
class ReadItems:
    """What can be read, as columns of shape (num_items,).

    Chunks that hold no element of their tensor are no items: torch's planner makes no read of them.
    The columns are made when one of them is asked for: figures of whole plans rest on `groups`.

    Attributes:
        tensors: The tensors that are planned.
        left_out: Entries that cannot be planned.
    """

    tensors: TensorRows
    left_out: tuple[NotPlanned, ...]
    _checkpoint: Checkpoint = field(repr=False)
    _entries: dict[str, Ints] = field(repr=False)

    @cached_property
    def _columns(self) -> dict[str, Ints]:
        whole = np.arange(len(self.tensors.tensor))
        return _joined([_chunk_columns(self._checkpoint, self.tensors, whole), self._entries])

    @property
    def owner(self) -> Ints:
        """Position in `tensors`; -1 for a bytes entry."""
        return self._columns["owner"]

    @property
    def number(self) -> Ints:
        """The chunk's number in its tensor, or the index of the bytes entry."""
        return self._columns["number"]

    @property
    def start(self) -> Ints:
        """The first row of the tensor that the chunk holds; 0 for a bytes entry."""
        return self._columns["start"]

    @property
    def stop(self) -> Ints:
        """The row after its last; 1 for a bytes entry."""
        return self._columns["stop"]

    @property
    def row_bytes(self) -> Ints:
        """Bytes of the elements that the chunk has of one row; 0 for a bytes entry."""
        return self._columns["row_bytes"]

    @property
    def file(self) -> Ints:
        """Index into `Checkpoint.files`; -1 if the metadata stores it nowhere."""
        return self._columns["file"]

    @property
    def num_bytes(self) -> Ints:
        """Length of the payload in its file; 0 if stored nowhere."""
        return self._columns["num_bytes"]

    @property
    def end(self) -> Ints:
        """Where the payload ends in its file; 0 if stored nowhere."""
        return self._columns["end"]

    @property
    def in_flight(self) -> Ints:
        """Host memory in bytes that reading the payload takes."""
        return self._columns["in_flight"]

    @property
    def writer(self) -> Ints:
        """The one rank whose metadata names the item, where every rank wrote metadata of its own.

        -1 where all ranks read the same.
        """
        return self._columns["writer"]

    @cached_property
    def groups(self) -> ItemGroups:
        """The same in as few rows as there are different items."""
        return _groups(self._checkpoint, self.tensors, self._entries)

    def in_plan_order(self, is_wanted: npt.NDArray[np.bool_]) -> Ints:
        """Rows of the wanted items: tensors in the order of the plan, then bytes entries."""
        rows = np.flatnonzero(is_wanted)
        is_entry = self.owner[rows] < 0
        chunks = rows[~is_entry]
        chunks = chunks[np.lexsort((self.number[chunks], self.owner[chunks]))]
        return np.concatenate([chunks, rows[is_entry]])


def read_items(
    checkpoint: Checkpoint,
    tensors: Sequence[int] | None = None,
    entries: Sequence[int] | None = None,
) -> ReadItems:
    """Collects what can be read.

    Args:
        checkpoint: The checkpoint.
        tensors: Indices of the tensors to load, in the order of the state dict (default: all).
        entries: Indices of the bytes entries to load (default: all).
    """
    left_out: list[NotPlanned] = []
    if tensors is None:
        tensors = checkpoint.tensor_order.tolist()
        left_out += [
            NotPlanned(item.fqn, item.what, item.is_later) for item in checkpoint.malformed
        ]
    if entries is None:
        entries = checkpoint.bytes_order.tolist()
    rows, too_large = _tensor_rows(checkpoint, tensors)
    extra, too_long = _entry_columns(checkpoint, entries)
    return ReadItems(rows, (*left_out, *too_large, *too_long), checkpoint, extra)


def _too_large(num_bytes: int) -> str:
    return f"it claims {num_bytes} bytes, more than a pebibyte"


def _tensor_rows(
    checkpoint: Checkpoint, tensors: Sequence[int]
) -> tuple[TensorRows, list[NotPlanned]]:
    columns = checkpoint.columns
    num_bytes = columns.num_bytes
    longest = np.zeros(columns.num_tensors, dtype=np.int64)
    filled = np.flatnonzero(columns.num_chunks_of)
    if len(filled):
        longest[filled] = np.maximum.reduceat(columns.byte_length, columns.chunk_start[filled])
    longest_of = longest.tolist()
    left_out, kept, heights, row_bytes = [], [], [], []
    starts, shapes = columns.dim_start.tolist(), columns.shapes.tolist()
    for index in tensors:
        claimed = max(num_bytes[index], longest_of[index])
        if claimed > _MAX_BYTES:
            left_out.append(NotPlanned(columns.fqns[index], _too_large(claimed)))
            continue
        height = shapes[starts[index]] if starts[index] < starts[index + 1] else 1
        kept.append(index)
        heights.append(height)
        row_bytes.append(num_bytes[index] // height if height else 0)
    tensor = np.asarray(kept, dtype=np.int64)
    is_cut = np.diff(columns.dim_start)[tensor] > 0
    height = np.asarray(heights, dtype=np.int64)
    has_elements = np.asarray([columns.num_elements[i] > 0 for i in kept], dtype=bool)
    per_row = np.asarray(row_bytes, dtype=np.int64)
    return TensorRows(tensor, height, per_row, is_cut, has_elements), left_out


def _entry_columns(
    checkpoint: Checkpoint, entries: Sequence[int]
) -> tuple[dict[str, Ints], list[NotPlanned]]:
    """The items of bytes entries. Their bytes stay: they need no memory in flight besides."""
    rows, left_out = [], []
    for i in entries:
        entry = checkpoint.bytes_entries[i]
        length = max(entry.byte_length, 0)
        if length > _MAX_BYTES:
            left_out.append(NotPlanned(entry.fqn, _too_large(length)))
            continue
        sees = entry.rank if checkpoint.per_rank_metadata and entry.rank is not None else -1
        end = min(max(entry.byte_offset, 0), _MAX_OFFSET) + length
        rows.append((-1, i, 0, 1, 0, entry.file, length, end, 0, sees))
    table = np.asarray(rows, dtype=np.int64).reshape(len(rows), len(_COLUMNS))
    return dict(zip(_COLUMNS, table.T, strict=True)), left_out


def _joined(parts: Sequence[dict[str, Ints]]) -> dict[str, Ints]:
    """Columns of some items, then of others."""
    filled = [part for part in parts if len(part["owner"])]
    if len(filled) == 1:
        return filled[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _item_bytes(checkpoint: Checkpoint, tensors: Ints) -> Ints:
    """Bytes of an element of each tensor; 0 where its dtype is not known."""
    columns = checkpoint.columns
    sizes = [itemsize(dtype) or 0 for dtype, *_ in columns.properties]
    return np.asarray(sizes, dtype=np.int64)[columns.property_id[tensors]]


def _copies(checkpoint: Checkpoint, tensors: Ints) -> Ints:
    """A transformed stream is held unpacked beside the tensor that is made of it: then two."""
    packed = checkpoint.columns.transforms
    return np.asarray([1 + (index in packed) for index in tensors.tolist()], dtype=np.int64)


def _chunk_columns(checkpoint: Checkpoint, rows: TensorRows, places: Ints) -> dict[str, Ints]:
    """The items of all chunks that hold elements of their tensor.

    Args:
        checkpoint: The checkpoint.
        rows: The tensors of the plan.
        places: Which of them, in rising order.
    """
    columns = checkpoint.columns
    tensors = rows.tensor[places]
    ndims = np.diff(columns.dim_start)[tensors]
    item_bytes, copies = _item_bytes(checkpoint, tensors), _copies(checkpoint, tensors)
    parts: list[dict[str, Ints]] = []
    for ndim in unique(ndims).tolist():
        members = np.flatnonzero(ndims == ndim)
        num = columns.num_chunks_of[tensors[members]]
        of = np.repeat(members, num)
        number = np.arange(len(of)) - np.repeat(np.cumsum(num) - num, num)
        tensor = tensors[of]
        start = np.zeros(len(of), dtype=np.int64)
        stop = in_row = start + 1
        if ndim:
            index = (columns.box_start[tensor] + number * ndim)[:, None] + np.arange(ndim)
            offsets = columns.offsets[index]
            shape = columns.shapes[columns.dim_start[tensor][:, None] + np.arange(ndim)]
            # What a chunk holds outside its tensor is never asked for.
            extent = np.minimum(columns.sizes[index], np.maximum(shape - offsets, 0))
            live = (extent > 0).all(axis=1)
            if not live.all():
                of, number, tensor = of[live], number[live], tensor[live]
                offsets, extent = offsets[live], extent[live]
            start = offsets[:, 0]
            stop = start + extent[:, 0]
            in_row = np.prod(extent[:, 1:], axis=1, dtype=np.int64)
        chunk = columns.chunk_start[tensor] + number
        file = columns.file[chunk]
        length = np.maximum(columns.byte_length[chunk], 0)
        row_bytes = in_row * item_bytes[of]
        sees = np.full(len(file), -1, dtype=np.int64)
        if checkpoint.per_rank_metadata:
            sees = checkpoint.chunk_ranks(file).astype(np.int64)
        parts.append(
            {
                "owner": places[of],
                "number": number,
                "start": start,
                "stop": stop,
                "row_bytes": row_bytes,
                "file": file.astype(np.int64),
                "num_bytes": length,
                "end": np.clip(columns.byte_offset[chunk], 0, _MAX_OFFSET) + length,
                "in_flight": np.maximum(length, (stop - start) * row_bytes) * copies[of],
                "writer": sees,
            }
        )
    if not parts:
        return {name: np.zeros(0, dtype=np.int64) for name in _COLUMNS}
    return _joined(parts)


@dataclass(slots=True)
class _Leader:
    """A tensor whose items stand for those of others, and the sums over all of them by chunk."""

    place: int
    file: npt.NDArray[np.int32]
    num_bytes: Ints
    longest: Ints
    end: Ints
    count: int = 1

    def add(self, length: Ints, end: Ints) -> None:
        self.count += 1
        self.num_bytes += length
        np.maximum(self.longest, length, out=self.longest)
        np.maximum(self.end, end, out=self.end)


def _groups(checkpoint: Checkpoint, rows: TensorRows, entries: dict[str, Ints]) -> ItemGroups:
    """The items of a plan, of tensors that are read alike those of one."""
    columns, tilings = checkpoint.columns, tilings_of(checkpoint.columns)
    tiling = tilings.of[rows.tensor]
    # Those that share their tiling with another.
    shared = np.flatnonzero(np.bincount(tiling, minlength=len(tilings.first))[tiling] > 1)
    of_shared = rows.tensor[shared]
    kinds = zip(
        tiling[shared].tolist(),
        _item_bytes(checkpoint, of_shared).tolist(),
        _copies(checkpoint, of_shared).tolist(),
        strict=True,
    )
    first = columns.chunk_start[of_shared].tolist()
    last = columns.chunk_start[of_shared + 1].tolist()
    leaders: dict[tuple[int, int, int], list[_Leader]] = {}
    is_led = np.zeros(len(rows.tensor), dtype=bool)
    for place, kind, begin, end in zip(shared.tolist(), kinds, first, last, strict=True):
        file = columns.file[begin:end]
        length = np.maximum(columns.byte_length[begin:end], 0)
        ends = np.clip(columns.byte_offset[begin:end], 0, _MAX_OFFSET) + length
        rivals = leaders.setdefault(kind, [])
        for leader in rivals:
            if (file == leader.file).all():
                leader.add(length, ends)
                is_led[place] = True
                break
        else:
            if len(rivals) < _MAX_RIVALS:
                rivals.append(_Leader(place, file, length, length.copy(), ends))
    table = _chunk_columns(checkpoint, rows, np.flatnonzero(~is_led))
    table["count"] = np.ones(len(table["owner"]), dtype=np.int64)
    # The rows of a tensor lie together.
    owner = table["owner"]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    spans = pairwise([*starts.tolist(), len(owner)])
    where = {place: slice(*span) for place, span in zip(owner[starts].tolist(), spans, strict=True)}
    for leader in (one for rivals in leaders.values() for one in rivals if one.count > 1):
        mine = where.get(leader.place)
        if mine is None:
            continue  # None of its chunks holds an element.
        number = table["number"][mine]
        copies = int(_copies(checkpoint, rows.tensor[leader.place : leader.place + 1])[0])
        table["count"][mine] = leader.count
        table["num_bytes"][mine] = leader.num_bytes[number]
        table["end"][mine] = leader.end[number]
        longest = leader.longest[number] * copies
        table["in_flight"][mine] = np.maximum(table["in_flight"][mine], longest)
    extra = {**entries, "count": np.ones(len(entries["owner"]), dtype=np.int64)}
    found = _joined([table, extra])
    return ItemGroups(**{name: found[name] for name in ItemGroups.__dataclass_fields__})
