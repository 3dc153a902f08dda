"""Edits of a checkpoint on disk, with torch's own classes: what each broken sample is made by.

Everything here is deterministic, so that a rewrite of the broken samples gives the same bytes.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
)

PROTOCOL = 4


def metadata_of(folder: Path) -> Metadata:
    """A checkpoint's metadata, unpickled by Python: for samples of our own alone."""
    metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    return metadata


def edit(folder: Path, change: Callable[[Metadata], object]) -> None:
    """Rewrites a checkpoint's metadata after `change`."""
    metadata = metadata_of(folder)
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, PROTOCOL))


def index_of(metadata: Metadata, fqn: str, number: int = 0) -> MetadataIndex:
    """The key of a tensor's storage entry: of its first chunk, second chunk ..."""
    keys = [index for index in metadata.storage_data if index.fqn == fqn]
    return sorted(keys, key=lambda index: tuple(index.offset or ()))[number]


def chunk(offsets: list[int], sizes: list[int]) -> ChunkStorageMetadata:
    """A chunk's box."""
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def set_stored(folder: Path, fqn: str, number: int = 0, **fields: Any) -> None:
    """Changes fields of one storage entry."""

    def change(metadata: Metadata) -> None:
        info = metadata.storage_data[index_of(metadata, fqn, number)]
        for name, value in fields.items():
            setattr(info, name, value)

    edit(folder, change)


def set_chunks(
    folder: Path, fqn: str, change: Callable[[list[ChunkStorageMetadata]], object]
) -> None:
    """Changes a tensor's list of chunks and nothing else."""
    edit(folder, lambda metadata: change(metadata.state_dict_metadata[fqn].chunks))


def drop_chunk(folder: Path, fqn: str, number: int) -> None:
    """Takes a chunk out of the metadata, with its storage entry."""

    def change(metadata: Metadata) -> None:
        index = index_of(metadata, fqn, number)
        chunks = metadata.state_dict_metadata[fqn].chunks
        chunks[:] = [c for c in chunks if c.offsets != index.offset]
        del metadata.storage_data[index]

    edit(folder, change)


def move_chunk(
    folder: Path, fqn: str, number: int, *, offsets: list[int], sizes: list[int]
) -> None:
    """Gives a chunk another box, in both places that the metadata tells it."""

    def change(metadata: Metadata) -> None:
        index = index_of(metadata, fqn, number)
        info = metadata.storage_data.pop(index)
        chunks = metadata.state_dict_metadata[fqn].chunks
        at = next(i for i, c in enumerate(chunks) if c.offsets == index.offset)
        chunks[at] = chunk(offsets, sizes)
        metadata.storage_data[MetadataIndex(fqn, torch.Size(offsets), index.index)] = info

    edit(folder, change)


def drop_entry(folder: Path, fqn: str) -> None:
    """Takes a whole entry out of the metadata, with its storage entries."""

    def change(metadata: Metadata) -> None:
        del metadata.state_dict_metadata[fqn]
        for index in [i for i in metadata.storage_data if i.fqn == fqn]:
            del metadata.storage_data[index]
        metadata.planner_data.pop(fqn, None)

    edit(folder, change)


def rename_entry(folder: Path, old: str, new: str) -> None:
    """Gives an entry another name, wherever the metadata has it."""

    def change(metadata: Metadata) -> None:
        def renamed(fqn: str) -> str:
            return new if fqn == old else fqn

        metadata.state_dict_metadata = {
            renamed(fqn): entry for fqn, entry in metadata.state_dict_metadata.items()
        }
        metadata.planner_data = {renamed(fqn): path for fqn, path in metadata.planner_data.items()}
        metadata.storage_data = {
            MetadataIndex(renamed(i.fqn), i.offset, i.index): info
            for i, info in metadata.storage_data.items()
        }

    edit(folder, change)


def swap_stored(folder: Path, first: tuple[str, int], second: tuple[str, int]) -> None:
    """Lets two chunks of one shape point at each other's payload."""

    def change(metadata: Metadata) -> None:
        stored = metadata.storage_data
        a, b = (index_of(metadata, *which) for which in (first, second))
        stored[a], stored[b] = stored[b], stored[a]

    edit(folder, change)


def add_bytes(folder: Path, fqn: str, payload: bytes, file: str) -> None:
    """Adds a bytes entry, its payload at the end of a data file."""
    path = folder / file
    offset = path.stat().st_size
    path.write_bytes(path.read_bytes() + payload)

    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata[fqn] = BytesStorageMetadata()
        metadata.storage_data[MetadataIndex(fqn)] = _StorageInfo(file, offset, len(payload))
        metadata.planner_data[fqn] = (fqn,)

    edit(folder, change)


def place(folder: Path, fqn: str, number: int = 0) -> tuple[Path, int, int]:
    """Where a payload lies: its file, the first byte, how many."""
    metadata = metadata_of(folder)
    info = metadata.storage_data[index_of(metadata, fqn, number)]
    return folder / info.relative_path, info.offset, info.length


def load_payload(folder: Path, fqn: str, number: int = 0) -> Any:
    """The object that a payload holds."""
    path, offset, length = place(folder, fqn, number)
    return torch.load(io.BytesIO(path.read_bytes()[offset : offset + length]), weights_only=False)


def patch_payload(folder: Path, fqn: str, number: int, change: Callable[[bytes], bytes]) -> None:
    """Rewrites one payload's bytes; those after it in the file move, and the metadata knows."""
    path, offset, length = place(folder, fqn, number)
    data = path.read_bytes()
    new = change(data[offset : offset + length])
    path.write_bytes(data[:offset] + new + data[offset + length :])

    def move(metadata: Metadata) -> None:
        for index, info in metadata.storage_data.items():
            if info.relative_path != path.name:
                continue
            if index == index_of(metadata, fqn, number):
                info.length = len(new)
            elif info.offset > offset:
                info.offset += len(new) - length

    if len(new) != length:
        edit(folder, move)


def saved(value: object, *, checksums: bool = True) -> bytes:
    """What torch.save makes of a value."""
    buffer = io.BytesIO()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(value, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    return buffer.getvalue()


def saved_before_1_6(tensor: torch.Tensor) -> bytes:
    """What torch.save of before 1.6 makes of a tensor.

    It names a storage by its address, which would be another in every run.
    """
    buffer = io.BytesIO()
    torch.save(tensor, buffer, _use_new_zipfile_serialization=False)
    address = str(tensor.untyped_storage()._cdata).encode()
    return buffer.getvalue().replace(_unicode(address), _unicode(b"1"))


def _unicode(text: bytes) -> bytes:
    """A string as pickle's protocol 2 has it (BINUNICODE)."""
    return b"X" + struct.pack("<I", len(text)) + text


def flip_bit(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit turned."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def data_start(payload: bytes) -> int:
    """Where the elements begin in a payload: torch.save pads the header before them to 64 bytes."""
    name = b"/data/0"
    padding = payload.rindex(name, 0, payload.index(b"PK\x01\x02")) + len(name) + 4
    return -(-padding // 64) * 64
