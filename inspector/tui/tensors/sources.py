"""Tensors and chunks as rows of a table. Pure; no widget."""

from __future__ import annotations

from functools import cached_property
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
    natural_keys,
)
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.columns import Column
from inspector.tui.kit.row_order import Ints, SortKeys
from inspector.tui.kit.virtual_table import TableSource

if TYPE_CHECKING:
    from inspector.layout.writer.written_by import WrittenBy

__all__ = ["CHUNK_COLUMNS", "ChunkSource", "EntrySource"]

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
