"""A load plan as rows: its ranks, the reads of one of them, the tensors that leave ranks empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.text import (
    format_box,
    format_bytes,
    format_count,
    format_shape,
    format_stages,
)
from inspector.layout.geometry import Ints
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import LoadPlan, Read
from inspector.report.fitting import bar
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.virtual_table import Column, TableSource
from inspector.tui.mesh.axes import coordinate_words

__all__ = [
    "EmptySource",
    "PlanRankSource",
    "ReadSource",
    "empty_columns",
    "rank_columns",
    "read_columns",
]

Stages: TypeAlias = "frozenset[int] | None"

_BAR_CELLS = 16

_RANK_COLUMNS = (
    Column("rank", "Rank", width=5, align="right"),
    Column("needs", "Needs", width=10, align="right", descending_first=True),
    Column("reads", "Reads", width=10, align="right", descending_first=True),
    Column("bar", "of the most", width=_BAR_CELLS, sortable=False, priority=5),
    Column("files", "Files", width=6, align="right", descending_first=True),
    Column("items", "Items", width=7, align="right", descending_first=True, priority=2),
    Column("empty", "Empty", width=6, align="right", descending_first=True, priority=3),
    Column("peak", "Peak mem", width=10, align="right", descending_first=True),
)


def rank_columns(mesh: Mesh) -> tuple[Column, ...]:
    """The columns of the ranks of a mesh: their places have the room that the last one's takes."""
    cells = max(6, len(coordinate_words(mesh, mesh.world_size - 1)))
    first, *rest = _RANK_COLUMNS
    return first, Column("place", "Place", width=cells, priority=1), *rest


def _by_part(mesh: Mesh, ranks: Ints) -> Ints:
    """A number for each rank: what replicas hold alike stands together."""
    part = np.zeros(len(ranks), dtype=np.int64)
    stride = mesh.world_size
    for kind, size in zip(mesh.kinds, mesh.sizes, strict=True):
        stride //= size
        if kind != "replicate":
            part = part * size + ranks // stride % size
    return part


class PlanRankSource(TableSource):
    """The ranks of a plan. A row is a rank."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        read = plan.ranks.bytes_read
        self._most = int(read.max())
        #: Whether some ranks read more than others.
        self.is_uneven = int(read.min()) != self._most

    @property
    def num_rows(self) -> int:
        return self.plan.world_size

    def cell(self, row: int, column_key: str) -> Cell:
        figures = self.plan.ranks
        if column_key == "rank":
            return str(row)
        if column_key == "place":
            return (coordinate_words(self.plan.mesh, row), "dim")
        if column_key == "needs":
            return format_bytes(int(figures.bytes_needed[row]))
        if column_key == "reads":
            return format_bytes(int(figures.bytes_read[row]))
        if column_key == "bar":
            share = int(figures.bytes_read[row]) / self._most if self._most else 0.0
            return (bar(share, _BAR_CELLS), "accent")
        if column_key == "files":
            return format_count(int(figures.num_files[row]))
        if column_key == "items":
            return format_count(int(figures.num_reads[row]))
        if column_key == "empty":
            count = int(figures.num_empty_tensors[row])
            return format_count(count) if count else ("-", "dim")
        return format_bytes(int(figures.peak_bytes[row]))

    def sort_key(self, column_key: str) -> SortKeys | None:
        figures, ranks = self.plan.ranks, np.arange(self.num_rows)
        keys: dict[str, SortKeys] = {
            "rank": ranks,
            "place": _by_part(self.plan.mesh, ranks),
            "needs": figures.bytes_needed,
            "reads": figures.bytes_read,
            "files": figures.num_files,
            "items": figures.num_reads,
            "empty": figures.num_empty_tensors,
            "peak": figures.peak_bytes,
        }
        return keys.get(column_key)

    def marker(self, row: int) -> str:
        return "warning" if self._is_worst(row) else ""

    def row_style(self, row: int) -> str:
        return "warning" if self._is_worst(row) else ""

    def _is_worst(self, row: int) -> bool:
        return self.is_uneven and row == self.plan.worst_rank


_STAGE = Column("stage", "Stage?", width=6, priority=4)
_READ_COLUMNS = (
    Column("name", "Tensor", min_width=14, flex=4, cut="middle"),
    Column("file", "File", min_width=12, max_width=15, cut="middle", priority=2),
    Column("box", "Box", min_width=14, max_width=36, flex=2, cut="middle", sortable=False),
    # The file and the bytes of the payload are told of a chunk in the list of tensors, too.
    Column("bytes", "Reads", width=10, align="right", priority=1, descending_first=True),
    Column("used", "Uses", width=5, align="right", sortable=False, priority=3),
)


def read_columns(*, has_stages: bool) -> tuple[Column, ...]:
    """The columns of the reads of a rank; the stage of each where the files tell of stages."""
    name, *rest = _READ_COLUMNS
    return (name, *((_STAGE,) if has_stages else ()), *rest)


class ReadSource(TableSource):
    """The reads of one rank, each made when it is looked at: there may be a million."""

    def __init__(
        self, plan: LoadPlan, rank: int, rows: Ints, stages: Sequence[Stages] | None = None
    ) -> None:
        """Args: `rows` are those of the plan's items; `stages` is as of `Planned`."""
        self.plan = plan
        self.rank = rank
        self._rows = rows
        self._stages = stages
        self._seen: tuple[int, Read | None] = (-1, None)

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def is_of(self, plan: LoadPlan, rank: int, stages: Sequence[Stages] | None) -> bool:
        """Whether it holds these."""
        return self.plan is plan and self.rank == rank and self._stages is stages

    def read(self, row: int) -> Read:
        number, known = self._seen
        if number != row or known is None:
            known = self.plan.reads_of(self.rank, self._rows[row : row + 1])[0]
            self._seen = (row, known)
        return known

    def corner(self, row: int) -> tuple[int, ...] | None:
        """The first element that it brings, as an index of the tensor; None for a bytes entry."""
        read, item = self.read(row), int(self._rows[row])
        if read.is_bytes:
            return None
        items, columns = self.plan.items, self.plan.checkpoint.columns
        tensor = columns.tensor(int(items.tensors.tensor[items.owner[item]]))
        chunk = tensor.offsets[items.number[item]].tolist()
        return tuple(a + b for a, b in zip(chunk, read.storage_offsets, strict=True))

    def box_text(self, row: int) -> str:
        """What it brings, as a box of the whole tensor."""
        first = self.corner(row)
        return "whole" if first is None else format_box(first, self.read(row).lengths)

    def cell(self, row: int, column_key: str) -> Cell:
        read = self.read(row)
        if column_key == "name":
            return read.fqn
        if column_key == "stage":
            entry = int(self._entries(self._rows[row : row + 1])[0])
            return format_stages(self._stages[entry]) if self._stages else ""
        if column_key == "file":
            return ("stored nowhere", "error") if read.file is None else read.file
        if column_key == "box":
            return ("bytes", "dim") if read.is_bytes else self.box_text(row)
        used = self._used(row)
        if self.plan.checkpoint.format == "safetensors" and used is not None:
            return format_bytes(used) if column_key == "bytes" else "100%"
        if column_key == "bytes":
            return format_bytes(read.byte_length)
        if used is None or not read.byte_length:
            return ""
        # A payload is a little more than its elements: all of them are all of it.
        items, item = self.plan.items, int(self._rows[row])
        rows = int(items.stop[item] - items.start[item])
        share = read.lengths[0] / rows if read.lengths and rows else 1.0
        return "100%" if share >= 1 else f"{max(1, math.floor(share * 100))}%"

    def _entries(self, rows: Ints) -> Ints:
        """Numbers of the entries of some of the plan's items, as in `Checkpoint.order`."""
        items = self.plan.items
        owner, number = items.owner[rows], items.number[rows] + self.plan.checkpoint.num_tensors
        tensors = items.tensors.tensor
        return np.where(owner < 0, number, tensors[owner]) if len(tensors) else number

    def _used(self, row: int) -> int | None:
        """Bytes of the elements that it brings; None for a bytes entry."""
        read, item = self.read(row), int(self._rows[row])
        if read.is_bytes:
            return None
        items, columns = self.plan.items, self.plan.checkpoint.columns
        tensor = int(items.tensors.tensor[items.owner[item]])
        dtype = columns.properties[int(columns.property_id[tensor])][0]
        return math.prod(read.lengths) * (itemsize(dtype) or 0)

    def row_style(self, row: int) -> str:
        # A small pane has no room for the column that says why.
        return "error" if self.read(row).file is None else ""

    def sort_key(self, column_key: str) -> SortKeys | None:
        items, rows = self.plan.items, self._rows
        if column_key == "name":
            return np.arange(len(rows))  # They come in the order of the state dict.
        if column_key == "stage" and self._stages:
            return np.asarray(_first_stages(self._stages)[self._entries(rows)])
        if column_key == "file":
            return items.file[rows]
        return items.num_bytes[rows] if column_key == "bytes" else None


