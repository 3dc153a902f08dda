"""One tensor, taken from its chunks into its place in a file, block by block.

The rule this module keeps: what is written is what torch vouched for. Of each chunk the CRC32 of
its elements as they were read is held against the one that torch.save stored, and the CRC32 of
the same elements as the written file holds them, gathered again from there, against the first.
So a block that went to the wrong place shows as well as a bit that changed on the way.

A block is a run of rows (`values.bits.BlockPlan`): what it takes of any chunk is a run of that
chunk's elements, too. It is small where a tensor is cut along its first dim alone, and as large as
memory allows where each row has a part in every chunk.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Tensor
from inspector.checkpoint.payload.array import numpy_dtype
from inspector.checkpoint.payload.cast import cast
from inspector.checkpoint.payload.crc import crc32, crc32_combine
from inspector.checkpoint.payload.source import PayloadError
from inspector.checkpoint.text import format_box, format_shape
from inspector.export.pieces import ChunkPlace, PieceReader, corrupt_payload
from inspector.layout.geometry import grid_cuts
from inspector.values.bits import BlockPlan, ChunksByRow

__all__ = ["Buffers", "TensorCopy", "WrittenBytes"]

Bytes = npt.NDArray[np.uint8]
Box = tuple[tuple[int, ...], tuple[int, ...]]

_MIN_BLOCK_BYTES = 4 << 20
# Bytes of each chunk that are read at a time where a block meets several side by side.
_PIECE_BYTES = 256 << 10
_UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


class WrittenBytes(Protocol):
    """The place of a tensor in the file that is written."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset from the tensor's first."""
        ...

    def readinto(self, offset: int, out: memoryview) -> None:
        """Read them again.

        Raises:
            StorageError: They are not there.
        """
        ...


class Buffers:
    """One thread's memory: a block, and two pieces of it."""

    def __init__(self) -> None:
        self._kept = [np.empty(0, np.uint8) for _ in range(3)]

    def get(self, which: int, num_bytes: int) -> Bytes:
        """Memory of so many bytes, whatever is in it."""
        if len(self._kept[which]) < num_bytes:
            self._kept[which] = np.empty(num_bytes, np.uint8)
        return self._kept[which][:num_bytes]


@dataclass(slots=True)
class _Parts:
    """By first element of a part of a chunk: its elements, CRC32 as stored and as written."""

    found: dict[int, tuple[int, int, int]]
    num_elements: int = 0


