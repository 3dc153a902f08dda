"""Reading by many ranks, for the commands that read every byte: the job, here or printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.outside import refuse_inside
from inspector.checkpoint.safetensors.sets import OneSet
from inspector.checkpoint.storage.base import Storage, address_of, is_url
from inspector.checkpoint.text import HIDDEN, printable
from inspector.checks.findings import DeepReport
from inspector.cli.options import RankRequest
from inspector.cli.output import print_pieces
from inspector.cli.verify import run_to_end
from inspector.errors import UsageError
from inspector.values.fingerprint import Fingerprints
from inspector.values.stats import StatsReport
from inspector.verify.job.commands import print_lines
from inspector.verify.job.launcher import Job
from inspector.verify.job.manifests import Shape
from inspector.verify.shares.merge import (
    EndedRanks,
    find_job,
    merge_digests,
    merge_figures,
    merge_shares,
)
from inspector.verify.spec import ReadSpec

__all__ = ["hash_by_ranks", "print_job", "read_by_ranks", "shares_of", "spec_of", "sum_by_ranks"]


def spec_of(
    checkpoint: Checkpoint,
    storage: Storage,
    request: RankRequest,
    *,
    task: str,
    values: bool = False,
    filter_text: str = "",
) -> ReadSpec:
    """The job of ranks that read a checkpoint.

    Raises:
        UsageError: It cannot be handed to them.
    """
    path = storage.root
    if isinstance(storage, OneSet):
        path = f"{path}/{storage.name}"
    if is_url(path) and (HIDDEN in path or address_of(path) != path):
        raise UsageError(
            "a job records what it ran, so an address with a password or a signature in it is not "
            "handed to it",
            "give the credentials as the storage's own tools take them, not in the address",
        )
    refuse_inside("--events", request.events, [checkpoint.path])
    return ReadSpec(
        path=path if is_url(path) else os.path.abspath(path),
        task=task,
        world_size=request.world_size,
        values=values,
        filter=filter_text,
        events_dir=os.path.abspath(request.events) if request.events else "",
        timeout_s=request.timeout,
        python=request.python or sys.executable,
    )


def print_job(spec: ReadSpec, request: RankRequest) -> None:
    """Write the job, and print the lines of `--print-command`.

    Raises:
        UsageError: The numbers do not come out even, or the folder holds another job.
        StorageError: The job cannot be written.
    """
    nodes = max(request.nnodes, 1)
    shape = Shape.of(spec.world_size, nodes, spec.world_size // nodes, request.port)
    print_pieces(print_lines(spec, request.events, shape=shape, python=request.python), "\n")


def _run(spec: ReadSpec) -> EndedRanks:
    """Run a job on this machine; the first Ctrl+C stops it, the second kills it.

    Raises:
        UsageError, StorageError: It cannot be started.
    """
    job = Job(spec)
    run_to_end(job, lambda events: None)
    assert job.result is not None and isinstance(job.spec, ReadSpec)  # noqa: S101 - as made above
    is_cancelled = job.result["verdict"] == "cancelled"
    return EndedRanks(job.spec, Path(job.spec.events_dir), job.snapshot(), is_cancelled)


def read_by_ranks(
    checkpoint: Checkpoint, storage: Storage, request: RankRequest, *, values: bool
) -> DeepReport:
    """Have ranks on this machine read every payload, and merge what they found.

    The first Ctrl+C stops them, and what was found until then is told; the second kills them.

    Raises:
        UsageError, StorageError: The job cannot be started.
    """
    ended = _run(spec_of(checkpoint, storage, request, task="check", values=values))
    return merge_shares(checkpoint, storage, ended)


def hash_by_ranks(checkpoint: Checkpoint, storage: Storage, request: RankRequest) -> Fingerprints:
    """Have ranks on this machine hash everything, or take what those of a printed job did.

    Raises:
        InspectError: One of them did not hash its share.
        UsageError, StorageError: The job cannot be started.
    """
    if request.shares:
        ended = EndedRanks.by_now(*find_job(request.shares, "seal"))
    else:
        ended = _run(spec_of(checkpoint, storage, request, task="seal"))
    return merge_digests(checkpoint, ended)


def sum_by_ranks(
    checkpoint: Checkpoint, storage: Storage, request: RankRequest, filter_text: str
) -> StatsReport:
    """Have ranks on this machine read tensors, or take what those of a printed job read.

    Raises:
        UsageError: The job was of another filter, or cannot be started.
        StorageError: It cannot be started.
    """
    if request.shares:
        spec, events = find_job(request.shares, "stats")
        if spec.filter != filter_text:
            raise UsageError(
                f"the ranks have read for --filter {printable(spec.filter)!a}",
                "give the same filter",
            )
        ended = EndedRanks.by_now(spec, events)
    else:
        wanted = spec_of(checkpoint, storage, request, task="stats", filter_text=filter_text)
        ended = _run(wanted)
    return merge_figures(checkpoint, ended)


def shares_of(request: RankRequest, *, values: bool) -> Callable[[Checkpoint, Storage], DeepReport]:
    """What merges the shares that ranks have read already.

    Raises:
        UsageError: There are none, or of a job that did not look for what is asked.
    """
    spec, events = find_job(request.shares, "check")
    if values and not spec.values:
        raise UsageError(
            "the ranks did not look for NaN and infinite values",
            "leave out --values, or print the job with it",
        )
    return lambda checkpoint, storage: merge_shares(
        checkpoint, storage, EndedRanks.by_now(spec, events)
    )
