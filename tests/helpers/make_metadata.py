"""Checkpoints of a million chunks, as `dcp.save` of a thousand ranks leaves them: without ranks.

    python -m tests.helpers.make_metadata SHAPE FOLDER

SHAPE is one of:

    1000x1024    1,000 tensors over 1,024 ranks: a million chunks
    100000x8     100,000 tensors over 8 ranks
    3300x1024    405B-class with Adam: 1,100 parameters and their two moments over 1,024 ranks
    TxW          any other number of tensors and ranks, as the first

The metadata is made of torch's own classes. Every rank's write results pass through pickle first,
as gathering them does: this is why a name stands in the file once for each rank, and not once in
all. Data files have the sizes that the payloads would have, and hold nothing (they are sparse).

`make` has it written by torch's own writer (`FileSystemWriter.finish`), which takes 2.4 GB for a
million chunks. `stream` writes the same bytes (a test compares them) and holds one record at a
time: ten million chunks take as little memory as ten.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

__all__ = ["SHAPES", "Wanted", "make", "stream", "tensors_of"]

#: Name, shape and dtype of a tensor.
Wanted = tuple[str, tuple[int, ...], torch.dtype]
#: Offsets and sizes of a chunk.
Box = tuple[tuple[int, ...], tuple[int, ...]]
#: Name, offsets, rank, file, byte offset and length.
Place = tuple[str, tuple[int, ...], int, str, int, int]

_T = TypeVar("_T")

SHAPES = ("1000x1024", "100000x8", "3300x1024")

# Llama 3 405B's: 16,384 wide, the feed-forward 53,248, 8 heads for keys and values.
_WIDE = (
    ("attention.wq", (16384, 16384)),
    ("attention.wk", (1024, 16384)),
    ("attention.wv", (1024, 16384)),
    ("attention.wo", (16384, 16384)),
    ("feed_forward.w1", (53248, 16384)),
    ("feed_forward.w3", (53248, 16384)),
    ("feed_forward.w2", (16384, 53248)),
    ("attention_norm", (16384,)),
    ("ffn_norm", (16384,)),
)


def _parameters(count: int, world: int) -> list[Wanted]:
    """So many parameters of a decoder; narrow ones where there are very many."""
    if count > 10_000:
        parts = tuple(
            (name, (4 * world, 16) if len(shape) == 2 else (4 * world,)) for name, shape in _WIDE
        )
    else:
        parts = _WIDE
    found: list[Wanted] = []
    for number in range(count):
        name, shape = parts[number % len(parts)]
        fqn = f"model.layers.{number // len(parts)}.{name}.weight"
        found.append((fqn, shape, torch.bfloat16))
    return found


def tensors_of(shape: str) -> tuple[list[Wanted], int]:
    """The tensors of a named shape, and its number of ranks."""
    count, world = (int(number) for number in shape.split("x"))
    if shape != "3300x1024":
        return _parameters(count, world), world
    parameters = [(fqn, size, torch.float32) for fqn, size, _ in _parameters(1100, world)]
    moments = [
        (f"optimizer.state.{fqn.removeprefix('model.')}.{moment}", size, torch.float32)
        for fqn, size, _ in parameters
        for moment in ("exp_avg", "exp_avg_sq")
    ]
    return parameters + moments, world


def _rows(rows: int, world: int, rank: int) -> tuple[int, int]:
    """First row and number of rows of a rank, as `torch.chunk` cuts."""
    full = -(-rows // world)
    first = min(rank * full, rows)
    return first, min(full, rows - first)


def _payload_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes that `torch.save` makes of such a tensor."""
    file = io.BytesIO()
    torch.save(torch.empty(shape, dtype=dtype), file)
    return len(file.getbuffer())


def _gathered(value: _T) -> _T:
    return pickle.loads(pickle.dumps(value))


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(*map(torch.Size, box))


def _stored(place: Place) -> tuple[MetadataIndex, _StorageInfo]:
    fqn, offsets, rank, path, at, length = place
    name = fqn.encode().decode()  # No other place has the same string.
    return MetadataIndex(name, offsets, rank), _StorageInfo(path, at, length)


