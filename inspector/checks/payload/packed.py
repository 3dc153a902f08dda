"""More or fewer bytes than elements need: packed, of another dtype, or damage; a head tells.

A tensor subclass (8-bit optimizer states, int8 or float8 weights) shows itself as float32 and
stores a byte for each element, or less; torch saves it and loads it back exactly. Metadata has no
word of that. Nor has it of elements that were saved in another dtype than a cached plan says
(`stale_dtype`), which take fewer bytes or more. So the head of one payload of each tensor of an
odd length is read. Of many only some are: those that have the same box, dtype and length as one
that was looked at are told with it, and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, TensorColumns
from inspector.checkpoint.payload.payload import open_payload
from inspector.checkpoint.payload.source import RangeSource, open_file
from inspector.checkpoint.payload.tensor import PackedTensor
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.entries import Entries, entries_of
from inspector.checks.metadata.structure import longer_rows
from inspector.checks.payload.stale_dtype import is_stale_dtype, stale_dtype
from inspector.errors import InspectError
from inspector.layout.geometry import unique

__all__ = ["packed_in", "with_stored_dtypes", "without_packed"]

_MAX_PEEKS = 64
_MAX_REMOTE_PEEKS = 8
# Of each box, dtype and length one payload is looked at, which may be more than these.
_MAX_GROUPS = 2048
_MAX_REMOTE_GROUPS = 64
_MAX_DTYPES = 2000
_MAX_REMOTE_DTYPES = 256
# torch.save's zip takes 1,513 to 1,600 bytes more than the elements, in all versions so far.
_USUAL_CONTAINER = range(1450, 1750)
_MAX_CONTAINER = 4 << 10


def without_packed(
    checkpoint: Checkpoint, storage: Storage, entries: Entries, findings: Iterable[Finding]
) -> list[Finding]:
    """The findings, `range-too-short` of what torch loads exactly made what it is.

    That is a note for each class of packed tensors, and a warning for each tensor whose elements
    are of another dtype than the metadata says. So are those that take more bytes than they need.
    What nobody could look at, there being too many of too many kinds, is a warning.

    Args:
        checkpoint: What they are about.
        storage: Its folder; a few payloads' heads are read.
        entries: Its table, from `entries_of`.
        findings: All of them.
    """
    found = list(findings)
    if checkpoint.format != "dcp":
        return found
    short = [f for f in found if f.code == "range-too-short" and f.fqn and f.offsets is not None]
    is_local = storage.local_path("") is not None
    limit = _MAX_PEEKS if is_local else _MAX_REMOTE_PEEKS
    number_of = {fqn: number for number, fqn in enumerate(checkpoint.columns.fqns)} if short else {}
    kinds: dict[str, list[Finding]] = {}
    num_unseen: dict[str, int] = {}
    stale: dict[str, list[int]] = {}
    gone: set[int] = set()
    places = [_place(checkpoint, number_of[f.fqn or ""], f.offsets or ()) for f in short]
    groups: dict[_Group, list[int]] = {}
    for position, place in enumerate(places):
        groups.setdefault(place.group, []).append(position)
    firsts = [members[0] for members in groups.values()]
    chosen = firsts[: _MAX_GROUPS if is_local else _MAX_REMOTE_GROUPS]
    others = sorted(set(range(len(short))) - set(firsts))
    chosen += others[: max(limit - len(chosen), 0)]
    seen = {at: _peek(checkpoint, storage, places[at].index, places[at].chunk) for at in chosen}
    for at, finding in enumerate(short):
        of_group = [seen[other] for other in groups[places[at].group] if other in seen]
        kind = seen[at] if at in seen else _common(of_group)
        index = places[at].index
        if isinstance(kind, PackedTensor):
            kinds.setdefault(kind.kind, []).append(finding)
            num_unseen[kind.kind] = num_unseen.get(kind.kind, 0) + (at not in seen)
        elif kind is not None and _is_stored_as(entries, index, kind):
            stale.setdefault(kind, []).append(index)
            gone.add(id(finding))
        elif not of_group:
            found[found.index(finding)] = _not_looked_at(finding)
    for index in _longer(entries)[:limit]:
        kind = _peek(checkpoint, storage, index, 0)
        if isinstance(kind, str) and _is_stored_as(entries, index, kind):
            stale.setdefault(kind, []).append(index)
    gone |= {id(f) for members in kinds.values() for f in members}
    kept = [f for f in found if id(f) not in gone]
    chunks_of = checkpoint.columns.num_chunks_of
    return [
        *kept,
        *(_note(kind, members, num_unseen[kind]) for kind, members in kinds.items()),
        *(
            stale_dtype(checkpoint, index, dtype, range(int(chunks_of[index])), by_head=True)
            for dtype, members in stale.items()
            for index in members
        ),
    ]


def _longer(entries: Entries) -> list[int]:
    """Tensors of whose chunks each takes the bytes of elements twice as large, or larger."""
    columns = entries.checkpoint.columns
    count = np.bincount(entries.entry[longer_rows(entries)], minlength=columns.num_tensors)
    num: list[int] = np.flatnonzero((count > 0) & (count == columns.num_chunks_of)).tolist()
    return num


def _is_stored_as(entries: Entries, index: int, dtype: str) -> bool:
    """Whether the chunks of a tensor take the bytes of elements of a dtype, and a container."""
    columns = entries.checkpoint.columns
    rows = slice(int(columns.chunk_start[index]), int(columns.chunk_start[index + 1]))
    volume = entries.volume[rows]
    over = entries.length[rows] - volume * (itemsize(dtype) or 0)
    fits = (over > 0) & (over <= _MAX_CONTAINER) & (entries.file[rows] >= 0)
    return bool((fits | (volume == 0)).all())


#: A chunk's extent and dtype, and its bytes.
_Group = tuple[tuple[int, ...], str, int]


@dataclass(frozen=True, slots=True)
class _Place:
    """A chunk, by its tensor and its position there, and what it has in common with others."""

    index: int
    chunk: int
    group: _Group


def _place(checkpoint: Checkpoint, index: int, offsets: tuple[int, ...]) -> _Place:
    tensor = checkpoint.columns.tensor(index)
    chunk = int(np.flatnonzero((tensor.offsets == np.array(offsets)).all(axis=1))[0])
    sizes = tuple(tensor.sizes[chunk].tolist())
    return _Place(index, chunk, (sizes, tensor.dtype, int(tensor.byte_length[chunk])))


def _common(kinds: Sequence[PackedTensor | str | None]) -> PackedTensor | str | None:
    """What all of a group that were looked at are; None if they are several things."""
    names = {kind.kind if isinstance(kind, PackedTensor) else kind for kind in kinds}
    return kinds[0] if len(names) == 1 else None


def _not_looked_at(finding: Finding) -> Finding:
    return replace(
        finding,
        severity="warning",
        message=f"{finding.message}; its payload was not looked at, which may be of a class that "
        "stores less",
        torch_does="raises RuntimeError: PytorchStreamReader failed, if it is cut short",
        hint="--deep reads it",
    )


def packed_in(checkpoint: Checkpoint, storage: Storage, fqn: str) -> PackedTensor | None:
    """The packed tensor that a tensor's first stored payload holds; None if it is none."""
    if fqn not in checkpoint.columns.fqns:
        return None
    index = checkpoint.columns.fqns.index(fqn)
    tensor = checkpoint.columns.tensor(index)
    stored = np.flatnonzero(tensor.file >= 0)
    if not len(stored):
        return None
    found = _peek(checkpoint, storage, index, int(stored[0]))
    return found if isinstance(found, PackedTensor) else None


