"""Boxes of chunks as they are stored, each byte of a payload held against its CRC32 on the way.

Most payloads hold their elements in row-major order, little-endian and not packed: those are read
where they lie, and the CRC32 of the parts adds up to that of the whole. Any other (strided,
deflated, zstd, big-endian, torch's format of before 1.6) is read through once for its CRC32, and
then by `TensorBits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.payload.array import unpack_limit
from inspector.checkpoint.payload.crc import crc32
from inspector.checkpoint.payload.molds import Mold, mold_of
from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.payload.payload import Payload, open_payload, record_blocks, unpacked
from inspector.checkpoint.payload.source import (
    MissingPackageError,
    PackedPayloadError,
    PayloadError,
    RangeSource,
    Source,
    open_file,
)
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_box, format_shape, printable
from inspector.errors import StorageError
from inspector.values.bits import TensorBits

__all__ = [
    "MAX_OPEN_REMOTE",
    "ChunkPlace",
    "PieceReader",
    "UnexportableError",
    "compare_entry",
    "corrupt_payload",
]

Bytes = npt.NDArray[np.uint8]

#: Remote files that a thread has open; each keeps a window of at most 8 MiB.
MAX_OPEN_REMOTE = 2
#: A payload of no more bytes is read at once.
_SMALL_BYTES = 1 << 20
_MAX_MOLDS = 256
_MAX_SMALL_RECORD_BYTES = 1 << 20


class UnexportableError(PayloadError):
    """A payload that is whole, but whose values no other format holds."""


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Where the elements of a chunk lie.

    Attributes:
        path: Raw path of the data file.
        begin: Where they begin in it; -1 if they lie otherwise than in row-major order.
        crc: What their CRC32 has to be; None if none was stored, or if it was compared already.
        has_crc: Whether one was stored.
    """

    path: str
    begin: int
    crc: int | None
    has_crc: bool