class _Save:
    """An FSDP save of tensors that are cut along dim 0; its data files are made as it is told of.

    Raises:
        ValueError: A rank would have no row of a tensor; DCP records that in ways of its own.
    """

    def __init__(self, folder: Path, tensors: list[Wanted], world: int) -> None:
        for fqn, shape, _ in tensors:
            if not _rows(shape[0], world, world - 1)[1]:
                raise ValueError(f"{fqn} has too few rows for {world} ranks")
        self.folder, self.tensors, self.world = folder, tensors, world
        folder.mkdir(parents=True, exist_ok=True)
        self._lengths: dict[tuple[tuple[int, ...], torch.dtype], int] = {}
        self._boxes: dict[tuple[int, ...], list[Box]] = {}

    def boxes(self, shape: tuple[int, ...]) -> list[Box]:
        """Offsets and sizes of the chunks of a tensor, one of each rank; kept."""
        if shape not in self._boxes:
            rows = [_rows(shape[0], self.world, rank) for rank in range(self.world)]
            behind = (0,) * (len(shape) - 1)
            self._boxes[shape] = [((row, *behind), (count, *shape[1:])) for row, count in rows]
        return self._boxes[shape]

    def places(self, rank: int) -> Iterator[Place]:
        """What rank `rank` has written, in the order of its plan."""
        path, at = f"__{rank}_0.distcp", 0
        for fqn, shape, dtype in self.tensors:
            offsets, sizes = self.boxes(shape)[rank]
            if (sizes, dtype) not in self._lengths:
                self._lengths[sizes, dtype] = _payload_bytes(sizes, dtype)
            length = self._lengths[sizes, dtype]
            yield fqn, offsets, rank, path, at, length
            at += length
        with open(self.folder / path, "wb") as file:
            file.truncate(at)

    def result(self, rank: int) -> list[WriteResult]:
        """What rank `rank` reports."""
        pairs = [_stored(place) for place in self.places(rank)]
        return _gathered([WriteResult(index, info.length, info) for index, info in pairs])

    def metadata(self, listed: Callable[[list[Box]], Any]) -> Metadata:
        """The metadata without places, its chunks as `listed` makes them of boxes.

        Rank 0's names make the entries, the last rank's the planner's: a new copy for each.
        """
        entries = {
            fqn: TensorStorageMetadata(
                properties=TensorProperties(dtype=dtype),
                size=torch.Size(shape),
                chunks=listed(self.boxes(shape)),
            )
            for fqn, shape, dtype in _gathered(self.tensors)
        }
        paths = {fqn: tuple(fqn.split(".", 1)) for fqn, _, _ in _gathered(self.tensors)}
        return Metadata(entries, planner_data=paths)


def make(folder: Path, tensors: list[Wanted], world: int) -> Metadata:
    """Write `.metadata` and the sparse data files of an FSDP save to `folder`, which is made.

    Every tensor is cut along dim 0.

    Raises:
        ValueError: A rank would have no row of a tensor; DCP records that in ways of its own.
    """
    save = _Save(folder, tensors, world)
    metadata = save.metadata(lambda boxes: [_chunk(box) for box in boxes])
    results = (save.result(rank) for rank in range(world))
    FileSystemWriter(folder).finish(metadata, results)  # type: ignore[arg-type]  (it only iterates)
    return metadata


def stream(folder: Path, tensors: list[Wanted], world: int) -> None:
    """As `make`, and the same bytes, with a record at a time in memory.

    Raises:
        ValueError: As `make`.
    """
    save = _Save(folder, tensors, world)
    metadata = save.metadata(_Lazy)
    places = chain.from_iterable(save.places(rank) for rank in range(world))
    metadata.version = CURRENT_DCP_VERSION
    metadata.storage_data = _Places(places)
    metadata.storage_meta = FileSystemWriter(folder).storage_meta()
    with open(folder / ".metadata", "wb") as file:
        _Pickler(file, 4).dump(metadata)


@dataclass(slots=True)
class _Lazy:
    """Stands for a list of chunks that are made while it is written."""

    items: list[Box]


@dataclass(slots=True)
class _Places:
    """Stands for the dict of places, likewise."""

    items: Iterator[Place]


# What no later object refers to, but for the keys of the first record of a kind.
_PASSING = (str, tuple, dict, torch.Size, ChunkStorageMetadata, MetadataIndex, _StorageInfo)
_PASSING += (TensorStorageMetadata, TensorProperties, _Lazy)
_BATCH = 1000  # Items of a list or dict that are put in at a time.


