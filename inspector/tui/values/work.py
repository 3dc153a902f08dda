"""What the values pane reads, as functions for a `Reader`; and what is known so far, `Known`.

No widget. Every function may raise `InspectError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.model import Tensor
from inspector.checkpoint.payload.array import numpy_dtype, read_chunk
from inspector.checkpoint.payload.source import MissingPackageError
from inspector.checkpoint.payload.sweep import PayloadProgress
from inspector.checkpoint.text import printable
from inspector.checkpoint.workers import BytesProgress
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Stop
from inspector.tui.kit.cell_text import error_line
from inspector.tui.session import Loaded
from inspector.tui.values.number_sheet import GAP, HELD, UNREADABLE, Cells, chunk_ids
from inspector.values.ranking import Ranked, rank
from inspector.values.slices import Heat, Plane, heat, plane_of, window
from inspector.values.stats import NotRead, StatsReport, TensorStats, collect_stats

if TYPE_CHECKING:
    from inspector.tui.screens.dialogs import SaveChoice

__all__ = [
    "Known",
    "SliceBox",
    "Trials",
    "WholeRun",
    "is_remote",
    "read_cells",
    "read_heat",
    "read_stats",
    "save_array",
    "slice_box",
    "why_no_numbers",
]

# A large checkpoint is read in so many parts, so that what was found shows early.
_PART_BYTES, _PARTS = 1 << 30, 32
# Beyond this the order is worked out once, at the end.
_MANY_TENSORS = 5000

Tell = Callable[[PayloadProgress], object]


def is_remote(loaded: Loaded) -> bool:
    """Whether its bytes come over a network."""
    return loaded.storage.local_path("") is None


def why_no_numbers(tensor: Tensor) -> str:
    """Why no number of a tensor can be shown, printable; empty if they can."""
    if 0 in tensor.shape:
        return "The tensor has no elements: one of its dims is 0."
    if not tensor.num_chunks or not (tensor.file >= 0).any():
        return "No chunk of it is stored: there is nothing to read."
    try:
        numpy_dtype(tensor.dtype)
    except InspectError as error:
        return error_line(error)
    return ""


class Trials:
    """Which chunks of a tensor cannot be read; each is tried once, by its ends."""

    def __init__(self, loaded: Loaded, tensor: Tensor) -> None:
        self.tensor = tensor
        self._where = loaded.checkpoint, loaded.storage, tensor
        self._problems: dict[int, str] = {}

    def without_bad(self, chunks: Sequence[int], stop: Stop) -> tuple[Tensor, str]:
        """The tensor as if these of its chunks were stored nowhere, if they cannot be read.

        Returns:
            The tensor, and why the first of them cannot be read, printable; empty if all can.
        """
        for chunk in chunks:
            if chunk not in self._problems:
                if stop():
                    raise Cancelled("it was stopped")
                self._problems[chunk] = self._try(chunk)
        bad = [chunk for chunk in chunks if self._problems[chunk]]
        if not bad:
            return self.tensor, ""
        file = self.tensor.file.copy()
        file[bad] = -1
        return replace(self.tensor, file=file), self._problems[bad[0]]

    def _try(self, chunk: int) -> str:
        if self.tensor.file[chunk] < 0:
            return ""
        sizes = self.tensor.sizes[chunk].tolist()
        try:
            read_chunk(*self._where, chunk, tuple(slice(0, 1) for _ in sizes))
            read_chunk(*self._where, chunk, tuple(slice(n - 1, n) for n in sizes))
        except Cancelled:
            raise
        except InspectError as error:
            return printable(error.message, 300)
        return ""


def read_cells(
    loaded: Loaded,
    trials: Trials,
    dims: tuple[int, int] | None,
    leading: Sequence[int],
    rows: range,
    columns: range,
    stop: Stop,
) -> Cells:
    """A rectangle of the numbers. Those of chunks that cannot be read are marked."""
    tensor = trials.tensor
    where = loaded.checkpoint, loaded.storage
    try:
        found = window(*where, tensor, leading, rows, columns, dims=dims)
    except (Cancelled, MissingPackageError):
        raise
    except InspectError as error:
        if stop():
            raise Cancelled("it was stopped") from error
        problem = printable(error.message, 300)
    else:
        return Cells(found.values, np.where(found.held, HELD, GAP).astype(np.int8))
    ids = chunk_ids(tensor, plane_of(tensor.shape, dims), leading, rows, columns)
    state = np.where(ids < 0, GAP, UNREADABLE).astype(np.int8)
    rest, why = trials.without_bad(np.unique(ids[ids >= 0]).tolist(), stop)
    try:
        found = window(*where, rest, leading, rows, columns, dims=dims)
    except Cancelled:
        raise
    except InspectError:
        return Cells(np.zeros(ids.shape, numpy_dtype(tensor.dtype)), state, problem)
    state[found.held] = HELD
    return Cells(found.values, state, why or problem)


def read_heat(
    loaded: Loaded,
    trials: Trials,
    dims: tuple[int, int] | None,
    leading: Sequence[int],
    size: tuple[int, int],
    stop: Stop,
) -> Heat:
    """A plane in at most `size` parts; chunks that cannot be read are gaps in it."""
    where = loaded.checkpoint, loaded.storage
    try:
        return heat(*where, trials.tensor, leading, *size, dims=dims, stop=stop)
    except (Cancelled, MissingPackageError):
        raise
    except InspectError:
        tensor = trials.tensor
        plane = plane_of(tensor.shape, dims)
        box = plane.box(leading, range(plane.rows), range(plane.columns))
        low = np.array([s.start for s in box], np.int64)
        high = np.array([s.stop for s in box], np.int64)
        inside = (tensor.offsets < high) & (tensor.offsets + tensor.sizes > low)
        rest, _ = trials.without_bad(np.flatnonzero(inside.all(axis=1)).tolist(), stop)
        if rest is tensor or not (rest.file >= 0).any():
            raise
        return heat(*where, rest, leading, *size, dims=dims, stop=stop)


def read_stats(loaded: Loaded, tensor: Tensor, tell: Tell, stop: Stop) -> StatsReport:
    """One tensor, summed up; of what was read, if it is told to stop."""

    def progress(progress: PayloadProgress) -> bool:
        tell(progress)
        return stop()

    return collect_stats(loaded.checkpoint, loaded.storage, [tensor.index], progress=progress)


@dataclass(frozen=True, slots=True)
class SliceBox:
    """The slice that is shown, as a box of the tensor.

    Attributes:
        offsets, sizes: The box.
        shape: Of the array: without the dims that stand at one index.
        text: As numpy would write it, such as `[2, :, :]`.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    text: str


