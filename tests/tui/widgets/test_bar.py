from __future__ import annotations

import math

import pytest

from inspector.report.fitting import bar


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
