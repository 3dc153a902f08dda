"""A tensor's elements as bits: its little-endian bytes in row-major order, block by block.

The rule this module keeps: however a tensor is cut and packed, a block holds the same bytes, and
no block is put together from more than it holds. A block of a `BlockPlan` is a run of elements in
row-major order (one index in the dims before `BlockPlan.dim`, a range in it, all of the dims after
it), so that what it needs of any chunk is again a run: it is read straight into place, a few rows
of every chunk at a time, whether the tensor was cut along its first dim or its last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import raw_payload, unpack_limit
from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.payload.payload import Payload, open_payload, unpacked
from inspector.checkpoint.payload.source import BLOCK_BYTES, PackedPayloadError, PayloadError
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.text import format_box, format_shape, printable
from inspector.errors import StorageError
from inspector.layout.geometry import grid_cuts

__all__ = ["BlockPlan", "ChunksByRow", "TensorBits"]

# By these torch pickles a tensor subclass: `_make_wrapper_subclass`, and one with state.
_SUBCLASS = ("torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_wrapper_subclass")

Bytes = npt.NDArray[np.uint8]

# Bytes of a strided storage that are read for a byte that is wanted, before it is read in parts.
_MAX_WASTE = 4
_SMALL_SPAN_BYTES = 64 << 10

# Halves of a complex number are swapped and signed one by one.
_PARTS = {"complex32": 2, "bcomplex32": 2, "complex64": 2, "complex128": 2}
_SIGNED = ("float", "bfloat", "complex", "bcomplex")
# Quantised tensors: what their integers mean stands in the pickle, as calls that are not made.
_QUANTIZED = ("qint", "quint")


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where the elements of a chunk are: from `begin` in its file, or in the temporary file."""

    tensor: StoredTensor
    path: str | None
    begin: int
    byteorder: str


