"""One wave's loaded shards against what is stored, on one rank; and the events that tell it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.layout.rows import RowBlock
from inspector.verify.ranks.bits import DIFFERENT, Bytes, Local, Region, RegionTally
from inspector.verify.ranks.corrupt import Corrupt
from inspector.verify.ranks.stored import StoredReader
from inspector.verify.ranks.tasks import (
    ChunkTask,
    chunk_tasks,
    count_uncovered,
    entry_of,
    is_checker,
)
from inspector.verify.ranks.vitals import Reporter

if TYPE_CHECKING:
    from inspector.verify.ranks.targets import Targets
    from inspector.verify.seams import Seams

__all__ = ["RowLedger", "WaveComparison", "tell"]


def tell(
    reporter: Reporter, phase: str, targets: Targets, tally: RegionTally, via: str, **fields: Any
) -> None:
    """One `tensor` event."""
    more = {
        name: value
        for name in ("num_unwritten", "num_uncovered", "is_partial")
        if (value := getattr(tally, name))
    }
    if tally.entry >= 0:
        more["entry"] = tally.entry
    reporter.send(
        "tensor",
        phase=phase,
        fqn=tally.fqn,
        verdict=tally.verdict,
        num_elements=tally.num_elements,
        num_different=tally.num_different,
        first_index=None if tally.first_index is None else list(tally.first_index),
        expected=tally.expected,
        found=tally.found,
        file=tally.file,
        detail=tally.detail,
        num_compared=tally.num_compared,
        bytes_read=tally.bytes_read,
        via=via,
        mesh=str(targets.grid.mesh),
        **more,
        **fields,
    )


class RowLedger:
    """What the blocks of rows of one tensor came to so far; it is told once, at the last of them.

    `corrupt` are payloads found corrupt in blocks before, which reach into those that follow.
    """

    def __init__(self) -> None:
        self.corrupt: list[Corrupt] = []
        self._tallies: dict[tuple[str, int | None], tuple[int, RegionTally]] = {}

    def add(
        self, phase: str, hop: int | None, tally: RegionTally, rows: RowBlock
    ) -> RegionTally | None:
        """Take one block's tally; that of the whole tensor, if it was the last one."""
        count, whole = self._tallies.pop((phase, hop), (0, RegionTally(tally.fqn, 0)))
        whole.add(tally)
        if count + 1 == rows.count:
            return whole
        self._tallies[phase, hop] = count + 1, whole
        return None


