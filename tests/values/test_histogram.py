"""`Histogram`: nothing is lost, bars are near those of exact counting, zeros have their place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.values.histogram import Histogram, keys_of

NUMBERS = st.lists(
    st.floats(allow_nan=False, allow_infinity=False).filter(bool), min_size=1, max_size=200
)


def of(values: list[float], num_zero: int = 0) -> Histogram:
    return Histogram.of(np.array(values), np.ones(len(values), np.int64), num_zero)


@settings(deadline=None)
@given(NUMBERS, st.integers(0, 5), st.integers(1, 40))
def test_nothing_is_lost(values: list[float], num_zero: int, num_bars: int) -> None:
    histogram = of(values, num_zero)
    assert histogram.num_elements == len(values) + num_zero
    ends = [*values, 0.0] if num_zero else values
    linear = histogram.linear(num_bars, min(ends), max(ends))
    assert math.isclose(linear.counts.sum(), len(values) + num_zero, rel_tol=1e-9)
    assert len(linear.edges) == num_bars + 1
    log = histogram.log(num_bars)
    assert math.isclose(log.counts.sum(), len(values), rel_tol=1e-9)
    assert log.num_zero == num_zero
    for bars in (linear, log):
        assert np.isfinite(bars.edges).all()
        assert (np.diff(bars.edges) >= 0).all()
        assert (bars.counts >= 0).all()


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_sums_of_parts(a: list[float], b: list[float]) -> None:
    both, whole = of(a, 1) + of(b, 2), of(a + b, 3)
    assert both.keys.tolist() == whole.keys.tolist()
    assert both.counts.tolist() == whole.counts.tolist()
    assert both.num_zero == 3
    mirrored = of([-x for x in a])
    assert of(a).negated().keys.tolist() == mirrored.keys.tolist()


def test_a_number_lies_within_its_bin() -> None:
    generator = np.random.default_rng(3)
    values = generator.standard_normal(5000) * 10.0 ** generator.integers(-300, 300, 5000)
    for value in values.tolist():
        (low,), (high,) = of([value]).bounds()
        assert low <= value <= high
        assert (high - low) <= abs(value) / 16 + 1e-320


@pytest.mark.parametrize("num_bars", [8, 20, 50])
def test_bars_are_near_exact_ones(num_bars: int) -> None:
    values = np.random.default_rng(1).standard_normal(200_000)
    bars = of(values.tolist()).linear(num_bars, float(values.min()), float(values.max()))
    exact, edges = np.histogram(values, num_bars, (values.min(), values.max()))
    np.testing.assert_allclose(bars.edges, edges)
    # A bin is at most a sixteenth of its value wide; within one, numbers are taken as even.
    assert np.abs(bars.counts - exact).max() < 0.01 * len(values)


def test_one_value_and_none() -> None:
    bars = of([2.5, 2.5]).linear(4, 2.5, 2.5)
    assert bars.counts.sum() == 2
    assert bars.edges[0] < 2.5 < bars.edges[-1]
    assert Histogram.empty().linear(4, 0.0, 0.0).counts.sum() == 0
    assert Histogram.empty().log(4).counts.sum() == 0


def test_zeros_stand_at_zero() -> None:
    bars = of([-1.0, 1.0], 7).linear(4, -1.0, 1.0)
    assert bars.counts.argmax() == 2
    assert bars.counts[2] == pytest.approx(7)


def test_keys_are_the_upper_bits() -> None:
    assert keys_of(np.array([1.0, -1.0, 0.0, -0.0])).tolist() == [0x3FF0, 0xBFF0, 0, 0x8000]


@settings(deadline=None)
@given(NUMBERS, st.integers(1, 40))
def test_counts_are_whole_and_the_ends_are_never_empty(values: list[float], num_bars: int) -> None:
    for bars in (of(values).linear(num_bars, min(values), max(values)), of(values).log(num_bars)):
        assert (bars.counts == np.rint(bars.counts)).all()
        assert bars.counts.sum() == len(values)
        if bars.scale == "linear" and min(values) < max(values):
            assert bars.counts[0] >= 1
            assert bars.counts[-1] >= 1


@pytest.mark.parametrize("number", [1.0, -3.0, 5e-324, 1.7e308, 0.3])
@pytest.mark.parametrize("num_bars", [1, 7, 20])
def test_what_is_one_number_is_in_one_bar(number: float, num_bars: int) -> None:
    one = Histogram.of(np.array([number]), np.array([4]), 0)
    bars = one.linear(num_bars, number, number)
    (at,) = np.flatnonzero(bars.counts)
    assert bars.counts[at] == 4
    assert bars.edges[at] <= number <= bars.edges[at + 1]
