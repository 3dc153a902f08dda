"""Values as rows: what each table of the app shows. Pure; no widget."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.find.found import Found
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import (
    format_box,
    format_bytes,
    format_count,
    format_placements,
    format_ranks,
    format_shape,
    format_time,
)
from inspector.tui.kit.bar import bar
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.columns import Column
from inspector.tui.kit.row_order import Ints, SortKeys, natural_keys
from inspector.tui.kit.virtual_table import TableSource

if TYPE_CHECKING:
    from inspector.checks.findings import Finding
    from inspector.layout.contents import FileContents
    from inspector.layout.writer.written_by import WrittenBy

__all__ = [
    "CHUNK_COLUMNS",
    "CONTENT_COLUMNS",
    "FILE_COLUMNS",
    "FINDING_COLUMNS",
    "FOUND_COLUMNS",
    "ChunkSource",
    "ContentSource",
    "EntrySource",
    "FileSource",
    "FindingSource",
    "FoundSource",
]

_BAR_CELLS = 24
_NAMES_AT_ONCE = 8192
_MOST_SHOWN_RANKS = 500


class EntrySource(TableSource):
    """Tensors, then bytes entries, in the order of the original state dict.

    A row is a position in `entries`; `entries` are numbers as in `Checkpoint.order`.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        #: Set when the writer was replayed; until then no placement is known.
        self.written_by: WrittenBy | None = None
        self.entries = np.concatenate(
            [checkpoint.tensor_order, checkpoint.bytes_order + checkpoint.num_tensors]
        )
        names = [*checkpoint.columns.fqns, *(e.fqn for e in checkpoint.bytes_entries)]
        #: Raw name of each row.
        self.row_names: list[str] = [names[entry] for entry in self.entries.tolist()]
        #: Worst severity by row.
        self.badges: dict[int, str] = {}
        self._shown_ranks: dict[bytes, str] = {}
        self._latest: tuple[int, Tensor | None] = (-1, None)

    @property
    def num_rows(self) -> int:
        return len(self.entries)

    def name(self, row: int) -> str:
        """Raw name of a row."""
        return self.row_names[row]

    @cached_property
    def row_bytes(self) -> list[int]:
        """Bytes of each row: of a tensor's elements, of a bytes entry's pickle."""
        sizes = [
            *self.checkpoint.columns.num_bytes,
            *(max(entry.byte_length, 0) for entry in self.checkpoint.bytes_entries),
        ]
        return [sizes[entry] for entry in self.entries.tolist()]

    def tensor(self, row: int) -> Tensor | None:
        """The tensor of a row; None for a bytes entry."""
        latest, tensor = self._latest
        if row != latest:
            entry = int(self.entries[row])
            is_tensor = entry < self.checkpoint.num_tensors
            tensor = self.checkpoint.tensors[entry] if is_tensor else None
            # The cells of a row are asked for one after the other.
            self._latest = row, tensor
        return tensor

    def cell(self, row: int, column_key: str) -> Cell:
        if column_key == "name":
            return self.name(row)
        tensor = self.tensor(row)
        if tensor is None:
            entry = self.checkpoint.bytes_entries[
                int(self.entries[row]) - self.checkpoint.num_tensors
            ]
            rank = None if entry.file < 0 else self.checkpoint.files[entry.file].rank
            cells: dict[str, Cell] = {
                "dtype": ("bytes", "dim"),
                "bytes": format_bytes(entry.byte_length if entry.file >= 0 else None),
                "ranks": format_ranks([-1 if rank is None else rank]),
            }
            return cells.get(column_key, "")
        if column_key == "dtype":
            return short_name(tensor.dtype)
        if column_key == "shape":
            return format_shape(tensor.shape)
        if column_key == "placements":
            if self.written_by is None:
                return ("...", "dim")
            return format_placements(self.written_by.placements(tensor.index).placements)
        if column_key == "chunks":
            return format_count(tensor.num_chunks)
        if column_key == "bytes":
            return format_bytes(tensor.num_bytes)
        # Of a thousand chunks it takes a while, and most tensors are written by the same ranks.
        files = tensor.file.tobytes()
        if (text := self._shown_ranks.get(files)) is None:
            if len(self._shown_ranks) >= _MOST_SHOWN_RANKS:
                self._shown_ranks.clear()
            text = format_ranks(self.checkpoint.chunk_ranks(tensor.file).tolist())
            self._shown_ranks[files] = text
        return text

    def sort_key(self, column_key: str) -> SortKeys | None:
        columns, entries = self.checkpoint.columns, self.entries
        bytes_entries = self.checkpoint.bytes_entries
        if column_key == "name":
            return self.name_ranks
        if column_key == "chunks":
            keys = np.concatenate([columns.num_chunks_of, np.zeros(len(bytes_entries), np.int64)])
            return np.asarray(keys[entries])
        if column_key == "bytes":
            return np.asarray(self.row_bytes, np.float64)
        if column_key == "dtype":
            names = [properties[0] for properties in columns.properties]
            return self._ranked(_ranks(names)[columns.property_id])
        if column_key == "shape":
            elements = [*map(float, columns.num_elements), *([-1.0] * len(bytes_entries))]
            elements_of: npt.NDArray[np.float64] = np.asarray(elements)[entries]
            return elements_of
        if column_key == "placements":
            if self.written_by is None:
                return None
            shown: dict[tuple[str, ...] | None, str] = {}
            texts = []
            for index in range(columns.num_tensors):
                placements = self.written_by.placements(index).placements
                if (text := shown.get(placements)) is None:
                    text = shown[placements] = format_placements(placements)
                texts.append(text)
            return self._ranked(_ranks(texts))
        return None

    @cached_property
    def name_ranks(self) -> Ints:
        """The place of each row when they are sorted by name, as people sort."""
        names = self.row_names
        # In parts: a call that takes long keeps the screen waiting, from any thread.
        starts = range(0, len(names), _NAMES_AT_ONCE)
        keys = [key for at in starts for key in natural_keys(names[at : at + _NAMES_AT_ONCE])]
        return _ranks(keys)

    def _ranked(self, of_tensors: Ints) -> Ints:
        """Keys of tensors as keys of the rows; bytes entries come last."""
        last = np.full(len(self.checkpoint.bytes_entries), len(of_tensors), np.int64)
        keys: Ints = np.concatenate([of_tensors, last])[self.entries]
        return keys

    def marker(self, row: int) -> str:
        return self.badges.get(row, "")


