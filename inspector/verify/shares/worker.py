"""What torchrun runs: `torchrun --nproc-per-node N -m inspector.verify.shares.worker SPEC`.

A rank reads its share of the payloads (`division`), and needs neither torch nor the other ranks for
it: RANK and WORLD_SIZE of its environment are all that it takes of torchrun. What it found is in
`events_dir/rank-NNNNN.share` (`portion`), a line for each portion of its share, with `run`, `rank`
and `state` (`division.state_of`) in each; how far it is in `events_dir/rank-NNNNN.jsonl`:

    hello      pid, host, device, local_rank, world_size
    phase      phase: read
    progress   phase, bytes_done, bytes_total; tensors_done and tensors_total count payloads
    finding    code, severity, fqn, file, message; at most 1,000
    heartbeat  as in `ranks.worker`
    failed     kind, message, stack
    bye        bytes_read, payloads_read, elapsed_s

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
from inspector.checkpoint.payload.plan import plan_payloads
from inspector.checkpoint.storage.base import Storage
from inspector.checks.payload.judgement import PayloadTally
from inspector.checks.payload.payloads import PayloadProgress, read_places
from inspector.errors import InspectError, UsageError
from inspector.verify.events import READ
from inspector.verify.failures import describe_failure
from inspector.verify.ranks.vitals import Reporter, die_with_parent, register_stacks
from inspector.verify.shares.division import divide, portions, state_of
from inspector.verify.shares.portion import PortionFile, encode_portion
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
    plan = plan_payloads(checkpoint)
    share = divide(plan, spec.world_size)[rank]
    state = state_of(checkpoint, plan)
    reporter.expect(READ, int(plan.length[share.start : share.stop].sum()), len(share))
    reporter.progress(force=True)
    head = {"run": spec.run, "rank": rank, "state": state}
    bytes_read = payloads_read = num_told = 0
    out = PortionFile(spec.events_dir, rank)
    try:
        for places in portions(plan, share, spec.portion_bytes):
            tally = read_places(
                checkpoint,
                storage,
                plan,
                places,
                values=spec.values,
                progress=_Progress(reporter, stop),
            )
            out.write(head | encode_portion(checkpoint, plan, places, tally))
            mine = slice(places.start, places.stop)
            bytes_read += int(plan.length[mine][tally.read[mine]].sum())
            payloads_read += int(tally.read[mine].sum())
            num_told += _tell(reporter, tally, _MAX_FINDINGS - num_told)
            if stop.is_set():
                raise _Stopped("it was told to stop before it had read its share")
    finally:
        out.close()
    reporter.progress(force=True)
    elapsed_s = round(time.monotonic() - begin, 3)
    reporter.send("bye", bytes_read=bytes_read, payloads_read=payloads_read, elapsed_s=elapsed_s)


def _tell(reporter: Reporter, tally: PayloadTally, limit: int) -> int:
    """Tell what was found in a portion, for those who watch; how much of it was told."""
    found = [finding for _, findings in sorted(tally.findings, key=_place) for finding in findings]
    for finding in found[:limit]:
        reporter.send(
            "finding",
            code=finding.code,
            severity=finding.severity,
            fqn=finding.fqn,
            file=finding.file,
            message=finding.message,
        )
    return min(len(found), limit)


def _place(item: tuple[int, object]) -> int:
    return item[0]


class _Progress:
    """Hands on how far the reading of a portion is, and whether it is to end."""

    def __init__(self, reporter: Reporter, stop: threading.Event) -> None:
        self._reporter, self._stop = reporter, stop
        self._bytes = self._payloads = 0

    def __call__(self, now: PayloadProgress) -> bool:
        self._reporter.advance(now.bytes_done - self._bytes, now.payloads_done - self._payloads)
        self._bytes, self._payloads = now.bytes_done, now.payloads_done
        return self._stop.is_set()


if __name__ == "__main__":
    main()
