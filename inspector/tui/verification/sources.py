"""A verification as rows: its entries with their verdicts, failures first, and its ranks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from inspector.checkpoint.text import format_bytes, format_count, format_shape, natural_keys
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import Ints, SortKeys
from inspector.tui.kit.virtual_table import Column, TableSource
from inspector.tui.mesh.paint import GLYPHS, word
from inspector.tui.verification.figures import RankProgress
from inspector.tui.verification.run import ALL, Moment
from inspector.verify.progress import Snapshot
from inspector.verify.verdicts import Fault, TensorView, severity

__all__ = [
    "RANK_COLUMNS",
    "VERDICT_COLUMNS",
    "RankSource",
    "VerdictSource",
    "log_lines",
    "state_style",
]

VERDICT_COLUMNS = (
    Column("verdict", "Verdict", width=13),
    Column("name", "Name", min_width=20, flex=1, cut="middle"),
    Column("phase", "Phase", width=8, priority=2, sortable=False),
    Column("ranks", "Ranks", width=7, align="right", priority=3, sortable=False),
    Column("different", "Elements", width=9, align="right", priority=1, descending_first=True),
    Column("index", "First at", width=10, priority=1, sortable=False),
)

RANK_COLUMNS = (
    Column("rank", "Rank", width=4, align="right", sortable=False),
    Column("state", "", width=1, sortable=False),
    Column("phase", "Doing", width=9, sortable=False),
    Column("share", "Done", width=5, align="right", sortable=False),
    Column("bytes", "Moved", width=10, align="right", sortable=False, priority=1),
    Column("rate", "A second", width=10, align="right", sortable=False, priority=2),
    Column("memory", "Memory", width=10, align="right", sortable=False, priority=1),
    Column("gpu", "On GPU", width=10, align="right", sortable=False, priority=4),
    Column("device", "Device", min_width=4, max_width=8, sortable=False, priority=5),
    Column("bad", "Wrong", width=5, align="right", sortable=False, priority=3),
    Column("host", "Host", min_width=4, max_width=14, sortable=False, priority=6),
)

_STYLES = {"done": "ok", "wrong": "error", "failed": "error", "running": "accent"}


def state_style(state: str) -> str:
    """The style's name for the state of a rank."""
    return _STYLES.get(state, "dim")


class VerdictSource(TableSource):
    """The entries of a job, in the order in which they were first told of.

    One source serves a whole job: `update` gives it the next snapshot, of which only what the
    table asks for is looked at.
    """

    def __init__(self) -> None:
        #: Raw name of each row.
        self.row_names: list[str] = []
        self._tensors: Mapping[str, TensorView] = {}
        self._num_bad = 0
        self._bad: Ints = np.zeros(0, np.int64)
        self._is_final = False

    def update(self, snapshot: Snapshot) -> bool:
        """Show another moment; whether rows came, or their order is another."""
        tensors = snapshot.tensors
        count = len(self.row_names)
        if len(tensors) < count:  # an earlier moment of a recording
            self.row_names, count = [], 0
            self._num_bad = -1
        self._tensors = tensors
        self._is_final = snapshot.result is not None
        self.row_names.extend(islice(tensors, count, None))
        is_other = len(self.row_names) != count
        if snapshot.num_bad != self._num_bad:
            self._num_bad = snapshot.num_bad
            found = [
                (-severity(view.verdict), row)
                for row, view in enumerate(tensors.values())
                if view.is_bad
            ]
            self._bad = np.asarray([row for _, row in sorted(found)], np.int64)
            is_other = True
        return is_other

    def order(self, rows: Ints | None) -> Ints | None:
        """`rows` (None: all) with the bad ones first; None if that is the rows' own order."""
        if not len(self._bad):
            return rows
        mask = np.zeros(self.num_rows, np.bool_)
        if rows is None:
            mask[:] = True
        else:
            mask[rows] = True
        first = self._bad[mask[self._bad]]
        mask[self._bad] = False
        return np.concatenate([first, np.flatnonzero(mask).astype(np.int64)])

    def view(self, row: int) -> TensorView:
        """The entry of a row."""
        return self._tensors[self.row_names[row]]

    @property
    def num_rows(self) -> int:
        return len(self.row_names)

    def cell(self, row: int, column_key: str) -> Cell:
        view = self.view(row)
        if column_key == "name":
            return view.fqn
        if column_key == "verdict":
            return _verdict_cell(view)
        fault = _first(view)
        if column_key == "phase":
            done = [phase.phase for phase in view.phases]
            return fault.phase if fault else (done[-1] if done else "", "dim")
        if column_key == "ranks":
            if not view.phases:
                return ""
            last = view.phases[-1]
            return (f"{last.num_ranks}/{last.num_expected}", "dim")
        if column_key == "different":
            told = fault.num_wrong if fault else None
            return "" if told is None else format_count(told)
        return format_shape(fault.first_index) if fault and fault.first_index is not None else ""

    def sort_key(self, column_key: str) -> SortKeys | None:
        # The table keeps an order it has made: there is none before the rows are all there.
        if not self._is_final:
            return None
        views = [self.view(row) for row in range(self.num_rows)]
        if column_key == "name":
            return natural_keys(self.row_names)
        if column_key == "verdict":
            return [-severity(view.verdict) if view.verdict else 1 for view in views]
        if column_key == "different":
            return [sum(fault.num_wrong or 0 for fault in view.faults) for view in views]
        return None


