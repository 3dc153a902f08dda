"""Digests that ranks have made of tensors and bytes entries, and statistics of tensors.

Each is of one rank. Statistics add a tensor's chunks up in the metadata's order as one process
does: they are the same to the last bit, and nothing of two ranks has to be joined.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.source import (
    MissingPackageError,
    PackedPayloadError,
    PayloadError,
)
from inspector.errors import InspectError
from inspector.values.fingerprint import Fingerprint, Fingerprints
from inspector.values.histogram import Histogram
from inspector.values.stats import NotRead, StatsReport, TensorStats
from inspector.verify.shares.portion import as_count, as_index, as_text

__all__ = [
    "Figures",
    "add_digests",
    "add_figures",
    "encode_digests",
    "encode_figures",
    "sealed_items",
    "tensor_sizes",
]

_MOST_BYTES = 1 << 60
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sealed_items(checkpoint: Checkpoint) -> tuple[list[tuple[bool, int]], Ints]:
    """What is sealed: whether it is a tensor, and its index; and the bytes of each.

    Returns:
        Pairs, and sizes of shape (num_items,).
    """
    tensors, entries = checkpoint.tensor_order.tolist(), checkpoint.bytes_order.tolist()
    items = [(True, index) for index in tensors] + [(False, index) for index in entries]
    of_entries = [checkpoint.bytes_entries[index].byte_length for index in entries]
    sizes = [*tensor_sizes(checkpoint, tensors), *of_entries]
    return items, np.array(sizes, np.int64)


def tensor_sizes(checkpoint: Checkpoint, tensors: Sequence[int]) -> Ints:
    """The bytes of tensors' elements, shape (num_tensors,); a hostile shape makes no more of it."""
    sizes = checkpoint.columns.num_bytes
    return np.array([min(sizes[index], _MOST_BYTES) for index in tensors], np.int64)


def encode_digests(items: range, found: Fingerprints) -> dict[str, Any]:
    """What a portion told, as JSON."""
    return {
        "first": items.start,
        "last": items.stop,
        "tensors": [[i, x.num_bytes, x.sha256] for i, x in found.tensors.items()],
        "entries": [[i, x.num_bytes, x.sha256] for i, x in found.entries.items()],
        "tensor_errors": [[i, *_error(e)] for i, e in found.tensor_errors.items()],
        "entry_errors": [[i, *_error(e)] for i, e in found.entry_errors.items()],
    }


def _error(error: InspectError) -> tuple[str, str, str]:
    """Whether it says that something is damaged, and its words."""
    is_foreign = isinstance(error, PayloadError) and error.is_foreign
    if is_foreign or isinstance(error, MissingPackageError | PackedPayloadError):
        return "foreign", error.message, error.hint
    return "damage", error.message, error.hint


def add_digests(found: Fingerprints, told: dict[str, Any], items: list[tuple[bool, int]]) -> None:
    """Add what a portion told, all of it or nothing.

    Args:
        found: Changed.
        told: As `encode_digests` gives it.
        items: Those of the portion; it may tell of no other.

    Raises:
        ValueError, TypeError, KeyError: It says what cannot be.
    """
    wanted = set(items)

    def item(is_tensor: bool, index: Any) -> int:
        if type(index) is not int or (is_tensor, index) not in wanted:
            raise ValueError("not of this portion")
        wanted.remove((is_tensor, index))
        return index

    def digests(is_tensor: bool, rows: list[Any]) -> dict[int, Fingerprint]:
        made = {}
        for index, num_bytes, sha256 in rows:
            if not _SHA256.fullmatch(as_text(sha256)):
                raise ValueError("no digest")
            made[item(is_tensor, index)] = Fingerprint(sha256, as_count(num_bytes))
        return made

    def errors(is_tensor: bool, rows: list[Any]) -> dict[int, InspectError]:
        made: dict[int, InspectError] = {}
        for index, kind, message, hint in rows:
            of_kind = MissingPackageError if kind == "foreign" else InspectError
            made[item(is_tensor, index)] = of_kind(as_text(message), as_text(hint))
        return made

    added = (
        digests(True, told["tensors"]),
        digests(False, told["entries"]),
        errors(True, told["tensor_errors"]),
        errors(False, told["entry_errors"]),
    )
    found.tensors.update(added[0])
    found.entries.update(added[1])
    found.tensor_errors.update(added[2])
    found.entry_errors.update(added[3])


