"""Which tensors are written, under which names, in which files; and what is known not to be.

What the checks without `--deep` call an error of a tensor is damage before anything is read, but
for chunks that overlap: whether those hold the same elements is seen while they are read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.model import Checkpoint, TensorColumns
from inspector.checkpoint.payload.cast import CAST_DTYPES, is_cast
from inspector.checkpoint.payload.plan import chunk_problems
from inspector.checkpoint.payload.scan.literals import MAX_BYTES, read_literals
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.judge import check_all
from inspector.checks.payload.packed import with_stored_dtypes
from inspector.errors import InspectError, UsageError
from inspector.export.formats.files import ExportItem, PlannedFile
from inspector.export.formats.numpy_files import npy_file, npz_file
from inspector.export.formats.safetensors import safetensors_files
from inspector.export.formats.torch_save import nested, torch_file
from inspector.export.names import RenameRule, renamed
from inspector.export.outcome import Omission
from inspector.export.pieces import compare_entry
from inspector.layout.contents import missing_files

__all__ = ["ExportRequest", "ExportSelection", "select"]

# What a bytes entry of a plain value may unpack to.
_MAX_LITERAL_BYTES = 4 * MAX_BYTES

# Chunks of these are read, and their elements compared.
_SEEN_BY_READING = frozenset({"chunk-overlap", "chunk-duplicate"})
# Of a file: which of its tensors it concerns is asked by chunk.
_OF_FILES = frozenset({"file-missing", "file-truncated", "file-unreadable", "path-escapes"})


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is asked for.

    Attributes:
        form: `safetensors`, `torch`, `npz` or `npy`.
        filter_text: Only tensors whose names fit; see `locate.matching`.
        prefix: Taken off the names.
        rules: How they are renamed.
        dtype: `bf16`, `f16` or `f32` for floating point tensors, or None.
        max_shard_bytes: Of safetensors: bytes of a shard, or None for one file.
        is_nested: Of torch: dicts and lists as they were before they were flattened.
        fqn: This very tensor, instead of a filter.
    """

    form: str = "safetensors"
    filter_text: str = ""
    prefix: str = ""
    rules: tuple[RenameRule, ...] = ()
    dtype: str | None = None
    max_shard_bytes: int | None = None
    is_nested: bool = False
    fqn: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.max_shard_bytes is not None

    def check(self) -> None:
        """Say no to what does not go together.

        Raises:
            UsageError: It does not.
        """
        if self.max_shard_bytes is not None and self.form != "safetensors":
            raise UsageError("--max-shard-size is for --format safetensors")
        if self.is_nested and self.form != "torch":
            raise UsageError("--nested is for --format torch")
        if self.is_nested and (self.prefix or self.rules):
            raise UsageError(
                "--nested keeps the paths of the checkpoint: it goes without --strip-prefix and "
                "--rename"
            )


@dataclass(frozen=True, eq=False)
class ExportSelection:
    """What is written.

    Attributes:
        request: What was asked for.
        columns: The checkpoint's, with dtypes as they are stored.
        items: The tensors, in the checkpoint's order.
        left_out: What is known not to be written before anything is read.
        literals: Plain values of bytes entries that are written too, by raw name.
        names: Their names in the file, by raw name.
        paths: Paths into the nested state dict, by raw name.
        stored_dtypes: Tensors whose metadata has another dtype than what is stored: that dtype.
    """

    request: ExportRequest
    columns: TensorColumns
    items: tuple[ExportItem, ...]
    left_out: tuple[Omission, ...] = ()
    literals: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    stored_dtypes: Mapping[str, str] = field(default_factory=dict)

    @property
    def form(self) -> str:
        return self.request.form

    def files(self, items: Sequence[ExportItem]) -> list[PlannedFile]:
        """The files that hold these tensors, and what else is written.

        Raises:
            UsageError: A name or dtype that the format does not hold.
        """
        if self.form == "safetensors":
            return safetensors_files(items, self.request.max_shard_bytes)
        if self.form == "npz":
            return npz_file(items)
        if self.form == "npy":
            return npy_file(items)
        by_fqn: dict[str, Any] = {item.fqn: item for item in items}
        by_fqn.update(self.literals)
        if self.request.is_nested:
            return torch_file(nested(by_fqn, self.paths), items)
        return torch_file({self.names[fqn]: value for fqn, value in by_fqn.items()}, items)


def select(checkpoint: Checkpoint, storage: Storage, request: ExportRequest) -> ExportSelection:
    """Choose, name and judge the tensors, from metadata and file sizes alone.

    Raises:
        UsageError: Nothing fits the filter, a prefix or rule fits nothing, or names collide.
        StorageError: The folder cannot be listed.
    """
    request.check()
    stored, dtypes = with_stored_dtypes(checkpoint, storage)
    columns = stored.columns
    chosen = _chosen(checkpoint, columns.fqns, request)
    names = [columns.fqns[index] for index in chosen]
    entries, literals = _entries(checkpoint, storage, request)
    given = [*names, *literals]
    known = dict(zip(given, renamed(given, request.prefix, request.rules), strict=True))
    damaged = _damaged(checkpoint, storage, chosen, request)
    target = CAST_DTYPES[request.dtype] if request.dtype else None
    items = []
    for index in chosen:
        fqn, dtype = columns.fqns[index], columns.dtype(index)
        if fqn not in damaged:
            written = target if target and is_cast(dtype, target) else dtype
            shape = columns.shape(index)
            items.append(ExportItem(index, fqn, shape, dtype, known[fqn], written))
    if not items and not damaged:
        raise UsageError(
            "no tensor's name fits the filter"
            if request.filter_text
            else "there is no tensor in it",
            "hsdp-inspect show lists the names",
        )
    left = [*entries, *damaged.values()]
    told = {fqn: dtype for fqn, dtype in dtypes.items() if fqn in known}
    return ExportSelection(
        request, columns, tuple(items), tuple(left), literals, known, checkpoint.state_paths, told
    )


