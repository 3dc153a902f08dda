"""A checkpoint as values: `Checkpoint`, `Tensor`, `BytesEntry`, `DataFile`.

The rule this module keeps: nothing here is wrong. Every number was checked to be an integer of
the right sign that fits in 64 bits before it came here; what failed that check is in
`Checkpoint.malformed`, by name and reason. Names are raw: pass them through
`inspector.checkpoint.text.printable` before showing them.

Chunks are columns, not objects: a million chunks of 2-d tensors take about 55 MB.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize

if TYPE_CHECKING:
    from inspector.checkpoint.safetensors.header import SafetensorsFacts

__all__ = [
    "BytesEntry",
    "Checkpoint",
    "DataFile",
    "Framework",
    "Malformed",
    "Orphan",
    "Provenance",
    "Tensor",
    "TensorColumns",
    "file_rank",
]

Ints = npt.NDArray[np.int64]

_MAX_PRODUCT = (1 << 63) - 1

_RANK_FILE = re.compile(r"__(\d{1,9})_(\d{1,9})\.distcp\Z")


def file_rank(path: str) -> int | None:
    """The rank in a data file's name (`__3_0.distcp` is 3), or None.

    The number is the writer's rank inside the process group that saved, not its global rank
    (torch/distributed/checkpoint/filesystem.py). A prefix (Megatron's `separation_hint`) and
    folders before the name are allowed.
    """
    match = _RANK_FILE.search(path)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Framework:
    """Who wrote a checkpoint.

    Attributes:
        name: The framework, as it writes its own name.
        evidence: What speaks for it, as printable sentences.
        certain: Nothing else writes so.
    """

    name: str
    evidence: tuple[str, ...]
    certain: bool


@dataclass(frozen=True, slots=True)
class DataFile:
    """One data file, as the metadata names it or as the folder holds it.

    Attributes:
        path: Path relative to the checkpoint folder, raw.
        rank: Writer's rank from the name, or None.
        num_bytes: Size on storage, or None if it is not there or its size is not known.
        referenced_bytes: Sum of the lengths of the payloads the metadata places in it.
        num_payloads: How many.
        modified_s: Modification time in seconds since the epoch, or None.
    """

    path: str
    rank: int | None
    num_bytes: int | None
    referenced_bytes: int
    num_payloads: int
    modified_s: float | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """An entry of the metadata that could not become a value of this model.

    Attributes:
        fqn: Raw name of the entry; empty if it is of none.
        what: What is wrong with it.
        is_later: True if it is made of a class of torch's own that no torch known here has, so
            that it is perhaps as a later torch writes it, and nothing can be said of it.
    """

    fqn: str
    what: str
    is_later: bool = False


@dataclass(frozen=True, slots=True)
class Orphan:
    """A storage entry that belongs to no chunk and no bytes entry of the metadata."""

    fqn: str
    offsets: tuple[int, ...] | None
    file: str
    byte_offset: int
    byte_length: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the metadata tells of the torch that wrote it.

    Attributes:
        protocol: Pickle protocol.
        torch_band: Range of torch versions that write such metadata (`"2.4 to 2.6"`), or None.
        torch_evidence: The fact in the pickle that tells so.
        metadata_version: The `version` field (torch 2.9 and later), or None.
        notes: Other things found: Megatron's `mcore_data`, OLMo's storage class ...
        fields: Names of the fields of the pickled Metadata, in order.
        classes: Full names of the known classes in the pickle, which torch imports to read it.
        num_plans: Ranks whose save plans the metadata keeps (Megatron-Core's `all_local_plans`):
            the size of the group that saved, ranks that wrote nothing included. None otherwise.
    """

    protocol: int = 0
    torch_band: str | None = None
    torch_evidence: str = ""
    metadata_version: str | None = None
    notes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    num_plans: int | None = None

    @property
    def first_torch(self) -> tuple[int, int] | None:
        """The first release of `torch_band`, as numbers: of `"2.15 or later"` it is (2, 15)."""
        major, _, rest = (self.torch_band or "").partition(".")
        minor = rest.split(" ", 1)[0]
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


@dataclass(frozen=True, slots=True)
class BytesEntry:
    """One non-tensor entry of the state dict, stored as a pickle.

    `file` is an index into `Checkpoint.files`, or -1 if the metadata stores it nowhere.
    """

    fqn: str
    file: int
    byte_offset: int
    byte_length: int
    transforms: tuple[str, ...] = ()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the checkpoint, with its chunks as columns.

    Attributes:
        index: Position in `Checkpoint.tensors`.
        fqn: Raw name (key of the flat state dict).
        dtype: torch's name without `torch.`.
        shape: Global shape.
        offsets: Lower corner of each chunk, shape (num_chunks, ndim).
        sizes: Extent of each chunk, shape (num_chunks, ndim).
        file: Index into `Checkpoint.files` per chunk; -1 if the chunk is stored nowhere.
        byte_offset: Where each payload starts in its file; -1 if stored nowhere.
        byte_length: Bytes each payload takes in its file, container included; -1 likewise.
        transforms: Stream transforms of the payloads (`stream.zstd/1`); mostly empty.
        layout, requires_grad, memory_format: As torch recorded them.
    """

    index: int
    fqn: str
    dtype: str
    shape: tuple[int, ...]
    offsets: Ints
    sizes: Ints
    file: npt.NDArray[np.int32]
    byte_offset: Ints
    byte_length: Ints
    transforms: tuple[str, ...] = ()
    layout: str = "strided"
    requires_grad: bool = False
    memory_format: str = "contiguous"

    @property
    def num_chunks(self) -> int:
        return len(self.file)

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor (1 for a 0-d tensor)."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the elements: `num_elements` times the dtype's size."""
        return self.num_elements * (itemsize(self.dtype) or 0)

    def box(self, chunk: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Lower corner and extent of a chunk."""
        return tuple(self.offsets[chunk].tolist()), tuple(self.sizes[chunk].tolist())

    def chunks(self) -> Iterator[tuple[list[int], list[int], int, int, int]]:
        """Lower corner, extent, file, byte offset and byte length of every chunk."""
        columns = (self.offsets, self.sizes, self.file, self.byte_offset, self.byte_length)
        return zip(*(column.tolist() for column in columns), strict=True)

    @property
    def path(self) -> tuple[str, ...]:
        """The dotted name cut at its dots; what a module tree shows."""
        return tuple(self.fqn.split("."))


@dataclass(frozen=True, eq=False)
class TensorColumns:
    """All tensors and chunks of a checkpoint as flat arrays.

    Tensor `i` has shape `shapes[dim_start[i]:dim_start[i + 1]]` and owns the chunks
    `chunk_start[i]:chunk_start[i + 1]`; its chunk boxes begin at `box_start[i]` in `offsets` and
    `sizes`, ndim numbers for each chunk.
    """

    fqns: Sequence[str]
    properties: list[tuple[str, str, bool, str]]
    property_id: npt.NDArray[np.int32]
    shapes: Ints
    dim_start: Ints
    chunk_start: Ints
    box_start: Ints
    offsets: Ints
    sizes: Ints
    file: npt.NDArray[np.int32]
    byte_offset: Ints
    byte_length: Ints
    transforms: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_tensors(self) -> int:
        return len(self.fqns)

    @property
    def num_chunks(self) -> int:
        return len(self.file)

    @cached_property
    def _elements(self) -> Ints | None:
        """Elements per tensor; None if one of the numbers passes 64 bits."""
        result = np.ones(self.num_tensors, np.int64)
        ndims = np.diff(self.dim_start)
        for dim in range(int(ndims.max(initial=0))):
            rows = np.flatnonzero(ndims > dim)
            sizes = self.shapes[self.dim_start[rows] + dim]
            if (result[rows] > _MAX_PRODUCT // np.maximum(sizes, 1)).any():
                return None
            result[rows] *= sizes
        return result

    @cached_property
    def num_elements(self) -> list[int]:
        """Elements per tensor. Python integers: a product of sizes may pass 64 bits."""
        if self._elements is not None:
            return cast("list[int]", self._elements.tolist())
        starts, shapes = self.dim_start.tolist(), self.shapes.tolist()
        return [math.prod(shapes[a:b]) for a, b in itertools.pairwise(starts)]

    @cached_property
    def num_bytes(self) -> list[int]:
        """Bytes of the elements of each tensor."""
        sizes = [itemsize(dtype) or 0 for dtype, *_ in self.properties]
        elements, most = self._elements, max(sizes, default=0)
        if elements is not None and elements.max(initial=0) <= _MAX_PRODUCT // max(most, 1):
            of_each = np.asarray(sizes, np.int64)[self.property_id]
            return cast("list[int]", (elements * of_each).tolist())
        ids = self.property_id.tolist()
        return [n * sizes[p] for n, p in zip(self.num_elements, ids, strict=True)]

    @cached_property
    def num_chunks_of(self) -> Ints:
        """Chunks per tensor, shape (num_tensors,)."""
        return np.diff(self.chunk_start)

    def shape(self, index: int) -> tuple[int, ...]:
        return tuple(self.shapes[self.dim_start[index] : self.dim_start[index + 1]].tolist())

    def dtype(self, index: int) -> str:
        dtype, *_ = self.properties[int(self.property_id[index])]
        return dtype

    def tensor(self, index: int) -> Tensor:
        """The tensor at `index`, its chunk columns as views."""
        first, last = int(self.chunk_start[index]), int(self.chunk_start[index + 1])
        shape = self.shape(index)
        box = int(self.box_start[index])
        end = box + (last - first) * len(shape)
        dtype, layout, requires_grad, memory_format = self.properties[self.property_id[index]]
        return Tensor(
            index=index,
            fqn=self.fqns[index],
            dtype=dtype,
            shape=shape,
            offsets=self.offsets[box:end].reshape(last - first, len(shape)),
            sizes=self.sizes[box:end].reshape(last - first, len(shape)),
            file=self.file[first:last],
            byte_offset=self.byte_offset[first:last],
            byte_length=self.byte_length[first:last],
            transforms=self.transforms.get(index, ()),
            layout=layout,
            requires_grad=requires_grad,
            memory_format=memory_format,
        )


class _Tensors(Sequence[Tensor]):
    """The tensors as a sequence that makes each one when it is asked for."""

    def __init__(self, columns: TensorColumns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return self._columns.num_tensors

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self._columns.tensor(i) for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._columns.tensor(index)

    def __iter__(self) -> Iterator[Tensor]:
        return (self._columns.tensor(i) for i in range(len(self)))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint, read.

    Attributes:
        path: Folder or URL as it was given.
        format: `dcp` or `safetensors`.
        columns: Every tensor and chunk.
        bytes_entries: The non-tensor entries.
        files: Data files: first those the metadata names, in order of first mention, then
            those that only lie in the folder.
        order: Entries in the order of the original state dict, which is the order in which
            DCP's planner walked them: `i < num_tensors` is tensor `i`, otherwise the bytes
            entry `i - num_tensors`.
        state_paths: Path into the nested state dict by fqn, where the planner recorded one
            that is more than the fqn itself.
        per_rank_metadata: True if every rank wrote metadata of its own (`__R.metadata`,
            torch 2.9's `use_collectives=False`); then nothing was deduplicated.
        malformed: Entries that could not be read as values.
        orphans: Storage entries of no chunk.
        unknown_globals: Classes in the pickle that are not known, kept as inert stand-ins.
        unsafe_globals: Callables in the pickle that are not allowed; none was called.
        trailing_bytes: Bytes of `.metadata` after the pickle's end.
        folder_files: Every file of the folder with its size in bytes (data or not), relative
            path to size; empty if the folder was not listed.
        framework: Who wrote it, as far as its files and names tell; None if nobody looked.
        stored: What a safetensors checkpoint has besides; None for DCP.
    """

    path: str
    format: str
    columns: TensorColumns
    bytes_entries: tuple[BytesEntry, ...]
    files: tuple[DataFile, ...]
    order: npt.NDArray[np.int32]
    provenance: Provenance = field(default_factory=Provenance)
    state_paths: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    per_rank_metadata: bool = False
    malformed: tuple[Malformed, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    unknown_globals: tuple[str, ...] = ()
    unsafe_globals: tuple[str, ...] = ()
    trailing_bytes: int = 0
    metadata_bytes: int = 0
    metadata_modified_s: float | None = None
    folder_files: dict[str, int] = field(default_factory=dict)
    framework: Framework | None = None
    stored: SafetensorsFacts | None = None

    @cached_property
    def tensors(self) -> Sequence[Tensor]:
        """All tensors, in metadata order; each is made when it is asked for."""
        return _Tensors(self.columns)

    @cached_property
    def tensor_order(self) -> Ints:
        """Tensor indices in the order of the original state dict, in which they are shown."""
        return self.order[self.order < self.num_tensors].astype(np.int64)

    @cached_property
    def bytes_order(self) -> Ints:
        """Bytes entry indices in that order."""
        return self.order[self.order >= self.num_tensors].astype(np.int64) - self.num_tensors

    @cached_property
    def fqns(self) -> Sequence[str]:
        """Raw names of all tensors, then of all bytes entries: numbered as in `order`."""
        return (*self.columns.fqns, *(entry.fqn for entry in self.bytes_entries))

    @property
    def num_tensors(self) -> int:
        return self.columns.num_tensors

    @property
    def num_chunks(self) -> int:
        return self.columns.num_chunks

    @cached_property
    def num_elements(self) -> int:
        return sum(self.columns.num_elements)

    @cached_property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors' elements, each tensor once."""
        return sum(self.columns.num_bytes)

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of all data files that are there."""
        return sum(f.num_bytes or 0 for f in self.files)

    @cached_property
    def file_ranks(self) -> npt.NDArray[np.int32]:
        """Writer's rank per file, -1 where the name tells none, shape (num_files,)."""
        ranks = [-1 if f.rank is None else f.rank for f in self.files]
        return np.asarray(ranks, dtype=np.int32)

    def chunk_ranks(self, file: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Writer's rank per chunk, -1 where it is not known; `file` as in `Tensor.file`."""
        ranks = np.append(self.file_ranks, np.int32(-1))
        return ranks[file]

    @cached_property
    def world_size(self) -> int | None:
        """Size of the group that saved, as far as the data files tell: the highest rank + 1.

        Only files that the metadata names, and empty ones, count: a file with bytes that no
        entry names is left from another save. Exact for DCP's own file writer, which creates a
        file for every rank; a lower bound after tools that drop empty files, unless the metadata
        keeps a plan of every rank. None if no file names a rank.
        """
        ranks = [
            f.rank
            for f in self.files
            if f.rank is not None and (f.num_payloads or f.num_bytes == 0)
        ]
        return max(max(ranks) + 1, self.provenance.num_plans or 0) if ranks else None
