"""Every chunk that counts, read once -> one `Summary` for each tensor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import numpy_dtype, raw_payload, unpack_limit
from inspector.checkpoint.payload.payload import Payload, open_payload, record_blocks, unpacked
from inspector.checkpoint.payload.plan import PayloadPlan, chunk_problems, plan_payloads
from inspector.checkpoint.payload.source import (
    PackedPayloadError,
    PayloadError,
    RangeSource,
    Source,
)
from inspector.checkpoint.payload.sweep import PayloadProgress, Sweep
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.errors import Cancelled, InspectError
from inspector.layout.geometry import unique
from inspector.values.histogram import Histogram
from inspector.values.moments import Moments
from inspector.values.nonfinite import NonFinite
from inspector.values.places import Hole, places_of, shares_of
from inspector.values.tally import ChunkTally, Summary

__all__ = ["Gathered", "gather"]

_MAX_REASONS = 3
# Elements that share places take no bytes, so a payload may claim any number of them.
_MAX_REPEATED = 1 << 40


@dataclass(slots=True)
class Gathered:
    """What came out.

    Attributes:
        summaries: By tensor; none for a tensor of which nothing was read.
        problems: Why elements of a tensor were not read, where that is known.
        foreign: Those tensors that were not read for their classes or dtypes alone, which are no
            fault.
        payload_bytes: Bytes read.
        is_cancelled: True if it was stopped before the end.
    """

    summaries: dict[int, Summary] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    foreign: set[int] = field(default_factory=set)
    payload_bytes: int = 0
    is_cancelled: bool = False


def gather(
    checkpoint: Checkpoint,
    storage: Storage,
    tensors: Sequence[int],
    *,
    progress: Callable[[PayloadProgress], bool] | None = None,
    workers: int = 2,
) -> Gathered:
    """Read the tensors' chunks in the order of their bytes, and sum them up by tensor."""
    job = _Job(checkpoint)
    chunks = np.zeros(checkpoint.num_chunks, np.bool_)
    for index in tensors:
        job.choose(checkpoint.tensors[index], chunks)
    job.plan = plan = plan_payloads(checkpoint, chunks=chunks)
    sweep = Sweep(checkpoint, storage, plan, job.visit, job.skip, workers=workers)
    job.may_read_again = sweep.may_read_again
    is_whole = sweep.run(progress)
    return job.gathered(is_cancelled=not is_whole)


class _Sums:
    """The sum over a tensor's chunks so far, all but mean and deviations, which come last."""

    __slots__ = ("high", "histogram", "low", "non_finite", "num_read")

    def __init__(self) -> None:
        self.num_read = 0
        self.low: float | int | None = None
        self.high: float | int | None = None
        self.histogram = Histogram.empty()
        self.non_finite = NonFinite()

    def add(self, summary: Summary, offsets: tuple[int, ...]) -> None:
        self.num_read += summary.num_read
        self.histogram += summary.histogram
        self.non_finite += summary.non_finite.moved(offsets)
        moments = summary.moments
        if moments.count:
            self.low = moments.low if self.low is None else min(self.low, moments.low)
            self.high = moments.high if self.high is None else max(self.high, moments.high)


