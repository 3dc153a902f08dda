"""DCP's own reader, writer and planners, with the hooks that verification needs.

Only what torchrun runs imports this module. Loading and saving run torch's code as it is; added
are: metadata rebuilt from ours (torch would unpickle `.metadata` with plain `pickle.load`), bytes
entries kept as bytes (torch would unpickle them with `weights_only=False`), progress, and a second
try item by item where one bad payload ends the whole read. Hooks take `(self, *args, **kwargs)`:
their signatures changed in torch 2.9.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan
from torch.futures import Future

from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.payload.array import raw_payload
from inspector.checkpoint.payload.payload import Payload, open_payload
from inspector.checkpoint.payload.source import BytesSource, PayloadError, Source
from inspector.checkpoint.storage.base import Storage, is_url
from inspector.checkpoint.text import printable
from inspector.errors import InspectError, StorageError
from inspector.layout.rows import RowBlock
from inspector.verify.failures import is_out_of_memory, reason, unreachable

__all__ = [
    "HfFolder",
    "LoadPlanner",
    "RawBytes",
    "SavePlanner",
    "make_reader",
    "open_stream",
    "plain",
    "refuses",
    "torch_dtype",
    "torch_metadata",
    "unpickle",
    "why_unsafe",
]

#: What is fetched at a time where less is asked for: a payload is looked at end first.
_BUFFER_BYTES = 4 << 20
#: What one read takes at most; who asks for more asks again.
_MAX_READ_BYTES = 64 << 20


def open_stream(storage: Storage, path: str) -> io.BufferedReader:
    """A file of a storage as one of Python's, for a library that wants one, with all its bounds.

    Raises:
        StorageError: It is not there, its size is not known, or it cannot be read.
    """
    entry = storage.stat(path)
    if entry is None or entry.kind != "file" or entry.num_bytes is None:
        why = "there is no such file" if entry is None else entry.problem or "it is no file"
        raise StorageError(f"cannot read {printable(f'{storage.root}/{path}')}: {why}")
    return io.BufferedReader(_Stream(storage, path, entry.num_bytes), _BUFFER_BYTES)


class _Stream(io.RawIOBase):
    def __init__(self, storage: Storage, path: str, num_bytes: int) -> None:
        self._storage = storage
        self._path = path
        self._num_bytes = num_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), _MAX_READ_BYTES, max(self._num_bytes - self._at, 0))
        if not length:
            return 0
        data = self._storage.read(self._path, self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(slots=True)
class RawBytes:
    """A bytes entry as it is stored: the file's bytes, never unpickled."""

    data: bytes | None = None


def torch_dtype(name: str) -> torch.dtype | None:
    """The dtype of this name, or None if this torch has none."""
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) else None


def refuses(entry: Tensor | BytesEntry) -> str:
    """Why this torch cannot load an entry at all, or this Python not read it; or nothing."""
    if isinstance(entry, Tensor) and torch_dtype(entry.dtype) is None:
        return f"torch {torch.__version__} has no element type {entry.dtype}"
    is_packed = any(name.startswith("stream.zstd") for name in entry.transforms)
    if is_packed and not _has_zstandard():
        return (
            "it could not be read: its payloads are zstd frames, and the ranks' Python has no "
            "zstandard (pip install zstandard)"
        )
    return ""


def _has_zstandard() -> bool:
    try:
        return importlib.util.find_spec("zstandard") is not None
    except ImportError:
        return False


def torch_metadata(
    checkpoint: Checkpoint, tensors: list[Tensor], entries: list[BytesEntry]
) -> Metadata:
    """What `FileSystemReader.read_metadata` would return, for some entries only."""
    state: dict[str, Any] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for tensor in tensors:
        chunks = []
        for offsets, sizes, file, begin, length in tensor.chunks():
            index = MetadataIndex(tensor.fqn, torch.Size(offsets))
            if index in storage:
                continue  # Per-rank metadata: each replica wrote the same box.
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            if file >= 0:
                path = checkpoint.files[file].path
                storage[index] = _info(path, begin, length, tensor.transforms)
        properties = TensorProperties(
            dtype=torch_dtype(tensor.dtype) or torch.uint8, requires_grad=tensor.requires_grad
        )
        state[tensor.fqn] = TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)
    for entry in entries:
        state[entry.fqn] = BytesStorageMetadata()
        if entry.file >= 0:
            path = checkpoint.files[entry.file].path
            storage[MetadataIndex(entry.fqn)] = _info(
                path, entry.byte_offset, entry.byte_length, entry.transforms
            )
    return Metadata(state, storage_data=storage, storage_meta=StorageMeta())


def _info(path: str, offset: int, length: int, transforms: tuple[str, ...]) -> _StorageInfo:
    info = _StorageInfo(path, offset, length)
    if transforms:
        info.transform_descriptors = list(transforms)
    return info


