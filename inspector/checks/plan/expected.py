"""What a model expects to find in a checkpoint: names, dtypes and shapes, read from a file.

The rule this module keeps: the file is a stranger's. It is bounded, it is never run, and what it
does not say (a dtype, a shape) is not compared rather than guessed.

Read are: a JSON list of `{"fqn", "dtype", "shape"}`, an object of these by fqn, what
`hsdp-inspect show --json` prints, a list of names, a safetensors file, an index of safetensors
files, and another checkpoint.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from inspector.checkpoint.dtypes import canonical
from inspector.checkpoint.find.locate import locate_one, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.safetensors.header import DTYPES, HeaderError, bounded_json, naturals
from inspector.checkpoint.storage.base import parent_of
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.text import plural, printable
from inspector.errors import InspectError, StorageError, UsageError

__all__ = ["Expected", "ExpectedEntry", "expected_of", "read_expected"]

_MAX_FILE_BYTES = 256 << 20
_FORMS = (
    'a JSON list of {"fqn", "dtype", "shape"}, model.safetensors.index.json, a .safetensors '
    "file, or another checkpoint"
)
#: As `dtype`, an entry that is no tensor.
_NO_TENSOR = frozenset({"bytes", "object", "pickle"})


@dataclass(frozen=True, slots=True)
class ExpectedEntry:
    """One key of the state dict that is loaded into.

    Attributes:
        fqn: Raw name.
        kind: `tensor`, `bytes` (any other object) or `unknown`.
        dtype: torch's name without `torch.`; None if the file does not say.
        shape: Global shape; None if the file does not say.
        path: Where it is in the nested state dict; None if the file does not say.
    """

    fqn: str
    kind: Literal["tensor", "bytes", "unknown"] = "unknown"
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    path: tuple[str | int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """A whole state dict as it is expected.

    Attributes:
        path: Where it was read.
        source: What that is, in words.
        wanted: Its keys.
        notes: What it does not say, in sentences.
    """

    path: str
    source: str
    wanted: tuple[ExpectedEntry, ...]
    notes: tuple[str, ...] = ()


def read_expected(path: str) -> Expected:
    """Read what a model expects.

    Raises:
        UsageError: The file is there, and tells no names.
        InspectError: It cannot be read.
    """
    if not path:
        raise UsageError("--against: the path is empty", f"give {_FORMS}")
    entry = open_storage(path).stat("")
    if entry is None:
        raise StorageError(f"--against {printable(path)}: there is no such file or folder")
    name = posixpath.basename(path.rstrip("/"))
    if entry.kind == "folder" or not name.endswith(".json"):
        return _from_checkpoint(path)
    if (entry.num_bytes or 0) > _MAX_FILE_BYTES:
        raise _no_names(path, f"it has {entry.num_bytes:,} bytes, more than a list of names")
    try:
        value = bounded_json(open_storage(parent_of(path)).read(name, 0, _MAX_FILE_BYTES))
    except HeaderError as error:
        raise _no_names(path, str(error)) from error
    if isinstance(value, dict) and isinstance(value.get("weight_map"), dict):
        return _from_index(path, value["weight_map"])
    return _from_json(path, value)


def expected_of(checkpoint: Checkpoint, path: str, source: str) -> Expected:
    """A checkpoint's own keys, as what is expected of another."""
    columns, paths = checkpoint.columns, checkpoint.state_paths

    def path_of(fqn: str) -> tuple[str | int, ...] | None:
        # A planner writes down either all of them or none.
        return paths.get(fqn, (fqn,)) if paths else None

    wanted = [
        ExpectedEntry(
            columns.fqns[i], "tensor", columns.dtype(i), columns.shape(i), path_of(columns.fqns[i])
        )
        for i in checkpoint.tensor_order.tolist()
    ]
    seen = set()
    for i in checkpoint.bytes_order.tolist():
        fqn = checkpoint.bytes_entries[i].fqn
        if fqn not in seen:  # Metadata of every rank: once a rank.
            seen.add(fqn)
            wanted.append(ExpectedEntry(fqn, "bytes", path=path_of(fqn)))
    return Expected(path, source, tuple(wanted))


def _no_names(path: str, why: str) -> UsageError:
    return UsageError(f"--against {printable(path)}: {why}", f"give {_FORMS}")


def _from_checkpoint(path: str) -> Expected:
    checkpoint = read_checkpoint(locate_one(path))
    return expected_of(checkpoint, path, f"a {checkpoint.format} checkpoint")


