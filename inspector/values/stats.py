"""Statistics of tensors, read in one pass over the files: `collect_stats` -> `StatsReport`.

What is counted: every element of a tensor that some chunk holds, once, however often it is stored.
Least, largest, mean, standard deviation and L2 norm are over the finite elements; NaN and
infinities are counted apart. Of complex elements, the absolute values are taken. Memory is a few
MiB for each thread and a few KiB for each tensor, whatever a tensor's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.sweep import PayloadProgress
from inspector.checkpoint.storage.base import Storage
from inspector.values.gather import gather
from inspector.values.histogram import Bars, Histogram
from inspector.values.replicas import ReplicaDifference
from inspector.values.tally import Summary

__all__ = ["STOPPED", "NotRead", "StatsReport", "TensorStats", "collect_stats", "wanted_tensors"]

#: Why a tensor was not read of which nothing else is known, after a cancelled reading.
STOPPED = "it was stopped"


@dataclass(frozen=True, slots=True, eq=False)
class TensorStats:
    """What the elements of one tensor are.

    Attributes:
        index: Position in `Checkpoint.tensors`.
        fqn: Raw name.
        dtype: torch's name without `torch.`.
        shape: Global shape.
        num_elements: Elements of the tensor.
        num_read: Those that were read; fewer where chunks are missing or cannot be read.
        low: The least finite element, None if there is none; exact, and an int for integers.
        high: The largest.
        mean: Mean of the finite elements; NaN if there are none.
        std: Their standard deviation as `torch.std` has it (with Bessel's correction); NaN of
            fewer than two.
        l2: Root of the sum of their squares.
        num_zero: Zeros, of either sign.
        num_nan: NaN. A complex element of which one part is NaN and the other infinite counts as
            both.
        num_inf: Infinite elements.
        first_nan: Least index in C order of a NaN, None if there is none; `()` in a 0-d tensor.
        first_inf: Likewise.
        histogram: Of the finite elements.
    """

    index: int
    fqn: str
    dtype: str
    shape: tuple[int, ...]
    num_elements: int
    num_read: int
    low: float | int | None
    high: float | int | None
    mean: float
    std: float
    l2: float
    num_zero: int
    num_nan: int
    num_inf: int
    first_nan: tuple[int, ...] | None
    first_inf: tuple[int, ...] | None
    histogram: Histogram

    @property
    def is_complex(self) -> bool:
        """True if the figures are of absolute values."""
        return self.dtype.startswith("complex")

    @property
    def is_quantized(self) -> bool:
        """True if the figures are of integers that stand for other values."""
        return self.dtype.startswith(("qint", "quint"))

    @property
    def num_non_finite(self) -> int:
        return self.num_nan + self.num_inf

    @property
    def first_non_finite(self) -> tuple[int, ...] | None:
        """Least index in C order of a NaN or infinity, or None."""
        found = [i for i in (self.first_nan, self.first_inf) if i is not None]
        return min(found) if found else None

    @property
    def num_finite(self) -> int:
        return self.histogram.num_elements

    @property
    def rms(self) -> float:
        """Root of the mean square: the norm without the tensor's size; NaN if nothing is finite."""
        return self.l2 / math.sqrt(self.num_finite) if self.num_finite else math.nan

    @property
    def is_all_zero(self) -> bool:
        return self.num_read > 0 and self.num_zero == self.num_read

    def linear(self, num_bars: int) -> Bars:
        """The histogram as bars of one width from the least to the largest."""
        return self.histogram.linear(num_bars, float(self.low or 0), float(self.high or 0))

    def log(self, num_bars: int) -> Bars:
        """The histogram over powers of two of |value|; zeros apart."""
        return self.histogram.log(num_bars)


@dataclass(frozen=True, slots=True)
class NotRead:
    """A tensor that was not read, or not wholly.

    Attributes:
        index: Position in `Checkpoint.tensors`, -1 for an entry that could not become a tensor.
        fqn: Raw name.
        num_elements: Elements that are not in its statistics; all of them if it has none, 0 if
            nobody knows.
        why: A plain phrase, printable.
        is_foreign: Of a class that only its package can read, or of a dtype without numbers
            (float4), which is no fault.
    """

    index: int
    fqn: str
    num_elements: int
    why: str
    is_foreign: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StatsReport:
    """What was read, and what was not.

    Attributes:
        tensors: In the checkpoint's order; those of which some element was read, and the empty.
        not_read: Tensors of which some element was not, in the same order; one may be in both.
        payload_bytes: Bytes that were read.
        is_cancelled: True if it was stopped before everything was read.
        differing: Tensors whose copies of several ranks differ; the figures are of the first copy.
        lost: Why ranks that were to read some of it did not, a sentence for each.
    """

    tensors: tuple[TensorStats, ...]
    not_read: tuple[NotRead, ...]
    payload_bytes: int
    is_cancelled: bool = False
    differing: tuple[ReplicaDifference, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def lacks_classes_alone(self) -> bool:
        """True if some was not read, and nothing of it is a fault: another package reads it."""
        return bool(self.not_read) and all(item.is_foreign for item in self.not_read)


def wanted_tensors(checkpoint: Checkpoint, filter_text: str) -> list[int]:
    """The tensors that a filter selects, in the checkpoint's order."""
    kept = set(matching(checkpoint.columns.fqns, filter_text))
    return [index for index in checkpoint.tensor_order.tolist() if index in kept]


def collect_stats(
    checkpoint: Checkpoint,
    storage: Storage,
    tensors: Sequence[int] | None = None,
    *,
    progress: Callable[[PayloadProgress], bool] | None = None,
    workers: int = 2,
) -> StatsReport:
    """Read tensors once, in the order of their bytes in the files, and sum them up.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        tensors: Which, by index (default: all). Only their payloads are read.
        progress: Called about ten times a second, in the calling thread; True cancels.
        workers: Threads.

    Returns:
        Also when it was cancelled, by `progress` or by Ctrl+C: then of what was read until then.
        What cannot be read does not raise; it is in `not_read`.
    """
    wanted = checkpoint.tensor_order.tolist() if tensors is None else list(tensors)
    gathered = gather(checkpoint, storage, wanted, progress=progress, workers=workers)
    found, missing = [], []
    for index in wanted:
        tensor = checkpoint.tensors[index]
        summary = gathered.summaries.get(index)
        num_read = summary.num_read if summary is not None else 0
        if num_read or tensor.num_elements == 0:
            found.append(_stats(index, tensor.fqn, tensor.dtype, tensor.shape, summary))
        left = tensor.num_elements - num_read
        if left > 0:
            why = gathered.problems.get(index)
            if why is None:
                why = STOPPED if gathered.is_cancelled else "no chunk holds them"
            missing.append(NotRead(index, tensor.fqn, left, why, index in gathered.foreign))
    return StatsReport(
        tuple(found),
        tuple(missing),
        gathered.payload_bytes,
        gathered.is_cancelled,
    )


def _stats(
    index: int, fqn: str, dtype: str, shape: tuple[int, ...], summary: Summary | None
) -> TensorStats:
    summary = Summary.empty() if summary is None else summary
    moments, bad = summary.moments, summary.non_finite
    has_any = moments.count > 0
    return TensorStats(
        index=index,
        fqn=fqn,
        dtype=dtype,
        shape=shape,
        num_elements=math.prod(shape),
        num_read=summary.num_read,
        low=moments.low if has_any else None,
        high=moments.high if has_any else None,
        mean=moments.mean if has_any else math.nan,
        std=moments.std,
        l2=moments.l2,
        num_zero=summary.histogram.num_zero,
        num_nan=bad.num_nan,
        num_inf=bad.num_inf,
        first_nan=bad.first_nan,
        first_inf=bad.first_inf,
        histogram=summary.histogram,
    )
