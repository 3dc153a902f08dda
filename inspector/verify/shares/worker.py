"""What torchrun runs: `torchrun --nproc-per-node N -m inspector.verify.shares.worker SPEC`.

A rank reads its share (`ShareTask`), and needs neither torch nor the other ranks for
it: RANK and WORLD_SIZE of its environment are all that it takes of torchrun. What it found is in
`events_dir/rank-NNNNN.share` (`portion`), a line for each portion of its share, with `run`, `rank`
and `state` (`division.state_of`) in each; how far it is in `events_dir/rank-NNNNN.jsonl`:

    hello      pid, host, device, local_rank, world_size
    phase      phase: read
    progress   phase, bytes_done, bytes_total; tensors_done and tensors_total count what is read
    finding    code, severity, fqn, file, message; the first 1,000
    heartbeat  as in `ranks.worker`
    failed     kind, message, stack
    bye        bytes_read, payloads_read (of a seal: tensors and bytes entries), elapsed_s

SIGTERM has it write down what it found so far, and end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import plan_payloads
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.workers import BytesProgress
from inspector.checks.findings import Finding
from inspector.checks.payload.payloads import read_places
from inspector.errors import InspectError, UsageError
from inspector.values.fingerprint import fingerprints
from inspector.values.stats import collect_stats, wanted_tensors
from inspector.verify.events import READ
from inspector.verify.failures import describe_failure
from inspector.verify.ranks.vitals import Reporter, die_with_parent, register_stacks
from inspector.verify.shares.digests import (
    encode_digests,
    encode_figures,
    sealed_items,
    tensor_sizes,
)
from inspector.verify.shares.division import cut, parts, state_of, unit_firsts
from inspector.verify.shares.portion import PortionFile, encode_portion
from inspector.verify.spec import ReadSpec, read_spec

__all__ = ["main", "read_share", "read_share_of"]


@dataclass(frozen=True, slots=True)
class Portion:
    """What a portion told.

    Attributes:
        told: As JSON.
        num_bytes, num_items: What was read of it.
        findings: Errors in it.
    """

    told: dict[str, Any]
    num_bytes: int
    num_items: int
    findings: tuple[Finding, ...] = ()


class ShareTask:
    """What ranks read a checkpoint for: items with a size, of which one rank has each whole.

    Of a `check` they are places of the payload plan, in the order of the files. Of a `seal` they
    are tensors and bytes entries, each of which one rank hashes whole: a digest is of all elements
    in order. Of `stats` they are the tensors that are asked for.

    Attributes:
        state: Of the checkpoint (`division.state_of`).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        storage: Storage,
        spec: ReadSpec,
        sizes: Ints,
        firsts: Ints | None = None,
    ) -> None:
        self._checkpoint, self._storage, self._spec = checkpoint, storage, spec
        self._sizes, self._firsts = sizes, firsts
        self.state = state_of(checkpoint, plan_payloads(checkpoint))

    def share(self, rank: int) -> range:
        """The items of a rank."""
        return cut(self._sizes, self._spec.world_size, self._firsts)[rank]

    def num_bytes(self, items: range) -> int:
        """How many bytes they take."""
        return int(self._sizes[items.start : items.stop].sum())

    def portions(self, items: range) -> Iterator[range]:
        """They, in parts of about `ReadSpec.portion_bytes`."""
        return parts(self._sizes, items, self._spec.portion_bytes, self._firsts)

    def read(self, items: range, progress: Callable[[BytesProgress], bool]) -> Portion:
        """Read some; True of `progress` ends it, and what was read is told."""
        raise NotImplementedError


def task_of(checkpoint: Checkpoint, storage: Storage, spec: ReadSpec) -> ShareTask:
    """The task of a job."""
    if spec.task == "seal":
        return _Seal(checkpoint, storage, spec)
    if spec.task == "stats":
        return _Stats(checkpoint, storage, spec)
    return _Check(checkpoint, storage, spec)


class _Check(ShareTask):
    """Every payload against its checksum."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage, spec: ReadSpec) -> None:
        self._plan = plan_payloads(checkpoint)
        super().__init__(checkpoint, storage, spec, self._plan.length, unit_firsts(self._plan))

    def read(self, items: range, progress: Callable[[BytesProgress], bool]) -> Portion:
        tally = read_places(
            self._checkpoint,
            self._storage,
            self._plan,
            items,
            values=self._spec.values,
            progress=progress,
        )
        mine = slice(items.start, items.stop)
        found = sorted(tally.findings, key=lambda item: item[0])
        return Portion(
            encode_portion(self._checkpoint, self._plan, items, tally),
            int(self._plan.length[mine][tally.read[mine]].sum()),
            int(tally.read[mine].sum()),
            tuple(finding for _, findings in found for finding in findings),
        )


class _Seal(ShareTask):
    """A digest of every tensor and bytes entry."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage, spec: ReadSpec) -> None:
        self._items, sizes = sealed_items(checkpoint)
        super().__init__(checkpoint, storage, spec, sizes)

    def read(self, items: range, progress: Callable[[BytesProgress], bool]) -> Portion:
        mine = self._items[items.start : items.stop]
        found = fingerprints(
            self._checkpoint,
            self._storage,
            tensors=[index for is_tensor, index in mine if is_tensor],
            entries=[index for is_tensor, index in mine if not is_tensor],
            progress=progress,
        )
        digests = [*found.tensors.values(), *found.entries.values()]
        num_bytes = sum(digest.num_bytes for digest in digests)
        return Portion(encode_digests(items, found), num_bytes, len(digests))