class _Job:
    """What the workers share: what to count of each chunk, and what was found."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.plan: PayloadPlan
        self.may_read_again: Callable[[int, int], bool]
        self._checkpoint = checkpoint
        self._why, self._meanings = chunk_problems(checkpoint)
        self._holes: dict[int, tuple[Hole, ...]] = {}
        self._sums: dict[int, _Sums] = {}
        self._reasons: dict[int, dict[str, int]] = {}
        self._classes: dict[int, set[str]] = {}
        self._lock = threading.Lock()
        self._bytes = 0
        # By chunk, so that the last digits of a mean do not depend on which thread was faster.
        self._count = np.zeros(checkpoint.num_chunks, np.int64)
        self._mean = np.zeros(checkpoint.num_chunks)
        self._deviation = np.zeros(checkpoint.num_chunks)

    def choose(self, tensor: Tensor, chunks: npt.NDArray[np.bool_]) -> None:
        """Mark the chunks of a tensor that are to be read."""
        start = int(self._checkpoint.columns.chunk_start[tensor.index])
        why = self._why[start : start + tensor.num_chunks]
        try:
            numpy_dtype(tensor.dtype)
        except InspectError as error:
            self._reasons[tensor.index] = {error.message: 1}
            self._classes[tensor.index] = {error.message}
            return
        for number in unique(why[why > 0]).tolist():
            self._note(tensor.index, self._meanings[number], int((why == number).sum()))
        shares = shares_of(tensor, why == 0)
        if shares.problem:
            self._reasons[tensor.index] = {shares.problem: 1}
        chunks[start + np.array(shares.chunks, np.int64)] = True
        for chunk, holes in shares.holes.items():
            self._holes[start + chunk] = holes

    def skip(self, first: int, last: int, reason: str) -> None:
        """Places that could not be read."""
        starts = self.plan.owner_start
        for owner in self.plan.owner[starts[first] : starts[last]].tolist():
            self._note(self._tensor_of(owner), reason, 1)

    def visit(self, place: int, source: RangeSource) -> None:
        """Read one place, and add it to the tensors that own it."""
        starts = self.plan.owner_start
        kept: tuple[Tensor, tuple[int, ...], Summary] | None = None
        with self._lock:
            self._bytes += source.length
        for owner in self.plan.owner[starts[place] : starts[place + 1]].tolist():
            tensor = self._checkpoint.tensors[self._tensor_of(owner)]
            chunk = owner - int(self._checkpoint.columns.chunk_start[tensor.index])
            sizes = tuple(tensor.sizes[chunk].tolist())
            holes = self._holes.get(owner, ())
            same = kept is not None and kept[0].dtype == tensor.dtype and kept[1] == sizes
            if kept is not None and same and not holes:
                summary = kept[2]
            elif kept is not None and not self.may_read_again(
                int(self.plan.file[place]), source.length
            ):
                self._note(tensor.index, "other entries claim their bytes too", 1)
                continue
            else:
                try:
                    summary = _summary(source, self._checkpoint.format, tensor, sizes, holes)
                except Cancelled:
                    raise
                except InspectError as error:
                    reason = printable(error.message, 300)
                    self._note(tensor.index, reason, 1)
                    if isinstance(error, PackedPayloadError):
                        with self._lock:
                            self._classes.setdefault(tensor.index, set()).add(reason)
                    continue
                kept = None if holes else (tensor, sizes, summary)
            self._add(owner, tensor, chunk, summary)

    def _add(self, owner: int, tensor: Tensor, chunk: int, summary: Summary) -> None:
        moments = summary.moments
        self._count[owner] = moments.count
        self._mean[owner], self._deviation[owner] = moments.mean, moments.deviation
        with self._lock:
            sums = self._sums.setdefault(tensor.index, _Sums())
            sums.add(summary, tuple(tensor.offsets[chunk].tolist()))

    def _note(self, tensor: int, reason: str, count: int) -> None:
        with self._lock:
            reasons = self._reasons.setdefault(tensor, {})
            reasons[reason] = reasons.get(reason, 0) + count

    def _tensor_of(self, owner: int) -> int:
        return int(self._checkpoint.columns.chunk_start.searchsorted(owner, "right")) - 1

    def gathered(self, *, is_cancelled: bool) -> Gathered:
        """The sums, chunks added up in the metadata's order."""
        result = Gathered(payload_bytes=self._bytes, is_cancelled=is_cancelled)
        starts = self._checkpoint.columns.chunk_start.tolist()
        for index, sums in self._sums.items():
            chunks = slice(starts[index], starts[index + 1])
            moments = _joined(
                self._count[chunks], self._mean[chunks], self._deviation[chunks], sums
            )
            result.summaries[index] = Summary(
                sums.num_read, moments, sums.histogram, sums.non_finite
            )
        for index, reasons in self._reasons.items():
            result.problems[index] = _sentence(reasons, starts[index + 1] - starts[index])
            if self._classes.get(index) == reasons.keys():
                result.foreign.add(index)
        return result