def _chosen(checkpoint: Checkpoint, fqns: Sequence[str], request: ExportRequest) -> list[int]:
    if request.fqn is not None:
        return [fqns.index(request.fqn)] if request.fqn in fqns else []
    kept = matching(fqns, request.filter_text)
    if request.form == "npy" and request.filter_text in fqns:
        # A name may be part of others; written in full it means itself.
        kept = [fqns.index(request.filter_text)]
    chosen = set(kept)
    return [index for index in checkpoint.tensor_order.tolist() if index in chosen]


def _entries(
    checkpoint: Checkpoint, storage: Storage, request: ExportRequest
) -> tuple[list[Omission], dict[str, Any]]:
    """The bytes entries that are left out, and the plain values of those that are not."""
    if request.fqn is not None or request.form == "npy":
        return [], {}
    names = [entry.fqn for entry in checkpoint.bytes_entries]
    chosen = set(matching(names, request.filter_text))
    order = [index for index in checkpoint.bytes_order.tolist() if index in chosen]
    literals: dict[str, Any] = {}
    left: list[Omission] = []
    if request.form == "torch":
        found = read_literals(checkpoint, storage, order)
        for index in [index for index in order if index in found]:
            entry = checkpoint.bytes_entries[index]
            try:
                compare_entry(checkpoint, storage, entry, _MAX_LITERAL_BYTES)
            except InspectError as error:
                code = getattr(error, "code", "payload-unreadable")
                left.append(Omission(names[index], "damaged", printable(error.message, 400), code))
            else:
                literals[names[index]] = found[index].value
        why = "the pickle of an object, or of more than a small plain value: it is never run here"
    else:
        why = f"{request.form} holds tensors alone"
    known = {*literals, *(item.fqn for item in left)}
    left += [Omission(names[i], "bytes", why) for i in order if names[i] not in known]
    return left, literals


def _damaged(
    checkpoint: Checkpoint, storage: Storage, chosen: Sequence[int], request: ExportRequest
) -> dict[str, Omission]:
    """What is damaged by the metadata and the files' sizes, by raw name."""
    fqns = checkpoint.columns.fqns
    names = {fqns[index] for index in chosen}
    found: dict[str, Omission] = {}
    findings, _ = check_all(checkpoint, storage)
    entries = {entry.fqn for entry in checkpoint.bytes_entries}
    for finding in findings:
        fqn = _concerned(finding, names, {*fqns, *entries}, request)
        if fqn is not None:
            found.setdefault(fqn, Omission(fqn, "damaged", finding.message, finding.code))
    problems = chunk_problems(checkpoint)
    for index in chosen:
        why, code = _unread(checkpoint, index, *problems)
        if why:
            found.setdefault(fqns[index], Omission(fqns[index], "damaged", why, code))
    if request.fqn is None:
        for path, what in missing_files(checkpoint):
            # Nobody knows the names in such a file, so a filter does not leave it out.
            why = f"the file {printable(path, 120)} {what}"
            found.setdefault(path, Omission(path, "damaged", why, "file-missing"))
    return found


def _concerned(
    finding: Finding, names: Collection[str], known: Collection[str], request: ExportRequest
) -> str | None:
    """The name under which a finding keeps something from being written, or None."""
    if finding.severity != "error" or finding.code in _SEEN_BY_READING:
        return None
    if finding.fqn in names:
        return finding.fqn
    if finding.code in _OF_FILES or finding.fqn in known:
        return None
    if request.fqn is not None:
        return None
    if finding.fqn is not None:
        # An entry of which not even a tensor could be made.
        return finding.fqn if matching([finding.fqn], request.filter_text) else None
    return finding.file or finding.code


def _unread(
    checkpoint: Checkpoint, index: int, numbers: npt.NDArray[np.int16], meanings: list[str]
) -> tuple[str, str]:
    """Why a tensor cannot be read, by its entries and the files' sizes, and the finding's code.

    Both are empty if it can.
    """
    columns = checkpoint.columns
    if 0 in columns.shape(index):
        return "", ""
    first, last = int(columns.chunk_start[index]), int(columns.chunk_start[index + 1])
    if first == last:
        return "no chunk of it is stored", "chunk-gap"
    tensor = columns.tensor(index)
    is_empty = (tensor.sizes == 0).any(axis=1) if tensor.shape else np.zeros(last - first, np.bool_)
    bad = np.flatnonzero((numbers[first:last] > 0) & ~is_empty)
    if not len(bad):
        return "", ""
    number = int(numbers[first + int(bad[0])])
    why = meanings[number]
    code = {1: "chunk-unstored", 2: "file-truncated"}.get(number, "file-missing")
    return (why if len(bad) == last - first == 1 else f"{plural(len(bad), 'chunk')}: {why}"), code
