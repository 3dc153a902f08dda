"""Digests that ranks have made of tensors and bytes entries, each of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
from inspector.verify.shares.portion import as_count, as_text

__all__ = ["add_digests", "encode_digests", "sealed_items", "tensor_sizes"]

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