def _ranks(texts: list[str]) -> Ints:
    """A number for each text, in their order."""
    rank = {text: number for number, text in enumerate(sorted(set(texts)))}
    return np.fromiter((rank[text] for text in texts), np.int64, len(texts))


CHUNK_COLUMNS = (
    Column("chunk", "#", min_width=3, max_width=6, align="right"),
    Column("box", "Box", min_width=12, max_width=40, flex=2, cut="middle"),
    Column("rank", "Rank", width=5, align="right"),
    Column("file", "File", min_width=12, max_width=30, flex=1, cut="middle"),
    Column("offset", "Offset", min_width=8, max_width=14, align="right", priority=1),
    Column("length", "Length", min_width=7, max_width=12, align="right", priority=1),
)


class ChunkSource(TableSource):
    """The chunks of one tensor."""

    def __init__(self, checkpoint: Checkpoint, tensor: Tensor) -> None:
        self.checkpoint = checkpoint
        self.tensor = tensor
        self.ranks = checkpoint.chunk_ranks(tensor.file)

    @property
    def num_rows(self) -> int:
        return self.tensor.num_chunks

    def cell(self, row: int, column_key: str) -> Cell:
        tensor = self.tensor
        file = int(tensor.file[row])
        if column_key == "chunk":
            return (str(row), "dim")
        if column_key == "box":
            return format_box(tensor.offsets[row].tolist(), tensor.sizes[row].tolist())
        if column_key == "rank":
            return str(self.ranks[row]) if self.ranks[row] >= 0 else "?"
        if file < 0:
            return ("stored nowhere", "error") if column_key == "file" else ""
        if column_key == "file":
            return self.checkpoint.files[file].path
        if column_key == "offset":
            return str(tensor.byte_offset[row])
        return str(tensor.byte_length[row])

    def sort_key(self, column_key: str) -> SortKeys | None:
        tensor = self.tensor
        keys: dict[str, SortKeys] = {
            "chunk": np.arange(tensor.num_chunks),
            "rank": self.ranks,
            "file": tensor.file,
            "offset": tensor.byte_offset,
            "length": tensor.byte_length,
        }
        if column_key == "box":
            return [tuple(box) for box in tensor.offsets.tolist()]
        return keys.get(column_key)