def slice_box(plane: Plane, leading: Sequence[int]) -> SliceBox:
    """The slice of a plane at a leading index; its dims in the tensor's own order."""
    box = plane.box(leading, range(plane.rows), range(plane.columns))
    shown = (plane.row_dim, plane.column_dim)
    return SliceBox(
        tuple(s.start for s in box),
        tuple(s.stop - s.start for s in box),
        tuple(s.stop - s.start for d, s in enumerate(box) if d in shown),
        "[" + ", ".join(":" if d in shown else str(s.start) for d, s in enumerate(box)) + "]",
    )


def save_array(
    loaded: Loaded,
    tensor: Tensor,
    choice: SaveChoice,
    box: SliceBox,
    tell: Callable[[int, int], object],
    stop: Stop,
) -> str:
    """Write a tensor, or the slice of it that is shown, as `.npy`; what was done, in words."""
    from inspector.export.run import export  # lazy: the first frame does without
    from inspector.export.selection import ExportRequest, select  # lazy: as above
    from inspector.export.slices import write_slice  # lazy: as above
    from inspector.export.target import refuse_target  # lazy: as above

    def told(done: int, total: int) -> bool:
        tell(done, total)
        return stop()

    checkpoint, storage = loaded.checkpoint, loaded.storage
    path = os.path.expanduser(choice.path)
    refuse_target(storage, checkpoint.path, path, is_folder=False, overwrite=False)
    dtype = "float32" if choice.as_float32 else None
    if choice.is_slice:
        where = box.offsets, box.sizes
        write_slice(checkpoint, storage, tensor, where, box.shape, path, dtype=dtype, progress=told)
        return f"Written: {printable(path)}"
    request = ExportRequest("npy", fqn=tensor.fqn, dtype="f32" if choice.as_float32 else None)
    selection = select(checkpoint, storage, request)
    report = export(
        checkpoint,
        storage,
        selection,
        path,
        progress=lambda progress: told(progress.bytes_done, progress.bytes_total),
    )
    if report.verdict != "written":
        raise InspectError(f"Not written: {report.left_out[0].why}")
    return f"Written: {printable(path)}"