class TensorCopy:
    """The copying of one tensor.

    Args:
        tensor: The tensor.
        dtype: What it is written as; its own, or a floating point one.
        most_bytes: Bytes of the largest block.
    """

    def __init__(self, tensor: Tensor, dtype: str, most_bytes: int) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.num_lost = 0
        self.num_checked = self.num_unchecked = 0
        self._size, self._out_size = itemsize(tensor.dtype) or 1, itemsize(dtype) or 1
        wide = max(self._size, self._out_size)
        cuts = grid_cuts(tensor.offsets, tensor.sizes, tensor.shape)
        self._is_tiled = cuts is not None
        block_bytes = min(max(_MIN_BLOCK_BYTES, _across(tensor) * _PIECE_BYTES), most_bytes)
        self.plan = BlockPlan.of(tensor.shape, wide, block_bytes)
        self._chunks = ChunksByRow(tensor)
        self._lock = threading.Lock()
        self._places: dict[int, ChunkPlace] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._parts: dict[int, _Parts] = {}
        self._is_done = np.zeros(tensor.num_chunks, np.bool_)
        self._crc = np.zeros(tensor.num_chunks, np.uint32)
        self._blocks = np.zeros(self.plan.num_blocks, np.uint32)

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.tensor.num_elements * self._out_size

    @property
    def crc(self) -> int:
        """CRC32 of all of it, once all blocks were copied."""
        total = 0
        for number, found in enumerate(self._blocks.tolist()):
            size = math.prod(self.plan.box(number)[1]) * self._out_size
            total = crc32_combine(total, found, size)
        return total

    def copy(
        self, number: int, reader: PieceReader, buffers: Buffers, target: WrittenBytes | None
    ) -> int:
        """Read a block and write it.

        Args:
            number: Of the block.
            reader: This thread's.
            buffers: This thread's.
            target: Where to; None if only the source is looked at.

        Returns:
            Bytes of the block, as written.

        Raises:
            PayloadError: The tensor is damaged: a chunk is, no chunk holds an element, or two
                hold different ones.
            UnexportableError, MissingPackageError, StorageError: As `PieceReader.open`.
            OSError: It cannot be written.
        """
        offsets, sizes = box = self.plan.box(number)
        reader.begin(self.tensor)
        num_bytes = math.prod(sizes) * self._out_size
        block = buffers.get(0, num_bytes)
        whole: npt.NDArray[Any] = block.view(_UNITS[self._out_size]).reshape(sizes)
        filled = None if self._is_tiled else np.zeros(sizes, np.bool_)
        for chunk in self._chunks.at(offsets, sizes):
            self._take(chunk, box, reader, buffers, whole, filled)
        if filled is not None and not filled.all():
            gap = np.argwhere(~filled)[0] if sizes else np.zeros(0, np.int64)
            index = [int(i) + o for i, o in zip(gap, offsets, strict=True)]
            raise PayloadError(f"no chunk holds element {format_shape(index)}", code="chunk-gap")
        self._blocks[number] = crc32(block.data)
        if target is not None:
            target.write(self.plan.start(number) * self._out_size, block.data)
        return num_bytes

    def _take(
        self,
        chunk: int,
        box: Box,
        reader: PieceReader,
        buffers: Buffers,
        whole: npt.NDArray[Any],
        filled: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Put into a block what a chunk holds of it."""
        part = _meeting(self.tensor, chunk, box)
        target = tuple(slice(a, a + n) for a, n in zip(part.inside, part.sizes, strict=True))
        place = whole[target] if target else whole
        taken = filled[target] if filled is not None and target else filled
        count = math.prod(part.sizes)
        is_clear = taken is None or not taken.any()
        is_direct = place.flags.c_contiguous and is_clear and self.dtype == self.tensor.dtype
        into = place.reshape(-1).view(np.uint8) if is_direct else None
        data = self._piece(chunk, part, count, reader, buffers, into)
        stored_crc = written_crc = crc32(data.data)
        if self.dtype != self.tensor.dtype:
            cast_out = buffers.get(2, count * self._out_size)
            source = data.view(numpy_dtype(self.tensor.dtype))
            lost = cast(source, cast_out.view(numpy_dtype(self.dtype)))
            data = cast_out
            written_crc = crc32(data.data)
            if lost:
                with self._lock:
                    self.num_lost += lost
        if data is not into:
            values = data.view(place.dtype).reshape(place.shape)
            if taken is not None and not is_clear:
                self._must_agree(chunk, values, place, taken)
            place[...] = values
        if taken is not None:
            taken[...] = True
        self._add(chunk, part.first, count, stored_crc, written_crc)

    def _must_agree(
        self,
        chunk: int,
        values: npt.NDArray[Any],
        place: npt.NDArray[Any],
        taken: npt.NDArray[np.bool_],
    ) -> None:
        # As bytes: of two complex numbers NaN is not the same as NaN.
        mine, other = values[taken].view(np.uint8), place[taken].view(np.uint8)
        if not np.array_equal(mine, other):
            box = format_box(self.tensor.offsets[chunk].tolist(), self.tensor.sizes[chunk].tolist())
            raise PayloadError(
                f"chunk {box} and another hold different values for the same elements",
                code="chunk-overlap",
            )

    def _piece(
        self,
        chunk: int,
        part: _Part,
        count: int,
        reader: PieceReader,
        buffers: Buffers,
        into: Bytes | None,
    ) -> Bytes:
        """The elements of a part of a chunk as they are stored, in row-major order."""
        tensor, num_bytes = self.tensor, count * self._size
        place = self._places.get(chunk)
        if place is None and part.is_whole:
            found = reader.whole(tensor, chunk, part.sizes)
            if found is not None:
                data, crc = found
                self._places[chunk] = ChunkPlace("", 0, crc, True)
                if into is None:
                    return data
                into[...] = data
                return into
        if place is None:
            place = self._open(chunk, reader)
        if into is None:
            into = buffers.get(1, num_bytes)
        if place.begin < 0:
            return reader.read_box(tensor, chunk, part.offsets, part.sizes, into)
        reader.read(place, part.first * self._size, into)
        return into

    def _open(self, chunk: int, reader: PieceReader) -> ChunkPlace:
        """Where a chunk's elements lie: its header is read by the first thread that needs it."""
        with self._lock:
            opening = self._opening.setdefault(chunk, threading.Lock())
        with opening:
            place = self._places.get(chunk)
            if place is None:
                place = self._places[chunk] = reader.open(self.tensor, chunk)
            return place

    def _add(self, chunk: int, first: int, count: int, stored: int, written: int) -> None:
        """Note the CRC32 of a part of a chunk, and judge the chunk once all parts are there."""
        total = math.prod(self.tensor.sizes[chunk].tolist())
        with self._lock:
            if count < total:
                parts = self._parts.setdefault(chunk, _Parts({}))
                parts.num_elements += count
                parts.found[first] = (count, stored, written)
                if parts.num_elements < total:
                    return
                stored = written = 0
                for _, (n, a, b) in sorted(parts.found.items()):
                    stored = crc32_combine(stored, a, n * self._size)
                    written = crc32_combine(written, b, n * self._out_size)
                del self._parts[chunk]
            place = self._places.pop(chunk)
            self._opening.pop(chunk, None)
            self._is_done[chunk] = True
            self._crc[chunk] = written
            self.num_checked += place.has_crc
            self.num_unchecked += not place.has_crc
        if place.crc is not None and stored != place.crc:
            box = format_box(self.tensor.offsets[chunk].tolist(), self.tensor.sizes[chunk].tolist())
            error = corrupt_payload("data", stored, place.crc)
            raise PayloadError(f"{box}: {error.message}", code=error.code)

    def verify(
        self, number: int, buffers: Buffers, target: WrittenBytes, tick: Callable[[int], None]
    ) -> bool:
        """Read a block of the written file, and hold it against what was read of the source.

        Returns:
            Whether it is the same, as far as all chunks that end in it go.

        Raises:
            StorageError: It cannot be read.
        """
        offsets, sizes = box = self.plan.box(number)
        num_bytes = math.prod(sizes) * self._out_size
        block = buffers.get(0, num_bytes)
        target.readinto(self.plan.start(number) * self._out_size, block.data)
        tick(num_bytes)
        if crc32(block.data) != int(self._blocks[number]):
            return False
        whole: npt.NDArray[Any] = block.view(_UNITS[self._out_size]).reshape(sizes)
        return all(self._is_as_read(chunk, box, whole) for chunk in self._chunks.at(offsets, sizes))

    def _is_as_read(self, chunk: int, box: Box, whole: npt.NDArray[Any]) -> bool:
        part = _meeting(self.tensor, chunk, box)
        target = tuple(slice(a, a + n) for a, n in zip(part.inside, part.sizes, strict=True))
        count = math.prod(part.sizes)
        found = crc32(np.ascontiguousarray(whole[target] if target else whole).data)
        if part.is_whole:
            return bool(self._is_done[chunk]) and found == int(self._crc[chunk])
        with self._lock:
            parts = self._parts.setdefault(chunk, _Parts({}))
            parts.num_elements += count
            parts.found[part.first] = (count, 0, found)
            if parts.num_elements < math.prod(self.tensor.sizes[chunk].tolist()):
                return True
            written = 0
            for _, (n, _, crc) in sorted(parts.found.items()):
                written = crc32_combine(written, crc, n * self._out_size)
            del self._parts[chunk]
        return bool(self._is_done[chunk]) and written == int(self._crc[chunk])


@dataclass(frozen=True, slots=True)
class _Part:
    """What a box and a chunk have in common.

    Attributes:
        offsets, sizes: In the tensor's indices.
        inside: Its lower corner in the box's indices.
        first: Its first element in the chunk, in row-major order.
        is_whole: Whether it is all of the chunk.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    inside: tuple[int, ...]
    first: int
    is_whole: bool


def _meeting(tensor: Tensor, chunk: int, box: Box) -> _Part:
    origin, extent = tensor.offsets[chunk].tolist(), tensor.sizes[chunk].tolist()
    offsets, sizes, inside = [], [], []
    first = 0
    for a, n, b, m in zip(origin, extent, *box, strict=True):
        low = max(a, b)
        offsets.append(low)
        sizes.append(min(a + n, b + m) - low)
        inside.append(low - b)
        first = first * n + low - a
    return _Part(tuple(offsets), tuple(sizes), tuple(inside), first, sizes == extent)


def _across(tensor: Tensor) -> int:
    """How many chunks share a row, at most."""
    if not tensor.shape or not tensor.num_chunks:
        return 1
    if (tensor.sizes[:, 1:] == np.array(tensor.shape[1:], np.int64)).all():
        return 1
    return int(tensor.num_chunks // max(len(np.unique(tensor.offsets[:, 0])), 1)) or 1