class PieceReader:
    """One thread's reading of chunks."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage) -> None:
        self._checkpoint = checkpoint
        self._files = OpenFiles(storage, max_remote=MAX_OPEN_REMOTE)
        self._molds: dict[tuple[object, ...], Mold] = {}
        self._whole = np.empty(0, np.uint8)
        self._bits: dict[tuple[int, int], TensorBits] = {}
        self._tensor = -1

    def close(self) -> None:
        self._files.close()
        self._bits.clear()

    def begin(self, tensor: Tensor) -> None:
        """Another tensor's turn: what was unpacked of the one before is not needed any more."""
        if tensor.index != self._tensor:
            self._tensor = tensor.index
            self._bits.clear()
            self._files.forget()

    def whole(self, tensor: Tensor, chunk: int, sizes: tuple[int, ...]) -> tuple[Bytes, int] | None:
        """All elements of a small chunk of a known form, with the CRC32 that was stored of them.

        Valid until the next call. None if it is not small, or of no form that was seen before:
        `open` tells what it is.
        """
        length = int(tensor.byte_length[chunk])
        if length > _SMALL_BYTES or tensor.transforms or self._checkpoint.format != "dcp":
            return None
        mold = self._molds.get((length, tensor.dtype, sizes))
        if mold is None or mold.length != length:
            return None
        path = self._path(tensor, chunk)
        if len(self._whole) < length:
            self._whole = np.empty(_SMALL_BYTES, np.uint8)
        data = self._whole[:length]
        if self._files.get(path).readinto(int(tensor.byte_offset[chunk]), data.data) < length:
            return None
        begin = len(mold.head)
        end = begin + mold.num_bytes
        crc = mold.crc_in(data[:begin].tobytes(), data[end:].tobytes())
        return None if crc is None else (data[begin:end], crc)

    def open(self, tensor: Tensor, chunk: int) -> ChunkPlace:
        """Read a chunk's header.

        Raises:
            PayloadError: It is not what the metadata says, or is damaged.
            UnexportableError: It is whole, and of a class of its own, or quantised.
            MissingPackageError: It takes a package that is not installed.
            StorageError: It cannot be read.
        """
        sizes = tuple(tensor.sizes[chunk].tolist())
        path = self._path(tensor, chunk)
        where = f"{format_box(tensor.offsets[chunk].tolist(), sizes)} in {printable(path, 120)}"
        try:
            return self._open(tensor, chunk, sizes, path)
        except (PackedPayloadError, UnexportableError) as error:
            raise UnexportableError(f"{where}: {error.message}", code=error.code) from error
        except PayloadError as error:
            raise PayloadError(f"{where}: {error.message}", code=error.code) from error
        except MissingPackageError as error:
            raise MissingPackageError(f"{where}: {error.message}", error.hint) from error
        except StorageError as error:
            # Of its own kind: what did not answer says nothing of the checkpoint.
            raise type(error)(f"{where}: {error.message}") from error

    def read(self, place: ChunkPlace, first: int, out: Bytes) -> None:
        """Read a run of elements from where they lie.

        Args:
            place: Of the chunk; `begin` is not -1.
            first: Where the run begins in the chunk, in bytes.
            out: Gets it; C-contiguous.

        Raises:
            StorageError: They cannot be read.
        """
        if self._files.get(place.path).readinto(place.begin + first, out.data) < len(out):
            raise StorageError(
                f"{printable(place.path, 120)} ends before the payload does: it was cut short "
                "meanwhile"
            )

    def read_box(
        self,
        tensor: Tensor,
        chunk: int,
        offsets: tuple[int, ...],
        sizes: tuple[int, ...],
        out: Bytes,
    ) -> Bytes:
        """A box of a chunk whose elements do not lie in row-major order.

        Args:
            tensor: The tensor.
            chunk: The chunk.
            offsets: In the tensor's indices.
            sizes: Extent; wholly inside the chunk.
            out: Gets the elements in row-major order, and is returned.
        """
        key = tensor.index, chunk
        bits = self._bits.get(key)
        if bits is None:
            bits = TensorBits(self._checkpoint, _alone(tensor, chunk), self._files)
            self._bits[key] = bits
        return bits.read(offsets, sizes, out)

    def _path(self, tensor: Tensor, chunk: int) -> str:
        index = int(tensor.file[chunk])
        if index < 0:
            raise PayloadError("the metadata stores a chunk nowhere", code="chunk-unstored")
        path = self._checkpoint.files[index].path
        if is_escape(path):
            raise PayloadError(f"{printable(path, 120)} lies outside the checkpoint folder")
        return path

    def _open(self, tensor: Tensor, chunk: int, sizes: tuple[int, ...], path: str) -> ChunkPlace:
        offset, length = int(tensor.byte_offset[chunk]), int(tensor.byte_length[chunk])
        source = self._files.source(path, offset, length)
        if self._checkpoint.format == "safetensors":
            needed = math.prod(sizes) * (itemsize(tensor.dtype) or 0)
            if length != needed:
                raise PayloadError(f"it has {length:,} bytes, {needed:,} by its dtype and shape")
            return ChunkPlace(path, offset, None, False)
        if not tensor.transforms:
            known = self._by_mold(source, length, tensor.dtype, sizes)
            if known is not None:
                return ChunkPlace(path, offset + known[0], known[1], True)
            source.prefetch()
        inner = unpacked(source, tensor.transforms, unpack_limit(tensor.dtype, sizes))
        payload = open_payload(inner, is_tensor=True)
        stored, data = _checked(payload, tensor.dtype, sizes)
        has_crc = _compare_small(inner, payload, data)
        if inner is source and _is_plain(payload, stored, data):
            begin = data.data_offset
            self._keep_mold(source, payload, data, (length, tensor.dtype, sizes))
            return ChunkPlace(path, offset + begin, data.crc32 if has_crc else None, has_crc)
        if has_crc:
            _compare(inner, data)
        return ChunkPlace(path, -1, None, has_crc)

    def _by_mold(
        self, source: RangeSource, length: int, dtype: str, sizes: tuple[int, ...]
    ) -> tuple[int, int] | None:
        mold = self._molds.get((length, dtype, sizes))
        if mold is None or mold.length != length:
            return None
        begin = len(mold.head)
        end = begin + mold.num_bytes
        crc = mold.crc_in(source.read(0, begin), source.read(end, length - end))
        return None if crc is None else (begin, crc)

    def _keep_mold(
        self, source: RangeSource, payload: Payload, data: Record, key: tuple[object, ...]
    ) -> None:
        if key in self._molds or len(self._molds) >= _MAX_MOLDS or payload.container != "zip":
            return
        end = data.data_offset + data.num_bytes
        if data.data_offset + source.length - end > _SMALL_BYTES:
            return
        head, tail = source.read(0, data.data_offset), source.read(end, source.length - end)
        mold = mold_of(payload, data, head, tail)
        if mold is not None:
            self._molds[key] = mold


