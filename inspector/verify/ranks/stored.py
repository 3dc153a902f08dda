"""What is stored, read without DCP: each payload's bytes against a loaded shard and its CRC32.

The rule this module keeps: nothing here goes through torch or through DCP's planner and reader.
Where a chunk lies in a tensor, what its payload's header says and what its bytes are is read by
`inspector.checkpoint` alone, each byte once: the CRC is taken in the pass that compares. The one
exception is a packed tensor of an imported class: what its bytes mean only that class knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.payload.array import raw_payload, unpack_limit
from inspector.checkpoint.payload.crc import crc32
from inspector.checkpoint.payload.payload import Payload, open_payload, record_blocks, unpacked
from inspector.checkpoint.payload.source import (
    BLOCK_BYTES,
    BytesSource,
    DataHandle,
    PayloadError,
    RangeSource,
    Source,
    open_file,
)
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_shape, printable
from inspector.errors import InspectError, UnreachableError
from inspector.verify.ranks.bits import Bytes, Region, RegionTally
from inspector.verify.ranks.corrupt import Corrupt, explain

__all__ = ["RegionFeed", "StoredReader"]


class RegionFeed:
    """Brings a payload's bytes to a region in the region's order.

    Contiguous elements go straight through, block by block. Others (strided, big-endian,
    conjugated, negated) are put together first, which takes as much memory as the payload.
    """

    def __init__(
        self, payload: Payload, tensor: StoredTensor, region: Region, start: list[int]
    ) -> None:
        self._tensor = tensor
        self._region = region
        self._start = start
        self._size = itemsize(tensor.dtype) or 1
        self._is_big = payload.byteorder == "big" and self._size > 1
        row = math.prod(tensor.shape[1:])
        self._is_plain = (
            tensor.is_contiguous
            and not (self._is_big or tensor.is_conj or tensor.is_neg)
            # A loaded shard is cut along dim 0 only, so this holds for every sound chunk.
            and region.sizes[1:] == tensor.shape[1:]
        )
        if self._is_plain:
            first = tensor.first + (start[0] * row if start else 0)
            self._begin = first * self._size
            self._end = self._begin + region.num_bytes
        else:
            self._begin, self._end = 0, tensor.needed_bytes
            self._whole: Bytes = np.empty(tensor.needed_bytes, np.uint8)

    def range(self, record: Record) -> tuple[int, int]:
        """The bytes of the record that are needed."""
        return self._begin, min(self._end, record.num_bytes)

    def take_all(self, blocks: Iterator[memoryview], at: int) -> None:
        for block in blocks:
            self.take(block, at)
            at += len(block)
            if at >= self._end:
                return

    def take(self, block: memoryview, at: int) -> None:
        """The bytes that stand at `at` in the record."""
        first, last = max(self._begin - at, 0), min(self._end - at, len(block))
        if first >= last:
            return
        if self._is_plain:
            self._region.feed(block[first:last])
        else:
            self._whole[at + first : at + last] = np.frombuffer(block[first:last], np.uint8)

    def finish(self) -> None:
        """All bytes were given."""
        if not self._is_plain:
            self._region.feed(self._put_together())

    def _put_together(self) -> Any:
        tensor, size = self._tensor, self._size
        is_complex = tensor.dtype.startswith("complex")
        width = size // 2 if is_complex else size
        # Complex elements as pairs of their parts.
        words: npt.NDArray[Any] = np.frombuffer(
            self._whole, f"{'>' if self._is_big else '<'}u{width}"
        )
        parts = size // width
        strides = tuple(s * size for s in tensor.strides) + (width,)
        first = [
            tensor.first + sum(i * s for i, s in zip(self._start, tensor.strides, strict=True))
        ]
        # numpy checks that these strides stay inside the buffer.
        view: npt.NDArray[Any] = np.ndarray(
            (*self._region.sizes, parts), words.dtype, self._whole.data, first[0] * size, strides
        )
        result = view.astype(f"<u{width}", order="C")
        sign = np.array(1 << (8 * width - 1), result.dtype)
        if tensor.is_conj and is_complex:
            result[..., 1] ^= sign
        if tensor.is_neg:
            if tensor.dtype.startswith(("complex", "float", "bfloat")):
                result ^= sign
            else:
                result[...] = ~result + np.array(1, result.dtype)
        return result.reshape(-1).view(np.uint8)


_MAX_ENTRY_BYTES = 1 << 40


class StoredReader:
    """One rank's reader of stored payloads. Open files are kept until `close`.

    Attributes:
        corrupt: Payloads with a wrong CRC32 that were not told yet, of those this rank checks.
        num_corrupt: All of them.
        num_checked: Payloads whose CRC32 was checked.
        num_unsummed: Payloads that carry none.
        bytes_read: Bytes read from storage.
    """

    def __init__(self, checkpoint: Checkpoint, storage: Storage, *, unpacks: bool = False) -> None:
        self.corrupt: list[Corrupt] = []
        self.num_checked = self.num_unsummed = self.num_corrupt = 0
        self.bytes_read = 0
        self._checkpoint = checkpoint
        self._storage = storage
        self._unpacks = unpacks
        self._buffer = bytearray(BLOCK_BYTES)
        self._file = -1
        self._handle: DataHandle | None = None

    def close(self) -> None:
        """Close the open file."""
        if self._handle is not None:
            self._handle.close()
        self._handle, self._file = None, -1

    def chunk(
        self,
        tensor: Tensor,
        chunk: int,
        tally: RegionTally,
        region: Region | None,
        is_checker: bool,
    ) -> None:
        """Read one chunk's payload and compare it with a region of the local shard.

        Args:
            tensor: The tensor.
            chunk: Number of the chunk.
            tally: Where the outcome goes.
            region: What this rank holds of it, or None if nothing: then only the CRC is checked.
            is_checker: True if this rank checks the payload's CRC.
        """
        file = int(tensor.file[chunk])
        offsets, sizes = tensor.box(chunk)
        path = self._checkpoint.files[file].path
        before = self.bytes_read
        try:
            source = self._source(
                file, int(tensor.byte_offset[chunk]), int(tensor.byte_length[chunk])
            )
            inner: Source = source
            if self._checkpoint.format == "safetensors":
                payload = raw_payload(tensor.dtype, sizes, source.length)
            else:
                if not tensor.transforms:
                    source.prefetch()
                inner = unpacked(source, tensor.transforms, unpack_limit(tensor.dtype, sizes))
                payload = open_payload(inner, is_tensor=True)
                if self._unpacks and payload.packed is not None and not payload.unsafe:
                    if is_checker:
                        self._check(payload, None, inner, tensor.fqn, offsets, sizes, path)
                    from inspector.verify.ranks.torch_dcp import plain

                    inner, payload = plain(inner, tensor.dtype, sizes)
                    is_checker = False
            wrong = _mismatch(tensor, sizes, payload)
            if wrong is not None:
                tally.problem(*wrong, path)
                region = None
            self._tensor(inner, payload, offsets, region, is_checker, tensor.fqn, sizes, path)
        except UnreachableError:
            raise  # It says nothing of what is stored.
        except InspectError as error:
            tally.problem("FAILED", f"{printable(path, 120)}: {error.message}", path)
            if region is not None:
                tally.differ(region.offsets, None, None, path)
        tally.bytes_read += self.bytes_read - before

    def entry(
        self, entry: BytesEntry, tally: RegionTally, loaded: bytes | None, is_checker: bool
    ) -> None:
        """Read a bytes entry's payload and compare it with what was loaded."""
        path = self._checkpoint.files[entry.file].path
        before = self.bytes_read
        try:
            source = self._source(entry.file, entry.byte_offset, entry.byte_length)
            inner = unpacked(source, entry.transforms, _MAX_ENTRY_BYTES)
            if loaded is not None:
                _compare_bytes(inner, loaded, tally, path)
            if is_checker:
                payload = open_payload(inner, is_tensor=False)
                self._check(payload, None, inner, entry.fqn, (), (), path)
        except UnreachableError:
            raise  # It says nothing of what is stored.
        except InspectError as error:
            tally.problem("FAILED", f"{printable(path, 120)}: {error.message}", path)
        tally.bytes_read += self.bytes_read - before

    def is_corrupt(self, stored: bytes) -> bool | None:
        """Whether the checksums of a payload in memory say that it is not as it was written.

        None if it has none. Nothing of it is counted.
        """
        source = BytesSource(memoryview(stored))
        before = self.corrupt, self.num_checked, self.num_unsummed, self.num_corrupt
        self.corrupt = []
        try:
            payload = open_payload(source, is_tensor=True)
            shape = payload.tensor.shape if payload.tensor is not None else ()
            self._check(payload, None, source, "", (0,) * len(shape), shape, "")
            return None if self.num_unsummed > before[2] else bool(self.corrupt)
        finally:
            self.corrupt, self.num_checked, self.num_unsummed, self.num_corrupt = before

    # --- reading

    def _source(self, file: int, offset: int, length: int) -> RangeSource:
        if self._file != file or self._handle is None:
            self.close()
            self._handle = open_file(self._storage, self._checkpoint.files[file].path)
            self._file = file
        return RangeSource(_Counted(self, self._handle), offset, length, self._buffer)

    def _tensor(
        self,
        source: Source,
        payload: Payload,
        offsets: tuple[int, ...],
        region: Region | None,
        is_checker: bool,
        fqn: str,
        sizes: tuple[int, ...],
        path: str,
    ) -> None:
        tensor, record = payload.tensor, payload.data
        feed: RegionFeed | None = None
        if region is not None and tensor is not None and region.num_bytes:
            if record is None or tensor.needed_bytes > record.num_bytes:
                raise PayloadError("it holds fewer bytes than its shape needs")
            start = [o - c for o, c in zip(region.offsets, offsets, strict=True)]
            feed = RegionFeed(payload, tensor, region, start)
        if is_checker:
            self._check(payload, feed, source, fqn, offsets, sizes, path)
        elif feed is not None and record is not None:
            begin, end = feed.range(record)
            if record.deflated:
                feed.take_all(record_blocks(source, record), 0)
            else:
                feed.take_all(source.blocks(record.data_offset + begin, end - begin), begin)
        if feed is not None:
            feed.finish()

    def _check(
        self,
        payload: Payload,
        feed: RegionFeed | None,
        source: Source,
        fqn: str,
        offsets: tuple[int, ...],
        sizes: tuple[int, ...],
        path: str,
    ) -> None:
        """Every record's CRC32, feeding the tensor's on the way."""
        is_unsummed = payload.container == "legacy"
        for record in payload.records:
            crc = at = 0
            wanted = feed if record is payload.data else None
            for block in record_blocks(source, record):
                crc = crc32(block, crc)
                if wanted is not None:
                    wanted.take(block, at)
                    at += len(block)
            expected = record.crc32 or record.confirmed_crc32 or 0
            if payload.container == "legacy":
                continue
            if not expected and record.num_bytes:
                is_unsummed = True
            elif crc != expected or crc != record.crc32:
                found = explain(source, payload, record, crc, fqn, offsets, sizes, path)
                self.corrupt.append(found)
                self.num_corrupt += 1
        self.num_checked += not is_unsummed
        self.num_unsummed += is_unsummed


