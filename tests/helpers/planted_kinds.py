"""The kinds of faults that are planted in a job: when each strikes, and what it does.

They strike at one of these times:

    stored      in the files of the checkpoint, before the job begins
    plan        in a rank's load plan, so that torch itself loads something else
    loaded      in what a rank holds, after `dcp.load`
    compared    in what a rank holds, after it was compared: its replicas come next
    saving      in what one rank, or each that holds the element, is about to save
    save plan   in the global plan of `dcp.save`
    saved       in the files that were saved, before they are loaded again
    replan      in a rank's plan of that second load
    reloaded    in what a rank holds then
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from inspector.checkpoint import open_checkpoint
from inspector.verify.ranks.bits import Local
from sample_ckpts.maker import editing as ed

__all__ = ["KINDS", "Fault", "Kind", "Place", "box_of", "data_start", "place_of"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: Of `KINDS`.
        fqn: The entry.
        rank: Where it strikes, if in one rank.
        at: What part of that rank's elements, or of the chunk's, comes before the one it strikes.
        bit: Which bit of the element.
        other: Another entry that it takes something from.
    """

    kind: str
    fqn: str
    rank: int
    at: float
    bit: int
    other: str = ""


@dataclass(frozen=True)
class Kind:
    """What is known of all faults of a kind.

    Attributes:
        when: One of the times above.
        act: Does it; its arguments are the time's.
        of_floats: It is for floating point elements alone.
        num_dims: How many dims it takes (a single bit takes none).
        needs: What else it takes: `twin` (an entry of the same shape, dtype and boxes), `chunks`
            (several of them where it strikes), `cast` (one of the same shape and another dtype),
            `bytes` (a bytes entry).
        verdicts: What the job may say of it.
        is_single: It changes one bit.
        is_silent: Nothing in the checkpoint tells it from what somebody might have saved.
        is_placed: The elements that are wrong can be told (of a payload whose checksum alone is
            wrong they cannot).
    """

    when: str
    act: Callable[..., Any]
    of_floats: bool = False
    num_dims: int = 1
    needs: str = ""
    verdicts: tuple[str, ...] = ("DIFFER",)
    is_single: bool = False
    is_silent: bool = False
    is_placed: bool = True


# --- what a rank holds


def box_of(whole: Bytes, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Bytes:
    """The bytes of a box of a tensor, whose own have a last dim for those of an element."""
    where = tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))
    return np.ascontiguousarray(whole[where]).reshape(-1)


def _rows(local: Local) -> Bytes:
    return local.data.reshape(-1, local.itemsize)


def _number(local: Local, fault: Fault) -> int:
    return min(int(fault.at * local.num_elements), local.num_elements - 1)


def _bit(local: Local, fault: Fault, _: Bytes) -> None:
    byte, bit = divmod(fault.bit % (8 * local.itemsize), 8)
    _rows(local)[_number(local, fault), byte] ^= 1 << bit


def _swap(local: Local, fault: Fault, _: Bytes) -> None:
    rows, first = _rows(local), _number(local, fault)
    second = (first + 1) % len(rows)
    rows[[first, second]] = rows[[second, first]]


def _nan(local: Local, fault: Fault, _: Bytes) -> None:
    _rows(local)[_number(local, fault)] = 0xFF  # A NaN of every such type.


def _negative_zero(local: Local, fault: Fault, _: Bytes) -> None:
    """The sign of a zero, where the rank holds one; else of another element."""
    rows = _rows(local)
    zeros = np.flatnonzero((rows == 0).all(axis=1))
    rows[zeros[0] if len(zeros) else _number(local, fault), -1] ^= 0x80


def _roll(local: Local, fault: Fault, _: Bytes) -> None:
    rows = local.data.reshape(local.sizes[0], -1)
    rows[:] = np.roll(rows, 1, axis=0)


def _neighbour(local: Local, fault: Fault, truth: Bytes) -> None:
    """The rows that come next in the whole tensor; after the last the first."""
    first = [(local.offsets[0] + local.sizes[0] + i) % len(truth) for i in range(local.sizes[0])]
    local.data[:] = box_of(truth[first], (0, *local.offsets[1:]), local.sizes)


def _zero(local: Local, fault: Fault, _: Bytes) -> None:
    local.data[:] = 0


def _swap_bytes(local: Local, fault: Fault, _: Bytes) -> None:
    rows, i = _rows(local), _number(local, fault)
    rows[i] = rows[i, ::-1].copy()