def _joined(
    count: npt.NDArray[np.int64],
    means: npt.NDArray[np.float64],
    within: npt.NDArray[np.float64],
    sums: _Sums,
) -> Moments:
    """The moments of all chunks together: Chan's formula for many parts at once."""
    total = int(count.sum())
    if not total or sums.low is None or sums.high is None:
        return Moments()
    with np.errstate(over="ignore", invalid="ignore"):
        shares = count / total
        mean = float((means * shares).sum())
        # Halves, and a norm of what is at most 1: neither differences nor squares may fit.
        between = (means / 2 - mean / 2) * (2 * np.sqrt(shares))
        parts = np.concatenate([within * np.sqrt(shares), between])
        largest = float(np.abs(parts).max())
        deviation = largest * float(np.linalg.norm(parts / largest)) if largest else 0.0
    return Moments(total, mean, deviation, sums.low, sums.high)


def _sentence(reasons: dict[str, int], num_chunks: int) -> str:
    """Why something was not read, with how many chunks where only some were not."""
    parts = [
        reason
        if num_chunks == 1 or (len(reasons) == 1 and count == num_chunks)
        else f"{plural(count, 'chunk')}: {reason}"
        for reason, count in sorted(reasons.items())[:_MAX_REASONS]
    ]
    more = len(reasons) - _MAX_REASONS
    return "; ".join(parts) + (f"; and {plural(more, 'other reason')}" if more > 0 else "")


def _summary(
    source: RangeSource, form: str, tensor: Tensor, sizes: tuple[int, ...], holes: tuple[Hole, ...]
) -> Summary:
    """Read one chunk and sum it up."""
    inner: Source = source
    if form == "safetensors":
        payload = raw_payload(tensor.dtype, sizes, source.length)
    else:
        if not tensor.transforms:
            source.prefetch()
        inner = unpacked(source, tensor.transforms, unpack_limit(tensor.dtype, sizes))
        payload = open_payload(inner, is_tensor=True)
    _must_fit(payload, tensor, sizes)
    stored, record = payload.tensor, payload.data
    if stored is None or record is None:
        raise PayloadError("it holds no elements")
    places = places_of(stored, holes)
    if places is None:
        raise PayloadError("its elements share places in its storage, so they were not counted")
    if places.repeats > 1 and stored.num_elements > _MAX_REPEATED:
        raise PayloadError("it claims more elements than there can be")
    tally = ChunkTally(places, payload.byteorder)
    for block in record_blocks(inner, record):
        tally.feed(block)
    return tally.result()


def _must_fit(payload: Payload, tensor: Tensor, sizes: tuple[int, ...]) -> None:
    """Raise PayloadError if a payload is not the chunk that the metadata says."""
    stored = payload.tensor
    if stored is None:
        if payload.packed is not None and not payload.problem:
            raise PackedPayloadError(payload.packed.why_unread, payload.packed.kind)
        held = f"no tensor but {printable(payload.kind, 80)}" if payload.kind else "no tensor"
        raise PayloadError(payload.problem or f"its payload holds {held}")
    if stored.shape != sizes:
        raise PayloadError(
            f"its payload's shape is {format_shape(stored.shape)}, not {format_shape(sizes)}",
            code="payload-mismatch",
        )
    if stored.dtype != tensor.dtype:
        raise PayloadError(
            f"its payload holds {stored.dtype}, not {printable(tensor.dtype, 40)}",
            code="payload-mismatch",
        )
    if payload.data is not None and stored.needed_bytes > payload.data.num_bytes:
        raise PayloadError("its payload holds fewer bytes than its shape needs")
