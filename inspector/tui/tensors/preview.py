"""`Preview`: the first frame of a checkpoint, made of the child's answer alone; and `EarlyRows`.

The rule this module keeps: it imports neither numpy nor the model, which together take as long
to import as Textual takes to draw. What it shows is what the real table shows, less what needs
the folder's listing and the replay.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from inspector.checkpoint.child.isolated import EarlyEntry
from inspector.checkpoint.dtypes import itemsize, short_name
from inspector.checkpoint.text import format_bytes, format_count, format_shape, plural, printable
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.virtual_table import TableSource

__all__ = ["EarlyRows", "Preview"]

# Beyond this a preview would take longer to make than it saves.
_MAX_ROWS = 2_000


class Preview(TableSource):
    """Names, dtypes, shapes, chunks and bytes of every entry, as rows.

    Args:
        path: The checkpoint's path, raw.
        header: What `isolated.Child.header` gave.
    """

    def __init__(self, path: str, header: dict[str, Any]) -> None:
        self.path = printable(path)
        tensors, entries = header["tensors"], header["bytes"]
        dtypes = [dtype for dtype, *_ in header["properties"]]
        shapes = [header["shapes"][a:b] for a, b in pairwise(header["dim_start"])]
        num_chunks = [b - a for a, b in pairwise(header["chunk_start"])]
        self._rows: list[dict[str, Cell]] = []
        order = header["order"]
        total_bytes = total_elements = 0
        for i in (entry for entry in order if entry < len(tensors)):
            dtype = dtypes[header["property_id"][i]]
            num_elements = math.prod(shapes[i])
            num_bytes = num_elements * (itemsize(dtype) or 0)
            total_elements += num_elements
            total_bytes += num_bytes
            self._rows.append(
                {
                    "name": tensors[i],
                    "dtype": short_name(dtype),
                    "shape": format_shape(shapes[i]),
                    "placements": ("...", "dim"),
                    "chunks": format_count(num_chunks[i]),
                    "bytes": format_bytes(num_bytes),
                }
            )
        for i in (entry - len(tensors) for entry in order if entry >= len(tensors)):
            fqn, file, _, length, *_ = entries[i]
            size = format_bytes(length if file >= 0 else None)
            self._rows.append({"name": fqn, "dtype": ("bytes", "dim"), "bytes": size})
        self.facts = [
            plural(len(tensors), "tensor"),
            plural(sum(num_chunks), "chunk"),
            format_bytes(total_bytes),
            plural(total_elements, "element"),
        ]

    @classmethod
    def of(cls, path: str, header: dict[str, Any] | None) -> Preview | None:
        """A preview, unless there is no header or it holds too much for one."""
        if header is None or len(header["order"]) > _MAX_ROWS:
            return None
        return cls(path, header)

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def cell(self, row: int, column_key: str) -> Cell:
        return self._rows[row].get(column_key, "")


class EarlyRows(TableSource):
    """The first entries of metadata that is still being read, as rows; more may come.

    What is not known yet is said to be so: nothing of it is checked.
    """

    def __init__(self) -> None:
        self.entries: tuple[EarlyEntry, ...] = ()

    @property
    def num_rows(self) -> int:
        return len(self.entries)

    def cell(self, row: int, column_key: str) -> Cell:
        entry = self.entries[row]
        if column_key == "name":
            return entry.fqn
        if column_key == "shape" and entry.shape is not None:
            return format_shape(entry.shape)
        if column_key == "chunks" and entry.num_chunks is not None:
            return format_count(entry.num_chunks)
        return ("...", "dim")
