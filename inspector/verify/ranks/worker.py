"""What torchrun runs: `torchrun --nproc-per-node N -m inspector.verify.ranks.worker SPEC`.

Every rank appends its events to `events_dir/rank-NNNNN.jsonl` (see `events.py`). `hop` is the
position in `JobSpec.then` of the mesh that is reloaded (absent: 0).

    hello      pid, host, device, torch, local_rank, world_size
    plan       tensors, entries, waves, bytes (of this rank's shards, by mesh); rank 0 also
               num_payloads, stored_dtypes (of tensors that the metadata gives another, by name) and
               left_out: [{why, count}], and tells the first 1,000 entries of each
               reason as `tensor` events of phase `load`, verdict NOT_VERIFIED, detail the reason
               (`asked`: the user left them out)
    torch_reads  rank 0: whether torch's own `read_metadata` reads it as we do. ok, tried (torch
               came to a word of its own), torch, error, unsafe; and what a second, plain reading
               found: num_payloads of what is verified, num_forgotten and forgotten (neither
               verified nor left out), second_reading (where it says otherwise; empty: nowhere)
    phase      phase: load | compare | replicas | save | reload | recheck; mesh, wave, num_waves,
               hop. One of phase `save` with `checked` (our check's verdict) ends each save
    progress   phase, hop, bytes_done, bytes_total, tensors_done, tensors_total over all waves
    tensor     in compare and recheck one for every entry, in replicas and save only what is wrong.
               verdict: EXACT, DIFFER, MISSING, DTYPE, SHAPE, FAILED, EMPTY (this rank holds none
               of it), NOT_VERIFIED. num_elements is this rank's, num_compared of them were
               compared, num_unwritten still held the fill pattern, no chunk holds num_uncovered.
               is_partial: num_different is a lower bound. entry: its position in the checkpoint
               (bytes entries after the tensors), as a very long name is cut. Also via, mesh, hop,
               bytes_read
    heartbeat  phase, rss_bytes, anon_bytes, peak_rss_bytes, io_bytes (read and written so far),
               cuda_bytes; once a second
    failed     kind, message, stack; is_echo if it only says that another rank is gone
    bye        bytes_read, payloads_checked, payloads_unsummed, payload_faults, stored_dtypes (how
               many, on rank 0), unpickled (bytes entries), verdicts by word,
               canaries (bytes changed on purpose and reported, by what reported them),
               peak_anon_bytes, peak_rss_bytes, elapsed_s. A rank without it did not finish,
               whatever its exit code

The exit code is 0 if the job ran to its end, whatever it found; 1 if this rank failed. SIGUSR1
writes the stacks of all threads to `events_dir/rank-NNNNN.stacks`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from inspector.checkpoint.safetensors.sets import OneSet
from inspector.verify.events import LONG_NAME
from inspector.verify.failures import describe_failure, reason
from inspector.verify.ranks.vitals import (
    Reporter,
    die_with_parent,
    keep_memory,
    memory,
    register_stacks,
)
from inspector.verify.spec import JobSpec

if TYPE_CHECKING:
    import torch

    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage.base import Storage
    from inspector.verify.ranks.roundtrip import RankJob
    from inspector.verify.ranks.torch_dcp import HfFolder
    from inspector.verify.ranks.witness.reading import Reading
    from inspector.verify.seams import Seams

__all__ = ["Opening", "main", "verify"]

_MAX_NAMED = 1000


class Opening(threading.Thread):
    """Rank 0 reads the metadata while the ranks join their group.

    Attributes:
        checkpoint: What is loaded.
        as_read: The same as the metadata says it, other dtypes than the stored ones included.
        stored_dtypes: Those dtypes that are not the metadata's, by name.
        error: Why there is none.
    """

    def __init__(self, path: str) -> None:
        super().__init__(name="metadata", daemon=True)
        self._path = path
        self.checkpoint: Checkpoint | None = None
        self.as_read: Checkpoint | None = None
        self.stored_dtypes: dict[str, str] = {}
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            from inspector.checkpoint import open_checkpoint
            from inspector.checkpoint.find.locate import folder_of
            from inspector.checks.payload.packed import with_stored_dtypes

            self.as_read = open_checkpoint(self._path)
            # A cached plan may have kept another dtype: torch loads the elements exactly into a
            # target of their own.
            self.checkpoint, self.stored_dtypes = with_stored_dtypes(
                self.as_read, folder_of(self._path)
            )
        except BaseException as error:
            self.error = error


def main(seams: Seams | None = None) -> NoReturn:
    """Run one rank of the job that the spec on the command line describes.

    Args:
        seams: What it passes on its way (default: nothing).
    """
    die_with_parent()
    spec = JobSpec.read(sys.argv[1])
    rank = int(os.environ.get("RANK", "0"))
    reporter = Reporter(spec.events_dir, rank, spec.run)
    register_stacks(spec.events_dir, rank)
    keep_memory()
    # Nothing that is imported is ever garbage, and looking through it takes 0.3 s.
    gc.disable()
    code = 0
    try:
        # lazy: torch, after the collector is off
        from inspector.verify.ranks.witness.reading import Reading

        # Its process is forked while this one has a single thread.
        reading = Reading(spec.path, spec.mesh, spec.imports) if rank == 0 else None
        opening = Opening(spec.path) if rank == 0 else None
        device = _begin(spec, rank, reporter)
        # lazy: torch is not there before
        from inspector.verify.ranks.group import with_memory

        spec = with_memory(spec, device)
        verify(spec, rank, device, reporter, opening, seams, reading)
    except BaseException as error:
        reporter.send("failed", **describe_failure(error), phase=reporter.name)
        _record(error)
        code = 1
    reporter.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter teardown under gloo sometimes aborts after everything went well.
    os._exit(code)


def _begin(spec: JobSpec, rank: int, reporter: Reporter) -> torch.device:
    """Import torch, join the process group, say hello."""
    begin = time.monotonic()
    import torch
    import torch.distributed as dist

    from inspector.verify.ranks.group import start

    for module in spec.imports:
        importlib.import_module(module)
    device = start(spec)
    reporter.send(
        "hello",
        pid=os.getpid(),
        host=socket.gethostname(),
        device=str(device),
        torch=torch.__version__,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        world_size=dist.get_world_size(),
        elapsed_s=round(time.monotonic() - begin, 3),
    )
    if device.type == "cuda":
        reporter.extra = lambda: {"cuda_bytes": torch.cuda.memory_allocated(device)}
    reporter.start()
    return device


def verify(
    spec: JobSpec,
    rank: int,
    device: torch.device,
    reporter: Reporter,
    opening: Opening | None,
    seams: Seams | None = None,
    reading: Reading | None = None,
) -> None:
    """This rank's part of a job, in a process group that is there, from `plan` to `bye`."""
    import torch.distributed as dist

    from inspector.checkpoint.find.locate import folder_of
    from inspector.verify.ranks.roundtrip import RankJob, run_waves
    from inspector.verify.ranks.stored import StoredReader
    from inspector.verify.ranks.targets import leave_compiler, make_grid
    from inspector.verify.ranks.torch_dcp import refuses
    from inspector.verify.ranks.witness.reading import safetensors_reads
    from inspector.verify.seams import Seams
    from inspector.verify.selection import make_waves, placed, select

    begin = time.monotonic()
    # What torch's modules hold need not be looked through between waves (half a second each).
    gc.freeze()
    gc.enable()
    leave_compiler()
    checkpoint = _share(opening)
    selection = select(checkpoint, spec, refuses)
    waves, too_large = make_waves(checkpoint, selection, spec)
    grids = [make_grid(mesh, rank, device, rules) for mesh, rules in placed(checkpoint, spec)]
    storage = folder_of(spec.path)
    reader = StoredReader(checkpoint, storage, unpacks=bool(spec.imports))
    hf, hf_error = _hf_folder(checkpoint, storage)
    job = RankJob(
        spec, checkpoint, storage, grids, reporter, seams or Seams(), reader, hf, hf_error
    )
    stored_dtypes = opening.stored_dtypes if opening is not None else {}
    left_out = [*selection.left_out, *too_large]
    _plan(job, waves, left_out, stored_dtypes)
    if reading is not None and opening is not None and opening.as_read is not None:
        names = {fqn for item in left_out for fqn in item.fqns}
        reading.begin(opening.as_read, _names(job, waves), names)
    run_waves(job, waves)
    dist.barrier()
    if rank == 0:
        with contextlib.suppress(OSError):
            # Empty by now. Where torchrun was started by hand, nobody else removes it.
            os.rmdir(spec.scratch_dir)
    reporter.progress(force=True)
    if reading is not None:
        told = reading.result()
        if hf is not None:
            told |= safetensors_reads(checkpoint, hf, hf_error)
        reporter.send("torch_reads", **told)
    now = memory()
    anon = max(reporter.peak_anon_bytes, now.get("anon_bytes", 0))
    reporter.send(
        "bye",
        bytes_read=reader.bytes_read,
        payloads_checked=reader.num_checked,
        payloads_unsummed=reader.num_unsummed,
        payload_faults=reader.num_corrupt,
        stored_dtypes=len(stored_dtypes),
        unpickled=job.num_unpickled,
        verdicts=job.verdicts,
        canaries=dict(job.canaries),
        peak_anon_bytes=anon,
        peak_rss_bytes=now.get("peak_rss_bytes", 0),
        elapsed_s=round(time.monotonic() - begin, 3),
    )