@dataclass(slots=True)
class Figures:
    """What is known of tensors so far, by index.

    Attributes:
        tensors: Their statistics; of some in part.
        not_read: What is not in them.
        told: Tensors of which all was told that there is to tell.
        payload_bytes: Bytes that were read.
    """

    tensors: dict[int, TensorStats] = field(default_factory=dict)
    not_read: dict[int, NotRead] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    payload_bytes: int = 0


def encode_figures(items: range, report: StatsReport) -> dict[str, Any]:
    """What a portion told, as JSON."""
    return {
        "first": items.start,
        "last": items.stop,
        "is_cancelled": report.is_cancelled,
        "payload_bytes": report.payload_bytes,
        "tensors": [
            [
                x.index,
                x.num_read,
                *(x.low, x.high, x.mean, x.std, x.l2),
                *(x.num_zero, x.num_nan, x.num_inf, x.first_nan, x.first_inf),
                base64.b64encode(x.histogram.keys.astype("<u2").tobytes()).decode(),
                base64.b64encode(x.histogram.counts.astype("<i8").tobytes()).decode(),
                x.histogram.num_zero,
            ]
            for x in report.tensors
        ],
        "not_read": [[x.index, x.num_elements, x.why, x.is_foreign] for x in report.not_read],
    }


def add_figures(
    checkpoint: Checkpoint, figures: Figures, told: dict[str, Any], tensors: list[int]
) -> None:
    """Add what a portion told, all of it or nothing.

    Args:
        checkpoint: The checkpoint.
        figures: Changed.
        told: As `encode_figures` gives it.
        tensors: Those of the portion; it may tell of no other.

    Raises:
        ValueError, TypeError, KeyError: It says what cannot be.
    """
    columns, wanted = checkpoint.columns, set(tensors)
    found: dict[int, TensorStats] = {}
    for index, num_read, *numbers, keys, counts, num_zero in told["tensors"]:
        if type(index) is not int or index not in wanted or index in found:
            raise ValueError("not of this portion")
        low, high, mean, std, l2, zeros, nans, infs, first_nan, first_inf = numbers
        shape = columns.shape(index)
        found[index] = TensorStats(
            index=index,
            fqn=columns.fqns[index],
            dtype=columns.dtype(index),
            shape=shape,
            num_elements=math.prod(shape),
            num_read=as_count(num_read),
            low=None if low is None else _number(low),
            high=None if high is None else _number(high),
            mean=float(_number(mean)),
            std=float(_number(std)),
            l2=float(_number(l2)),
            num_zero=as_count(zeros),
            num_nan=as_count(nans),
            num_inf=as_count(infs),
            first_nan=as_index(first_nan),
            first_inf=as_index(first_inf),
            histogram=_histogram(keys, counts, num_zero),
        )
    not_read: dict[int, NotRead] = {}
    for index, num_elements, why, is_foreign in told["not_read"]:
        if type(index) is not int or index not in wanted or type(is_foreign) is not bool:
            raise ValueError("not of this portion")
        fqn = columns.fqns[index]
        not_read[index] = NotRead(index, fqn, as_count(num_elements), as_text(why), is_foreign)
    if wanted - found.keys() - not_read.keys():
        raise ValueError("not all of this portion")
    num_bytes, is_cancelled = as_count(told["payload_bytes"]), told["is_cancelled"] is not False
    figures.tensors.update(found)
    figures.not_read.update(not_read)
    figures.payload_bytes += num_bytes
    if not is_cancelled:
        figures.told |= wanted


def _number(value: Any) -> float | int:
    if type(value) not in (int, float):
        raise ValueError("no number")
    number: float | int = value
    return number


def _histogram(keys: Any, counts: Any, num_zero: Any) -> Histogram:
    made = Histogram(
        np.frombuffer(base64.b64decode(keys, validate=True), "<u2").astype(np.uint16),
        np.frombuffer(base64.b64decode(counts, validate=True), "<i8").astype(np.int64),
        as_count(num_zero),
    )
    if len(made.keys) != len(made.counts):
        raise ValueError("no histogram")
    return made