class WaveComparison:
    """Compares what one rank holds of a wave.

    What is compared is told in the indices of the whole tensors, also where a wave is a block of
    rows of one.

    Attributes:
        locals: This rank's shards, by fqn.
        raw: Its bytes entries, by fqn.
        tallies: What came out, by fqn.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        reader: StoredReader,
        targets: Targets,
        tensors: dict[str, Tensor],
        entries: dict[str, list[BytesEntry]],
        positions: dict[str, int],
        reporter: Reporter,
        rows: RowBlock | None = None,
    ) -> None:
        self._rows = rows
        self.locals: dict[str, Local] = {}
        self.raw: dict[str, bytes] = {}
        self.tallies: dict[str, RegionTally] = {}
        self._checkpoint = checkpoint
        self._reader = reader
        self._targets = targets
        self._tensors = {f: t for f, t in tensors.items() if f in targets.state}
        self._entries = {f: e for f, e in entries.items() if f in targets.state}
        self._positions = positions
        self._reporter = reporter
        self._grid = targets.grid
        self._is_trial = False

    def hold(self, failures: dict[str, str], seams: Seams, phase: str) -> None:
        """Take the loaded shards as bytes; note what cannot be compared."""
        for fqn, tensor in self._tensors.items():
            offsets, sizes = self._box(tensor)
            tally = self.tallies[fqn] = RegionTally(
                fqn, math.prod(sizes), entry=self._positions[fqn]
            )
            if fqn in failures:
                tally.problem("FAILED", failures[fqn])
            try:
                loaded = tensor if self._rows is None else self._rows.of(tensor)
                local = replace(self._targets.local(loaded), offsets=offsets)
            except ValueError as error:
                tally.problem("SHAPE", str(error))
                continue
            except TypeError as error:
                tally.problem("DTYPE", str(error))
                continue
            seams.loaded(phase, fqn, local)
            self.locals[fqn] = local
            count_uncovered(tensor, local, tally)
        for fqn in self._entries:
            data = self._targets.local_bytes(fqn)
            tally = self.tallies[fqn] = RegionTally(
                fqn, len(data or b""), entry=self._positions[fqn]
            )
            if data is not None:
                self.raw[fqn] = data
            if data is None or fqn in failures:
                tally.problem("FAILED", failures.get(fqn, "dcp.load did not bring it"))

    def run(self, *, check_crc: bool) -> dict[str, RegionTally]:
        """Read every payload this rank has to, in the order of its bytes, and compare."""
        tasks: list[ChunkTask] = []
        last: dict[int, int] = {}
        for tensor in self._tensors.values():
            tasks += self._tasks(tensor, check_crc)
        tasks.sort()
        for i, task in enumerate(tasks):
            last[task.tensor] = i
        num_done = len(self._tensors) - len(last)
        self._reporter.advance(0, num_done)
        for i, task in enumerate(tasks):
            self._one(task)
            self._reporter.advance(0, int(last[task.tensor] == i))
        for fqn, entries in self._entries.items():
            self._entry(fqn, entries, check_crc)
        self._reporter.progress(force=True)
        return self.tallies

    def again(self, fqn: str) -> RegionTally:
        """Compare one entry once more."""
        old = self.tallies[fqn]
        held = self.locals[fqn].num_elements if fqn in self.locals else old.num_elements
        tally = self.tallies[fqn] = RegionTally(fqn, held, entry=old.entry)
        if fqn in self._tensors:
            if fqn in self.locals:
                count_uncovered(self._tensors[fqn], self.locals[fqn], tally)
            for task in sorted(self._tasks(self._tensors[fqn], check_crc=False)):
                self._one(task)
        else:
            self._entry(fqn, self._entries[fqn], check_crc=False)
        self.tallies[fqn] = old
        return tally

    def against(self, fqn: str, data: Bytes) -> RegionTally:
        """Compare other bytes than this rank holds of an entry, as its own are compared.

        Of a tensor they may be those of the first rows (`Local.head`).
        """
        held = self.locals.get(fqn)
        raw = self.raw.get(fqn)
        self._is_trial = True
        try:
            if held is not None:
                self.locals[fqn] = replace(held.head(len(data)), data=data)
            else:
                self.raw[fqn] = data.tobytes()
            return self.again(fqn)
        finally:
            self._is_trial = False
            if held is not None:
                self.locals[fqn] = held
            elif raw is not None:
                self.raw[fqn] = raw

    def attribute(self, corrupt: list[Corrupt], mine: list[Corrupt]) -> None:
        """Note corrupt payloads, whoever found them, where this rank holds what is in them."""
        for found in corrupt:
            tally = self.tallies.get(found.fqn)
            if tally is None or not (self._holds(found) or (found in mine and 0 in found.sizes)):
                continue
            tally.problem("DIFFER", found.text, found.file)
            if found.index is None:
                tally.is_partial = True
                tally.file = tally.file or found.file
            else:
                tally.num_different += self._is_fresh(found.fqn, found.index)
                tally.differ(found.index, found.expected, found.found, found.file)

    def _is_fresh(self, fqn: str, index: tuple[int, ...]) -> bool:
        """Whether an element was not counted as different yet; from now on it is.

        It can have been only where chunks overlap: there several payloads hold it.
        """
        marks = self.tallies[fqn].marks
        if marks is None:
            return True
        local = self.locals[fqn]
        inside = [i - first for i, first in zip(index, local.offsets, strict=True)]
        place = np.ravel_multi_index(inside, local.sizes) if inside else 0
        is_fresh = not marks[place] & DIFFERENT
        marks[place] |= DIFFERENT
        return is_fresh

    def _holds(self, found: Corrupt) -> bool:
        tensor = self._tensors.get(found.fqn)
        if tensor is None:
            return True
        offsets, sizes = self._box(tensor)
        ends = [o + n for o, n in zip(offsets, sizes, strict=True)]
        low, extent = found.offsets, found.sizes
        if found.index is not None:
            low, extent = found.index, (1,) * len(found.index)
        return all(
            max(a, b) < min(a + n, e) for a, n, b, e in zip(low, extent, offsets, ends, strict=True)
        )

    def _tasks(self, tensor: Tensor, check_crc: bool) -> list[ChunkTask]:
        grid, local = self._grid, self.locals.get(tensor.fqn)
        box = self._box(tensor) if local is None else (local.offsets, local.sizes)
        return chunk_tasks(
            self._checkpoint,
            tensor,
            grid.mesh,
            grid.rank,
            box,
            check_crc=check_crc,
            rows=self._rows,
            lies=None if grid.rules is None else grid.lies(tensor),
        )

    def _box(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What this rank holds of a tensor: of the rows that are loaded, its part."""
        if self._rows is None:
            return self._grid.box(tensor)
        (first, *rest), sizes = self._grid.box(self._rows.of(tensor))
        return (self._rows.first + first, *rest), sizes

    def _one(self, task: ChunkTask) -> None:
        fqn = self._checkpoint.columns.fqns[task.tensor]
        tally, local = self.tallies[fqn], self.locals.get(fqn)
        region = None
        if task.is_needed and local is not None:
            path = self._checkpoint.files[task.file].path
            region = Region(local, task.offsets, task.sizes, tally, path)
        self._reader.chunk(self._tensors[fqn], task.chunk, tally, region, task.is_checker)
        if region is not None and not self._is_trial:
            self._reporter.advance(region.num_bytes)

    def _entry(self, fqn: str, entries: list[BytesEntry], check_crc: bool) -> None:
        tally = self.tallies[fqn]
        world, rank = self._grid.mesh.world_size, self._grid.rank
        loaded = entry_of(entries, rank)
        for number, entry in enumerate(entries):
            checks = check_crc and is_checker(fqn, number, world, rank)
            data = self.raw.get(fqn) if entry is loaded else None
            if entry.file >= 0 and (checks or data is not None):
                self._reader.entry(entry, tally, data, checks)
        if not self._is_trial:
            self._reporter.advance(len(self.raw.get(fqn, b"")), 1)