FILE_COLUMNS = (
    Column("path", "File", min_width=14, flex=1, cut="middle"),
    Column("rank", "Rank", width=5, align="right"),
    Column("size", "Size", width=10, align="right", descending_first=True),
    Column("bar", "of the largest", width=_BAR_CELLS, sortable=False, priority=1),
    Column("referenced", "Referenced", width=10, align="right", priority=2, descending_first=True),
    Column("payloads", "Payloads", width=9, align="right", descending_first=True),
    Column("modified", "Modified", width=19, priority=3),
)


class FileSource(TableSource):
    """The data files. A row is an index into `Checkpoint.files`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._largest = max((f.num_bytes or 0 for f in checkpoint.files), default=0)
        self.badges: dict[int, str] = {}

    @property
    def num_rows(self) -> int:
        return len(self.checkpoint.files)

    def cell(self, row: int, column_key: str) -> Cell:
        file = self.checkpoint.files[row]
        if column_key == "path":
            return file.path
        if column_key == "rank":
            return "?" if file.rank is None else str(file.rank)
        if column_key == "size":
            return (
                ("not there", "error") if file.num_bytes is None else format_bytes(file.num_bytes)
            )
        if column_key == "bar":
            share = (file.num_bytes or 0) / self._largest if self._largest else 0.0
            return (bar(share, _BAR_CELLS), "accent")
        if column_key == "referenced":
            return format_bytes(file.referenced_bytes)
        if column_key == "payloads":
            return format_count(file.num_payloads)
        return (format_time(file.modified_s), "dim")

    def sort_key(self, column_key: str) -> SortKeys | None:
        files = self.checkpoint.files
        if column_key == "path":
            return [f.path for f in files]
        numbers = {
            "rank": [-1 if f.rank is None else f.rank for f in files],
            "size": [-1 if f.num_bytes is None else f.num_bytes for f in files],
            "referenced": [f.referenced_bytes for f in files],
            "payloads": [f.num_payloads for f in files],
        }
        if column_key == "modified":
            return np.asarray([f.modified_s or 0.0 for f in files])
        return np.asarray(numbers[column_key]) if column_key in numbers else None

    def marker(self, row: int) -> str:
        return self.badges.get(row, "error" if self.checkpoint.files[row].num_bytes is None else "")


CONTENT_COLUMNS = (
    Column("offset", "Offset", min_width=8, max_width=16, align="right"),
    Column("length", "Length", min_width=8, max_width=12, align="right", descending_first=True),
    Column("name", "Tensor", min_width=16, flex=2, cut="middle"),
    Column("box", "Box", min_width=10, flex=1, max_width=40, cut="middle", sortable=False),
    Column("dtype", "Dtype", min_width=5, max_width=16, priority=1, sortable=False),
)


class ContentSource(TableSource):
    """What lies in one data file, in byte order."""

    def __init__(self, checkpoint: Checkpoint, contents: FileContents) -> None:
        self.checkpoint = checkpoint
        self.contents = contents

    @property
    def num_rows(self) -> int:
        return len(self.contents.entry)

    def tensor(self, row: int) -> Tensor | None:
        entry = int(self.contents.entry[row])
        return self.checkpoint.tensors[entry] if entry < self.checkpoint.num_tensors else None

    def cell(self, row: int, column_key: str) -> Cell:
        if column_key == "offset":
            return str(self.contents.byte_offset[row])
        if column_key == "length":
            return str(self.contents.byte_length[row])
        tensor = self.tensor(row)
        if tensor is None:
            entry = int(self.contents.entry[row]) - self.checkpoint.num_tensors
            names: dict[str, Cell] = {
                "name": self.checkpoint.bytes_entries[entry].fqn,
                "dtype": ("bytes", "dim"),
            }
            return names.get(column_key, "")
        if column_key == "name":
            return tensor.fqn
        if column_key == "dtype":
            return tensor.dtype
        chunk = int(self.contents.chunk[row])
        return format_box(tensor.offsets[chunk].tolist(), tensor.sizes[chunk].tolist())

    def sort_key(self, column_key: str) -> SortKeys | None:
        keys: dict[str, SortKeys] = {
            "offset": self.contents.byte_offset,
            "length": self.contents.byte_length,
            "name": self.contents.entry,
        }
        return keys.get(column_key)


FOUND_COLUMNS = (
    Column("path", "Checkpoint", min_width=16, flex=1, cut="middle"),
    Column("step", "Step", min_width=6, max_width=12, align="right", descending_first=True),
    Column("state", "State", width=10),
    Column("verdict", "Verdict", width=10),
    Column("size", "Size", width=10, align="right", descending_first=True),
    Column("files", "Files", width=6, align="right", priority=2, descending_first=True),
    Column("modified", "Modified", width=19, priority=1, descending_first=True),
    Column("detail", "", min_width=12, max_width=50, priority=3, sortable=False),
)

FINDING_COLUMNS = (
    Column("severity", "Severity", width=8),
    Column("code", "Code", min_width=12, max_width=20),
    Column("subject", "Subject", min_width=14, max_width=40, flex=1, cut="middle", priority=1),
    Column("elements", "Elements", width=10, align="right", priority=2, descending_first=True),
    Column("message", "What is wrong", min_width=20, flex=3, sortable=False),
)

_SEVERITY_ORDER = {"error": 0, "warning": 1, "note": 2}


class FindingSource(TableSource):
    """Findings, as a report has them: by severity, then by code."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        #: What a filter looks at, per row.
        self.searchable = [
            f"{f.severity} {f.code} {f.fqn or ''} {f.file or ''} {f.message}" for f in findings
        ]

    @property
    def num_rows(self) -> int:
        return len(self.findings)

    def cell(self, row: int, column_key: str) -> Cell:
        finding = self.findings[row]
        if column_key == "severity":
            return (finding.severity, finding.severity)
        if column_key == "code":
            return finding.code
        if column_key == "subject":
            return finding.fqn if finding.fqn is not None else finding.file or ""
        if column_key == "elements":
            return "" if finding.num_elements is None else format_count(finding.num_elements)
        return finding.message

    def sort_key(self, column_key: str) -> SortKeys | None:
        findings = self.findings
        if column_key == "severity":
            return [_SEVERITY_ORDER[f.severity] for f in findings]
        if column_key == "code":
            return [f.code for f in findings]
        if column_key == "subject":
            return natural_keys([f.fqn or f.file or "" for f in findings])
        if column_key == "elements":
            return [f.num_elements or 0 for f in findings]
        return None

    def marker(self, row: int) -> str:
        return self.findings[row].severity