def _from_index(path: str, weight_map: Mapping[str, object]) -> Expected:
    """An index names tensors and files; dtypes and shapes are in the files beside it."""
    try:
        known = _from_checkpoint(path).wanted
    except InspectError:
        known = ()
    by_fqn = {entry.fqn: entry for entry in known}
    wanted = tuple(by_fqn.get(fqn) or ExpectedEntry(fqn, "tensor") for fqn in weight_map)
    num_named = sum(entry.shape is None for entry in wanted)
    notes = []
    if num_named:
        notes.append(
            f"{plural(num_named, 'tensor')} of {len(wanted):,} compared by name alone: the files "
            "with their dtypes and shapes are not beside the index"
        )
    return Expected(path, "a safetensors index", wanted, tuple(notes))


def _from_json(path: str, value: Any) -> Expected:
    listed: Any = value
    notes = []
    if isinstance(value, dict) and isinstance(value.get("tensors"), list):
        extra: Any = value.get("bytes")
        extra = extra if isinstance(extra, list) else []
        listed = [*value["tensors"], *({**e, "dtype": "bytes"} for e in extra if _has_name(e))]
    elif isinstance(value, dict):
        listed = []
        for fqn, entry in value.items():
            if not isinstance(entry, dict):
                raise _no_names(path, f"the value of {printable(fqn, 80)} is no object")
            if not {"dtype", "shape"} & entry.keys():
                why = f"the value of {printable(fqn, 80)} has neither a shape nor a dtype"
                raise _no_names(path, why)
            listed.append({**entry, "fqn": fqn})
    if not isinstance(listed, list):
        raise _no_names(path, "it is JSON, but neither a list nor an object")
    wanted: dict[str, ExpectedEntry] = {}
    for number, entry in enumerate(listed):
        found = _wanted(path, number, entry)
        if found.fqn in wanted:
            raise _no_names(path, f"{printable(found.fqn, 80)} is listed twice")
        wanted[found.fqn] = found
    if not wanted:
        raise _no_names(path, "it lists nothing")
    for what in ("dtype", "shape"):
        num = sum(getattr(w, what) is None and w.kind != "bytes" for w in wanted.values())
        if num:
            notes.append(f"{plural(num, 'entry', 'entries')} without a {what}: it is not compared")
    return Expected(path, "a JSON list", tuple(wanted.values()), tuple(notes))


def _has_name(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("fqn"), str)


def _wanted(path: str, number: int, entry: object) -> ExpectedEntry:
    if isinstance(entry, str):
        return ExpectedEntry(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("fqn"), str):
        raise _no_names(path, f'entry {number} of its list has no "fqn"')
    fqn: str = entry["fqn"]
    where = f"entry {number} ({printable(fqn, 80)})"
    dtype, shape = entry.get("dtype"), entry.get("shape")
    place = _path(path, where, fqn, entry.get("state_path"))
    if isinstance(dtype, str) and dtype.lower() in _NO_TENSOR:
        return ExpectedEntry(fqn, "bytes", path=place)
    name = None
    if dtype is not None:
        known = _dtype(dtype) if isinstance(dtype, str) else None
        if known is None:
            raise _no_names(path, f"{where}: {printable(str(dtype), 40)} is no dtype")
        name = known
    sizes = None
    if shape is not None:
        found = naturals(shape)
        if found is None:
            raise _no_names(path, f"{where}: {printable(str(shape), 40)} is no shape")
        sizes = tuple(found)
    kind: Literal["tensor", "unknown"] = "unknown"
    if name is not None or sizes is not None:
        kind = "tensor"
    return ExpectedEntry(fqn, kind, name, sizes, place)


def _path(path: str, where: str, fqn: str, parts: object) -> tuple[str | int, ...] | None:
    """An entry's place in the nested state dict, of keys and of indices of lists."""
    if parts is None:
        return None
    is_path = isinstance(parts, list) and all(type(part) in (str, int) for part in parts)
    if not is_path or not isinstance(parts, list) or ".".join(map(str, parts)) != fqn:
        raise _no_names(path, f"{where}: its state_path does not make up its name")
    return tuple(parts)


def _dtype(text: str) -> str | None:
    """The name in torch of `torch.bfloat16`, `bfloat16`, `half` or safetensors' `BF16`."""
    if text.upper() in DTYPES:
        return DTYPES[text.upper()]
    return canonical(text.removeprefix("torch."))
