"""What torchrun runs: `torchrun --nproc-per-node N -m inspector.verify.shares.worker SPEC`.

A rank reads its share (`tasks`), and needs neither torch nor the other ranks for
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
from typing import NoReturn

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checks.findings import Finding
from inspector.checks.payload.deep import BytesProgress
from inspector.errors import InspectError, UsageError
from inspector.verify.events import READ
from inspector.verify.failures import describe_failure
from inspector.verify.ranks.vitals import Reporter, die_with_parent, register_stacks
from inspector.verify.shares.portion import PortionFile
from inspector.verify.shares.tasks import task_of
from inspector.verify.spec import ReadSpec, read_spec

__all__ = ["main", "read_share", "read_share_of"]

_MAX_FINDINGS = 1000


class _Stopped(InspectError):
    """The rank was told to end."""


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
                raise _Stopped("it was told to stop before it had read its share")
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
