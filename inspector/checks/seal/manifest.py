"""A seal: what a checkpoint held, as digests, to prove later that nothing changed.

The rule this module keeps: a seal speaks of content alone. A save of the same tensors under
another sharding, or by another torch, has the same seal; two chunks that changed places, or one
bit, have not. It is no signature: whoever can write the checkpoint and the seal can change both.

The file is JSON: `schema`, `kind` ("hsdp-inspect seal"), `tool`, `created`, `path`, `format`,
`hash`, and the tensors (`fqn`, `dtype`, `shape`, `num_bytes`, `sha256`) and bytes entries (`fqn`,
`num_bytes`, `sha256`) by name. `content_sha256` is the SHA-256 of these two lists, as compact
JSON with sorted keys: one digest for the whole checkpoint, and how damage of the seal is found.
`not_sealed` lists what could not be digested (`fqn`, `why`); absent if nothing was left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

import msgspec

from inspector.checkpoint.json_bounds import over_bounds
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import printable
from inspector.errors import UsageError
from inspector.values.fingerprint import Fingerprints

__all__ = [
    "KIND",
    "Manifest",
    "SealedEntry",
    "SealedTensor",
    "make_manifest",
    "manifest_json",
    "parse_manifest",
]

KIND = "hsdp-inspect seal"
_SCHEMA = 1
_HASH = "sha256 of the elements in row-major order, little-endian"

_Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class SealedTensor:
    """What a seal says of a tensor."""

    fqn: str
    dtype: str
    shape: tuple[_Count, ...]
    num_bytes: _Count
    sha256: str


@dataclass(frozen=True, slots=True)
class SealedEntry:
    """What a seal says of a bytes entry; see `entry_fingerprint` for what is hashed."""

    fqn: str
    num_bytes: _Count
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A seal.

    Attributes:
        tensors, entries: By raw name, in the order of names.
        path: The checkpoint's, as it was given; only told, never opened.
        created: When, ISO 8601 in UTC.
        tool: Who wrote it.
        format: The checkpoint's.
        not_sealed: Entries that could not be digested, with why, by raw name.
    """

    tensors: Mapping[str, SealedTensor]
    entries: Mapping[str, SealedEntry]
    path: str = ""
    created: str = ""
    tool: str = ""
    format: str = "dcp"
    not_sealed: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes that were hashed."""
        of_tensors = sum(sealed.num_bytes for sealed in self.tensors.values())
        return of_tensors + sum(sealed.num_bytes for sealed in self.entries.values())

    @property
    def content_sha256(self) -> str:
        """One digest of everything that is sealed; of the same content, the same."""
        lists = {
            "tensors": [asdict(sealed) for sealed in self.tensors.values()],
            "bytes": [asdict(sealed) for sealed in self.entries.values()],
        }
        text = json.dumps(lists, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def make_manifest(
    checkpoint: Checkpoint,
    found: Fingerprints,
    *,
    created: str,
    tool: str,
    not_sealed: Mapping[str, str] | None = None,
) -> Manifest:
    """The seal of a checkpoint of which everything was hashed but what is named."""
    columns = checkpoint.columns
    tensors = {
        columns.fqns[i]: SealedTensor(
            columns.fqns[i], columns.dtype(i), columns.shape(i), digest.num_bytes, digest.sha256
        )
        for i, digest in found.tensors.items()
    }
    entries = {
        checkpoint.bytes_entries[i].fqn: SealedEntry(
            checkpoint.bytes_entries[i].fqn, digest.num_bytes, digest.sha256
        )
        for i, digest in found.entries.items()
    }
    return Manifest(
        dict(sorted(tensors.items())),
        dict(sorted(entries.items())),
        checkpoint.path,
        created,
        tool,
        checkpoint.format,
        dict(sorted((not_sealed or {}).items())),
    )


def manifest_json(manifest: Manifest) -> str:
    """The seal as its file has it: one line an entry, so that two can be compared by eye."""
    head: dict[str, Any] = {
        "schema": _SCHEMA,
        "kind": KIND,
        "tool": manifest.tool,
        "created": manifest.created,
        "path": manifest.path,
        "format": manifest.format,
        "hash": _HASH,
        "num_bytes": manifest.num_bytes,
        "content_sha256": manifest.content_sha256,
    }
    if manifest.not_sealed:
        left = [{"fqn": fqn, "why": why} for fqn, why in manifest.not_sealed.items()]
        head["not_sealed"] = left
    lines = [json.dumps(head, indent=1)[:-2] + ",", ' "tensors": [']
    lines += _listed(manifest.tensors.values())
    lines += [' "bytes": [', *_listed(manifest.entries.values())]
    lines[-1] = lines[-1].rstrip(",")
    return "\n".join([*lines, "}", ""])


def _listed(sealed: Iterable[SealedTensor | SealedEntry]) -> list[str]:
    lines = [f"  {json.dumps(asdict(item))}," for item in sealed]
    if lines:
        lines[-1] = lines[-1][:-1]
    return [*lines, " ],"]


@dataclass(frozen=True, slots=True)
class _NotSealed:
    fqn: str
    why: str


@dataclass(frozen=True, slots=True)
class _SealFile:
    """What a seal's file says, beside what tells that it is one."""

    tensors: list[SealedTensor]
    bytes: list[SealedEntry]
    path: str = ""
    created: str = ""
    tool: str = ""
    format: str = ""
    not_sealed: list[_NotSealed] = field(default_factory=list)


#: A seal is the user's own, and names all that a checkpoint of many files holds.
_SCALE = 2


def parse_manifest(text: bytes, where: str) -> Manifest:
    """A seal from its file.

    Raises:
        UsageError: It is no seal, one of a later version, or a damaged one.
    """
    shown = printable(where)
    over = over_bounds(text, _SCALE)
    if over:
        raise UsageError(f"{shown} is no seal: {over}")
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown} is no seal: it is not JSON, or names a key twice") from error
    if type(document) is not dict or document.get("kind") != KIND:
        hint = "hsdp-inspect seal PATH writes one"
        raise UsageError(f"{shown} is no seal of hsdp-inspect", hint)
    if document.get("schema") != _SCHEMA:
        raise UsageError(
            f"{shown} is a seal of another version", "use the hsdp-inspect of its tool"
        )
    try:
        told = msgspec.convert(document, _SealFile)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{shown} is a damaged seal: {printable(str(error), 200)}") from error
    manifest = Manifest(
        {t.fqn: t for t in told.tensors},
        {e.fqn: e for e in told.bytes},
        told.path,
        told.created,
        told.tool,
        told.format,
        {left.fqn: left.why for left in told.not_sealed},
    )
    named = len(document["tensors"]), len(document["bytes"])
    is_whole = named == (len(manifest.tensors), len(manifest.entries))  # None is named twice.
    # Nor is there more in them than was hashed.
    is_whole &= all(item.keys() == _TENSOR_KEYS for item in document["tensors"])
    is_whole &= all(item.keys() == _ENTRY_KEYS for item in document["bytes"])
    if not is_whole or manifest.content_sha256 != document.get("content_sha256"):
        hint = "restore the seal from where it was written"
        raise UsageError(f"{shown} is a damaged seal: it is not as it was written", hint)
    return manifest


_TENSOR_KEYS = {part.name for part in fields(SealedTensor)}
_ENTRY_KEYS = {part.name for part in fields(SealedEntry)}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of which every reader reads the same: readers differ in which of two they take.

    Raises:
        ValueError: A key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
