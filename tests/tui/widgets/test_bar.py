from __future__ import annotations

import math

import pytest

from inspector.report.bar import bar, stacked_bar


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "    "),
        (1, "████"),
        (0.5, "██  "),
        (1 / 32, "▏   "),
        (1e-9, "▏   "),
        (0.99, "████"),
        (2.0, "████"),
        (-1, "    "),
        (math.nan, "    "),
        (math.inf, "    "),
    ],
)
def test_bar(fraction: float, text: str) -> None:
    assert bar(fraction, 4) == text


def test_bar_in_ascii_and_of_no_width() -> None:
    assert bar(0.5, 4, ascii_only=True) == "##  "
    assert bar(0.01, 4, ascii_only=True) == "#   "
    assert bar(0.5, 0) == ""


def test_stacked_bar_gives_every_part_a_cell_and_fills_the_width() -> None:
    assert stacked_bar([1, 1], 10) == [5, 5]
    assert stacked_bar([1000, 1, 0], 10) == [9, 1, 0]
    assert stacked_bar([0, 0], 10) == [0, 0]
    assert sum(stacked_bar([3, 5, 7, 11], 37)) == 37
    assert stacked_bar([5, 1, 9], 2) == [1, 0, 1]
    assert sum(stacked_bar([1e308, 1e308, math.nan], 10)) == 10
