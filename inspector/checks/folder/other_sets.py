"""Safetensors files that lie beside a checkpoint and are no part of it, as its readers take them.

Which file counts is told otherwise by each reader (run with transformers 5.24 and torch 2.13):
`from_pretrained` tries `model.safetensors` before `model.safetensors.index.json`, and
`HuggingFaceStorageReader` reads every safetensors file of the folder, by whatever name. So a file
that is left of an earlier save may be loaded in the place of this one, or with it.

The rule this module keeps: a warning where a tensor of that file has the name of one that is meant
and is not the same, as far as was looked; the headers tell, and the beginning of each tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from inspector.checkpoint.model import Checkpoint, DataFile, Tensor
from inspector.checkpoint.safetensors.files import Files, headers
from inspector.checkpoint.safetensors.header import Header, SafeTensor, Unread
from inspector.checkpoint.safetensors.sets import INDEX, SINGLE
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_bytes, format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.errors import StorageError

__all__ = ["with_other_sets"]

_MAX_FILES = 64
_MAX_REMOTE_FILES = 4
_MAX_LOOKS = 2000
_MAX_REMOTE_LOOKS = 16
_LOOK_BYTES = 16 << 10
# What lies between two times of one save, at most.
_SAME_TIME_S = 1.0


def with_other_sets(
    checkpoint: Checkpoint, storage: Storage, findings: Iterable[Finding]
) -> list[Finding]:
    """The findings, `file-unreferenced` made a warning of files that are loaded all the same.

    Args:
        checkpoint: A safetensors checkpoint; of another format nothing changes.
        storage: Its folder; a few headers and the beginnings of tensors are read.
        findings: What `check_files` found.
    """
    found = list(findings)
    if checkpoint.stored is None:
        return found
    files = {file.path: file for file in checkpoint.files}
    limit = _MAX_FILES if storage.local_path("") is not None else _MAX_REMOTE_FILES
    names = [f.file for f in found if f.code == "file-unreferenced" and f.file in files]
    names = sorted((n for n in names if n), key=lambda name: (name != SINGLE, name))[:limit]
    if not names:
        return found
    try:
        known = {entry.name: entry for entry in storage.list() if entry.kind == "file"}
        names = [name for name in names if name in known]
        finding: Finding | None
        told: dict[str, Finding] = {}
        looks = _Looks(checkpoint, storage)
        for name, header in headers(storage, Files(names, known, {})):
            if isinstance(header, Header):
                finding = _judged(checkpoint, files[name], looks.at(name, header))
            else:
                finding = _unread(files[name], header)
            if finding is not None:
                told[name] = finding
    except StorageError:
        return found
    return [told.get(f.file or "", f) if f.code == "file-unreferenced" else f for f in found]


# -- one file against the checkpoint --------------------------------------------------------------


@dataclass(slots=True)
class _Alike:
    """A file's tensors against those of the checkpoint that have their names.

    Attributes:
        shared: Names of both.
        only_there: Names that the file alone has.
        num_only_here: How many names the checkpoint alone has.
        shapes: Names whose shape differs, each with that of the file and of the checkpoint.
        dtypes: Names whose dtype differs, likewise.
        values: Names of tensors that differ in their bytes.
        is_whole: Every byte of the shared tensors was compared.
    """

    shared: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)
    num_only_here: int = 0
    shapes: list[tuple[str, str, str]] = field(default_factory=list)
    dtypes: list[tuple[str, str, str]] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    is_whole: bool = True

    @property
    def differs(self) -> bool:
        return bool(self.shapes or self.dtypes or self.values)

    def words(self) -> str:
        """How they differ, or that they do not as far as was looked."""
        differing = self.shapes or self.dtypes
        if differing:
            fqn, there, here = differing[0]
            what = "shape" if self.shapes else "dtype"
            example = f"({printable(fqn, 80)} is {there} there, {here} here)"
            return f"{len(differing):,} of another {what} {example}"
        if self.values:
            more = "" if self.is_whole else ", as far as was looked"
            example = f"({printable(self.values[0], 80)} is the first)"
            return f"{len(self.values):,} of other values{more} {example}"
        if self.is_whole:
            return "bit for bit as here"
        return "alike as far as was looked: names, shapes, dtypes and where each tensor begins"


class _Looks:
    """Compares files with a checkpoint; reads no more than so many tensors' beginnings."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage) -> None:
        self._checkpoint = checkpoint
        self._storage = storage
        self._index = {fqn: i for i, fqn in enumerate(checkpoint.columns.fqns)}
        is_local = storage.local_path("") is not None
        self._left = _MAX_LOOKS if is_local else _MAX_REMOTE_LOOKS

    def at(self, name: str, header: Header) -> _Alike:
        """Compare one file.

        Raises:
            StorageError: A tensor cannot be read.
        """
        found = _Alike()
        for there in header.tensors:
            index = self._index.get(there.name)
            if index is None:
                found.only_there.append(there.name)
                continue
            found.shared.append(there.name)
            here = self._checkpoint.columns.tensor(index)
            if there.shape != here.shape:
                shapes = format_shape(there.shape), format_shape(here.shape)
                found.shapes.append((there.name, *shapes))
            elif there.dtype != here.dtype:
                found.dtypes.append((there.name, there.dtype, here.dtype))
            else:
                self._look(found, name, header.data_offset, there, here)
        found.num_only_here = self._checkpoint.num_tensors - len(found.shared)
        return found

    def _look(
        self, found: _Alike, name: str, data_offset: int, there: SafeTensor, here: Tensor
    ) -> None:
        num_bytes = there.end - there.begin
        if self._left <= 0 or here.num_chunks != 1 or int(here.file[0]) < 0:
            found.is_whole = False
            return
        self._left -= 1
        length = min(num_bytes, _LOOK_BYTES)
        found.is_whole &= length == num_bytes
        path = self._checkpoint.files[int(here.file[0])].path
        mine = self._storage.read(path, int(here.byte_offset[0]), length)
        if mine != self._storage.read(name, data_offset + there.begin, length):
            found.values.append(there.name)