def _peek(
    checkpoint: Checkpoint, storage: Storage, index: int, chunk: int
) -> PackedTensor | str | None:
    """The packed tensor that a chunk's payload holds, or the dtype of elements of another one.

    None if it is neither, or cannot be read.
    """
    tensor = checkpoint.columns.tensor(index)
    number = int(tensor.file[chunk])
    if number < 0 or is_escape(checkpoint.files[number].path):
        return None
    sizes = tuple(tensor.sizes[chunk].tolist())
    begin, length = int(tensor.byte_offset[chunk]), int(tensor.byte_length[chunk])
    try:
        with closing(open_file(storage, checkpoint.files[number].path)) as file:
            source = RangeSource(file, begin, length)
            payload = open_payload(source, is_tensor=True)
            found, data = payload.tensor, payload.data
            if found is not None and not (payload.unsafe or payload.problem):
                is_whole = data is not None and data.num_bytes == found.storage_bytes
                is_whole &= found.needed_bytes <= found.storage_bytes
                is_stale = is_stale_dtype(tensor.dtype, sizes, found, source)
                return found.dtype if is_whole and is_stale else None
    except InspectError:
        return None
    packed = payload.packed
    if packed is None or payload.unsafe or payload.problem:
        return None
    if packed.shape not in (None, sizes) or packed.dtype not in (None, tensor.dtype):
        return None
    return packed