class ChunksByRow:
    """Which chunks of a tensor a box meets.

    Chunks are sorted by where they begin along the first dim, with how far those up to one reach:
    the chunks that a block meets lie side by side.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._order = np.arange(tensor.num_chunks)
        if tensor.shape and tensor.num_chunks:
            self._order = np.argsort(tensor.offsets[:, 0], kind="stable")
            self._first = tensor.offsets[self._order, 0]
            self._reach = np.maximum.accumulate(self._first + tensor.sizes[self._order, 0])

    def at(self, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
        """Chunks that share an element with a box."""
        tensor, order = self._tensor, self._order
        if not sizes or not len(order):
            return [int(i) for i in order]
        low = np.array(offsets, np.int64)
        high = low + np.array(sizes, np.int64)
        first = int(np.searchsorted(self._reach, low[0], "right"))
        near = order[first : int(np.searchsorted(self._first, high[0], "left"))]
        begin = tensor.offsets[near]
        hits = ((begin < high) & (begin + tensor.sizes[near] > low)).all(axis=1)
        hits &= (tensor.sizes[near] > 0).all(axis=1)
        return [int(i) for i in near[hits]]


class TensorBits:
    """The bits of one tensor of a checkpoint.

    Raises:
        PayloadError: Its elements have no known size, or their bits alone do not tell their
            value (quantised types).
    """

    def __init__(self, checkpoint: Checkpoint, tensor: Tensor, files: OpenFiles) -> None:
        size = itemsize(tensor.dtype)
        if size is None:
            raise PayloadError(
                f"elements of {printable(tensor.dtype, 60)} have no known size", is_foreign=True
            )
        if tensor.dtype.startswith(_QUANTIZED):
            raise PayloadError(
                f"{tensor.dtype}: scale and zero point of quantised tensors are not read",
                is_foreign=True,
            )
        self.tensor = tensor
        self.itemsize = size
        self._checkpoint = checkpoint
        self._files = files
        self._stored: dict[int, _Stored] = {}
        self._temporary = np.empty(0, np.uint8)
        self._block = np.empty(0, np.uint8)
        self._is_tiled = grid_cuts(tensor.offsets, tensor.sizes, tensor.shape) is not None
        self._chunks = ChunksByRow(tensor)

    def read(
        self, offsets: tuple[int, ...], sizes: tuple[int, ...], out: Bytes | None = None
    ) -> Bytes:
        """The bytes of a box in row-major order, valid until the next call.

        Args:
            offsets: Its lower corner.
            sizes: Its extent.
            out: Memory of so many bytes that gets them and is returned; None for its own.

        Raises:
            PayloadError: A chunk cannot be read as the metadata says, no chunk holds some
                element, or several do and do not agree.
            MissingPackageError: A package is needed that is not installed.
            StorageError: A file cannot be read.
        """
        num_bytes = math.prod(sizes) * self.itemsize
        if out is None:
            if len(self._block) < num_bytes:
                self._block = np.empty(num_bytes, np.uint8)
            out = self._block[:num_bytes]
        block = out
        whole = block.reshape(*sizes, self.itemsize)
        filled = None if self._is_tiled else np.zeros(sizes, np.bool_)
        for chunk in self._chunks.at(offsets, sizes):
            self._take(chunk, offsets, sizes, whole, filled)
        if filled is not None and not filled.all():
            gap = np.argwhere(~filled)[0] if sizes else np.zeros(0, np.int64)
            index = [int(i) + o for i, o in zip(gap, offsets, strict=True)]
            raise PayloadError(f"no chunk holds element {format_shape(index)}", code="chunk-gap")
        return block

    def _take(
        self,
        chunk: int,
        offsets: tuple[int, ...],
        sizes: tuple[int, ...],
        whole: Bytes,
        filled: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Put into the box `whole` what a chunk holds of it."""
        origin, extent = self.tensor.offsets[chunk].tolist(), self.tensor.sizes[chunk].tolist()
        low = [max(a, b) for a, b in zip(origin, offsets, strict=True)]
        high = [
            min(a + n, b + m) for a, n, b, m in zip(origin, extent, offsets, sizes, strict=True)
        ]
        target = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offsets, strict=True))
        start = [a - o for a, o in zip(low, origin, strict=True)]
        place = whole[target]
        # Of a tensor without dims an index makes a number, and no view.
        taken = filled[target] if filled is not None and target else filled
        if place.flags.c_contiguous and (taken is None or not taken.any()):
            self._fill(chunk, start, place)
        else:
            if len(self._temporary) < place.size:
                self._temporary = np.empty(place.size, np.uint8)
            part = self._temporary[: place.size].reshape(place.shape)
            self._fill(chunk, start, part)
            if taken is not None and (part[taken] != place[taken]).any():
                box = format_box(origin, extent)
                raise PayloadError(
                    f"chunk {box} and another hold different values for the same elements",
                    code="chunk-overlap",
                )
            place[...] = part
        if taken is not None:
            taken[...] = True

    def _fill(self, chunk: int, start: list[int], out: Bytes) -> None:
        """Read the box of a chunk that begins at `start` into `out`, C-contiguous."""
        stored = self._stored.get(chunk)
        if stored is None:
            stored = self._stored[chunk] = self._open(chunk)
        tensor, shape = stored.tensor, out.shape[:-1]
        first = tensor.first + sum(i * s for i, s in zip(start, tensor.strides, strict=True))
        self._gather(stored, first, tensor.strides, out, _is_run(shape, tensor.strides))
        if stored.byteorder == "big" or tensor.is_conj or tensor.is_neg:
            _normalise(out, stored, _PARTS.get(tensor.dtype, 1))

    def _gather(
        self, stored: _Stored, first: int, strides: tuple[int, ...], out: Bytes, is_run: bool
    ) -> None:
        if is_run:
            self._readinto(stored, first, out.reshape(-1).data)
            return
        shape = out.shape[:-1]
        extent = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        num_bytes = extent * self.itemsize
        if num_bytes <= max(_MAX_WASTE * out.size, _SMALL_SPAN_BYTES):
            span = np.empty(num_bytes, np.uint8)
            self._readinto(stored, first, span.data)
            steps = [s * self.itemsize for s in strides]
            out[...] = np.ndarray(out.shape, np.uint8, span.data, 0, [*steps, 1])
            return
        widest = max(range(len(shape)), key=lambda d: strides[d] if shape[d] > 1 else -1)
        for i in range(shape[widest]):
            part = out[(slice(None),) * widest + (slice(i, i + 1),)]
            small = np.empty(part.shape, np.uint8)
            at = first + i * strides[widest]
            self._gather(stored, at, strides, small, _is_run(small.shape[:-1], strides))
            part[...] = small

    def _readinto(self, stored: _Stored, first: int, out: memoryview) -> None:
        begin = stored.begin + first * self.itemsize
        if stored.path is None:
            count = self._files.readinto_spooled(begin, out)
        else:
            count = self._files.get(stored.path).readinto(begin, out)
        if count < len(out):
            raise StorageError("the file ends before the payload does: it was cut short meanwhile")

    def _open(self, chunk: int) -> _Stored:
        """Read a chunk's header, and unpack it if it is packed."""
        tensor, checkpoint = self.tensor, self._checkpoint
        sizes = tuple(tensor.sizes[chunk].tolist())
        where = format_box(tensor.offsets[chunk].tolist(), sizes)
        index = int(tensor.file[chunk])
        if index < 0:
            raise PayloadError(f"the metadata stores chunk {where} nowhere", code="chunk-unstored")
        path = checkpoint.files[index].path
        offset, length = int(tensor.byte_offset[chunk]), int(tensor.byte_length[chunk])
        source = self._files.source(path, offset, length)
        try:
            if checkpoint.format == "safetensors":
                return _checked(
                    raw_payload(tensor.dtype, sizes, length), tensor, sizes, path, offset
                )
            if not tensor.transforms:
                source.prefetch()
            limit = unpack_limit(tensor.dtype, sizes)
            inner = unpacked(source, tensor.transforms, limit)
            payload = open_payload(inner, is_tensor=True)
            stored = _checked(payload, tensor, sizes, path, offset)
            record = payload.data
            if record is None or not (record.deflated or tensor.transforms):
                return stored
            if record.num_bytes > limit:
                raise PayloadError("a deflated record claims more bytes than it can need")
            begin = self._files.spool(inner, record)
            return _Stored(stored.tensor, None, begin, stored.byteorder)
        except PackedPayloadError as error:
            what = f"{where} in {printable(path, 120)}: {error.message}"
            raise PackedPayloadError(what, error.kind) from error
        except PayloadError as error:
            what = f"{where} in {printable(path, 120)}: {error.message}"
            raise PayloadError(
                what, code=error.code, fate=error.fate, is_foreign=error.is_foreign
            ) from error
        except StorageError as error:
            # Of its own kind: what did not answer says nothing of the checkpoint.
            raise type(error)(f"{where} in {printable(path, 120)}: {error.message}") from error


