"""`ReadItems`: what can be read of a checkpoint, as columns: a row for each chunk and bytes entry.

The rule this module keeps: nothing here depends on a mesh, so that it is made once and planned
under many. FSDP and HSDP cut the first dim of a tensor alone, so the rows that a chunk holds are
all that decides who reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint
from inspector.layout.geometry import Ints, unique

__all__ = ["NotPlanned", "ReadItems", "TensorRows", "read_items"]

# A pebibyte: no tensor and no payload comes near it.
_MAX_BYTES = 1 << 50
_MAX_OFFSET = 1 << 62
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
class ReadItems:
    """What can be read, as columns of shape (num_items,).

    Chunks that hold no element of their tensor are no items: torch's planner makes no read of them.

    Attributes:
        tensors: The tensors that are planned.
        owner: Position in `tensors`; -1 for a bytes entry.
        number: The chunk's number in its tensor, or the index of the bytes entry.
        start, stop: The rows of the tensor that the chunk holds; 0 and 1 for a bytes entry.
        row_bytes: Bytes of the elements that the chunk has of one row; 0 for a bytes entry.
        file: Index into `Checkpoint.files`; -1 if the metadata stores it nowhere.
        num_bytes: Length of the payload in its file; 0 if stored nowhere.
        end: Where the payload ends in its file; 0 if stored nowhere.
        in_flight: Host memory in bytes that reading the payload takes.
        writer: The one rank whose metadata names the item, where every rank wrote metadata of its
            own; -1 where all ranks read the same.
        left_out: Entries that cannot be planned.
    """

    tensors: TensorRows
    owner: Ints
    number: Ints
    start: Ints
    stop: Ints
    row_bytes: Ints
    file: Ints
    num_bytes: Ints
    end: Ints
    in_flight: Ints
    writer: Ints
    left_out: tuple[NotPlanned, ...]

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
    chunks = _chunk_columns(checkpoint, rows)
    extra, too_long = _entry_columns(checkpoint, entries)
    return ReadItems(
        tensors=rows,
        left_out=(*left_out, *too_large, *too_long),
        **{name: np.concatenate([chunks[name], extra[name]]) for name in _COLUMNS},
    )


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


def _chunk_columns(checkpoint: Checkpoint, rows: TensorRows) -> dict[str, Ints]:
    """The items of all chunks that hold elements of their tensor."""
    columns = checkpoint.columns
    ndims = np.diff(columns.dim_start)[rows.tensor]
    sizes = [itemsize(dtype) or 0 for dtype, *_ in columns.properties]
    item_bytes = np.asarray(sizes, dtype=np.int64)[columns.property_id[rows.tensor]]
    # A transformed stream is held unpacked beside the tensor that is made of it.
    is_packed = [index in columns.transforms for index in rows.tensor.tolist()]
    copies = 1 + np.asarray(is_packed, dtype=np.int64)
    parts: list[tuple[Ints, ...]] = []
    for ndim in unique(ndims).tolist():
        members = np.flatnonzero(ndims == ndim)
        num = columns.num_chunks_of[rows.tensor[members]]
        owner = np.repeat(members, num)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(num) - num, num)
        tensor = rows.tensor[owner]
        start = np.zeros(len(owner), dtype=np.int64)
        stop = in_row = start + 1
        if ndim:
            index = (columns.box_start[tensor] + number * ndim)[:, None] + np.arange(ndim)
            offsets = columns.offsets[index]
            shape = columns.shapes[columns.dim_start[tensor][:, None] + np.arange(ndim)]
            # What a chunk holds outside its tensor is never asked for.
            extent = np.minimum(columns.sizes[index], np.maximum(shape - offsets, 0))
            live = (extent > 0).all(axis=1)
            if not live.all():
                owner, number, tensor = owner[live], number[live], tensor[live]
                offsets, extent = offsets[live], extent[live]
            start = offsets[:, 0]
            stop = start + extent[:, 0]
            in_row = np.prod(extent[:, 1:], axis=1, dtype=np.int64)
        chunk = columns.chunk_start[tensor] + number
        file = columns.file[chunk]
        length = np.maximum(columns.byte_length[chunk], 0)
        row_bytes = in_row * item_bytes[owner]
        in_flight = np.maximum(length, (stop - start) * row_bytes) * copies[owner]
        end = np.clip(columns.byte_offset[chunk], 0, _MAX_OFFSET) + length
        sees = np.full(len(file), -1, dtype=np.int64)
        if checkpoint.per_rank_metadata:
            sees = checkpoint.chunk_ranks(file).astype(np.int64)
        place = (file.astype(np.int64), length, end, in_flight, sees)
        parts.append((owner, number, start, stop, row_bytes, *place))
    if not parts:
        return {name: np.zeros(0, dtype=np.int64) for name in _COLUMNS}
    joined = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(_COLUMNS, joined, strict=True))
