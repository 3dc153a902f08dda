"""Sharded tensors inside bytes entries: one rank's piece, where all of it is meant.

DCP walks dicts and lists. A DTensor in a tuple or in an object of a class is pickled with the
object, each rank with its own shard, and of entries of one name one rank's is kept. After
`dcp.load` every rank holds that shard (run with torch 2.13).

The rule this module keeps: told only where the pickled local tensor is not of the DTensor's own
shape. One that is replicated, or on a mesh of one rank, is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inspector.checkpoint.model import BytesEntry, Checkpoint
from inspector.checkpoint.payload.scan.literals import entry_value
from inspector.checkpoint.payload.scan.machine import Call, Global
from inspector.checkpoint.payload.tensor import NoTensorError, describe
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding

__all__ = ["check_dtensors"]

# A payload of one DTensor takes 2,900 bytes in torch 2.13; one of a number takes 1,000.
_MIN_BYTES = 1800
_MAX_ENTRIES = 1000
_MAX_REMOTE_ENTRIES = 32
_MAX_BYTES = 1 << 30
_MAX_VALUES = 100_000


@dataclass(frozen=True, slots=True)
class _Piece:
    """A DTensor whose pickled part is not all of it."""

    shape: tuple[int, ...]
    local: tuple[int, ...]
    placements: str


def check_dtensors(checkpoint: Checkpoint, storage: Storage) -> list[Finding]:
    """A `local-state` warning for each bytes entry that holds one rank's piece of a tensor.

    Args:
        checkpoint: The checkpoint. With metadata of every rank's own each stores its piece, and
            loads it again.
        storage: Its folder; the pickles of bytes entries are read, and not unpickled.
    """
    if checkpoint.format != "dcp" or checkpoint.per_rank_metadata:
        return []
    large = [e for e in checkpoint.bytes_entries if e.file >= 0 and e.byte_length >= _MIN_BYTES]
    is_local = storage.local_path("") is not None
    found = []
    for entry in large[: _MAX_ENTRIES if is_local else _MAX_REMOTE_ENTRIES]:
        limit = min(_MAX_BYTES, 64 * entry.byte_length)
        found_value = entry_value(checkpoint, storage, entry, limit)
        pieces = [] if found_value is None else list(_pieces(found_value.value))
        if pieces:
            found.append(_finding(checkpoint, entry, pieces))
    return found


def _pieces(root: Any) -> Iterator[_Piece]:
    pending, seen = [root], set[int]()
    while pending and len(seen) < _MAX_VALUES:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        kind = type(value)
        if kind in (list, tuple):
            pending += value
        elif kind is dict:
            pending += value.values()
        elif kind is Call:
            piece = _piece(value)
            if piece is not None:
                yield piece
            else:
                pending += [value.args, value.state]


def _piece(call: Call) -> _Piece | None:
    """The piece that a call rebuilds, if it is one of a DTensor.

    `_rebuild_from_type_v2(_rebuild_wrapper_subclass, DTensor, (class, dtype, size, ...), state)`,
    where `state` has `_local_tensor` and `_spec` in a dict, perhaps beside that of slots.
    """
    if call.func != Global("torch._tensor", "_rebuild_from_type_v2"):
        return None
    args = call.args
    if type(args) is not tuple or len(args) < 4 or type(args[1]) is not Global:
        return None
    if args[1].name != "DTensor" or not args[1].module.startswith("torch.distributed"):
        return None
    states = args[3] if type(args[3]) is tuple else (args[3],)
    fields = {k: v for state in states if type(state) is dict for k, v in state.items()}
    try:
        local = describe(fields.get("_local_tensor"))
    except NoTensorError:
        return None
    inner = args[2]
    if local is None or type(inner) is not tuple or len(inner) < 3:
        return None
    shape = inner[2]
    if type(shape) is Call and type(shape.args) is tuple and shape.args:
        shape = shape.args[0]
    if type(shape) is not tuple or any(type(n) is not int for n in shape) or shape == local.shape:
        return None
    return _Piece(shape, local.shape, _placements(fields.get("_spec")))


def _placements(spec: Any) -> str:
    """`Shard(0), Replicate()`, or an empty string where that cannot be told."""
    fields = spec.state if type(spec) is Call else None
    placements = fields.get("placements") if type(fields) is dict else None
    if type(placements) is not tuple:
        return ""
    shown = []
    for placement in placements:
        if type(placement) is not Call or type(placement.func) is not Global:
            return ""
        state = placement.state if type(placement.state) is dict else {}
        dim = state.get("dim")
        shown.append(f"{placement.func.name}({dim if type(dim) is int else ''})")
    return printable(", ".join(shown), 80)


def _finding(checkpoint: Checkpoint, entry: BytesEntry, pieces: list[_Piece]) -> Finding:
    first = pieces[0]
    path = checkpoint.files[entry.file].path
    placed = f", {first.placements}" if first.placements else ""
    rank = checkpoint.files[entry.file].rank
    whose = f"rank {rank}'s piece" if rank is not None else "one rank's piece"
    what = plural(len(pieces), "sharded tensor")
    return Finding(
        "local-state",
        f"the bytes entry {printable(entry.fqn, 120)} in {printable(path, 120)} holds {what} as "
        f"{whose} alone: {format_shape(first.local)} of {format_shape(first.shape)}{placed}"
        + (" is the first" if len(pieces) > 1 else "")
        + "; what the other ranks held under this name is not in the checkpoint",
        "loads silently: every rank that asks for this name gets this one piece",
        "no fault if each rank saves under a name of its own; else keep such tensors in dicts or "
        "lists, which DCP walks, not in tuples or objects, and take this one from elsewhere",
        fqn=entry.fqn,
        file=path,
    )