def _checked(
    payload: Payload, tensor: Tensor, sizes: tuple[int, ...], path: str, offset: int
) -> _Stored:
    """Where a payload's elements are, if it is what the metadata says."""
    found, record = payload.tensor, payload.data
    if payload.packed is not None and not payload.problem:
        raise PackedPayloadError(payload.packed.why_unread, payload.packed.kind)
    if payload.problem or found is None:
        raise PayloadError(
            payload.problem or f"it holds no tensor but {payload.kind[:80]}",
            is_foreign=not payload.problem and payload.kind in _SUBCLASS,
        )
    if found.dtype != tensor.dtype or found.shape != sizes:
        raise PayloadError(
            f"it holds {found.dtype} {format_shape(found.shape)}, "
            f"{tensor.dtype} {format_shape(sizes)} by the metadata",
            code="payload-mismatch",
        )
    if record is None:
        raise PayloadError("it holds no elements", code="payload-mismatch")
    if (found.is_neg or found.is_conj) and not found.dtype.startswith(_SIGNED):
        raise PayloadError(f"it asks for {found.dtype} to be conjugated or negated lazily")
    if found.needed_bytes > record.num_bytes:
        raise PayloadError("it holds fewer bytes than its shape needs", code="payload-mismatch")
    return _Stored(found, path, offset + record.data_offset, payload.byteorder)


def _is_run(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """True if elements of this shape, so far apart, lie one after the other."""
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True


def _normalise(out: Bytes, stored: _Stored, num_parts: int) -> None:
    """Make little-endian, conjugated, negated elements of those that were stored."""
    size = out.shape[-1] // num_parts
    parts: npt.NDArray[Any] = out.reshape(-1, num_parts, size)
    if stored.byteorder == "big" and size > 1:
        parts[...] = parts[..., ::-1].copy()
    # torch's lazy conjugation and negation flip the sign of one part or of all.
    sign = np.uint8(0x80)
    if stored.tensor.is_neg:
        parts[..., -1] ^= sign
    if stored.tensor.is_conj and num_parts == 2:
        parts[:, 1, -1] ^= sign


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """How a tensor is cut into blocks of whole runs.

    Attributes:
        shape: The tensor's.
        itemsize: Bytes of an element.
        dim: The dim that is cut into ranges; the dims before it stand at one index.
        ranges: How many ranges it is cut into.
        num_blocks: All of them; 0 if there are no elements.
    """

    shape: tuple[int, ...]
    itemsize: int
    dim: int
    ranges: int
    num_blocks: int

    @classmethod
    def of(cls, shape: tuple[int, ...], itemsize: int, block_bytes: int = BLOCK_BYTES) -> BlockPlan:
        """The plan for blocks of at most `block_bytes` (or of one element, if that is more)."""
        if 0 in shape:
            return cls(shape, itemsize, 0, 0, 0)
        dim, inner = 0, math.prod(shape[1:]) * itemsize
        while inner > block_bytes and dim < len(shape) - 1:
            dim += 1
            inner //= shape[dim]
        if not shape:
            return cls(shape, itemsize, 0, 1, 1)
        ranges = -(-shape[dim] // max(block_bytes // inner, 1))
        # As long as they can be evenly, so that the last is no splinter.
        ranges = -(-shape[dim] // -(-shape[dim] // ranges))
        return cls(shape, itemsize, dim, ranges, math.prod(shape[:dim]) * ranges)

    def box(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and sizes of a block."""
        if not self.shape:
            return (), ()
        outer, part = divmod(number, self.ranges)
        step = -(-self.shape[self.dim] // self.ranges)
        first = part * step
        index = []
        for size in reversed(self.shape[: self.dim]):
            outer, i = divmod(outer, size)
            index.append(i)
        after = self.shape[self.dim + 1 :]
        offsets = (*reversed(index), first, *(0 for _ in after))
        return offsets, (*(1 for _ in index), min(step, self.shape[self.dim] - first), *after)

    def start(self, number: int) -> int:
        """Position of a block's first element in row-major order."""
        position = 0
        for i, size in zip(self.box(number)[0], self.shape, strict=True):
            position = position * size + i
        return position
