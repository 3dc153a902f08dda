"""Tensors and chunks as rows of a table. Pure; no widget."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import (
    format_box,
    format_bytes,
    format_count,
    format_placements,
    format_ranks,
    format_shape,
    format_short_placements,
    format_stages,
    natural_keys,
)
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import Ints, SortKeys
from inspector.tui.kit.virtual_table import Column, TableSource

if TYPE_CHECKING:
    from inspector.layout.writer.written_by import WrittenBy

__all__ = ["ChunkSource", "EntrySource", "chunk_columns"]

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
        names = checkpoint.fqns
        #: Raw name of each row.
        self.row_names: list[str] = [names[entry] for entry in self.entries.tolist()]
        #: By entry, the pipeline stages that the files put it in; None where they show none.
        self.stages: list[frozenset[int] | None] | None = None
        self._num_stages = 0
        #: Worst severity by row.
        self.badges: dict[int, str] = {}
        self._shown_ranks: dict[bytes, str] = {}
        self._latest: tuple[int, Tensor | None] = (-1, None)

    @property
    def num_rows(self) -> int:
        return len(self.entries)

    @cached_property
    def row_bytes(self) -> list[int]:
        """Bytes of each row: of a tensor's elements, of a bytes entry's pickle."""
        sizes = [
            *self.checkpoint.columns.num_bytes,
            *(max(entry.byte_length, 0) for entry in self.checkpoint.bytes_entries),
        ]
        return [sizes[entry] for entry in self.entries.tolist()]

    def rows_in(self, paths: Collection[str]) -> list[int]:
        """Rows of the entries with bytes in one of these files, by their raw paths."""
        checkpoint = self.checkpoint
        numbers = [i for i, file in enumerate(checkpoint.files) if file.path in paths]
        if not numbers:
            return []
        columns = checkpoint.columns
        inside = np.zeros(columns.num_tensors + len(checkpoint.bytes_entries), np.bool_)
        chunks = np.flatnonzero(np.isin(columns.file, numbers))
        inside[np.searchsorted(columns.chunk_start, chunks, side="right") - 1] = True
        for number, entry in enumerate(checkpoint.bytes_entries):
            inside[columns.num_tensors + number] = entry.file in numbers
        rows: list[int] = np.flatnonzero(inside[self.entries]).tolist()
        return rows

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

    def find_stages(self, written_by: WrittenBy) -> None:
        """Work out which pipeline stage holds each entry; for a thread."""
        # lazy: hardly any checkpoint is of stages
        from inspector.layout.target.stages import stages_by_files

        if written_by.partition is not None:
            self._num_stages = written_by.num_stages
            self.stages = stages_by_files(self.checkpoint, written_by)

    def stage_text(self, row: int) -> str:
        """The pipeline stage of a row, numbered as for `plan --stage`; empty where none is told."""
        stages = None if self.stages is None else self.stages[int(self.entries[row])]
        return format_stages(stages)

    def stage_words(self, row: int) -> str:
        """The same for the pane below, with what it rests on; empty where there are no stages."""
        if self.stages is None:
            return ""
        stage = self.stage_text(row)
        if not stage:
            return f"of no one of {self._num_stages} pipeline stages, as far as the files show"
        return f"pipeline stage {stage} of {self._num_stages}, by what the files show (no proof)"

    def cell(self, row: int, column_key: str) -> Cell:
        if column_key == "name":
            return self.row_names[row]
        if column_key == "stage":
            return self.stage_text(row)
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
        if column_key in ("placements", "short_placements"):
            if self.written_by is None:
                return ("...", "dim")
            found = self.written_by.placements(tensor.index).placements
            is_short = column_key == "short_placements"
            return format_short_placements(found) if is_short else format_placements(found)
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
        if column_key == "stage":
            stages = self.stages or [None] * (columns.num_tensors + len(bytes_entries))
            first: Ints = np.array([min(of) if of else 0 for of in stages], np.int64)
            return np.asarray(first[entries])
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
        if column_key in ("placements", "short_placements"):
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
    rank = {text: number for number, text in enumerate(_sorted(list(set(texts))))}
    return np.fromiter((rank[text] for text in texts), np.int64, len(texts))


def _sorted(texts: list[str]) -> list[str]:
    """As `sorted`, in parts: a call that takes long keeps the screen waiting, from any thread."""
    runs = [sorted(texts[at : at + _NAMES_AT_ONCE]) for at in range(0, len(texts), _NAMES_AT_ONCE)]
    while len(runs) > 1:
        # Of two runs it makes one in a single pass.
        runs = [sorted(chain.from_iterable(runs[at : at + 2])) for at in range(0, len(runs), 2)]
    return runs[0] if runs else []


# Rows that are looked at to choose the widths.
_SAMPLE_CHUNKS = 60


def chunk_columns(source: ChunkSource | None = None) -> tuple[Column, ...]:
    """Columns as wide as what stands in them: no number is ever cut, the file goes first."""
    widest = {"chunk": 1, "rank": 4, "offset": 6, "length": 6}
    box, file = 3, 4
    if source is not None and source.num_rows:
        box = source.widest("box", box, 40, _SAMPLE_CHUNKS)
        file = source.widest("file", file, 40, _SAMPLE_CHUNKS)
        tensor = source.tensor
        for key, numbers in (
            ("chunk", [source.num_rows - 1]),
            ("rank", source.ranks),
            ("offset", tensor.byte_offset),
            ("length", tensor.byte_length),
        ):
            widest[key] = max(widest[key], len(str(max(numbers))))

    def number(key: str, title: str, priority: int = 0) -> Column:
        return Column(key, title, width=widest[key], align="right", priority=priority)

    return (
        number("chunk", "#", 4),
        Column("box", "Box", min_width=min(box, 18), max_width=box, cut="middle"),
        number("rank", "Rank"),
        Column("file", "File", min_width=min(file, 12), max_width=file, cut="middle", priority=3),
        number("offset", "Offset", 1),
        number("length", "Length", 2),
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
