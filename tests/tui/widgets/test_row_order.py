from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inspector.checkpoint.text import natural_keys
from inspector.tui.kit.row_order import ordered, sort_order


@given(st.lists(st.integers(0, 5)), st.booleans())
def test_sorting_is_stable_both_ways(keys: list[int], reverse: bool) -> None:
    expected = sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)
    assert sort_order(keys, reverse=reverse).tolist() == expected
    assert sort_order(np.array(keys, np.int64), reverse=reverse).tolist() == expected


def test_a_filter_keeps_the_order() -> None:
    assert ordered(np.array([1, 4, 2]), np.array([4, 3, 2, 1, 0])).tolist() == [4, 2, 1]


def test_names_sort_as_people_do() -> None:
    names = ["l.10.w", "l.2.w", "l.2.b", "a", "l.02.w", "10", "9"]
    keys = natural_keys(names)
    assert [names[i] for i in sort_order(keys)] == [
        "9",
        "10",
        "a",
        "l.2.b",
        "l.2.w",
        "l.02.w",
        "l.10.w",
    ]
    assert natural_keys([]) == []
    assert len(natural_keys(["a\nb", "c"])) == 2
    assert natural_keys(["x" + "9" * 5000])
