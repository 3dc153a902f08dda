"""One stored payload -> its header, the blocks of its records, and its elements as numpy.

A payload is the bytes that hold one chunk or one bytes entry: a zip archive as torch.save writes
it, or torch's older format without a zip, either perhaps inside a zstd frame. Source:
torch/serialization.py and torch/distributed/checkpoint/filesystem.py of torch 1.13 to 2.15.
The bytes of a Hugging Face checkpoint are bare elements and need no header.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload.scan.feed import Feed, PickleError, Whole
from inspector.checkpoint.payload.scan.literals import open_value
from inspector.checkpoint.payload.scan.scan import Scan, scan
from inspector.checkpoint.payload.source import DataHandle, PayloadError, RangeSource, Source
from inspector.checkpoint.payload.tensor import (
    NoTensorError,
    PackedTensor,
    StoredTensor,
    describe,
    kind_of,
    packed,
)
from inspector.checkpoint.payload.zip import (
    Record,
    has_directory,
    read_directory,
    record_blocks,
    small_record,
)
from inspector.checkpoint.payload.zstd import unpacked
from inspector.checkpoint.safetensors.header import Header, HeaderError, header_bytes, parse_header
from inspector.checkpoint.signatures import foreign_kind
from inspector.checkpoint.text import format_shape, printable

__all__ = ["Payload", "in_blob", "looks_like", "open_payload", "record_blocks", "unpacked"]

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_TENSOR_PICKLE_BYTES = 256 << 10
_LEGACY_PICKLES = 5
_MAX_SMALL_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Payload:
    """What a payload's header says.

    Attributes:
        container: `zip`, or `legacy` for torch's format before 1.6.
        records: The records, in the order of their bytes; for `legacy`, the storages.
        tensor: The strided tensor in it, or None.
        packed: The tensor of a class of its own in it, or None.
        unproven: What its pickle asks for of which it is not known that torch does it.
        kind: What it holds instead, in a few words; empty if there is a tensor.
        byteorder: `little` or `big`.
        unknown, unsafe: Names in its pickle, as `Scan` has them.
        not_scanned: Why its pickle was not scanned, or an empty string.
        problem: Why its pickle cannot be read, though the records can, or an empty string.
    """

    container: Literal["zip", "legacy"]
    records: tuple[Record, ...]
    tensor: StoredTensor | None
    kind: str = ""
    byteorder: str = "little"
    unknown: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    not_scanned: str = ""
    problem: str = ""
    packed: PackedTensor | None = None
    unproven: tuple[str, ...] = ()

    @property
    def data(self) -> Record | None:
        """The record that holds the tensor's elements, or None."""
        if self.tensor is None:
            return None
        wanted = f"data/{self.tensor.key}"
        return next((r for r in self.records if r.short_name == wanted), None)


def open_payload(
    source: Source, *, is_tensor: bool, stop: Callable[[], bool] | None = None
) -> Payload:
    """Read a payload's header.

    Args:
        source: The payload, unpacked.
        is_tensor: True if the metadata says it holds a tensor: then its pickle is small and its
            values are kept; else only names are looked for.
        stop: True gives up scanning a long pickle.

    Raises:
        PayloadError: It cannot be parsed; the message says what it looks like.
        StorageError: It cannot be read.
    """
    start = source.read(0, 16)
    if start.startswith(b"PK\x03\x04"):
        return _open_zip(source, is_tensor, stop)
    if start.startswith(_LEGACY):
        return _open_legacy(source, is_tensor, stop)
    return _open_bare(source, is_tensor, stop)


def whole_number_in(source: Source, name: str) -> int | None:
    """The whole number that a small saved dict holds under a name, plain or as a tensor.

    None if it holds no such thing; nothing is unpickled.

    Raises:
        PayloadError: It is no zip archive of torch.save, or cannot be parsed.
        StorageError: It cannot be read.
    """
    root = open_value(source)
    value = root.get(name) if type(root) is dict else None
    if type(value) is int:
        return value
    tensor = describe(value)
    if tensor is None or tensor.dtype not in ("int32", "int64") or tensor.num_elements != 1:
        return None
    records = {record.short_name: record for record in read_directory(source)}
    order = records.get("byteorder")
    if order is not None and small_record(source, order, _MAX_SMALL_RECORD_BYTES) != b"little":
        return None
    width = 4 if tensor.dtype == "int32" else 8
    record = records.get(f"data/{tensor.key}")
    if record is None or not 0 <= tensor.first * width <= record.num_bytes - width:
        return None
    data = small_record(source, record, _MAX_SMALL_RECORD_BYTES)[tensor.first * width :][:width]
    return int.from_bytes(data, "little", signed=True)


def _open_bare(source: Source, is_tensor: bool, stop: Callable[[], bool] | None) -> Payload:
    """Bytes that are no payload: torch takes them for a pickle, so what that names is told."""
    what = looks_like(source)
    try:
        found = scan(Feed(source.blocks(0, source.length)), weights_only=is_tensor, stop=stop)
        unsafe = found.unsafe
    except PickleError as error:
        # Damaged bytes may happen to be opcodes that fit nothing; a name is no accident.
        unsafe = tuple(name for name in error.unsafe if " " not in name)
    if unsafe:
        return Payload("legacy", (), None, unsafe=unsafe, problem=what)
    raise PayloadError(what)