# -- in words -------------------------------------------------------------------------------------


def _judged(checkpoint: Checkpoint, file: DataFile, alike: _Alike) -> Finding | None:
    """What is to be told of a file; None if the plain note says enough."""
    stored = checkpoint.stored
    if stored is not None and stored.index == INDEX and file.path == SINGLE:
        return _instead(checkpoint, file, alike)
    return _as_well(checkpoint, file, alike) if alike.shared else None


def _size(file: DataFile) -> str:
    return f"{printable(file.path, 120)}: {format_bytes(file.num_bytes or 0)}"


def _unread(file: DataFile, unread: Unread) -> Finding:
    """A file that no reader opens, and that some try to."""
    is_first = file.path == SINGLE
    return Finding(
        "file-unreadable" if is_first else "file-unreferenced",
        f"{_size(file)} that are no part of this checkpoint, by the index or by the name, and "
        f"cannot be read: {unread.what}",
        "HuggingFaceStorageReader opens every .safetensors file of a folder and raises"
        + (", as does transformers, which tries this name first" if is_first else ""),
        "move it elsewhere before loading",
        file=file.path,
        severity="error" if is_first else "warning",
    )


def _instead(checkpoint: Checkpoint, file: DataFile, alike: _Alike) -> Finding:
    """`model.safetensors` beside an index that does not name it."""
    is_same = not (alike.differs or alike.only_there or alike.num_only_here)
    what = "none of its tensors has a name of this checkpoint"
    if alike.shared:
        what = f"{plural(len(alike.shared), 'tensor')} of names that both have, {alike.words()}"
    if alike.only_there or alike.num_only_here:
        what += f"; {len(alike.only_there):,} in it alone, {alike.num_only_here:,} not in it"
    return Finding(
        "file-unreferenced",
        f"{_size(file)} that {INDEX} does not name{_newer(checkpoint, file)}; {what}",
        "from_pretrained of transformers loads this file instead of the shards that the index "
        "names, without a word; HuggingFaceStorageReader reads both, and of a tensor that both "
        "have the one in the file that the disk lists last",
        "remove one of the two: they are one model twice"
        if is_same
        else "judged here are the shards: remove the one of the two that is not meant",
        fqn=alike.values[0] if alike.values else None,
        file=file.path,
        severity="note" if is_same else "warning",
    )


def _newer(checkpoint: Checkpoint, file: DataFile) -> str:
    stored = checkpoint.stored
    paths = stored.data_offset if stored is not None else {}
    times = [f.modified_s for f in checkpoint.files if f.path in paths and f.modified_s is not None]
    if not times or file.modified_s is None:
        return ""
    if min(times) > file.modified_s + _SAME_TIME_S:
        return " and that is older than all that it names"
    if max(times) < file.modified_s - _SAME_TIME_S:
        return " and that is newer than all that it names"
    return ""


def _as_well(checkpoint: Checkpoint, file: DataFile, alike: _Alike) -> Finding | None:
    """A file with tensors of the checkpoint's names that transformers does not look at."""
    if not alike.differs:
        return None
    if alike.shapes:
        fate = (
            "HuggingFaceStorageReader takes both for pieces of one tensor: dcp.load raises "
            "ValueError (Size mismatch) or AssertionError (mismatch sizes), or loads a corner"
        )
    else:
        fate = (
            "HuggingFaceStorageReader reads both, and dcp.load takes the one in the file that the "
            "disk lists last, silently"
        )
    named = [fqn for fqn, *_ in (*alike.shapes, *alike.dtypes)] or alike.values
    return Finding(
        "file-unreferenced",
        f"{_size(file)} that are no part of this checkpoint, by the index or by the name; "
        f"{plural(len(alike.shared), 'tensor')} in it of names of this checkpoint, {alike.words()}",
        f"{fate}; transformers does not read it",
        "it is left from another save: move it elsewhere before loading with DCP",
        fqn=named[0],
        file=file.path,
    )
