"""Statistics that ranks have made of tensors, each of its own.

A tensor's figures are of one rank, which adds its chunks up in the metadata's order as one process
does: they are the same to the last bit, and nothing of two ranks has to be joined.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.values.histogram import Histogram
from inspector.values.stats import NotRead, StatsReport, TensorStats
from inspector.verify.shares.portion import as_count, as_index, as_text

__all__ = ["Figures", "add_figures", "encode_figures"]


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