def looks_like(source: Source) -> str:
    """What bytes that are no payload look like, as the end of a sentence about them."""
    start = source.read(0, 64 << 10)
    if not start:
        return "it is empty"
    if start.count(0) == len(start):
        return "only zeros are there: it was never written out, or the file has a hole"
    try:
        header_bytes(start[:16])
        return "a safetensors blob is there, where a torch.save payload should be"
    except HeaderError:
        pass
    if start[:4] == b"\x28\xb5\x2f\xfd":
        return "a zstd frame is there, which the metadata does not mention"
    kind = foreign_kind(start)
    if kind is not None:
        return f"{kind[0]} is there, where a torch.save payload should be"
    if has_directory(source):
        return (
            "its first bytes are damaged; the zip directory at its end is in place, so the entry's "
            "byte range is right"
        )
    found = start.find(b"PK\x03\x04")
    if found > 0 and (b"data.pkl" in start[found : found + 200]):
        return (
            f"no payload starts there; the next one starts {found:,} bytes later, so the metadata "
            "belongs to another save of this file"
        )
    if b"PK\x07\x08" in start or b"PK\x01\x02" in start or found > 0:
        return "the inside of another payload is there: the metadata belongs to another save"
    return "no payload starts there: the metadata is of another save, or the bytes are damaged"


def _open_zip(source: Source, is_tensor: bool, stop: Callable[[], bool] | None) -> Payload:
    records = read_directory(source)
    by_name = {r.short_name: r for r in records}
    pickled = by_name.get("data.pkl")
    if pickled is None:
        raise PayloadError("a zip archive is there, but torch.save did not write it (no data.pkl)")
    byteorder, problem = _small_records(source, by_name)
    # torch.load hands an archive with this record to TorchScript, which compiles what is in it.
    unsafe = ("TorchScript code",) if "constants.pkl" in by_name else ()
    if is_tensor and pickled.num_bytes > _MAX_TENSOR_PICKLE_BYTES:
        what = f"its pickle has {pickled.num_bytes:,} bytes, far more than any tensor's"
        return Payload("zip", records, None, "", byteorder, (), unsafe, problem=what)
    try:
        if is_tensor:
            data = small_record(source, pickled, _MAX_TENSOR_PICKLE_BYTES)
            found = scan(data, keep=True, weights_only=True)
        else:
            found = scan(Feed(record_blocks(source, pickled)), stop=stop)
    except PickleError as error:
        unsafe = tuple(sorted({*error.unsafe, *unsafe}))
        what = f"its pickle cannot be read: {error}"
        return Payload("zip", records, None, "", byteorder, (), unsafe, problem=what)
    tensor, kind, what = _tensor_in(found) if is_tensor else (None, "", "")
    what = what or _missing_storage(found, by_name, tensor)
    return Payload(
        "zip",
        records,
        tensor,
        kind,
        byteorder,
        found.unknown,
        tuple(sorted({*found.unsafe, *unsafe})),
        problem=problem or what,
        packed=packed(found.root) if kind else None,
        unproven=found.unproven,
    )


def _missing_storage(found: Scan, records: dict[str, Record], tensor: StoredTensor | None) -> str:
    """What is wrong with the storages that a pickle names, beside the tensor's own, or nothing."""
    for key, (num_parts, num_bytes) in found.storages.items():
        if tensor is not None and key == tensor.key:
            continue  # Its header is held against the metadata, too.
        record = records.get(f"data/{key}")
        shown = printable(key, 40)
        if num_parts != _PARTS_OF_ID:
            return f"its pickle names a storage in {num_parts} parts, not {_PARTS_OF_ID}"
        if record is None:
            return f"its pickle names a storage whose record data/{shown} is missing"
        if record.num_bytes != num_bytes:
            # torch.save writes the whole buffer under a view, and notes whole elements of it.
            is_view = 0 < record.num_bytes - num_bytes < _MAX_ELEMENT_BYTES
            return (
                f"its record data/{shown} has {record.num_bytes:,} bytes, {num_bytes:,} by its "
                f"pickle{_AS_A_VIEW if is_view else ''}"
            )
    return ""


_PARTS_OF_ID = 5
_MAX_ELEMENT_BYTES = 16
#: torch 2.13: torch/serialization.py, `_save` (`persistent_id`) and `_load` (`load_tensor`).
_AS_A_VIEW = (
    ", as torch.save writes a view of a buffer that ends in part of an element (clone() the "
    "tensor before it is saved)"
)
_VERSION = re.compile(rb"[ \t\n\v\f\r]*\+?0*(\d{1,9})(?!\d)")
#: Of archives that torch reads, by its caffe2/serialize/versions.h.
_VERSIONS = range(1, 11)


