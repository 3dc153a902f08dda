"""Figures over runs of shards, beside the plain double loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inspector.layout.geometry import distinct, maxima, shares, sums

_Run = tuple[int, int, int]


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, list[_Run]]:
    """A number of shards, and runs of them with a value each."""
    num = draw(st.integers(1, 40))
    ends = st.tuples(st.integers(0, num - 1), st.integers(0, num - 1), st.integers(0, 9))
    found = draw(st.lists(ends, max_size=30))
    return num, [(min(a, b), max(a, b), value) for a, b, value in found]


def columns(found: list[_Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.asarray(found, dtype=np.int64).reshape(len(found), 3)
    return table[:, 0], table[:, 1], table[:, 2]


@given(runs())
def test_as_counted_one_by_one(given_runs: tuple[int, list[_Run]]) -> None:
    num, found = given_runs
    first, last, value = columns(found)
    holds = [[v for a, b, v in found if a <= shard <= b] for shard in range(num)]
    assert sums(first, last, value, num).tolist() == [sum(h) for h in holds]
    assert sums(first, last, 1, num).tolist() == [len(h) for h in holds]
    assert maxima(first, last, value, num).tolist() == [max(h, default=0) for h in holds]
    assert distinct(first, last, value, num).tolist() == [len(set(h)) for h in holds]


boxes = st.tuples(st.integers(0, 60), st.integers(1, 60), st.integers(1, 9), st.integers(1, 7))


@given(st.lists(boxes, max_size=20), st.integers(1, 30))
def test_rows_shared(found: list[tuple[int, int, int, int]], num_shards: int) -> None:
    """Items of (start, rows, rows of a shard, bytes of a row), cut to what the shards hold."""
    rows = []
    for start, count, full, row_bytes in found:
        stop = min(start + count, full * num_shards)
        if start < stop:
            rows.append((start, stop, full, row_bytes))
    table = np.asarray(rows, dtype=np.int64).reshape(len(rows), 4)
    got = shares(table[:, 0], table[:, 1], table[:, 2], table[:, 3], num_shards)
    for shard in range(num_shards):
        plain = 0
        for start, stop, full, row_bytes in rows:
            own = set(range(start, stop)) & set(range(shard * full, (shard + 1) * full))
            plain += len(own) * row_bytes
        assert got[shard] == plain


def test_a_run_of_none_adds_nothing() -> None:
    first, last = np.asarray([0, 2]), np.asarray([-1, 1])
    assert sums(first, last, np.asarray([5, 7]), 3).tolist() == [0, 0, 0]


def test_the_largest_labels_and_shards() -> None:
    num, label = 1 << 16, (1 << 31) - 1
    first, last = np.asarray([0, 5]), np.asarray([num - 1, 6])
    counts = distinct(first, last, np.asarray([label, label - 1]), num)
    assert counts[4:8].tolist() == [1, 2, 2, 1]
    assert counts[-1] == 1
