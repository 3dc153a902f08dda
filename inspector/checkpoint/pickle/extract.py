"""Unpickled metadata -> plain columns, every number checked.

What leaves this module is a header of JSON values and flat integer arrays; whatever in the
pickle was not of the type, sign or size it must have is left out and named in `malformed`.
Standard library only: it runs in the child process, beside the pickle.
"""

from __future__ import annotations

import math
import re
from array import array
from itertools import chain
from typing import Any

from inspector.checkpoint.dtypes import ITEMSIZE, canonical
from inspector.checkpoint.pickle.gate import Pickled
from inspector.checkpoint.pickle.stand_ins import (
    BytesMeta,
    Chunk,
    DType,
    EnumMember,
    Index,
    Layout,
    Meta,
    Opaque,
    Properties,
    Stored,
    TensorMeta,
)
from inspector.checkpoint.pickle.values import (
    ABSURD,
    PLAIN_KEYS,
    BadEntry,
    LaterKind,
    are_boxes,
    check_int,
    check_ints,
    describe,
    is_of_later_torch,
    is_path,
    name_of,
    provenance_of,
    transforms_of,
)

__all__ = ["Extraction", "NotMetadataError"]

_INT = {int}
_MAX_MALFORMED = 10_000

_MEMORY_FORMATS = {
    0: "contiguous",
    1: "channels_last",
    2: "preserve",
    "TORCH_CONTIGUOUS_FORMAT": "contiguous",
    "TORCH_CHANNELS_LAST": "channels_last",
    "TORCH_PRESERVE_FORMAT": "preserve",
}

_LAYOUTS = frozenset(
    f"torch.{name}"
    for name in (
        "strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc jagged _mkldnn".split()
    )
)
_LATER_DTYPE = re.compile(r"torch\.([a-z][a-z0-9_]{2,39})\Z")

_Properties = tuple[str, str, bool, str]  # dtype, layout, requires_grad, memory format
#: What no writer writes, and nothing here reads: it is told as not checked.
_DIFFERENT = ("another for each chunk",)
_Place = tuple[int, int, int, tuple[str, ...]]  # file, byte offset, byte length, transforms
_NOWHERE: _Place = (-1, -1, -1, ())


def _later_dtype(dtype: Any) -> str | None:
    """The name of an element type that a later torch may have; the gate tells of the name."""
    if isinstance(dtype, type) and issubclass(dtype, Opaque):
        found = _LATER_DTYPE.match(dtype.name)
        return found[1] if found else None
    return None