def _small_records(source: Source, records: dict[str, Record]) -> tuple[str, str]:
    """The byte order of an archive, and why torch would not open it, or an empty string."""
    order, version = records.get("byteorder"), records.get(".data/version", records.get("version"))
    byteorder, problem = b"little", ""
    if order is not None:
        byteorder = small_record(source, order, _MAX_SMALL_RECORD_BYTES)
        if byteorder not in (b"little", b"big"):
            problem = "its record byteorder says neither little nor big"
    if version is None:
        problem = "it has no record version"
    else:
        found = _VERSION.match(small_record(source, version, _MAX_SMALL_RECORD_BYTES))
        if found is None or int(found[1]) not in _VERSIONS:
            problem = f"its record version says none that torch reads (1 to {_VERSIONS[-1]})"
    alignment = records.get(".storage_alignment")
    if alignment is not None:
        try:
            int(small_record(source, alignment, _MAX_SMALL_RECORD_BYTES))
        except ValueError:
            problem = "its record .storage_alignment says no number"
    identity = records.get(".data/serialization_id")
    if identity is not None and identity.num_bytes <= _MAX_SMALL_RECORD_BYTES:
        try:
            small_record(source, identity, _MAX_SMALL_RECORD_BYTES).decode()
        except UnicodeDecodeError:
            problem = "its record .data/serialization_id is no text"
    return "big" if byteorder == b"big" else "little", problem


def _tensor_in(found: Scan, *, is_legacy: bool = False) -> tuple[StoredTensor | None, str, str]:
    """A strided tensor, what is there instead, and why torch would not make it."""
    problem = ""
    if found.refused and not found.unsafe:
        names = ", ".join(found.refused[:3])
        problem = f"its pickle has opcodes that torch takes in no tensor's ({names})"
    try:
        tensor = describe(found.root, is_legacy=is_legacy)
    except NoTensorError as error:
        return None, kind_of(found.root), problem or f"no tensor can be made of its pickle: {error}"
    return tensor, "" if tensor else kind_of(found.root), problem


def _open_legacy(source: Source, is_tensor: bool, stop: Callable[[], bool] | None) -> Payload:
    """Five pickles (magic, version, system, the object, the storages' keys), then the storages."""
    # A tensor's pickles are small, and their values are kept; of others only names are.
    feed: Whole | Feed = (
        Whole(source.read(0, min(source.length, _MAX_TENSOR_PICKLE_BYTES)))
        if is_tensor
        else Feed(source.blocks(0, source.length))
    )
    scans: list[Scan] = []
    try:
        while len(scans) < _LEGACY_PICKLES:
            scans.append(scan(feed, keep=is_tensor, weights_only=is_tensor, stop=stop))
    except PickleError as error:
        # torch unpickles each of them, so the names of each are those of the payload.
        unsafe = {name for found in scans for name in found.unsafe} | {*error.unsafe}
        what = f"its pickle cannot be read: {error}"
        return Payload("legacy", (), None, unsafe=tuple(sorted(unsafe)), problem=what)
    _, _, system, found, keys = scans
    info = system.root if type(system.root) is dict else {}
    tensor, kind, problem = _tensor_in(found, is_legacy=True) if is_tensor else (None, "", "")
    records: tuple[Record, ...] = ()
    if tensor is not None and keys.root == [tensor.key]:
        # Each storage is its number of elements in eight bytes, and then those.
        begin = feed.tell() + 8
        size = min(tensor.storage_bytes, max(source.length - begin, 0))
        records = (Record(f"archive/data/{tensor.key}", begin, size, size, 0, False),)
    return Payload(
        "legacy",
        records,
        tensor,
        kind,
        "little" if info.get("little_endian", True) else "big",
        tuple(sorted({name for one in scans for name in one.unknown})),
        tuple(sorted({name for one in scans for name in one.unsafe})),
        problem=problem,
        packed=packed(found.root) if kind else None,
        unproven=tuple(sorted({name for one in scans for name in one.unproven})),
    )


def in_blob(
    file: DataHandle, offset: int, length: int, fqn: str, dtype: str, sizes: tuple[int, ...]
) -> RangeSource | None:
    """Where the elements of a chunk lie, if its entry points at a safetensors blob; else None.

    Raises:
        PayloadError: The blob is damaged, or holds another tensor of this name or none.
        StorageError: It cannot be read.
    """
    # A payload of torch.save has a container around its elements.
    if length != math.prod(sizes) * (itemsize(dtype) or 0):
        return None
    try:
        num_bytes = header_bytes(RangeSource(file, offset, 9).read(0, 9))
    except HeaderError:
        return None
    try:
        header: Header = parse_header(RangeSource(file, offset + 8, num_bytes).read(0, num_bytes))
    except HeaderError as error:
        raise PayloadError(f"it lies in a safetensors blob, and {error}") from error
    tensor = next((t for t in header.tensors if t.name == fqn), None)
    if tensor is None:
        raise PayloadError("it should lie in a safetensors blob that does not hold it")
    if (tensor.dtype, tensor.shape) != (dtype, sizes):
        what = f"{tensor.dtype} of shape {format_shape(tensor.shape)}"
        raise PayloadError(f"in the safetensors blob it is {what}", code="payload-mismatch")
    return RangeSource(file, offset + header.data_offset + tensor.begin, tensor.end - tensor.begin)
