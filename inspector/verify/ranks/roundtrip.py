"""The job of one rank: load -> compare -> replicas -> save -> reload -> compare, wave by wave.

Only what torchrun runs imports this module. A wave is as many entries as fit in a rank's memory;
it goes the whole way before the next one is loaded, so that memory and scratch space are those of
one wave: each wave is saved as a checkpoint of its own, `SCRATCH/wave-00000/0-fsdp_4`, reloaded
from there, and removed. Only what is EXACT on every rank goes on to the save leg.

Every rank takes the same way through this module: what one rank finds is told to the others
before it changes what comes next, or they would wait for each other for ever.
"""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as _dcp
from torch.distributed.checkpoint.api import CheckpointException

from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.payload.tensor import PackedTensor
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.checks.payload.packed import packed_in
from inspector.verify.failures import is_out_of_memory, reason, unreachable
from inspector.verify.ranks.bits import RegionTally
from inspector.verify.ranks.group import disagreeing
from inspector.verify.ranks.saving import save
from inspector.verify.ranks.stored import StoredReader
from inspector.verify.ranks.targets import GhostTargets, Grid, Targets
from inspector.verify.ranks.tasks import entry_of
from inspector.verify.ranks.torch_dcp import (
    HfFolder,
    LoadPlanner,
    make_reader,
    torch_metadata,
    unpickle,
    why_unsafe,
)
from inspector.verify.ranks.vitals import Reporter
from inspector.verify.ranks.wave import RowLedger, WaveComparison, tell
from inspector.verify.ranks.witness.canary import (
    CopyCanaries,
    SavedCanary,
    require_scratch,
    try_checksums,
    try_comparison,
)
from inspector.verify.seams import Seams
from inspector.verify.selection import Wave
from inspector.verify.spec import JobSpec

__all__ = ["RankJob", "run_waves"]

# Its stubs do not export what it exports.
dcp: Any = _dcp


@dataclass
class RankJob:
    """What all phases of one rank share.

    `hf` is there for safetensors, `hf_error` if torch cannot read their headers: then nothing of
    the folder can be loaded, whatever is asked for.
    """

    spec: JobSpec
    checkpoint: Checkpoint
    storage: Storage
    grids: list[Grid]
    reporter: Reporter
    seams: Seams
    reader: StoredReader
    hf: HfFolder | None = None
    hf_error: str = ""
    broken_saves: int = 0
    num_unpickled: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    #: Bytes changed on purpose that were reported, by what reported them (`witness.canary`).
    canaries: Counter[str] = field(default_factory=Counter)

    @property
    def rank(self) -> int:
        return self.grids[0].rank


def run_waves(job: RankJob, waves: list[Wave]) -> None:
    """Verify every wave, and tell what came out."""
    ledger = RowLedger()
    for number, wave in enumerate(waves):
        if wave.is_first:
            ledger = RowLedger()
        _Wave(job, wave, number, len(waves), ledger).run()
        gc.collect()