def _share(opening: Opening | None) -> Checkpoint:
    """The checkpoint that rank 0 read, on every rank; its error likewise."""
    import torch.distributed as dist

    told: list[Any] = [None, None]
    if opening is not None:
        opening.join()
        told = [opening.checkpoint, opening.error]
    dist.broadcast_object_list(told, src=0)
    checkpoint, error = told
    if error is not None:
        raise error
    result: Checkpoint = checkpoint
    return result


def _hf_folder(checkpoint: Checkpoint, storage: Storage) -> tuple[HfFolder | None, str]:
    """The reader's view of safetensors files, on every rank, or torch's error; nothing for DCP.

    Rank 0 has torch read the headers and hands on what it made of them.
    """
    import torch.distributed as dist

    from inspector.verify.ranks.torch_dcp import HfFolder

    folder = storage.local_path("")
    if checkpoint.stored is None or folder is None:
        return None, ""
    paths = frozenset(map(os.path.basename, checkpoint.stored.paths))
    hf = HfFolder(folder, paths if isinstance(storage, OneSet) else None)
    told: list[Any] = [None, ""]
    if dist.get_rank() == 0:
        try:
            hf.read()
            told = [hf.metadata, ""]
        except Exception as error:
            told = [None, reason(error)]
    dist.broadcast_object_list(told, src=0)
    hf.metadata = told[0]
    return hf, told[1]


