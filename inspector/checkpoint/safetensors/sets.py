"""Which safetensors files of a folder belong together: one checkpoint is one `FileSet`.

The rule this module keeps: told from names alone, as those who load them do. transformers and
diffusers write `NAME.safetensors`, or `NAME-0000i-of-0000N.safetensors` beside
`NAME.safetensors.index.json`; DCP's `HuggingFaceStorageWriter` writes the same with NAME `model`,
or a file for each rank, `shard-0000R-model-0000i-of-0000N.safetensors`, R from 1 on
(torch/distributed/checkpoint/_hf_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inspector.checkpoint.storage.base import Entry, Storage, Used

__all__ = [
    "INDEX",
    "SINGLE",
    "SUFFIX",
    "FileSet",
    "OneSet",
    "file_sets",
    "main_set",
    "set_of",
    "shard_rank",
]

SUFFIX = ".safetensors"
#: The names that transformers looks for, in this order, and loads the first that is there.
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDEX = re.compile(r"(.+)\.safetensors\.index(?:\.([^.]+))?\.json\Z", re.S)
_PART = re.compile(
    r"(?P<stem>.+)-(?P<part>\d{1,9})-of-(?P<parts>\d{1,9})(?:\.(?P<variant>[^.]+))?\.safetensors\Z",
    re.S,
)
_SHARD = re.compile(r"shard-(\d{1,9})-(?=.)", re.S)
# The name that transformers looks for first; of several sets in a folder it is the one meant.
_USUAL = "model"
_MAX_MISSING = 1000


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files that are one checkpoint.

    Attributes:
        name: The file to open it by: its index, or its first file.
        stem: What the names have in common.
        files: The files that are there, by name.
        missing: Files that the others' `of-0000N` says should be there, at most 1,000.
        index: The index file, or an empty string.
    """

    name: str
    stem: str
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()
    index: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Every file of it that is there."""
        return frozenset({*self.files, self.index} - {""})


def shard_rank(path: str) -> int | None:
    """The rank that wrote a shard (`shard-00003-model-...` is 2: DCP counts from 1), or None."""
    match = _SHARD.match(path.rpartition("/")[2])
    return int(match[1]) - 1 if match and int(match[1]) else None


def file_sets(names: Iterable[str]) -> list[FileSet]:
    """The sets that the files of a folder make, by name."""
    groups: dict[tuple[str, str], list[str]] = {}
    indexes: dict[str, str] = {}
    for name in sorted(names):
        listed, part = _INDEX.match(name), _PART.match(name)
        if listed:
            stem = listed[1] + (f".{listed[2]}" if listed[2] else "")
            indexes[stem] = name
        elif part:
            shard = _SHARD.match(name)
            stem = part["stem"][shard.end() :] if shard else part["stem"]
            stem += f".{part['variant']}" if part["variant"] else ""
            kind = f"shards of {int(part['parts'])}" if shard else f"of {int(part['parts'])}"
            groups.setdefault((stem, kind), []).append(name)
        elif name.endswith(SUFFIX):
            groups.setdefault((name.removesuffix(SUFFIX), ""), []).append(name)
    sets = []
    for stem, index in indexes.items():
        of_stem = [key for key in groups if key[0] == stem]
        # An index of other names than its own is one of everything that is there.
        keys = of_stem or (list(groups) if len(indexes) == 1 else [])
        files = sorted(name for key in keys for name in groups.pop(key))
        sets.append(FileSet(index, stem, tuple(files), index=index))
    for (stem, kind), files in groups.items():
        missing = _missing(files) if kind.startswith("of ") else ()
        sets.append(FileSet(files[0], stem, tuple(files), missing))
    return sorted(sets, key=lambda found: found.name)


def _missing(files: list[str]) -> tuple[str, ...]:
    """Names that a set `X-0000i-of-0000N` lacks."""
    matches = [m for name in files if (m := _PART.match(name))]
    have = {int(m["part"]) for m in matches}
    first, missing = matches[0], list[str]()
    for number in range(1, int(first["parts"]) + 1):
        if number not in have:
            start, end = first.span("part")
            name = first.string[:start] + str(number).zfill(end - start) + first.string[end:]
            missing.append(name)
            if len(missing) == _MAX_MISSING:
                break
    return tuple(missing)


def main_set(sets: Iterable[FileSet]) -> FileSet | None:
    """The set that is meant by the folder itself; None if there is none, or no telling which."""
    sets = list(sets)
    usual = [found for found in sets if found.stem == _USUAL]
    complete = [found for found in usual if not found.missing]
    for choice in (sets, usual, complete):
        if len(choice) == 1:
            return choice[0]
    # An index tells which files are the checkpoint; files of another split lie beside it.
    return next((found for found in usual if found.index), None)


def set_of(sets: Iterable[FileSet], name: str) -> FileSet | None:
    """The set that a file or an index belongs to."""
    return next((found for found in sets if name in found.names), None)


class OneSet:
    """A folder of which one set of safetensors files is looked at, and the others are not."""

    def __init__(self, storage: Storage, chosen: FileSet) -> None:
        self.root = storage.root
        self.has_listing = storage.has_listing
        self.name = chosen.name
        self.whole = storage
        self._storage = storage
        self._names = chosen.names

    @property
    def used(self) -> Used | None:
        return self._storage.used

    def list(self, folder: str = "") -> list[Entry]:
        listing = self._storage.list(folder)
        return listing if folder else [e for e in listing if self._is_ours(e.name)]

    def _is_ours(self, name: str) -> bool:
        other = name.endswith(SUFFIX) or _INDEX.match(name)
        return not other or name in self._names

    def stat(self, path: str) -> Entry | None:
        return self._storage.stat(path)

    def stat_all(self, paths: Iterable[str]) -> Sequence[Entry | None]:
        return self._storage.stat_all(paths)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._storage.read(path, offset, length)

    def local_path(self, path: str) -> str | None:
        return self._storage.local_path(path)

    def join(self, folder: str) -> Storage:
        return self._storage.join(folder)