class _Wave:
    """One wave on its way."""

    def __init__(
        self, job: RankJob, wave: Wave, number: int, num_waves: int, ledger: RowLedger
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._number, self._num_waves = number, num_waves
        columns = job.checkpoint.columns
        self._rows = wave.rows
        self._tensors: dict[str, Tensor] = {}
        for index in wave.tensors:
            self._tensors[columns.fqns[index]] = columns.tensor(index)
        #: What is loaded and saved of them.
        self._parts = {tensor.fqn: tensor for tensor in wave.tensors_of(job.checkpoint)}
        self._entries: dict[str, list[BytesEntry]] = {}
        for index in wave.entries:
            entry = job.checkpoint.bytes_entries[index]
            self._entries.setdefault(entry.fqn, []).append(entry)
        self._positions = {columns.fqns[i]: i for i in wave.tensors}
        for index in reversed(wave.entries):
            fqn = job.checkpoint.bytes_entries[index].fqn
            self._positions[fqn] = job.checkpoint.num_tensors + index
        self._variants = {fqn for fqn, entries in self._entries.items() if len(entries) > 1}
        #: Names of the canaries, which are no part of the progress.
        self._uncounted: frozenset[str] = frozenset()

    def run(self) -> None:
        job = self._job
        self._phase("load", job.grids[0])
        targets = self._targets(job.grids[0])
        failures = self._load(targets, job.checkpoint.path, is_original=True)
        self._leave_packed(targets, failures)
        self._unpickle(targets, failures)
        bad = self._compare("compare", targets, failures, check_crc=True)
        if len(job.grids) > 1:
            bad |= self._leave_variants()
        for hop, grid in enumerate(job.grids[1:]):
            targets.drop(bad)
            if not targets.state or job.broken_saves:
                return
            name = f"{hop}-{str(targets.grid.mesh).replace(':', '_')}"
            folder = Path(job.spec.scratch_dir, f"wave-{self._number:05}", name)
            self._phase("save", targets.grid, hop=hop, folder=str(folder))
            names = set(targets.state)
            canary = SavedCanary(targets, names, 31 * self._number + hop)
            self._uncounted = canary.names
            tensors = {**self._parts, canary.tensor.fqn: canary.tensor}
            if not save(job.reporter, job.seams, targets, folder, hop, tensors, names, self._rows):
                job.broken_saves += 1
                self._remove(folder)
                return
            canary.forget(targets)
            # The shards of one mesh at a time.
            del targets
            gc.collect()
            self._phase("reload", grid, hop=hop)
            targets = self._targets(grid, names)
            canary.add(targets)
            failures = self._load(targets, str(folder), is_original=False)
            self._remove(folder)
            bad = self._compare(
                "recheck", targets, failures, check_crc=False, hop=hop, canary=canary
            )

    def _remove(self, folder: Path) -> None:
        """Remove what was saved, once no rank needs it. What a failing rank leaves, others do."""
        dist.barrier()
        if self._job.rank == 0:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _leave_packed(self, targets: Targets, failures: dict[str, str]) -> None:
        """What did not load for want of its class is not compared: that is no difference."""
        job = self._job
        mine = {f: w for f, w in failures.items() if f in self._tensors}
        failed = {fqn: why for told in _everyones(mine) for fqn, why in told.items()}
        if not failed:
            return
        left: list[Any] = [{}]
        if job.rank == 0:
            for fqn, why in failed.items():
                packed = packed_in(job.checkpoint, job.storage, fqn)
                if packed is not None:
                    left[0][fqn] = _want_of(packed, why, job.spec.imports)
        dist.broadcast_object_list(left, src=0)
        targets.drop(set(left[0]))
        for fqn, why in left[0].items():
            failures.pop(fqn, None)
            if job.rank == 0:
                self._not_verified("load", fqn, why)

    def _not_verified(self, phase: str, fqn: str, why: str) -> None:
        fields = {"fqn": fqn, "entry": self._positions[fqn]}
        self._job.reporter.send("tensor", phase=phase, verdict="NOT_VERIFIED", detail=why, **fields)

    def _unpickle(self, targets: Targets, failures: dict[str, str]) -> None:
        """Load every bytes entry as torch would, on every rank, if the job is to.

        They are compared all the same. One that names code is not verified in either case:
        `dcp.load` would run it.
        """
        job = self._job
        unread: dict[str, str] = {}
        for fqn in self._entries:
            data = targets.local_bytes(fqn) if fqn in targets.state else None
            if data is None:
                continue
            if not job.spec.unpickle:
                verdict, why = "NOT_VERIFIED", why_unsafe(data)
            else:
                verdict, why = unpickle(data)
                job.num_unpickled += verdict == "EXACT"
            if verdict == "FAILED":
                failures.setdefault(fqn, why)
            elif why:
                unread[fqn] = why
        everyone = _everyones(unread)
        if job.rank == 0:
            for fqn, why in {f: w for told in everyone for f, w in told.items()}.items():
                self._not_verified("load", fqn, why)

    def _leave_variants(self) -> set[str]:
        """Per-rank metadata may hold a value for each rank; a joint save keeps one of them."""
        if self._job.rank == 0:
            for fqn in sorted(self._variants):
                why = "loaded and compared; each rank had its own, so it was not saved again"
                self._not_verified("save", fqn, why)
        return self._variants

    def _phase(self, name: str, grid: Grid, **fields: Any) -> None:
        self._job.reporter.phase(
            name, mesh=str(grid.mesh), wave=self._number, num_waves=self._num_waves, **fields
        )
        self._job.seams.enter(name)

    # --- load

    def _targets(self, grid: Grid, names: set[str] | None = None) -> Targets:
        via = self._job.spec.via
        targets = Targets(grid) if via == "dtensor" else GhostTargets(grid, via)
        for fqn, tensor in self._parts.items():
            if names is None or fqn in names:
                targets.add(tensor)
        for fqn, entries in self._entries.items():
            if names is None or fqn in names:
                targets.add_bytes(entries[0])
        targets.build()
        return targets

    def _load(self, targets: Targets, path: str, *, is_original: bool) -> dict[str, str]:
        """`dcp.load`; what failed, by fqn. Whatever can be loaded is."""
        failures: dict[str, str] = {}
        self._load_some(targets, path, is_original, list(targets.state), failures)
        targets.loaded()
        self._job.reporter.progress(force=True)
        return failures

    def _load_some(
        self,
        targets: Targets,
        path: str,
        is_original: bool,
        names: list[str],
        failures: dict[str, str],
    ) -> None:
        job = self._job
        metadata = None
        reader: Any = None
        if is_original and job.hf is not None:
            if job.hf_error:
                failures.update(dict.fromkeys(names, f"dcp.load raises {job.hf_error}"))
                return
            reader = job.hf.reader(None if self._rows is None else (names[0], self._rows))
        elif is_original:
            tensors = [self._parts[n] for n in names if n in self._parts]
            entries = [entry_of(self._entries[n], job.rank) for n in names if n in self._entries]
            metadata = torch_metadata(job.checkpoint, tensors, entries)
        planner = LoadPlanner(
            lambda n: job.reporter.advance(n),
            job.seams.load_plan("load" if is_original else "reload"),
            self._uncounted,
        )
        state = {name: targets.state[name] for name in names}
        try:
            reader = reader or make_reader(path, metadata, job.storage)
            if not is_original:
                require_scratch(reader, job.spec.scratch_dir)
            dcp.load(state, storage_reader=reader, planner=planner)
        except BaseException as error:
            # CheckpointException is no Exception; every rank gets it, so all take this way.
            if not isinstance(error, CheckpointException) or is_out_of_memory(error):
                raise
            if (unheard := unreachable(error)) is not None:
                raise unheard from None  # Every rank: nothing is known of any entry.
            if len(names) == 1:
                failures[names[0]] = f"dcp.load raises {reason(error)}"
                return
            half = len(names) // 2
            for part in (names[:half], names[half:]):
                self._load_some(targets, path, is_original, part, failures)
            return
        for fqn, data in planner.raw.items():
            targets.state[fqn].data = data
        for fqn, failure in planner.failures.items():
            failures[fqn] = f"dcp.load raises {reason(failure)}"
        job.reporter.advance(0, len(set(names) - self._uncounted))

    # --- compare

    def _compare(
        self,
        phase: str,
        targets: Targets,
        failures: dict[str, str],
        *,
        check_crc: bool,
        hop: int | None = None,
        canary: SavedCanary | None = None,
    ) -> set[str]:
        """Compare with what is stored, then among replicas; the entries that are not EXACT."""
        job = self._job
        fields = {} if hop is None else {"hop": hop}
        self._phase(phase, targets.grid, **fields)
        if canary is not None:
            job.canaries["reload"] += canary.try_reload(targets)
        comparison = WaveComparison(
            job.checkpoint,
            job.reader,
            targets,
            self._tensors,
            self._entries,
            self._positions,
            job.reporter,
            self._rows,
        )
        comparison.hold(failures, job.seams, phase)
        tallies = comparison.run(check_crc=check_crc)
        job.canaries[phase] += try_comparison(comparison, phase)
        if check_crc:
            job.canaries["checksums"] += try_checksums(job.reader)
        job.reader.close()
        corrupt = [c for of_rank in _everyones(job.reader.corrupt) for c in of_rank]
        comparison.attribute([*corrupt, *self._ledger.corrupt], job.reader.corrupt)
        if self._rows is not None:
            self._ledger.corrupt += corrupt
        job.reader.corrupt = []
        for fqn, tally in tallies.items():
            whole: RegionTally | None = tally
            if self._rows is not None:
                whole = self._ledger.add(phase, hop, tally, self._rows)
            if whole is not None:
                tell(job.reporter, phase, targets, whole, targets.via[fqn], **fields)
                job.verdicts[whole.verdict] = job.verdicts.get(whole.verdict, 0) + 1
        bad = {f for f, t in tallies.items() if t.verdict not in ("EXACT", "EMPTY")}
        for fqn, local in comparison.locals.items():
            job.seams.compared(phase, fqn, local)
        torn, deviating = self._replicas(comparison, targets, fields)
        everyone = _everyones((bad, torn, deviating))
        torn = set().union(*(t for _, t, _ in everyone))
        unexplained = torn - set().union(*(d for _, _, d in everyone))
        if job.rank == 0:
            for fqn in sorted(unexplained):
                tally = RegionTally(fqn, 0, entry=self._positions[fqn])
                what = "its replicas disagree, though each equals what is stored"
                tally.problem("FAILED", what)
                tell(job.reporter, "replicas", targets, tally, targets.via[fqn], **fields)
        return set().union(*(b for b, _, _ in everyone)) | torn

    def _replicas(
        self, comparison: WaveComparison, targets: Targets, fields: dict[str, Any]
    ) -> tuple[set[str], set[str]]:
        """Entries whose replicas disagree; those of them that this rank holds wrongly."""
        job = self._job
        self._phase("replicas", targets.grid, **fields)
        canaries = CopyCanaries(targets.grid)
        watched = Targets(targets.grid, targets.state | canaries.state)
        raw = comparison.raw | canaries.raw
        torn = disagreeing(watched, comparison.locals, raw, self._variants)
        job.canaries["replicas"] += canaries.take(torn)
        deviating = set()
        for fqn in sorted(torn):
            tally = comparison.again(fqn)
            if tally.verdict in ("EXACT", "EMPTY"):
                tally.problems.append((tally.verdict, "another replica differs from this one"))
            else:
                tally.problem("DIFFER", "the replicas disagree, and this one is not as stored")
                deviating.add(fqn)
            tell(job.reporter, "replicas", targets, tally, targets.via[fqn], **fields)
        job.reporter.advance(0, len(targets.state))
        job.reporter.progress(force=True)
        return torn, deviating


def _everyones(mine: Any) -> list[Any]:
    """What each rank has here, by rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def _want_of(packed: PackedTensor, why: str, imports: tuple[str, ...]) -> str:
    """Why a packed tensor was not compared."""
    package = printable(packed.package, 60)
    what = f"a tensor of the class {printable(packed.kind, 120)}"
    if packed.package in {name.partition(".")[0] for name in imports}:
        return f"{what}, which does not load into a plain tensor ({printable(why, 200)})"
    return f"{what}, which loads only where {package} is imported (--import {package})"