def _alone(tensor: Tensor, chunk: int) -> Tensor:
    """The tensor as if it had this chunk alone."""
    one = slice(chunk, chunk + 1)
    columns: dict[str, Any] = {
        name: getattr(tensor, name)[one]
        for name in ("offsets", "sizes", "file", "byte_offset", "byte_length")
    }
    return replace(tensor, **columns)


def _checked(payload: Payload, dtype: str, sizes: tuple[int, ...]) -> tuple[StoredTensor, Record]:
    """The tensor and the record of its elements, if they are what the metadata says."""
    stored, data = payload.tensor, payload.data
    if payload.unsafe:
        names = ", ".join(printable(name, 80) for name in payload.unsafe[:3])
        what = f"its pickle names code to be run ({names}); it was not run"
        raise PayloadError(what, code="payload-unsafe")
    if payload.problem:
        raise PayloadError(payload.problem)
    if payload.packed is not None:
        raise PackedPayloadError(payload.packed.why_unread, payload.packed.kind)
    if stored is None:
        raise UnexportableError(f"it holds no strided tensor but {printable(payload.kind, 80)}")
    if stored.quantizer:
        raise UnexportableError(f"its integers stand for other numbers ({stored.quantizer})")
    if stored.dtype != dtype or stored.shape != sizes:
        raise PayloadError(
            f"it holds {stored.dtype} {format_shape(stored.shape)}, "
            f"{printable(dtype, 40)} {format_shape(sizes)} by the metadata",
            code="payload-mismatch",
        )
    if data is None:
        raise PayloadError("it holds no elements", code="payload-mismatch")
    if data.num_bytes != stored.storage_bytes or stored.needed_bytes > data.num_bytes:
        what = f"it stores {data.num_bytes:,} bytes, {stored.storage_bytes:,} by its own header"
        raise PayloadError(what, code="payload-mismatch")
    return stored, data


def _is_plain(payload: Payload, stored: StoredTensor, data: Record) -> bool:
    """Whether the record is the elements in row-major order, and nothing else."""
    size = stored.needed_bytes
    is_little = payload.byteorder == "little" or size == stored.num_elements
    is_bare = not (data.deflated or stored.is_conj or stored.is_neg or stored.first)
    return is_little and is_bare and stored.is_contiguous and size == data.num_bytes


def _compare_small(source: Source, payload: Payload, data: Record) -> bool:
    """Compare all records but the elements with their CRC32; whether those have one, too."""
    if payload.container == "legacy":
        return False
    for record in payload.records:
        if record is not data and record.num_bytes <= _MAX_SMALL_RECORD_BYTES and _has_crc(record):
            _compare(source, record)
    if not _has_crc(data):
        return False
    if data.confirmed_crc32 not in (None, data.crc32):
        raise PayloadError(
            "its two checksums of the elements are not the same", code="payload-corrupt"
        )
    return True


def compare_entry(checkpoint: Checkpoint, storage: Storage, entry: BytesEntry, limit: int) -> None:
    """Hold a small bytes entry, whose file lies in the folder, against its CRC32.

    It may unpack to at most `limit` bytes.

    Raises:
        PayloadError: It is damaged.
        StorageError: It cannot be read.
    """
    file = open_file(storage, checkpoint.files[entry.file].path)
    try:
        source = RangeSource(file, entry.byte_offset, entry.byte_length)
        source.prefetch()
        inner = unpacked(source, entry.transforms, limit)
        for record in open_payload(inner, is_tensor=False).records:
            if record.num_bytes > limit:
                raise PayloadError("a record claims more bytes than it can need")
            if _has_crc(record):
                _compare(inner, record)
    finally:
        file.close()


def _has_crc(record: Record) -> bool:
    return bool(record.crc32 or record.confirmed_crc32 or not record.num_bytes)


def _compare(source: Source, record: Record) -> None:
    crc = 0
    for block in record_blocks(source, record):
        crc = crc32(block, crc)
    if crc != record.crc32 or record.confirmed_crc32 not in (None, crc):
        raise corrupt_payload(record.short_name, crc, record.crc32)


def corrupt_payload(record: str, found: int, stored: int) -> PayloadError:
    """The error of a record whose bytes are not those that were written."""
    return PayloadError(
        f"the bytes of its record {printable(record, 60)} are not as they were written "
        f"(CRC32 {found:08x}, not {stored:08x})",
        code="payload-corrupt",
    )