class LoadPlanner(DefaultLoadPlanner):
    """DCP's planner, watched.

    Args:
        on_read: Told the bytes of every region that was written.
        edit_plan: A fault to plant in the local plan (tests).
        uncounted: Entries whose bytes `on_read` is not told of (the canaries).

    Attributes:
        raw: Bytes entries as they came.
        failures: What went wrong by fqn; the others were read all the same.
    """

    def __init__(
        self,
        on_read: Callable[[int], None] = lambda _: None,
        edit_plan: Callable[[LoadPlan], LoadPlan] | None = None,
        uncounted: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._uncounted = uncounted
        self.raw: dict[str, bytes] = {}
        self.failures: dict[str, BaseException] = {}
        self.done: set[int] = set()
        self._on_read = on_read
        self._edit_plan = edit_plan

    def create_local_plan(self) -> LoadPlan:
        plan = super().create_local_plan()
        return plan if self._edit_plan is None else self._edit_plan(plan)

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        """Keep the bytes; the stock planner would unpickle them."""
        data = value.getvalue() if isinstance(value, io.BytesIO) else value.read()
        self.raw[read_item.dest_index.fqn] = data
        self._count(read_item, len(data))

    def commit_tensor(self, read_item: Any, tensor: torch.Tensor) -> None:
        """Count a region that was written."""
        super().commit_tensor(read_item, tensor)
        self._count(read_item, tensor.numel() * tensor.element_size())

    def _count(self, read_item: Any, num_bytes: int) -> None:
        self.done.add(id(read_item))
        if read_item.dest_index.fqn not in self._uncounted:
            self._on_read(num_bytes)


class _Salvage:
    """Mixed into a reader: our metadata, and no item lost for another's fault."""

    metadata: Metadata | None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self.metadata is not None:
            return self.metadata
        found: Metadata = super().read_metadata(*args, **kwargs)  # type: ignore[misc]
        return found

    def read_data(self, plan: LoadPlan, planner: Any) -> Any:
        stock: Callable[[LoadPlan, Any], Any] = super().read_data  # type: ignore[misc]
        try:
            return stock(plan, planner)
        except Exception as error:
            if is_out_of_memory(error) or unreachable(error) is not None:
                raise
            first: BaseException = error
        for item in plan.items:
            if id(item) in planner.done:
                continue
            try:
                stock(dataclasses.replace(plan, items=[item]), planner)
            except Exception as error:
                if is_out_of_memory(error) or unreachable(error) is not None:
                    raise
                planner.failures.setdefault(item.dest_index.fqn, error)
        if not planner.failures and len(planner.done) < len(plan.items):
            raise first
        future: Future[None] = Future()
        future.set_result(None)
        return future


class _Reader(_Salvage, FileSystemReader):  # type: ignore[misc,unused-ignore]
    """torch's reader of a folder."""


class _UrlFiles:
    """What torch's reader asks its file system for, of a URL: with the bounds of our storage.

    fsspec's own files, which torch's `FsspecReader` opens, take what a server sends, however much
    it is and however long it takes.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def concat_path(self, path: object, suffix: str) -> str:
        """The name below the folder: all that is needed of a path."""
        return suffix

    def create_stream(self, path: object, mode: str) -> io.BufferedReader:
        """A file that is read; it is a context manager, as torch wants it."""
        return open_stream(self._storage, str(path))


def make_reader(path: str, metadata: Metadata | None, storage: Storage) -> Any:
    """DCP's reader of a folder or a URL."""
    reader: Any = _Reader(path)
    if is_url(path):
        reader.fs = _UrlFiles(storage)
    reader.metadata = metadata
    return reader


class HfFolder:
    """A folder of safetensors files, as `HuggingFaceStorageReader` sees it.

    What torch makes of the headers is read once, by torch, and kept: each wave loads from the same.

    Args:
        path: The folder.
        names: Of its files those to read; None for every one, as torch does.
    """

    def __init__(self, path: str, names: frozenset[str] | None) -> None:
        self.path = path
        self.metadata: Metadata | None = None
        self._names = names

    def reader(self, rows: tuple[str, RowBlock] | None = None) -> Any:
        """A reader of it; one for each load.

        Args:
            rows: The tensor that is loaded, and the rows of it, if they are not all.

        Raises:
            ImportError: This torch has none, or the safetensors package is not there.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        class _HfReader(_Salvage, HuggingFaceStorageReader):  # type: ignore[misc,unused-ignore]
            """torch's reader of safetensors."""

        reader: Any = _HfReader(path=self.path)
        reader.metadata = self.metadata
        if rows is not None and self.metadata is not None:
            reader.metadata = _rows_of(self.metadata, *rows)
        if self._names is not None:
            names, ls = self._names, reader.fs.ls
            # Of several sets in a folder one was asked for; torch's reader knows no sets.
            reader.fs.ls = lambda path: [p for p in ls(path) if os.path.basename(p) in names]
        return reader

    def read(self) -> None:
        """Have torch read every header.

        Raises:
            Exception: What torch raises.
        """
        self.metadata = self.reader().read_metadata()


def _rows_of(metadata: Metadata, fqn: str, rows: RowBlock) -> Metadata:
    """The same with some rows of a tensor as a tensor (as `RowBlock.of`), and nothing else."""
    held: Any = metadata.state_dict_metadata[fqn]
    places: Any = metadata.storage_data
    chunks, storage = [], {}
    for chunk in held.chunks:
        offsets = torch.Size((chunk.offsets[0] - rows.first, *chunk.offsets[1:]))
        if chunk.offsets[0] < rows.last and offsets[0] + chunk.sizes[0] > 0:
            chunks.append(ChunkStorageMetadata(offsets, chunk.sizes))
            storage[MetadataIndex(fqn, offsets)] = places[MetadataIndex(fqn, chunk.offsets)]
    size = torch.Size((rows.last - rows.first, *held.size[1:]))
    part = dataclasses.replace(held, size=size, chunks=chunks)
    return dataclasses.replace(metadata, state_dict_metadata={fqn: part}, storage_data=storage)


class SavePlanner(DefaultSavePlanner):
    """DCP's planner; bytes entries leave as they came.

    Args:
        edit_plan: A fault to plant in the global plan and its metadata (tests).
    """

    def __init__(self, edit_plan: Callable[[Any, Metadata], Any] | None = None) -> None:
        super().__init__()
        self._edit_plan = edit_plan

    def create_global_plan(self, all_plans: Any) -> Any:
        plans, metadata = super().create_global_plan(all_plans)
        if self._edit_plan is not None:
            plans, metadata = self._edit_plan(plans, metadata)
        return plans, metadata

    def transform_object(self, write_item: Any, object: Any) -> Any:  # noqa: A002 - torch's name
        """The bytes themselves; the stock planner would pickle them once more."""
        if isinstance(object, RawBytes):
            return io.BytesIO(object.data or b"")
        return super().transform_object(write_item, object)


def why_unsafe(data: bytes) -> str:
    """What a bytes entry's pickle would run when `dcp.load` loads it; empty if nothing is known."""
    try:
        payload = open_payload(BytesSource(memoryview(data)), is_tensor=False)
    except InspectError:
        return ""  # No pickle that this can read. It is compared as the bytes that it is.
    return _named_code(payload) if payload.unsafe else ""


def _named_code(payload: Payload) -> str:
    named = printable(payload.unsafe[0], 80)
    return f"compared as bytes, and not unpickled: it names {named}, code to be run"


def unpickle(data: bytes) -> tuple[str, str]:
    """Load a bytes entry as `dcp.load` does, with all that its pickle brings along.

    Returns:
        What came of it and why: `EXACT`, `NOT_VERIFIED` (not let in, or a class is not there), or
        `FAILED`.
    """
    try:
        payload = open_payload(BytesSource(memoryview(data)), is_tensor=False)
    except InspectError as error:
        return "NOT_VERIFIED", f"not unpickled: {error.message}"
    if payload.not_scanned:
        return "NOT_VERIFIED", f"compared as bytes, and not unpickled: {payload.not_scanned}"
    if payload.unsafe:
        return "NOT_VERIFIED", _named_code(payload)
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        named = payload.unknown[0] if payload.unknown else getattr(error, "name", None) or "?"
        package = printable(named.partition(".")[0], 60)
        return "NOT_VERIFIED", (
            f"compared as bytes, and not unpickled: it needs {printable(named, 120)}, which is not "
            f"there ({printable(reason(error), 200)}); --import {package} brings it in, where it is"
        )
    except Exception as error:
        return "FAILED", f"torch.load raises {reason(error)}"
    return "EXACT", ""


def plain(source: Source, dtype: str, sizes: tuple[int, ...]) -> tuple[Source, Payload]:
    """A packed tensor's elements in C order, as a source and a header that says so.

    Args:
        source: The payload, unpacked by stream transforms.
        dtype: The element type by the metadata.
        sizes: The chunk's sizes, likewise.

    Raises:
        PayloadError: Its class does not load, or does not say what it means.
    """
    data = b"".join(bytes(block) for block in source.blocks(0, source.length))
    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        values = tensor.dequantize() if hasattr(tensor, "dequantize") else None
    except Exception as error:
        raise PayloadError(f"its class does not unpack it: {reason(error)}") from error
    if values is None:
        raise PayloadError("its class has no `dequantize`, so what it means is not known")
    if type(values) is not torch.Tensor or tuple(values.shape) != sizes:
        raise PayloadError("its class gives no plain tensor of its shape")
    values = values.to(getattr(torch, dtype)).contiguous()
    elements = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    return BytesSource(memoryview(elements)), raw_payload(dtype, sizes, len(elements))