def _note(kind: str, members: list[Finding], num_unseen: int) -> Finding:
    first = members[0]
    package = printable(kind.partition(".")[0], 60)
    names = plural(len(members), "tensor")
    example = printable(first.fqn or "", 80)
    subject = f"{example}:" if len(members) == 1 else f"{names} ({example} is the first):"
    seen = ""
    if num_unseen and len(members) > num_unseen:
        seen = f"; of {num_unseen} of them only the sizes were looked at"
    return Finding(
        "packed-tensor",
        f"{subject} fewer bytes than elements x itemsize, as {printable(kind, 120)} stores them"
        f"{seen}",
        f"loads it exactly if {package} is imported and registers the class, and the target is of "
        "that class, else raises UnpicklingError",
        f"import {package} before loading, and if it raises even so register the class with "
        "torch.serialization.add_safe_globals; --deep reads every byte",
        fqn=first.fqn if len(members) == 1 else None,
        file=first.file if len(members) == 1 else None,
    )


def with_stored_dtypes(
    checkpoint: Checkpoint, storage: Storage
) -> tuple[Checkpoint, dict[str, str]]:
    """The checkpoint with each tensor's dtype as it is stored, where the metadata has another.

    Args:
        checkpoint: What the metadata says.
        storage: Its folder; heads of payloads are read, on a remote storage few.

    Returns:
        What to load, and the dtypes that are not the metadata's, by name.
    """
    columns = checkpoint.columns
    if checkpoint.format != "dcp":
        return checkpoint, {}
    is_remote = storage.local_path("") is None
    if columns.num_tensors <= _MAX_DTYPES and not is_remote:
        chosen = list(range(columns.num_tensors))
    else:
        chosen, narrow = _suspects(checkpoint)
        if is_remote and narrow:
            # Among those whose length tells nothing, a few stand for all.
            some = narrow[:: max(len(narrow) // _MAX_REMOTE_PEEKS, 1)][:_MAX_REMOTE_PEEKS]
            is_any = any(isinstance(_dtype(checkpoint, storage, index), str) for index in some)
            narrow = narrow if is_any else []
        chosen += narrow
    properties, ids = list(columns.properties), columns.property_id.copy()
    found: dict[str, str] = {}
    for index in chosen[: _MAX_REMOTE_DTYPES if is_remote else _MAX_DTYPES]:
        dtype = _dtype(checkpoint, storage, index)
        if isinstance(dtype, str):
            _, layout, requires_grad, memory_format = columns.properties[int(ids[index])]
            kind = (dtype, layout, requires_grad, memory_format)
            if kind not in properties:
                properties.append(kind)
            ids[index] = properties.index(kind)
            found[columns.fqns[index]] = dtype
    if not found:
        return checkpoint, {}
    as_stored = replace(columns, properties=properties, property_id=ids)
    return replace(checkpoint, columns=as_stored), found


def _suspects(checkpoint: Checkpoint) -> tuple[list[int], list[int]]:
    """Tensors of an odd length; and those that could have another dtype of the same width."""
    entries, columns = entries_of(checkpoint), checkpoint.columns
    width = np.array([itemsize(kind[0]) or 0 for kind in columns.properties], dtype=np.int64)
    is_tensor = entries.entry < columns.num_tensors
    rows = np.flatnonzero(is_tensor & (entries.file >= 0) & (entries.volume > 0))
    over = (
        entries.length[rows]
        - entries.volume[rows] * width[columns.property_id[entries.entry[rows]]]
    )
    is_odd = (over < _USUAL_CONTAINER.start) | (over >= _USUAL_CONTAINER.stop)
    odd = sorted(set(unique(entries.entry[rows[is_odd]]).tolist()) - set(columns.transforms))
    narrow = sorted(set(_narrow(columns)) - set(odd))
    return odd, narrow


def _narrow(columns: TensorColumns) -> list[int]:
    """Tensors of floats of two bytes or one, of which there are several kinds."""
    is_narrow = np.array(
        [
            kind[0].startswith(("float", "bfloat")) and (itemsize(kind[0]) or 8) <= 2
            for kind in columns.properties
        ],
        dtype=bool,
    )
    found: list[int] = np.flatnonzero(is_narrow[columns.property_id]).tolist()
    return found


def _dtype(checkpoint: Checkpoint, storage: Storage, index: int) -> PackedTensor | str | None:
    """What `_peek` says of the first payload of a tensor that has elements."""
    tensor = checkpoint.columns.tensor(index)
    stored = np.flatnonzero((tensor.file >= 0) & tensor.sizes.all(axis=1))
    return _peek(checkpoint, storage, index, int(stored[0])) if len(stored) else None