_EMPTY_COLUMNS = (
    Column("name", "Leaves ranks empty", min_width=16, flex=1, cut="middle"),
    Column("shape", "Shape", min_width=8, max_width=20, priority=1, sortable=False),
    Column("ranks", "Ranks", width=7, align="right", descending_first=True),
    Column("share", "of all", width=6, align="right", sortable=False, priority=2),
)


def empty_columns(*, has_stages: bool) -> tuple[Column, ...]:
    """The columns of the tensors that leave ranks empty, with their stages where there are any."""
    return (*_EMPTY_COLUMNS[:1], *((_STAGE,) if has_stages else ()), *_EMPTY_COLUMNS[1:])


def _first_stages(stages: Sequence[Stages]) -> Ints:
    """A number to sort each entry by; 0 where no stage is told."""
    return np.array([min(of) if of else 0 for of in stages], np.int64)


class EmptySource(TableSource):
    """The tensors of which some ranks hold no element."""

    def __init__(self, plan: LoadPlan, stages: Sequence[Stages] | None = None) -> None:
        """Args: `stages` is as of `Planned`."""
        self.plan = plan
        self._stages = stages
        self.tensors = plan.empty_tensors

    @property
    def num_rows(self) -> int:
        return len(self.tensors)

    def cell(self, row: int, column_key: str) -> Cell:
        tensor = self.tensors[row]
        if column_key == "name":
            return tensor.fqn
        if column_key == "stage":
            return format_stages(self._stages[tensor.index]) if self._stages else ""
        if column_key == "shape":
            return format_shape(self.plan.checkpoint.columns.tensor(tensor.index).shape)
        if column_key == "ranks":
            return format_count(tensor.num_ranks)
        return f"{tensor.num_ranks / self.plan.world_size:.0%}"

    def sort_key(self, column_key: str) -> SortKeys | None:
        if column_key == "name":
            return np.arange(self.num_rows)
        if column_key == "stage" and self._stages:
            return _first_stages(self._stages)[[tensor.index for tensor in self.tensors]]
        if column_key == "ranks":
            return np.asarray([tensor.num_ranks for tensor in self.tensors])
        return None