@dataclass(slots=True, eq=False)
class Known:
    """What was read of a checkpoint so far, so that nothing is read twice.

    Attributes:
        stats: By tensor; of wholly read tensors.
        not_read: What could not be read, likewise.
        ranked: By tensor, from a run over the whole checkpoint.
    """

    stats: dict[int, TensorStats] = field(default_factory=dict)
    not_read: dict[int, NotRead] = field(default_factory=dict)
    ranked: dict[int, Ranked] = field(default_factory=dict)

    def add(self, report: StatsReport) -> None:
        """Keep what was read; of a run that was stopped, only what is whole."""
        self.stats.update((s.index, s) for s in report.tensors)
        self.not_read.update((n.index, n) for n in report.not_read)
        if report.is_cancelled:
            for item in report.not_read:
                self.stats.pop(item.index, None)
                del self.not_read[item.index]

    def add_run(self, run: WholeRun) -> None:
        """Keep what a run over the whole checkpoint found."""
        self.not_read.update((n.index, n) for n in run.not_read)
        for item in run.ranked:
            stats = item.stats
            if stats.num_read == stats.num_elements or stats.index in self.not_read:
                self.stats[stats.index] = stats
                self.ranked[stats.index] = item

    def clear(self) -> None:
        """It is another checkpoint."""
        self.stats.clear()
        self.not_read.clear()
        self.ranked.clear()


class WholeRun:
    """Statistics of every tensor, read in parts; asked now and then, stopped at any time.

    Args:
        loaded: The checkpoint.
        tell: Called in the thread when there is more to show.
    """

    def __init__(self, loaded: Loaded, tell: Callable[[WholeRun], object]) -> None:
        self.loaded = loaded
        self.progress = BytesProgress(0, loaded.checkpoint.tensor_bytes)
        #: What was read so far; each part is a new tuple.
        self.ranked: tuple[Ranked, ...] = ()
        self.not_read: tuple[NotRead, ...] = ()
        self.is_whole = False
        self._tell = tell

    def read(self, stop: Stop) -> WholeRun:
        """Read everything; blocks. Returns itself, also when it was stopped."""
        checkpoint = self.loaded.checkpoint
        stats: list[TensorStats] = []
        before = 0
        for part in self._parts():
            part_bytes = sum(checkpoint.columns.num_bytes[i] for i in part)

            def progress(
                progress: PayloadProgress, before: int = before, part_bytes: int = part_bytes
            ) -> bool:
                share = progress.bytes_done / max(progress.bytes_total, 1)
                done = before + int(part_bytes * share)
                self.progress = replace(self.progress, bytes_done=done)
                return stop()

            report = collect_stats(checkpoint, self.loaded.storage, part, progress=progress)
            before += part_bytes
            stats += report.tensors
            self.not_read += tuple(
                n for n in report.not_read if not report.is_cancelled or n.why != "it was stopped"
            )
            if report.is_cancelled:
                break
            if len(stats) <= _MANY_TENSORS:
                self.ranked = tuple(rank(stats))
                self._tell(self)
        else:
            self.is_whole = True
        self.ranked = tuple(rank(stats))
        return self

    def _parts(self) -> list[list[int]]:
        """All tensors, in parts of some size."""
        sizes = self.loaded.checkpoint.columns.num_bytes
        most = max(_PART_BYTES, self.progress.bytes_total // _PARTS)
        parts: list[list[int]] = [[]]
        room = most
        for index in self.loaded.checkpoint.tensor_order.tolist():
            if room < 0:
                parts.append([])
                room = most
            parts[-1].append(index)
            room -= sizes[index]
        return parts