def _plan(job: Any, waves: list[Any], left_out: list[Any], stored_dtypes: dict[str, str]) -> None:
    """Tell how much there is to do, and what is not verified."""
    reporter, columns = job.reporter, job.checkpoint.columns
    tensors = [columns.tensor(i) for wave in waves if wave.is_first for i in wave.tensors]
    parts = [t for wave in waves for t in wave.tensors_of(job.checkpoint)]
    entries = [job.checkpoint.bytes_entries[i] for wave in waves for i in wave.entries]
    num_entries = len({e.fqn for e in entries})
    # Of a tensor that comes in blocks of rows, each block counts.
    count = len(parts) + num_entries
    raw = sum(e.byte_length for e in entries)
    bytes_on = [raw + sum(map(grid.held_bytes, parts)) for grid in job.grids]
    for phase in ("load", "compare"):
        reporter.expect(phase, bytes_on[0], count)
    for hop in range(max(len(job.grids) - 1, 1)):
        # The first hop's are those after the load as well.
        reporter.expect("replicas", 0, count * (1 + (hop == 0 and len(job.grids) > 1)), hop)
    for hop in range(len(job.grids) - 1):
        reporter.expect("save", bytes_on[hop], count, hop)
        for phase in ("reload", "recheck"):
            reporter.expect(phase, bytes_on[hop + 1], count, hop)
    more: dict[str, Any] = {}
    if job.rank == 0:
        more["num_payloads"] = sum(int((t.file >= 0).sum()) for t in tensors) + sum(
            e.file >= 0 for e in entries
        )
        if stored_dtypes:
            more["stored_dtypes"] = dict(list(stored_dtypes.items())[:_MAX_NAMED])
        more["left_out"] = [
            {"why": x.why, "count": len(x.fqns), "asked": x.is_asked} for x in left_out
        ]
    more["memory_bytes"] = job.spec.memory_bytes
    reporter.send(
        "plan", tensors=len(tensors), entries=num_entries, waves=len(waves), bytes=bytes_on, **more
    )
    if job.rank == 0:
        told = enumerate(job.checkpoint.fqns)
        positions = {fqn: i for i, fqn in told if len(fqn) > LONG_NAME}
        for group in left_out:
            for fqn in group.fqns[:_MAX_NAMED]:
                more = {"entry": positions[fqn]} if fqn in positions else {}
                reporter.send(
                    "tensor",
                    phase="load",
                    fqn=fqn,
                    verdict="NOT_VERIFIED",
                    detail=group.why,
                    asked=group.is_asked,
                    **more,
                )


def _names(job: RankJob, waves: list[Any]) -> set[str]:
    columns, entries = job.checkpoint.columns, job.checkpoint.bytes_entries
    names = {columns.fqns[i] for wave in waves for i in wave.tensors}
    return names | {entries[i].fqn for wave in waves for i in wave.entries}


def _record(error: BaseException) -> None:
    """Write torchrun's error file, by which it names the first rank that failed."""
    try:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)
    except Exception:  # noqa: S110 - the event says it already
        pass


if __name__ == "__main__":
    main()