class _Pickler(pickle._Pickler):
    """Writes what C's pickler writes, and forgets records once they are written.

    The first record of a kind is written as any object is. Of the others the opcodes are known, and
    only where a frame may end within one of them it takes the long way too.
    """

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file: Any, protocol: int) -> None:
        super().__init__(file, protocol)
        self._count = 0
        self._chunk: tuple[bytes, ...] = ()
        self._place: tuple[bytes, ...] = ()
        self._path = ""
        self._is_learned = False

    def memoize(self, obj: Any) -> None:
        """Number an object; numbers go on although objects are forgotten."""
        self.write(pickle.MEMOIZE)
        self.memo[id(obj)] = self._count, obj
        self._count += 1

    def _ref(self, *objects: Any) -> bytes:
        return b"".join(self.get(self.memo[id(obj)][0]) for obj in objects)

    def _record(self, text: bytes, num_memo: int, objects: Callable[[], Sequence[Any]]) -> None:
        """Write some objects: their opcodes as given, if no frame can end within those."""
        frame = self.framer.current_frame
        if frame.tell() + len(text) < self.framer._FRAME_SIZE_TARGET:
            frame.write(text)
            self._count += num_memo
            return
        known = len(self.memo)
        for obj in objects():
            self.save(obj)
        self._forget(known)

    def _forget(self, known: int) -> None:
        """Forget what was numbered since, but for what others will refer to."""
        for key in list(islice(self.memo, known, None)):
            if isinstance(self.memo[key][1], _PASSING):
                del self.memo[key]

    def _put_in(
        self, items: Iterable[Any], save: Callable[[Any], None], opcodes: bytes, *, is_dict: bool
    ) -> None:
        """Fill what is on the stack, in batches; a dict ends with one that is not full."""
        one, many = opcodes[:1], opcodes[1:]
        items = iter(items)
        part = list(islice(items, 2))
        if len(part) == 1:
            save(part[0])
            self.write(one)
        items = chain(part, items) if len(part) > 1 else ()
        while part := list(islice(items, _BATCH)):
            self.write(pickle.MARK)
            for item in part:
                save(item)
            self.write(many)
            if is_dict and len(part) < _BATCH:
                return
        if is_dict and items:
            self.write(pickle.MARK + many)

    def _save_chunks(self, lazy: _Lazy) -> None:
        self.write(pickle.EMPTY_LIST)
        self.memoize(lazy)
        self._put_in(lazy.items, self._save_chunk, b"ae", is_dict=False)

    def _save_chunk(self, box: Box) -> None:
        if not self._chunk:
            chunk = _chunk(box)
            self.save(chunk)
            first, second = (self._ref(key, torch.Size) for key in vars(chunk))
            self._chunk = self._ref(ChunkStorageMetadata), first, second
            return
        (offsets, a), (sizes, b) = map(_size, box)
        new, first, second = self._chunk
        text = b"%b)\x81\x94}\x94(%b%b%b%bub" % (new, first, offsets, second, sizes)
        self._record(text, 2 + a + b, lambda: [_chunk(box)])

    def _save_places(self, places: _Places) -> None:
        self.write(pickle.EMPTY_DICT)
        self.memoize(places)
        self._put_in(places.items, self._save_place, b"su", is_dict=True)

    def _save_place(self, place: Place) -> None:
        name, offsets, rank, path, at, num_bytes = place
        if path is not self._path:
            # Each rank's results have a path of their own, which all of them share.
            known = len(self.memo)
            index, info = _stored(place)
            self.save(index)
            self.save(info)
            if not self._path:
                objects = (MetadataIndex, *vars(index), torch.Size)
                objects += (_StorageInfo, *info.__getstate__())
                self._place = tuple(map(self._ref, objects))
                known = len(self.memo)
            number = self.memo[id(path)]
            self._forget(known)
            self.memo.pop(id(self._path), None)
            self._path = path
            self.memo[id(path)] = number
            return
        new, fqn, hint, offset, size, kind, file, start, length = self._place
        (box, num_memo), data = _size(offsets), name.encode()
        text = (b"%b)\x81\x94}\x94(%b\x8c%c%b\x94%b%b%b%b%bub%b)\x81\x94}\x94(%b%b%b%b%b%bub") % (
            *(new, fqn, len(data), data, hint, _integer(rank), offset, size, box),
            *(kind, file, self._ref(path), start, _integer(at), length, _integer(num_bytes)),
        )
        self._record(text, 5 + num_memo, lambda: _stored(place))

    def _save_dict(self, items: dict[Any, Any]) -> None:
        self.write(pickle.EMPTY_DICT)
        self.memoize(items)
        self._put_in(items.items(), self._save_item, b"su", is_dict=True)

    def _save_item(self, item: tuple[Any, Any]) -> None:
        known = len(self.memo)
        for part in item:
            self.save(part)
        if isinstance(item[1], TensorStorageMetadata) and self._is_learned:
            self._forget(known)
        self._is_learned |= isinstance(item[1], TensorStorageMetadata)

    dispatch[_Lazy], dispatch[_Places] = _save_chunks, _save_places
    dispatch[dict] = _save_dict


def _integer(number: int) -> bytes:
    """The opcode of an integer that is not negative."""
    if number < 1 << 8:
        return b"K%c" % number
    if number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if number < 1 << 31:
        return b"J" + number.to_bytes(4, "little")
    data = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a%c%b" % (len(data), data)


@cache
def _size(size: tuple[int, ...]) -> tuple[bytes, int]:
    """The opcodes of a `torch.Size` behind those of its class, and how many objects they number."""
    text = b"".join(map(_integer, size))
    if len(size) > 3:
        text = b"(%bt" % text
    else:
        text += (b")", b"\x85", b"\x86", b"\x87")[len(size)]
    return text + b"\x94" * bool(size) + b"\x85\x94R\x94", 2 + bool(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shape")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    # Millions of objects that all stay: the collector would look through them in vain.
    gc.disable()
    tensors, world = tensors_of(options.shape)
    stream(options.folder, tensors, world)
    size = (options.folder / ".metadata").stat().st_size
    print(f"{options.folder}: {len(tensors) * world:,} chunks, .metadata of {size / 1e6:.1f} MB")
    # Freeing them one by one takes as long again.
    os._exit(0)


if __name__ == "__main__":
    main()
