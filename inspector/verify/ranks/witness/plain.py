"""The metadata by a second, plain road: the slow gate and dicts, no columns, no torch.

What the job verifies was read by code that is made for millions of chunks, and chosen by code that
knows filters and budgets. This one knows neither: it says which names there are and where their
payloads lie, so that what those forget, exchange or shift does not pass.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from inspector.checkpoint.dcp import METADATA, rank_metadata
from inspector.checkpoint.dtypes import canonical
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.pickle.gate import load
from inspector.checkpoint.pickle.stand_ins import BytesMeta, Opaque, TensorMeta
from inspector.checkpoint.pickle.values import name_of
from inspector.checkpoint.storage.base import Storage
from inspector.verify.ranks.witness.account import EntryAccount, Ours, Place, differences

__all__ = ["PlainRead", "metadata_files", "read_plainly"]

_HEADER = 8
_ST_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F4": "float4_e2m1fn_x2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    **{f"U{n}": f"uint{n}" for n in (16, 32, 64)},
    **{f"I{n}": f"int{n}" for n in (16, 32, 64)},
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
}


class PlainRead:
    """What the plain reading found.

    Attributes:
        num_payloads: Stored payloads by name.
        names: Every name, those that are malformed among them.
        difference: Where it says otherwise than the checkpoint; empty if nowhere.
    """

    def __init__(self) -> None:
        self.num_payloads: dict[str, int] = {}
        self.names: set[str] = set()
        self.difference = ""

    def forgotten(self, chosen: set[str], left_out: set[str]) -> list[str]:
        """Names that are neither verified nor left out."""
        return sorted(self.names - chosen - left_out)

    def payloads_of(self, chosen: set[str]) -> int:
        """Stored payloads of some names."""
        return sum(self.num_payloads.get(fqn, 0) for fqn in chosen)


def metadata_files(storage: Storage) -> list[tuple[str, int | None]]:
    """The metadata files of a DCP folder, each with its rank (None: of all)."""
    listing = storage.list()
    if any(entry.name == METADATA for entry in listing):
        return [(METADATA, None)]
    return [(entry.name, rank) for rank, entry in rank_metadata(listing).items()]


def read_plainly(checkpoint: Checkpoint, storage: Storage) -> PlainRead:
    """Read the metadata again and compare it with a checkpoint.

    Raises:
        Exception: What a file that cannot be read, or changed in the meantime, raises.
    """
    read, ours = PlainRead(), Ours(checkpoint)
    if checkpoint.format == "safetensors":
        entries = _safetensors(checkpoint, storage)
        _take(read, ours, entries, entries.__getitem__, None)
        return read
    seen: set[str] = set()
    for name, rank in metadata_files(storage):
        size = next(e.num_bytes or 0 for e in storage.list() if e.name == name)
        root = load(io.BytesIO(storage.read(name, 0, size))).root
        keys = {name_of(key): key for key in root.get("state_dict_metadata")}
        places = _places(root.get("storage_data"))
        entry_of = _reader(root.get("state_dict_metadata"), keys, places)
        _take(read, ours, keys, entry_of, rank)
        seen |= keys.keys()
        if rank is None:
            return read
    if ours.names - seen:
        read.difference = read.difference or "we read names that no rank's metadata has"
    return read


def _take(
    read: PlainRead,
    ours: Ours,
    names: Any,
    entry_of: Callable[[str], EntryAccount],
    rank: int | None,
) -> None:
    read.names.update(names)
    for fqn in names:
        if fqn in ours.malformed:
            continue
        held = sum(place is not None for _, _, place in entry_of(fqn).chunks)
        read.num_payloads[fqn] = read.num_payloads.get(fqn, 0) + held
    wrong = differences(ours, names, entry_of, rank=rank)
    read.difference = read.difference or next(wrong, "")


def _places(storage_data: Any) -> dict[tuple[Any, Any], Place]:
    places = {}
    for index, info in (storage_data or {}).items():
        try:
            transforms = tuple(getattr(info, "transform_descriptors", None) or ())
            place = (info.relative_path, info.offset, info.length, transforms)
            offset = index.offset if index.offset is None else tuple(index.offset)
            places[name_of(index.fqn), offset] = place
        except (AttributeError, TypeError):
            continue  # It is malformed, which the first reading tells by name.
    return places


def _reader(
    entries: dict[Any, Any], keys: dict[str, Any], places: dict[tuple[Any, Any], Place]
) -> Callable[[str], EntryAccount]:
    def entry_of(fqn: str) -> EntryAccount:
        value = entries[keys[fqn]]
        if isinstance(value, BytesMeta):
            return EntryAccount(None, "", (((), (), places.get((fqn, None))),))
        if not isinstance(value, TensorMeta):
            raise ValueError("an entry is neither tensor nor bytes")
        chunks = []
        for chunk in value.chunks:
            offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
            place = places.get((fqn, offsets))
            if place is None and not offsets:
                place = places.get((fqn, None))
            chunks.append((offsets, sizes, place))
        dtype = value.properties.values[0]
        if isinstance(dtype, type) and issubclass(dtype, Opaque):
            word = dtype.name.removeprefix("torch.")
        else:
            word = canonical(dtype) or str(dtype)
        return EntryAccount(tuple(value.size), word, tuple(chunks))

    return entry_of


def _safetensors(checkpoint: Checkpoint, storage: Storage) -> dict[str, EntryAccount]:
    """Entries by the headers of the files that the checkpoint is made of."""
    assert checkpoint.stored is not None  # noqa: S101 - it is of this format
    pieces: dict[str, list[tuple[str, tuple[int, ...], tuple[int, ...], Place]]] = {}
    for path in checkpoint.stored.paths:
        size = int.from_bytes(storage.read(path, 0, _HEADER), "little")
        header = json.loads(storage.read(path, _HEADER, size))
        where = json.loads((header.pop("__metadata__", None) or {}).get("DCP_SHARDING_INFO", "{}"))
        for fqn, value in header.items():
            begin, end = value["data_offsets"]
            sizes = tuple(value["shape"])
            if value["dtype"] == "F4" and sizes:
                # Two to a byte, which torch counts as one element.
                sizes = (*sizes[:-1], sizes[-1] // 2)
            offsets = tuple(where.get(fqn, {}).get("saved_offsets", (0,) * len(sizes)))
            place = (path, _HEADER + size + begin, end - begin, ())
            pieces.setdefault(fqn, []).append((value["dtype"], offsets, sizes, place))
    return {fqn: _entry(found) for fqn, found in pieces.items()}


def _entry(found: list[Any]) -> EntryAccount:
    # A type that this table lacks is torch's to judge.
    dtype = _ST_DTYPES.get(found[0][0], "")
    ends = [[o + n for o, n in zip(offsets, sizes, strict=True)] for _, offsets, sizes, _ in found]
    shape = tuple(map(max, *ends)) if len(ends) > 1 else tuple(ends[0])
    return EntryAccount(shape, dtype, tuple(sorted((o, n, place) for _, o, n, place in found)))