_STATE_STYLES = {"complete": "ok", "unfinished": "warning", "unreadable": "error"}
_VERDICT_STYLES = {
    "sound": "ok",
    "damaged": "error",
    "suspicious": "error",
    "unreadable": "error",
}


class FoundSource(TableSource):
    """The checkpoints of a folder, and their verdicts as they come in."""

    def __init__(self, found: tuple[Found, ...]) -> None:
        self.found = found
        self.verdicts: dict[int, str] = {}
        #: What is wrong with the step that a row is a part of.
        self.notes: dict[int, str] = {}
        #: The row that another is to be compared with.
        self.marked: int | None = None

    @property
    def num_rows(self) -> int:
        return len(self.found)

    def cell(self, row: int, column_key: str) -> Cell:
        item = self.found[row]
        cells: dict[str, Cell] = {
            "path": (f"[A] {item.path or '.'}", "accent")
            if row == self.marked
            else item.path or ".",
            "step": "" if item.step is None else str(item.step),
            "state": (item.state, _STATE_STYLES.get(item.state, "")),
            "verdict": self._verdict(row),
            "size": format_bytes(item.num_bytes),
            "files": str(item.num_files),
            "modified": (format_time(item.modified_s), "dim"),
            "detail": (item.detail or self.notes.get(row, ""), "dim"),
        }
        return cells[column_key]

    def sort_key(self, column_key: str) -> SortKeys | None:
        found = self.found
        if column_key == "path":
            return [item.path for item in found]
        if column_key == "state":
            return [item.state for item in found]
        if column_key == "verdict":
            return [self.verdicts.get(row, "") for row in range(len(found))]
        numbers = {
            "step": [-1 if item.step is None else item.step for item in found],
            "size": [item.num_bytes for item in found],
            "files": [item.num_files for item in found],
            "modified": [item.modified_s or 0.0 for item in found],
        }
        return np.asarray(numbers[column_key]) if column_key in numbers else None

    def _verdict(self, row: int) -> Cell:
        verdict = self.verdicts.get(row)
        if verdict is None:
            return ("...", "dim")
        return (verdict, _VERDICT_STYLES.get(verdict, "dim"))

    def marker(self, row: int) -> str:
        if self.verdicts.get(row) in ("damaged", "suspicious", "unreadable"):
            return "error"
        return {"unfinished": "warning", "unreadable": "error"}.get(self.found[row].state, "")