def _first(view: TensorView) -> Fault | None:
    """The worst fault of an entry: the one to tell of in a line."""
    return max(view.faults, key=lambda fault: severity(fault.verdict), default=None)


def _verdict_cell(view: TensorView) -> Cell:
    if not view.verdict:
        return ("...", "dim")
    if view.is_bad:
        return (f"✗ {view.verdict}", "error")
    if severity(view.verdict) == 1:
        return ("not compared", "note")
    is_done = all(phase.is_complete for phase in view.phases)
    return (f"✓ {view.verdict}" if is_done else f"· {view.verdict}", "ok" if is_done else "dim")


class RankSource(TableSource):
    """Everybody in the first row, then each rank."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._ranks: tuple[RankProgress, ...] = ()

    def update(self, snapshot: Snapshot, ranks: tuple[RankProgress, ...]) -> bool:
        """Show another moment; whether there are more or fewer ranks than before."""
        is_other = self._snapshot is None or len(ranks) != len(self._ranks)
        self._snapshot, self._ranks = snapshot, ranks
        return is_other

    @property
    def num_rows(self) -> int:
        return 0 if self._snapshot is None else len(self._ranks) + 1

    @staticmethod
    def rank_of(row: int) -> int | None:
        """The rank of a row; None for everybody."""
        return row - 1 if row > 0 else None

    def cell(self, row: int, column_key: str) -> Cell:
        if row == 0 or self._snapshot is None:
            return self._everybody(column_key)
        rank, view = self._ranks[row - 1], self._snapshot.ranks[row - 1]
        style = state_style(rank.state)
        cells: dict[str, Cell] = {
            "rank": str(rank.rank),
            "state": (GLYPHS[rank.state], style),
            "phase": word(rank) if rank.state == "running" else (word(rank), style),
            "share": f"{int(rank.share * 100)}%",
            "bytes": format_bytes(rank.num_bytes),
            "rate": f"{format_bytes(rank.rate)}/s" if rank.rate >= 1 else "",
            "memory": "" if rank.memory is None else format_bytes(rank.memory),
            "gpu": "" if rank.gpu_memory is None else format_bytes(rank.gpu_memory),
            "device": view.device,
            "bad": (format_count(view.num_bad), "error") if view.num_bad else "",
            "host": view.host,
        }
        return cells[column_key]

    def _everybody(self, column_key: str) -> Cell:
        ranks = self._ranks
        if column_key == "rank":
            return ("all", "strong")
        if column_key == "bytes":
            return format_bytes(sum(rank.num_bytes for rank in ranks))
        if column_key == "rate":
            rate = sum(rank.rate for rank in ranks)
            return f"{format_bytes(rate)}/s" if rate >= 1 else ""
        if column_key == "memory":
            return format_bytes(sum(rank.memory or 0 for rank in ranks))
        if column_key == "share" and ranks:
            return f"{int(sum(rank.share for rank in ranks) / len(ranks) * 100)}%"
        return ""

    def row_style(self, row: int) -> str:
        return "dim" if row and self._ranks[row - 1].state == "waiting" else ""


def log_lines(moment: Moment, watched: int | str | None) -> Iterator[tuple[str, str, bool]]:
    """Who said it, the raw line, and whether it tells of an error; failures come last."""
    for line in moment.lines:
        who = "torchrun" if line.rank is None else f"r{line.rank}"
        yield (who if watched == ALL else "", line.text, False)
    for failure in moment.snapshot.failures:
        if watched not in (ALL, failure.rank):
            continue
        who = "job" if failure.rank is None else f"r{failure.rank}"
        yield who, f"✗ {failure.kind}: {failure.message}", True
        if watched != ALL or failure is moment.snapshot.failures[0]:
            for text in failure.stack.splitlines()[-200:]:
                yield who, f"    {text}", True