class _Counted:
    """A file that counts what is read from it."""

    def __init__(self, reader: StoredReader, file: DataHandle) -> None:
        self.block_bytes = file.block_bytes
        self._reader = reader
        self._file = file

    def announce(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._file.announce(ranges)

    def readinto(self, offset: int, buffer: memoryview) -> int:
        count = self._file.readinto(offset, buffer)
        self._reader.bytes_read += count
        return count

    def close(self) -> None:
        self._file.close()


def _mismatch(tensor: Tensor, sizes: tuple[int, ...], payload: Payload) -> tuple[str, str] | None:
    """Where a payload's header contradicts the metadata: verdict and text."""
    stored = payload.tensor
    if stored is None:
        what = payload.problem or f"its payload holds no tensor but {printable(payload.kind, 80)}"
        return "FAILED", what
    if stored.dtype != tensor.dtype:
        return "DTYPE", f"stored as {stored.dtype}, {tensor.dtype} by the metadata"
    if stored.shape != sizes:
        shapes = f"{format_shape(stored.shape)}, {format_shape(sizes)} by the metadata"
        return "SHAPE", f"a chunk is stored with shape {shapes}"
    return None


def _compare_bytes(source: Source, loaded: bytes, tally: RegionTally, path: str) -> None:
    mine = memoryview(loaded)
    at = 0
    for block in source.blocks(0, source.length):
        part = mine[at : at + len(block)]
        if bytes(block[: len(part)]) != part:
            a = np.frombuffer(block, np.uint8)[: len(part)]
            b = np.frombuffer(part, np.uint8)
            where = np.flatnonzero(a != b)
            tally.num_different += len(where)
            first = int(where[0])
            tally.differ((at + first,), f"0x{a[first]:02x}", f"0x{b[first]:02x}", path)
        tally.num_compared += len(part)
        at += len(block)
    if at != len(mine):
        what = f"{len(mine):,} bytes were loaded, {at:,} are stored"
        tally.problem("DIFFER", what, path)