class _Stats(ShareTask):
    """The statistics of every tensor that is asked for."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage, spec: ReadSpec) -> None:
        self._tensors = wanted_tensors(checkpoint, spec.filter)
        super().__init__(checkpoint, storage, spec, tensor_sizes(checkpoint, self._tensors))

    def read(self, items: range, progress: Callable[[BytesProgress], bool]) -> Portion:
        mine = self._tensors[items.start : items.stop]
        report = collect_stats(self._checkpoint, self._storage, mine, progress=progress)
        told = encode_figures(items, report)
        return Portion(told, report.payload_bytes, len(report.tensors))


_MAX_FINDINGS = 1000


def main() -> NoReturn:
    """Run one rank of the job that the spec on the command line describes."""
    die_with_parent()
    spec = read_spec(sys.argv[1])
    rank = int(os.environ["RANK"])
    reporter = Reporter(spec.events_dir, rank, spec.run)
    register_stacks(spec.events_dir, rank)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    code = 0
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        reporter.send(
            "hello",
            pid=os.getpid(),
            host=socket.gethostname(),
            device=spec.device,
            local_rank=int(os.environ.get("LOCAL_RANK", rank)),
            world_size=size,
        )
        reporter.start()
        if not isinstance(spec, ReadSpec) or size != spec.world_size or not 0 <= rank < size:
            raise UsageError(f"rank {rank} of {size} is none of this job of {spec.world_size}")
        read_share(spec, rank, reporter, stop)
    except BaseException as error:
        reporter.send("failed", **describe_failure(error), phase=reporter.name)
        code = 1
    reporter.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    # What is read may hang on a dead disk, in a thread that nobody can end.
    os._exit(code)


def read_share(spec: ReadSpec, rank: int, reporter: Reporter, stop: threading.Event) -> None:
    """Read a rank's share, tell what is found, and say `bye`.

    Args:
        spec: The job.
        rank: This rank.
        reporter: Told how far it is.
        stop: Set, it ends the reading; what was found until then is written.

    Raises:
        InspectError: The checkpoint cannot be read, or `stop` was set.
        OSError: What was found cannot be written.
    """
    reporter.phase(READ)
    storage = folder_of(spec.path)
    read_share_of(read_checkpoint(storage), storage, spec, rank, reporter, stop)


def read_share_of(
    checkpoint: Checkpoint,
    storage: Storage,
    spec: ReadSpec,
    rank: int,
    reporter: Reporter,
    stop: threading.Event,
) -> None:
    """As `read_share`, of a checkpoint that is open."""
    begin = time.monotonic()
    reporter.phase(READ)
    task = task_of(checkpoint, storage, spec)
    share = task.share(rank)
    reporter.expect(READ, task.num_bytes(share), len(share))
    reporter.progress(force=True)
    head = {"run": spec.run, "rank": rank, "state": task.state}
    bytes_read = num_read = num_told = 0
    out = PortionFile(spec.events_dir, rank)
    try:
        for items in task.portions(share):
            progress = _Progress(reporter, stop)
            portion = task.read(items, progress)
            out.write(head | portion.told)
            bytes_read += portion.num_bytes
            num_read += portion.num_items
            for finding in portion.findings[: _MAX_FINDINGS - num_told]:
                _tell(reporter, finding)
            num_told += len(portion.findings)
            if stop.is_set():
                raise InspectError("it was told to stop before it had read its share")
            reporter.advance(task.num_bytes(items) - progress.num_bytes, len(items))
    finally:
        out.close()
    reporter.progress(force=True)
    elapsed_s = round(time.monotonic() - begin, 3)
    reporter.send("bye", bytes_read=bytes_read, payloads_read=num_read, elapsed_s=elapsed_s)


def _tell(reporter: Reporter, finding: Finding) -> None:
    """Tell of a finding, for those who watch."""
    reporter.send(
        "finding",
        code=finding.code,
        severity=finding.severity,
        fqn=finding.fqn,
        file=finding.file,
        message=finding.message,
    )


class _Progress:
    """Hands on how far the reading of a portion is, and whether it is to end."""

    def __init__(self, reporter: Reporter, stop: threading.Event) -> None:
        self.num_bytes = 0
        self._reporter, self._stop = reporter, stop

    def __call__(self, now: BytesProgress) -> bool:
        self._reporter.advance(now.bytes_done - self.num_bytes)
        self.num_bytes = now.bytes_done
        return self._stop.is_set()


if __name__ == "__main__":
    main()
