"""Fewer bytes than elements need: a packed tensor's, or damage. Its payload's head tells.

A tensor subclass (8-bit optimizer states, int8 or float8 weights) shows itself as float32 and
stores a byte for each element, or less; torch saves it and loads it back exactly. Metadata has no
word of that. So the head of one payload of each tensor that is too short is read, of a few
tensors: they are of one kind.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.payload import open_payload
from inspector.checkpoint.payload.source import RangeSource, open_file
from inspector.checkpoint.payload.tensor import PackedTensor
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.errors import InspectError

__all__ = ["packed_in", "without_packed"]

_MAX_PEEKS = 64
_MAX_REMOTE_PEEKS = 8


def without_packed(
    checkpoint: Checkpoint, storage: Storage, findings: Iterable[Finding]
) -> list[Finding]:
    """The findings, `range-too-short` of packed tensors made one note for each class.

    Args:
        checkpoint: What they are about.
        storage: Its folder; a few payloads' heads are read.
        findings: All of them.
    """
    found = list(findings)
    short = [f for f in found if f.code == "range-too-short" and f.fqn and f.offsets is not None]
    if not short or checkpoint.format != "dcp":
        return found
    number_of = {fqn: number for number, fqn in enumerate(checkpoint.columns.fqns)}
    limit = _MAX_PEEKS if storage.local_path("") is not None else _MAX_REMOTE_PEEKS
    kinds: dict[str, list[Finding]] = {}
    unseen = short[limit:]
    for finding in short[:limit]:
        kind = _peek(checkpoint, storage, number_of[finding.fqn or ""], finding.offsets or ())
        if kind is not None:
            kinds.setdefault(kind.kind, []).append(finding)
    num_packed = sum(map(len, kinds.values()))
    if unseen and num_packed == limit:
        # Every one that was looked at is packed; the others are told with the first class.
        next(iter(kinds.values())).extend(unseen)
    gone = {id(f) for members in kinds.values() for f in members}
    kept = [f for f in found if id(f) not in gone]
    return [*kept, *(_note(kind, members, len(unseen)) for kind, members in kinds.items())]


def packed_in(checkpoint: Checkpoint, storage: Storage, fqn: str) -> PackedTensor | None:
    """The packed tensor that a tensor's first stored payload holds; None if it is none."""
    if fqn not in checkpoint.columns.fqns:
        return None
    index = checkpoint.columns.fqns.index(fqn)
    tensor = checkpoint.columns.tensor(index)
    stored = np.flatnonzero(tensor.file >= 0)
    if not len(stored):
        return None
    return _peek(checkpoint, storage, index, tuple(tensor.offsets[int(stored[0])].tolist()))


def _peek(
    checkpoint: Checkpoint, storage: Storage, index: int, offsets: tuple[int, ...]
) -> PackedTensor | None:
    """The packed tensor that a chunk's payload holds; None if it is none, or cannot be read."""
    tensor = checkpoint.columns.tensor(index)
    chunk = int(np.flatnonzero((tensor.offsets == np.array(offsets)).all(axis=1))[0])
    number = int(tensor.file[chunk])
    if number < 0 or is_escape(checkpoint.files[number].path):
        return None
    try:
        file = open_file(storage, checkpoint.files[number].path)
    except InspectError:
        return None
    try:
        source = RangeSource(file, int(tensor.byte_offset[chunk]), int(tensor.byte_length[chunk]))
        payload = open_payload(source, is_tensor=True)
    except InspectError:
        return None
    finally:
        file.close()
    packed = payload.packed
    if packed is None or payload.unsafe or payload.problem:
        return None
    sizes = tuple(tensor.sizes[chunk].tolist())
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
        "note",
        f"{subject} fewer bytes than elements x itemsize, as {printable(kind, 120)} stores them"
        f"{seen}",
        f"loads it exactly if {package} is imported and the target is of the same class, else "
        "raises UnpicklingError",
        f"import {package} before loading; --deep reads every byte",
        fqn=first.fqn if len(members) == 1 else None,
        file=first.file if len(members) == 1 else None,
    )
