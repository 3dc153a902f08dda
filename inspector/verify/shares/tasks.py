"""What ranks read a checkpoint for: how it is divided, and what a portion of it tells.

Of a `check` the items are places of the payload plan, in the order of the files. Of a `seal` they
are tensors and bytes entries, each of which one rank hashes whole: a digest is of all elements in
order. Of `stats` they are the tensors that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import plan_payloads
from inspector.checkpoint.storage.base import Storage
from inspector.checks.findings import Finding
from inspector.checks.payload.deep import BytesProgress
from inspector.checks.payload.payloads import read_places
from inspector.values.fingerprint import fingerprints
from inspector.values.stats import collect_stats, wanted_tensors
from inspector.verify.shares.digests import (
    encode_digests,
    encode_figures,
    sealed_items,
    tensor_sizes,
)
from inspector.verify.shares.division import cut, parts, state_of, unit_firsts
from inspector.verify.shares.portion import encode_portion
from inspector.verify.spec import ReadSpec

__all__ = ["Portion", "ShareTask", "task_of"]


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
    """One of the tasks: items with a size, of which one rank has each whole.

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
