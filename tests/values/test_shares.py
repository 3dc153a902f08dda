"""`shares_of`: every element of a tensor counts once, whatever its chunks are."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.checkpoint.model import Tensor
from inspector.values.places import Shares, shares_of


def tensor(shape: tuple[int, ...], boxes: list[tuple[list[int], list[int]]]) -> Tensor:
    count, ndim = len(boxes), len(shape)
    offsets = np.array([b[0] for b in boxes], np.int64).reshape(count, ndim)
    sizes = np.array([b[1] for b in boxes], np.int64).reshape(count, ndim)
    place = np.zeros(count, np.int64)
    return Tensor(0, "w", "float32", shape, offsets, sizes, place.astype(np.int32), place, place)


def counted(value: Tensor, shares: Shares) -> np.ndarray:
    """How often each element of the tensor is counted, by setting every one of them."""
    # With room on every side, for what lies outside.
    times = np.zeros([3 * n + 20 for n in value.shape], np.int64)
    for chunk in shares.chunks:
        sizes = value.sizes[chunk].tolist()
        part = np.ones(sizes, np.int64)
        for low, high in shares.holes.get(chunk, ()):
            part[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 0
        offsets = value.offsets[chunk].tolist()
        times[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))] += part
    return times


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_boxes(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    boxes = data.draw(
        st.lists(
            st.tuples(*[st.tuples(st.integers(0, n + 2), st.integers(0, n + 1)) for n in shape]),
            min_size=1,
            max_size=8,
        )
    )
    value = tensor(shape, [([o for o, _ in b], [n for _, n in b]) for b in boxes])
    readable = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
    )
    shares = shares_of(value, readable)
    times = counted(value, shares)
    inside = tuple(slice(0, n) for n in shape)
    held = np.zeros_like(times)
    for chunk in np.flatnonzero(readable).tolist():
        low, size = value.offsets[chunk].tolist(), value.sizes[chunk].tolist()
        held[tuple(slice(o, o + n) for o, n in zip(low, size, strict=True))] = 1
    assert (times[inside] == held[inside]).all()
    assert times.sum() == times[inside].sum()


def test_scalars_and_replicas() -> None:
    scalar = tensor((), [([], []), ([], [])])
    assert shares_of(scalar, np.array([True, True])).chunks == [0]
    assert shares_of(scalar, np.array([False, True])).chunks == [1]
    whole = tensor((4, 4), [([0, 0], [4, 4])] * 3)
    assert shares_of(whole, np.ones(3, np.bool_)).chunks == [0]
    assert shares_of(whole, np.array([False, False, True])).chunks == [2]
    assert shares_of(whole, np.zeros(3, np.bool_)).chunks == []


def test_a_plain_grid_has_no_holes() -> None:
    boxes = [([r, c], [2, 3]) for r in (0, 2) for c in (0, 3)]
    assert shares_of(tensor((4, 6), boxes), np.ones(4, np.bool_)) == Shares([0, 1, 2, 3])


def test_hostile_overlaps_are_given_up() -> None:
    boxes = [([i, i], [500, 500]) for i in range(400)]
    shares = shares_of(tensor((900, 900), boxes), np.ones(400, np.bool_))
    assert shares.chunks == []
    assert "overlap in too many ways" in shares.problem
    far = [([i, 0], [1, 1 << 62]) for i in range(5000)] + [([0, i], [1 << 62, 1]) for i in range(9)]
    assert shares_of(tensor((1 << 20, 1 << 20), far), np.ones(5009, np.bool_)).problem
    assert math.prod((1 << 20, 1 << 20)) == 1 << 40