def _coarse(local: Local, fault: Fault, _: Bytes) -> None:
    """What a detour through half as wide elements leaves."""
    _rows(local)[:, : local.itemsize // 2] = 0


def _transpose(local: Local, fault: Fault, _: Bytes) -> None:
    """The elements in the order of the columns."""
    grid = local.data.reshape(local.sizes[0], -1, local.itemsize)
    local.data[:] = np.ascontiguousarray(grid.transpose(1, 0, 2)).reshape(-1)


# --- what a rank plans to load


def _leave_out(items: list[Any], fault: Fault) -> list[Any]:
    return []


def _half(items: list[Any], fault: Fault) -> list[Any]:
    return [_cut(items[0], 0, items[0].lengths[0] // 2), *items[1:]]


def _shifted(items: list[Any], fault: Fault) -> list[Any]:
    """Each row is read from the one after it."""
    return [_cut(item, 1, item.lengths[0] - 1) for item in items if item.lengths[0] > 1]


def _cut(item: Any, skip: int, count: int) -> Any:
    first, *rest = item.storage_offsets
    return dataclasses.replace(
        item,
        storage_offsets=torch.Size((first + skip, *rest)),
        lengths=torch.Size((count, *item.lengths[1:])),
    )


def _from_other(items: list[Any], fault: Fault) -> list[Any]:
    return [
        dataclasses.replace(
            item, storage_index=dataclasses.replace(item.storage_index, fqn=fault.other)
        )
        for item in items
    ]


# --- what is saved


def _drop_chunk(plans: Any, metadata: Metadata, fault: Fault) -> tuple[Any, Metadata]:
    entry = metadata.state_dict_metadata[fault.fqn]
    assert isinstance(entry, TensorStorageMetadata)
    assert len(entry.chunks) > 1
    lost = entry.chunks.pop(int(fault.at * len(entry.chunks)))

    def is_kept(item: Any) -> bool:
        return item.index.fqn != fault.fqn or item.index.offset != lost.offsets

    kept = [
        dataclasses.replace(plan, items=[item for item in plan.items if is_kept(item)])
        for plan in plans
    ]
    return kept, metadata


# --- what is stored


@dataclass(frozen=True)
class Place:
    """Where one chunk's payload, or a bytes entry's, lies."""

    file: Path
    offset: int
    length: int
    itemsize: int = 1
    num_elements: int = 1
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def read(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)

    def write(self, payload: bytes, at: int = 0) -> None:
        assert at + len(payload) <= self.length
        with self.file.open("r+b") as file:
            file.seek(self.offset + at)
            file.write(payload)


def place_of(folder: Path, fqn: str, number: int) -> Place:
    """Of a tensor the chunk of this number, in the order of offsets."""
    checkpoint = open_checkpoint(str(folder))
    for entry in checkpoint.bytes_entries:
        if entry.fqn == fqn:
            path = checkpoint.files[entry.file].path
            return Place(folder / path, entry.byte_offset, entry.byte_length)
    (tensor,) = [t for t in checkpoint.tensors if t.fqn == fqn]
    # By offset: chunks are listed in the order of the ranks that wrote them.
    chunk = sorted(range(tensor.num_chunks), key=lambda i: tensor.offsets[i].tolist())[number]
    sizes = tuple(tensor.sizes[chunk].tolist())
    return Place(
        folder / checkpoint.files[int(tensor.file[chunk])].path,
        int(tensor.byte_offset[chunk]),
        int(tensor.byte_length[chunk]),
        tensor.num_bytes // max(tensor.num_elements, 1),
        int(np.prod(sizes)),
        tuple(tensor.offsets[chunk].tolist()),
        sizes,
    )


def data_start(payload: bytes, record: str = "data/0") -> int:
    """Where a record's bytes begin in a payload, as Python's own zip reader sees it."""
    start = zipfile.ZipFile(io.BytesIO(payload)).getinfo(f"archive/{record}").header_offset
    name, extra = struct.unpack_from("<HH", payload, start + 26)
    return start + 30 + int(name) + int(extra)


def _chunk(folder: Path, fault: Fault) -> Place:
    checkpoint = open_checkpoint(str(folder))
    counts = [t.num_chunks for t in checkpoint.tensors if t.fqn == fault.fqn]
    return place_of(folder, fault.fqn, int(fault.at * counts[0]) if counts else 0)


def _stored_bit(folder: Path, fault: Fault) -> tuple[int, ...]:
    place = _chunk(folder, fault)
    payload = place.read()
    byte, bit = divmod(fault.bit % (8 * place.itemsize), 8)
    number = int(fault.at * 7919) % place.num_elements
    at = data_start(payload) + number * place.itemsize + byte
    place.write(bytes([payload[at] ^ 1 << bit]), at)
    inside = np.unravel_index(number, place.sizes) if place.sizes else ()
    return tuple(int(i) + o for i, o in zip(inside, place.offsets, strict=True))


def _stored_bytes(folder: Path, fault: Fault) -> None:
    """Two bytes of the elements, which no single bit explains."""
    place = _chunk(folder, fault)
    payload = place.read()
    at = data_start(payload)
    last = at + place.num_elements * place.itemsize - 1
    place.write(bytes([payload[at] ^ 0x55]), at)
    place.write(bytes([payload[last] ^ 0xAA]), last)


def _destroyed(folder: Path, fault: Fault) -> None:
    place = _chunk(folder, fault)
    place.write(bytes(place.length))


def _exchanged(folder: Path, fault: Fault) -> None:
    """The payloads of the first two chunks of one size."""
    checkpoint = open_checkpoint(str(folder))
    (tensor,) = [t for t in checkpoint.tensors if t.fqn == fault.fqn]
    places = [place_of(folder, fault.fqn, i) for i in range(tensor.num_chunks)]
    a, b = next(
        (a, b)
        for i, a in enumerate(places)
        for b in places[i + 1 :]
        if a.sizes == b.sizes and a.length == b.length
    )
    first, second = a.read(), b.read()
    a.write(second)
    b.write(first)


def _saved_anew(folder: Path, fault: Fault) -> None:
    """Another value of an element, with every checksum as torch would write it."""
    place = _chunk(folder, fault)
    value = torch.load(io.BytesIO(place.read()), weights_only=True)
    raw = value.reshape(-1).view(torch.uint8)
    raw[int(fault.at * len(raw))] ^= 1
    file = io.BytesIO()
    torch.save(value, file)
    assert len(file.getbuffer()) == place.length
    place.write(file.getvalue())


def _padding(folder: Path, fault: Fault) -> None:
    """Bytes that align the elements: they belong to nothing."""
    place = _chunk(folder, fault)
    payload = place.read()
    at = data_start(payload) - 1
    assert payload[at : at + 1] == b"Z"
    place.write(b"Y", at)


def _entry_byte(folder: Path, fault: Fault) -> None:
    place = place_of(folder, fault.fqn, 0)
    payload = place.read()
    at = data_start(payload, "data.pkl") + 2
    place.write(bytes([payload[at] ^ 1]), at)


def _other_places(folder: Path, fault: Fault) -> None:
    def edit(metadata: Metadata) -> None:
        places: Any = metadata.storage_data
        mine = {index.offset: index for index in places if index.fqn == fault.fqn}
        theirs = {index.offset: index for index in places if index.fqn == fault.other}
        assert mine.keys() == theirs.keys()
        for offset, index in mine.items():
            places[index], places[theirs[offset]] = places[theirs[offset]], places[index]

    ed.edit(folder, edit)


def _other_dtype(folder: Path, fault: Fault) -> None:
    def edit(metadata: Metadata) -> None:
        entry: Any = metadata.state_dict_metadata[fault.fqn]
        entry.properties.dtype = torch.int32

    ed.edit(folder, edit)


def _lost_chunk(folder: Path, fault: Fault) -> None:
    def edit(metadata: Metadata) -> None:
        entry: Any = metadata.state_dict_metadata[fault.fqn]
        entry.chunks.pop(int(fault.at * len(entry.chunks)))

    ed.edit(folder, edit)


KINDS: dict[str, Kind] = {
    # In a rank's memory.
    "bit": Kind("loaded", _bit, is_single=True),
    "element exchanged with the next": Kind("loaded", _swap),
    "NaN": Kind("loaded", _nan, of_floats=True),
    "sign of zero": Kind("loaded", _negative_zero, of_floats=True),
    "rows shifted": Kind("loaded", _roll),
    "the next rank's rows": Kind("loaded", _neighbour),
    "zeros": Kind("loaded", _zero),
    "byte order": Kind("loaded", _swap_bytes),
    "through a narrower type": Kind("loaded", _coarse, of_floats=True),
    "transposed": Kind("loaded", _transpose, num_dims=2),
    # By torch itself.
    "not loaded": Kind("plan", _leave_out),
    "half of it not loaded": Kind("plan", _half),
    "loaded from the row after": Kind("plan", _shifted),
    "another tensor loaded": Kind("plan", _from_other, needs="twin"),
    "loaded through another type": Kind("plan", _from_other, needs="cast"),
    # Between comparing and saving.
    "a replica's bit": Kind("compared", _bit, is_single=True),
    "a bit before it is saved": Kind("saving", _bit, is_single=True),
    "a bit before one rank saves it": Kind("saving", _bit, is_single=True),
    # What is saved.
    "a chunk not saved": Kind("save plan", _drop_chunk, needs="chunks"),
    "a bit of what was saved": Kind("saved", _stored_bit, is_single=True),
    "payloads exchanged": Kind("saved", _exchanged, needs="chunks"),
    "a saved payload destroyed": Kind("saved", _destroyed, verdicts=("FAILED",)),
    # And loaded again.
    "not loaded again": Kind("replan", _leave_out),
    "loaded again from the row after": Kind("replan", _shifted),
    "a bit after it was loaded again": Kind("reloaded", _bit, is_single=True),
    "rows shifted after it was loaded again": Kind("reloaded", _roll),
    # In the files.
    "a stored bit": Kind("stored", _stored_bit, is_single=True),
    "stored bytes": Kind("stored", _stored_bytes, is_placed=False),
    "a stored payload destroyed": Kind("stored", _destroyed, verdicts=("FAILED",)),
    "a bytes entry": Kind("stored", _entry_byte, needs="bytes", is_placed=False),
    "another dtype in the metadata": Kind(
        "stored", _other_dtype, of_floats=True, verdicts=("DTYPE",), is_placed=False
    ),
    "a chunk that the metadata lacks": Kind(
        "stored", _lost_chunk, needs="chunks", verdicts=("MISSING",)
    ),
    "saved with another value": Kind("stored", _saved_anew, is_silent=True),
    "two tensors' places exchanged": Kind("stored", _other_places, needs="twin", is_silent=True),
    "bytes of no element": Kind("stored", _padding, is_silent=True),
}
