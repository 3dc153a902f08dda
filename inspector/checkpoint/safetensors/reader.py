"""A folder of safetensors files -> `Checkpoint`: plain Hugging Face, or written by DCP.

From each file its header alone is read. Where `HuggingFaceStorageWriter(save_distributed=True)`
wrote, a file holds one rank's chunks, and `__metadata__` tells their offsets (`DCP_SHARDING_INFO`)
but neither how many there are nor the tensor's size: that is taken for the largest offset plus
extent, as `HuggingFaceStorageReader` does (torch/distributed/checkpoint/hf_storage.py, torch 2.7
and later).
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.child.isolated import Progress
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, DataFile, Malformed, Provenance, TensorColumns
from inspector.checkpoint.safetensors.files import Files, IndexFile, find_files, headers, read_index
from inspector.checkpoint.safetensors.header import (
    Header,
    HeaderError,
    Misplaced,
    SafeTensor,
    SafetensorsFacts,
    Unread,
    bounded_json,
    naturals,
)
from inspector.checkpoint.safetensors.sets import (
    INDEX,
    SINGLE,
    SUFFIX,
    FileSet,
    OneSet,
    file_sets,
    main_set,
    shard_rank,
)
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import natural_keys, plural, printable
from inspector.errors import Cancelled, MetadataError, NotACheckpointError

__all__ = ["read_safetensors"]

SHARDING_INFO = "DCP_SHARDING_INFO"
_HEADER_GUESS = 4096
_MAX_NAMED = 1000
# As for `.metadata`: no tensor reaches 4 EiB.
_ABSURD = 1 << 62


def read_safetensors(storage: Storage, *, progress: Progress | None = None) -> Checkpoint:
    """Read the safetensors checkpoint in a folder: one listing, its index, and every header.

    Args:
        storage: The folder, or one set of files in it.
        progress: Told the bytes read, of about how many; may cancel.

    Raises:
        NotACheckpointError: There is no safetensors file, or there are several sets of them.
        MetadataError: No file's header can be read.
        StorageError: The folder cannot be listed.
        Cancelled: `progress` said so.
    """
    listing = storage.list()
    # A folder beside them with the name of an index or of a file is no such thing, and is told.
    folders = (SUFFIX, SUFFIX + ".index.json")
    is_any = any(e.kind != "folder" and e.name.endswith(SUFFIX) for e in listing)
    sets = file_sets(
        entry.name
        for entry in listing
        if entry.kind != "folder" or (is_any and entry.name.endswith(folders))
    )
    chosen = main_set(sets)
    if chosen is None:
        what = "there is no safetensors file"
        if sets:
            what = f"{len(sets)} safetensors checkpoints lie side by side"
        raise NotACheckpointError(
            f"{printable(storage.root)}: {what}", "give the path of one file" if sets else ""
        )
    reading = _Reading(storage, listing, chosen)
    reading.read(progress)
    return reading.checkpoint()


@dataclass(frozen=True, slots=True)
class _Chunk:
    offsets: list[int]
    sizes: tuple[int, ...]
    file: int
    byte_offset: int
    byte_length: int


@dataclass(slots=True)
class _Growing:
    """A tensor as far as it was read."""

    fqn: str
    dtype: str
    size: list[int]
    chunks: list[_Chunk] = field(default_factory=list)


class _Reading:
    """One reading of a set of files: what is put together from one after the other."""

    def __init__(self, storage: Storage, listing: list[Entry], chosen: FileSet) -> None:
        self._storage = storage
        self._listing = listing
        self._chosen = chosen
        self._index = IndexFile()
        self._files = Files([], {}, {})
        self._unread: list[Unread] = []
        self._malformed: list[Malformed] = []
        self._tensors: dict[str, _Growing] = {}
        self._data_offset: dict[str, int] = {}
        self._metadata: dict[str, str] = {}
        self._is_sharded = False
        self._stale_index: tuple[str, ...] = ()
        self._num_bytes = 0

    def read(self, progress: Progress | None) -> None:
        if self._chosen.index:
            entry = next(e for e in self._listing if e.name == self._chosen.index)
            self._index = read_index(self._storage, entry)
            self._num_bytes = entry.num_bytes or 0
        self._files = find_files(self._storage, self._listing, self._chosen, self._index)
        if self._chosen.index == INDEX and self._files.missing and not self._files.paths:
            self._take_single()
        total = len(self._files.paths) * _HEADER_GUESS
        for number, (path, found) in enumerate(headers(self._storage, self._files)):
            if isinstance(found, Unread):
                self._unread.append(found)
            else:
                self._num_bytes += found.data_offset
                self._data_offset[path] = found.data_offset
                self._add(number, path, found)
            if progress is not None and progress(self._num_bytes, max(self._num_bytes, total)):
                raise Cancelled("reading the headers was cancelled")
        if self._unread and not self._data_offset:
            first = self._unread[0]
            raise MetadataError(
                f"{printable(first.path, 120)}: {first.what}",
                first.hint or "fetch the file again from where it was written",
                code="metadata-truncated"
                if first.code == "file-truncated"
                else "metadata-unreadable",
            )

    def _take_single(self) -> None:
        """The file that is loaded before an index is looked at, where that one's files are gone.

        A save into one file removes the shards of an earlier one, and leaves their index.
        """
        single = next((e for e in self._listing if e.name == SINGLE and e.kind == "file"), None)
        if single is not None and not self._files.escapes:
            self._stale_index = tuple(self._files.missing)
            self._index = IndexFile()
            self._files = Files([SINGLE], {SINGLE: single}, {})

    def _add(self, number: int, path: str, header: Header) -> None:
        for name, what in header.faults:
            self._leave_out(name, path, what)
        sharding = None
        if SHARDING_INFO in header.metadata:
            self._is_sharded = True
            sharding = _sharding(header.metadata[SHARDING_INFO])
        self._metadata = self._metadata or {
            k: v for k, v in header.metadata.items() if k != SHARDING_INFO
        }
        for tensor in header.tensors:
            offsets = [0] * len(tensor.shape)
            if sharding is not None:
                offsets = sharding.get(tensor.name, [])
            if len(offsets) != len(tensor.shape):
                self._leave_out(tensor.name, path, f"{SHARDING_INFO} has no such offsets for it")
                continue
            begin = header.data_offset + tensor.begin
            chunk = _Chunk(offsets, tensor.shape, number, begin, tensor.end - tensor.begin)
            self._add_chunk(tensor, chunk, path)

    def _add_chunk(self, tensor: SafeTensor, chunk: _Chunk, path: str) -> None:
        size = [a + n for a, n in zip(chunk.offsets, chunk.sizes, strict=True)]
        known = self._tensors.get(tensor.name)
        if known is not None:
            if known.dtype != tensor.dtype or len(known.size) != len(size):
                other = printable(self._files.paths[known.chunks[0].file], 120)
                what = (
                    f"it is {tensor.dtype} of {plural(len(size), 'dim')} there, "
                    f"{known.dtype} of {len(known.size)} in {other}"
                )
                self._leave_out(tensor.name, path, what)
                return
            size = [max(a, b) for a, b in zip(known.size, size, strict=True)]
        if math.prod(max(n, 1) for n in size) * (itemsize(tensor.dtype) or 1) >= _ABSURD:
            self._leave_out(tensor.name, path, "the tensor would take an absurd number of bytes")
            return
        if known is None:
            known = self._tensors[tensor.name] = _Growing(tensor.name, tensor.dtype, size)
        known.size = size
        known.chunks.append(chunk)

    def _leave_out(self, fqn: str, path: str, what: str) -> None:
        self._malformed.append(Malformed(fqn, f"in {path}: {what}"))

    # -- as values -----------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """What was read, as a value."""
        found = list(self._tensors.values())
        keys = natural_keys([tensor.fqn for tensor in found])
        tensors = [found[i] for i in sorted(range(len(found)), key=keys.__getitem__)]
        columns = _columns(tensors)
        path = self._storage.root
        if isinstance(self._storage, OneSet):
            path = f"{path.rstrip('/')}/{self._storage.name}"
        return Checkpoint(
            path=path,
            format="safetensors",
            columns=columns,
            bytes_entries=(),
            files=tuple(self._data_files(columns)),
            order=np.arange(len(tensors), dtype=np.int32),
            provenance=Provenance(),
            malformed=tuple(self._malformed),
            metadata_bytes=self._num_bytes,
            folder_files={e.name: e.num_bytes or 0 for e in self._listing if e.kind == "file"},
            stored=self._stored(),
        )

    def _data_files(self, columns: TensorColumns) -> Iterator[DataFile]:
        """Files of the set, those that are missing, then others of the folder."""
        paths = self._files.paths
        payloads = np.bincount(columns.file, minlength=len(paths)).tolist()
        lengths = np.zeros(len(paths), np.int64)
        np.add.at(lengths, columns.file, columns.byte_length)
        for path, count, length in zip(paths, payloads, lengths.tolist(), strict=True):
            entry = self._files.entries[path]
            size = entry.num_bytes if entry.kind == "file" else None
            yield DataFile(path, shard_rank(path), size, length, count, entry.modified_s)
        for path in self._files.missing:
            yield DataFile(path, shard_rank(path), None, 0, 0)
        ours = {posixpath.normpath(path) for path in paths}
        for entry in self._listing:
            if entry.kind == "file" and entry.name.endswith(SUFFIX) and entry.name not in ours:
                yield DataFile(entry.name, None, entry.num_bytes, 0, 0, entry.modified_s)

    def _stored(self) -> SafetensorsFacts:
        weight_map = self._index.weight_map
        unknown = {*self._files.missing, *self._files.escapes, *(u.path for u in self._unread)}
        misplaced = []
        for fqn, path in weight_map.items():
            if path not in unknown:
                tensor = self._tensors.get(fqn)
                files = [self._files.paths[c.file] for c in tensor.chunks] if tensor else []
                if path not in files:
                    misplaced.append(Misplaced(fqn, path, files[0] if files else ""))
        not_in_index = [
            (fqn, self._files.paths[tensor.chunks[0].file])
            for fqn, tensor in self._tensors.items()
            if weight_map and fqn not in weight_map
        ]
        return SafetensorsFacts(
            index=self._chosen.index,
            index_problem=self._index.problem,
            stale_index=self._stale_index,
            total_size=self._index.total_size,
            missing=self._files.missing,
            unread=tuple(self._unread),
            misplaced=tuple(misplaced[:_MAX_NAMED]),
            not_in_index=tuple(not_in_index[:_MAX_NAMED]),
            escapes=tuple(self._files.escapes),
            data_offset=self._data_offset,
            is_sharded=self._is_sharded,
            metadata=self._metadata,
            has_shards_below=any(e.name == "sharded" and e.kind == "folder" for e in self._listing),
        )


def _sharding(text: str) -> dict[str, list[int]]:
    """Offsets by name from `DCP_SHARDING_INFO`; those that are damaged are left out."""
    try:
        fields = bounded_json(text.encode("utf-8", "surrogatepass"))
    except HeaderError:
        return {}
    found = {}
    for name, value in fields.items() if type(fields) is dict else ():
        offsets = naturals(value.get("saved_offsets")) if type(value) is dict else None
        if offsets is not None:
            found[name] = offsets
    return found


def _columns(tensors: list[_Growing]) -> TensorColumns:
    properties: dict[tuple[str, str, bool, str], int] = {}
    for tensor in tensors:
        key = (tensor.dtype, "strided", False, "contiguous")
        properties.setdefault(key, len(properties))
    ids = {dtype: number for (dtype, *_), number in properties.items()}
    chunks = [chunk for tensor in tensors for chunk in tensor.chunks]
    return TensorColumns(
        fqns=[t.fqn for t in tensors],
        properties=list(properties),
        property_id=np.asarray([ids[t.dtype] for t in tensors], np.int32),
        shapes=_ints(n for t in tensors for n in t.size),
        dim_start=_starts(len(t.size) for t in tensors),
        chunk_start=_starts(len(t.chunks) for t in tensors),
        box_start=_starts(len(t.chunks) * len(t.size) for t in tensors),
        offsets=_ints(n for c in chunks for n in c.offsets),
        sizes=_ints(n for c in chunks for n in c.sizes),
        file=np.asarray([c.file for c in chunks], np.int32),
        byte_offset=_ints(c.byte_offset for c in chunks),
        byte_length=_ints(c.byte_length for c in chunks),
    )


def _ints(numbers: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(numbers, np.int64)


def _starts(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.cumsum(np.fromiter((0, *counts), np.int64), dtype=np.int64)