class NotMetadataError(ValueError):
    """The pickle holds something, but not DCP metadata."""

    def __init__(self, message: str, unsafe: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unsafe = unsafe


class Extraction:
    """Columns of one checkpoint, filled from one metadata pickle, or from one per rank."""

    def __init__(self) -> None:
        self.tensor_fqns: list[str] = []
        self.property_ids = array("i")
        self.properties: dict[_Properties, int] = {}
        self._num_properties = 0
        self._seen_properties: dict[tuple[int, int, bool, int], tuple[_Properties, Any]] = {}
        self.shapes = array("q")
        self.dim_start = array("q", [0])
        self.chunk_start = array("q", [0])
        self.box_start = array("q", [0])
        self.offsets = array("q")
        self.sizes = array("q")
        self.file = array("i")
        self.byte_offset = array("q")
        self.byte_length = array("q")
        self.transforms: dict[int, tuple[str, ...]] = {}
        self.bytes_fqns: list[str] = []
        self.bytes_places: list[_Place] = []
        self.bytes_ranks: list[int | None] = []
        self.files: dict[str, int] = {}
        self.order = array("i")
        self.state_paths: dict[str, tuple[str | int, ...]] = {}
        self.malformed: list[tuple[str, str, bool]] = []
        self.num_malformed = 0
        self.orphans: list[tuple[str, list[int] | None, str, int, int]] = []
        self.first: dict[str, Any] = {}
        self._later: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.unsafe: set[str] = set()

    # -- one metadata pickle ------------------------------------------------------------------

    def add(self, pickled: Pickled, rank: int | None = None) -> None:
        """Take in one unpickled `Metadata`.

        Raises:
            NotMetadataError: The root is something else.
        """
        self.unknown.update(pickled.unknown)
        self.unsafe.update(pickled.unsafe)
        root = pickled.root
        if not isinstance(root, Meta):
            raise NotMetadataError(f"it holds {describe(root)}, not DCP metadata", pickled.unsafe)
        entries = root.get("state_dict_metadata")
        if type(entries) is not dict:
            raise NotMetadataError("its Metadata has no dict of entries", pickled.unsafe)
        if not self.first:
            self.first = provenance_of(root, pickled.names)
        places = self._places(root.get("storage_data"))
        ids: dict[str, int] = {}
        for key, value in entries.items():
            self._entry(key, value, places, ids, rank)
        for fqn, left in places.items():
            self._orphans(fqn, left)
        self._order(root.get("planner_data"), ids)

    def _entry(
        self, key: Any, value: Any, places: dict[str, Any], ids: dict[str, int], rank: int | None
    ) -> None:
        """Take in one entry, and its places."""
        fqn = name_of(key)
        try:
            if later := self._later.get(fqn) or self._later.get(""):
                raise LaterKind(later)
            if isinstance(value, TensorMeta):
                ids[fqn] = self._tensor(fqn, value, places.pop(fqn, {}))
            elif isinstance(value, BytesMeta):
                ids[fqn] = ~self._bytes(fqn, places.pop(fqn, {}), rank)
            else:
                kind = LaterKind if is_of_later_torch(value) else BadEntry
                raise kind(f"the entry is {describe(value)}, neither tensor nor bytes")
        except BadEntry as error:
            places.pop(fqn, None)
            self._complain(fqn, str(error), is_later=isinstance(error, LaterKind))

    def _places(self, storage: Any) -> dict[str, dict[tuple[int, ...] | None, _Place]]:
        """Storage entries as fqn -> chunk offset -> place."""
        places: dict[str, dict[tuple[int, ...] | None, _Place]] = {}
        if storage is None:
            return places
        if type(storage) is not dict:
            self._complain("", f"storage_data is {describe(storage)}, not a dict")
            return places
        files = self.files
        for index, info in storage.items():
            try:
                fqn, offset = index.fqn, index.offset
                if type(fqn) in PLAIN_KEYS:
                    fqn = name_of(fqn)
                path, start, length = info.relative_path, info.offset, info.length
                if not (
                    type(fqn) is str
                    and type(path) is str
                    and type(start) is int
                    and type(length) is int
                    and (offset is None or type(offset) is tuple)
                    and 0 <= start < ABSURD
                    and 0 <= length < ABSURD
                    and path
                    # Looked at before it is hashed: a damaged offset may hold nested tuples
                    # whose hash never ends.
                    and (offset is None or {*map(type, offset)} <= _INT)
                ):
                    raise BadEntry
                file = files.setdefault(path, len(files))
                transforms: tuple[str, ...] = ()
                if info.get("transform_descriptors"):
                    transforms = transforms_of(info.transform_descriptors)
                places.setdefault(fqn, {})[offset] = (file, start, length, transforms)
            except (BadEntry, AttributeError, TypeError):
                self._explain_storage(index, info)
        return places

    def _explain_storage(self, index: Any, info: Any) -> None:
        """Say which part of a storage entry is wrong (the slow path of `_places`)."""
        fqn = name_of(index.get("fqn")) if isinstance(index, Index) else ""
        if not isinstance(index, Index):
            what = f"a storage entry's key is {describe(index)}"
            if is_of_later_torch(index):
                self._later[""] = what
            else:
                self._complain(fqn, what)
            return
        if not isinstance(info, Stored):
            what = f"its storage entry is {describe(info)}"
            if is_of_later_torch(info):
                self._later[fqn] = what
            else:
                self._complain(fqn, what)
            return
        path = info.get("relative_path")
        try:
            if type(index.get("fqn")) is not str and type(index.get("fqn")) not in PLAIN_KEYS:
                raise BadEntry("its storage entry's name is not text")
            if type(path) is not str or not path:
                raise BadEntry(f"its file is {describe(path)}, not a path")
            check_int(info.get("offset"), "its byte offset")
            check_int(info.get("length"), "its byte length")
            if index.get("offset") is not None:
                check_ints(index.get("offset"), "its storage entry's chunk offset")
            raise BadEntry("its storage entry cannot be understood")
        except BadEntry as error:
            self._complain(fqn, str(error))

    def _orphans(self, fqn: str, left: dict[tuple[int, ...] | None, _Place]) -> None:
        names = list(self.files)
        for offset, (file, start, length, _) in left.items():
            if len(self.orphans) < _MAX_MALFORMED:
                box = None if offset is None else [n if 0 <= n < ABSURD else -1 for n in offset]
                self.orphans.append((fqn, box, names[file], start, length))

    def _order(self, planner_data: Any, ids: dict[str, int]) -> None:
        """Entries in the planner's order; those it does not name come last."""
        walked: dict[str, int] = {}
        if type(planner_data) is dict:
            for key, path in planner_data.items():
                fqn = key if type(key) is str else name_of(key)
                if fqn in ids:
                    walked[fqn] = ids[fqn]
                if type(path) is tuple and is_path(path):
                    self.state_paths[fqn] = path
        elif planner_data is not None and not isinstance(planner_data, (list, tuple)):
            self._complain("", f"planner_data is {describe(planner_data)}, not a dict")
        for fqn, entry in ids.items():
            walked.setdefault(fqn, entry)
        self.order.extend(walked.values())

    # -- one entry ----------------------------------------------------------------------------

    def _tensor(
        self, fqn: str, meta: TensorMeta, places: dict[tuple[int, ...] | None, _Place]
    ) -> int:
        shape, props, chunks = self._head(fqn, meta)
        offsets, sizes = self._boxes(fqn, chunks, len(shape))
        index = len(self.tensor_fqns)
        found: set[tuple[str, ...]] = set()
        for offset in offsets:
            place = places.get(offset)
            file, start, length, transforms = place or _NOWHERE
            self.file.append(file)
            self.byte_offset.append(start)
            self.byte_length.append(length)
            if place is not None:
                found.add(transforms)
        if any(found):
            self.transforms[index] = found.pop() if len(found) == 1 else _DIFFERENT
        self.offsets.extend(chain.from_iterable(offsets))
        self.sizes.extend(chain.from_iterable(sizes))
        self.tensor_fqns.append(fqn)
        self.property_ids.append(self.properties.setdefault(props, len(self.properties)))
        self.shapes.extend(shape)
        self.dim_start.append(len(self.shapes))
        self.chunk_start.append(len(self.file))
        self.box_start.append(len(self.offsets))
        if len(places) > len(offsets) or places.keys() - set(offsets) - {None}:
            wanted = set(offsets)
            self._orphans(
                fqn, {o: p for o, p in places.items() if o not in wanted and o is not None}
            )
        return index

    def _head(self, fqn: str, meta: TensorMeta) -> tuple[tuple[int, ...], _Properties, list[Any]]:
        """Shape, properties and chunks of a tensor."""
        try:
            size, properties, chunks = meta.size, meta.properties, meta.chunks
        except AttributeError:
            size, properties, chunks = map(meta.get, ("size", "properties", "chunks"))
        shape = check_ints(size, "the tensor's size")
        props = self._properties(fqn, properties)
        if math.prod(shape) * ITEMSIZE.get(props[0], 1) >= ABSURD:
            raise BadEntry(f"the tensor would take an absurd number of bytes (size {list(shape)})")
        if type(chunks) is not list:
            raise BadEntry(f"its chunks are {describe(chunks)}, not a list")
        return shape, props, chunks

    def _boxes(
        self, fqn: str, chunks: list[Any], ndim: int
    ) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Offsets and sizes of the chunks that are well formed."""
        try:
            offsets = [chunk.offsets for chunk in chunks]
            sizes = [chunk.sizes for chunk in chunks]
            if are_boxes(offsets, ndim) and are_boxes(sizes, ndim):
                return offsets, sizes
        except (AttributeError, TypeError):
            pass
        offsets, sizes = [], []
        for chunk in chunks:
            if is_of_later_torch(chunk):
                raise LaterKind(f"a chunk is {describe(chunk)}")
            try:
                if not isinstance(chunk, Chunk):
                    raise BadEntry(f"a chunk is {describe(chunk)}")
                offset = check_ints(chunk.get("offsets"), "a chunk's offset")
                size = check_ints(chunk.get("sizes"), "a chunk's size")
                if len(offset) != ndim or len(size) != ndim:
                    dims = f"{len(offset)} offsets and {len(size)} sizes"
                    raise BadEntry(f"a chunk has {dims}, the tensor {ndim} dims")
            except BadEntry as error:
                self._complain(fqn, str(error))
                continue
            offsets.append(offset)
            sizes.append(size)
        return offsets, sizes

    def _properties(self, fqn: str, properties: Any) -> _Properties:
        try:
            values = properties.values if type(properties) is Properties else None
        except AttributeError:
            values = None
        if is_of_later_torch(properties):
            raise LaterKind(f"its properties are {describe(properties)}")
        if type(values) is not tuple or len(values) < 5:
            self._complain(fqn, "its properties cannot be understood")
            return "?", "strided", False, "contiguous"
        # Torch before 2.15 takes 5, later ones write 6; whoever wrote both wrote no metadata of it.
        self._num_properties = self._num_properties or len(values)
        if len(values) != self._num_properties:
            count = f"{len(values)} properties, where others have {self._num_properties}"
            self._complain(fqn, f"it has {count}")
        dtype, layout, requires_grad, memory_format = values[:4]
        # Mostly the very same objects; their ids stay theirs, as they are kept here.
        ids = id(dtype), id(layout), requires_grad is True, id(memory_format)
        if ids in self._seen_properties:
            return self._seen_properties[ids][0]
        known = canonical(dtype) if isinstance(dtype, DType) else _later_dtype(dtype)
        if known is None:
            self._complain(fqn, f"its dtype is {describe(dtype)}, which is not known")
        if isinstance(layout, Layout) and layout not in _LAYOUTS:
            self._complain(fqn, f"its layout is {str(layout)[:40]}, which no torch has")
        encoding = memory_format.value if isinstance(memory_format, EnumMember) else None
        if type(encoding) not in (int, str) or encoding not in _MEMORY_FORMATS:
            self._complain(fqn, "its memory format is one that no torch has")
        found = (
            known or (str(dtype)[:40] if isinstance(dtype, DType) else "?"),
            str(layout)[:40].removeprefix("torch.") if isinstance(layout, Layout) else "strided",
            requires_grad is True,
            _MEMORY_FORMATS.get(encoding, "?") if type(encoding) in (int, str) else "?",
        )
        if known is not None:
            self._seen_properties[ids] = found, (dtype, layout, memory_format)
        return found

    def _bytes(
        self, fqn: str, places: dict[tuple[int, ...] | None, _Place], rank: int | None
    ) -> int:
        self.bytes_fqns.append(fqn)
        self.bytes_places.append(places.get(None) or _NOWHERE)
        self.bytes_ranks.append(rank)
        self._orphans(fqn, {o: p for o, p in places.items() if o is not None})
        return len(self.bytes_fqns) - 1

    def _complain(self, fqn: str, what: str, *, is_later: bool = False) -> None:
        self.num_malformed += 1
        if len(self.malformed) < _MAX_MALFORMED:
            self.malformed.append((fqn, what, is_later))

    # -- the result ---------------------------------------------------------------------------

    def merge_ranks(self) -> None:
        """Make one tensor of those that several ranks' metadata describe under one name."""
        groups: dict[str, list[int]] = {}
        for i, fqn in enumerate(self.tensor_fqns):
            groups.setdefault(fqn, []).append(i)
        if len(groups) == len(self.tensor_fqns):
            return
        merged = Extraction()
        for fqn, members in groups.items():
            first = members[0]
            shape = self.shapes[self.dim_start[first] : self.dim_start[first + 1]]
            for i in members:
                if self.shapes[self.dim_start[i] : self.dim_start[i + 1]] != shape:
                    self._complain(fqn, "two ranks' metadata give it different sizes")
                    continue
                chunks = slice(self.chunk_start[i], self.chunk_start[i + 1])
                boxes = slice(self.box_start[i], self.box_start[i + 1])
                merged.offsets.extend(self.offsets[boxes])
                merged.sizes.extend(self.sizes[boxes])
                merged.file.extend(self.file[chunks])
                merged.byte_offset.extend(self.byte_offset[chunks])
                merged.byte_length.extend(self.byte_length[chunks])
            if first in self.transforms:
                merged.transforms[len(merged.tensor_fqns)] = self.transforms[first]
            merged.tensor_fqns.append(fqn)
            merged.property_ids.append(self.property_ids[first])
            merged.shapes.extend(shape)
            merged.dim_start.append(len(merged.shapes))
            merged.chunk_start.append(len(merged.file))
            merged.box_start.append(len(merged.offsets))
        new_id = {fqn: i for i, fqn in enumerate(merged.tensor_fqns)}
        order: dict[int, None] = {}
        for entry in self.order:
            order[entry if entry < 0 else new_id[self.tensor_fqns[entry]]] = None
        merged.order.extend(order)
        for name in (
            "tensor_fqns property_ids shapes dim_start chunk_start box_start offsets sizes file "
            "byte_offset byte_length transforms order"
        ).split():
            setattr(self, name, getattr(merged, name))

    def header(self) -> dict[str, Any]:
        """Everything that is not an array, as JSON values."""
        return {
            **self.first,
            "tensors": self.tensor_fqns,
            "properties": list(self.properties),
            "transforms": [[i, *names] for i, names in self.transforms.items()],
            "bytes": [
                [fqn, *place[:3], rank, list(place[3])]
                for fqn, place, rank in zip(
                    self.bytes_fqns, self.bytes_places, self.bytes_ranks, strict=True
                )
            ],
            "files": list(self.files),
            "state_paths": self.state_paths,
            "malformed": self.malformed,
            "num_malformed": self.num_malformed,
            "orphans": self.orphans,
            "unknown": sorted(self.unknown),
            "unsafe": sorted(self.unsafe),
        }

    def arrays(self) -> dict[str, array[int]]:
        """The columns; bytes entries in `order` count on after the tensors."""
        count = len(self.property_ids)
        order = self.order
        if self.bytes_fqns:
            order = array("i", [e if e >= 0 else count + ~e for e in order])
        return {
            "property_id": self.property_ids,
            "shapes": self.shapes,
            "dim_start": self.dim_start,
            "chunk_start": self.chunk_start,
            "box_start": self.box_start,
            "offsets": self.offsets,
            "sizes": self.sizes,
            "file": self.file,
            "byte_offset": self.byte_offset,
            "byte_length": self.byte_length,
            "order": order,
        }
