"""Which payloads each of several ranks reads: a run of places of the plan, alike in bytes.

The rule this module keeps: the same on every rank and in the front end, of the metadata alone. Each
works it out for itself, and `state_of` tells whether they saw the same checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import PayloadPlan

__all__ = ["cut", "parts", "state_of", "unit_firsts"]


def cut(sizes: Ints, num_ranks: int, firsts: Ints | None = None) -> list[range]:
    """The items of each rank, in order, so that each has about as many bytes.

    Args:
        sizes: Bytes of each item, shape (num_items,).
        num_ranks: How many ranks.
        firsts: The first item of each unit that one rank has whole (default: every item is one).
    """
    firsts = np.append(np.arange(len(sizes)) if firsts is None else firsts, len(sizes))
    # As float64, since hostile lengths may sum up to anything.
    before = np.concatenate([[0.0], np.cumsum(sizes.astype(np.float64))])[firsts]
    # Each border goes where fewest bytes are on the wrong side of it.
    middles = (before[1:] + before[:-1]) / 2
    borders = np.arange(num_ranks + 1) / num_ranks * before[-1]
    edges = firsts[middles.searchsorted(borders)]
    edges[0], edges[-1] = 0, len(sizes)
    return [range(a, b) for a, b in itertools.pairwise(edges.tolist())]


def parts(sizes: Ints, items: range, num_bytes: int, firsts: Ints | None = None) -> Iterator[range]:
    """The items of a share in parts of about so many bytes.

    Args:
        sizes: Bytes of each item, shape (num_items,).
        items: The share.
        num_bytes: A part ends once it has as many.
        firsts: As of `cut`.
    """
    firsts = np.arange(len(sizes)) if firsts is None else firsts
    firsts = firsts[(firsts >= items.start) & (firsts < items.stop)]
    ends = np.cumsum(sizes[items.start : items.stop].astype(np.float64))
    first, before = items.start, 0.0
    for edge in firsts[1:].tolist():
        done = float(ends[edge - 1 - items.start])
        if done - before >= num_bytes:
            yield range(first, edge)
            first, before = edge, done
    if first < items.stop:
        yield range(first, items.stop)


def unit_firsts(plan: PayloadPlan) -> Ints:
    """The first place of each unit of a plan that one rank reads whole.

    A file is cut between two payloads, unless some of its payloads overlap: then one rank reads all
    of it, as one process does, which reads shared bytes only so often.
    """
    is_tangled = np.zeros(int(plan.file.max(initial=-1)) + 1, np.bool_)
    is_tangled[plan.file[plan.overlaps]] = True
    is_first = np.ones(plan.num_places, np.bool_)
    same_file = plan.file[1:] == plan.file[:-1]
    is_first[1:] = ~(same_file & is_tangled[plan.file[1:]])
    return np.flatnonzero(is_first)


def state_of(checkpoint: Checkpoint, plan: PayloadPlan) -> str:
    """A digest of what is to be read: entries, places, and size and time of every file.

    Two that read the same checkpoint at one time have the same; of one that changed meanwhile they
    have not.
    """
    columns = checkpoint.columns
    digest = hashlib.sha256()
    for array in (
        plan.file,
        plan.offset,
        plan.length,
        plan.owner,
        plan.owner_start,
        columns.chunk_start,
        columns.offsets,
        columns.sizes,
        columns.property_id,
    ):
        digest.update(f"{len(array)} ".encode())
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    for words in (
        columns.fqns,
        columns.properties,
        [entry.fqn for entry in checkpoint.bytes_entries],
        [(file.path, file.num_bytes, file.modified_s) for file in checkpoint.files],
    ):
        digest.update(f"{len(words)} ".encode())
        for word in words:
            digest.update(ascii(word).encode() + b"\0")
    return digest.hexdigest()
