"""Names as one text: whatever is asked of them, they are what the list of them would be."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from inspector.checkpoint.child.names import Names, any_has, as_text, first_parts

MANY = [f"model.layers.{i}.weight" for i in range(100)]
LISTS = {
    "one": ["weight"],
    "one that is empty": [""],
    "empty ones": ["", "", "a", ""],
    "plain": MANY,
    "wide and invalid": ["模型.w", "\ud800x", "e\u0301.b", "a\0b", "tab\t", "\x85", "a\u2028b"],
    "alike": ["a.b", "a", "a.b.c", "ab.c", "a.b", "b"],
    "mixed": ["a.x", "b.x", "a.y", "b.y"],
    "in groups": [*(f"a.{i}" for i in range(9)), *(f"b.{i}" for i in range(9)), "c.d"],
    "many groups": [f"group{i}.w" for i in range(40)],
    "one begins as another": ["model.a", "model.b", "model2.c", "model"],
    "dots": [".a", "..", "a."],
}
every_list = pytest.mark.parametrize("names", LISTS.values(), ids=LISTS)


def packed(names: Sequence[str]) -> Names:
    found = Names.of(names)
    assert found is not None
    return found


@every_list
def test_they_are_the_list(names: list[str]) -> None:
    assert packed(names) == names
    assert packed(names) == packed(names)
    assert list(packed(names)) == names
    assert len(packed(names)) == len(names)
    assert [packed(names)[i] for i in range(-len(names), len(names))] == names + names
    one_by_one = packed(names)
    order = random.Random(1).sample(range(len(names)), len(names))  # noqa: S311
    assert [one_by_one[i] for i in order] == [names[i] for i in order]
    for part in (slice(None), slice(1, 3), slice(None, None, -2), slice(5, 2), slice(-1, None)):
        assert packed(names)[part] == names[part]
    assert names[-1] in packed(names)
    assert "no such name" not in packed(names)
    assert packed(names).index(names[-1]) == names.index(names[-1])
    assert packed(names) != [*names, "another"]
    assert packed(names) != names[:-1]


@every_list
def test_what_is_looked_for_in_all_is_found_as_in_each(names: list[str]) -> None:
    assert first_parts(packed(names)) == first_parts(names) == {n.split(".")[0] for n in names}
    assert as_text(packed(names)) == as_text(names)
    for part in ("layers.7", "weight", "x.y", "a.b", "\ud800", "模", "", "a\0", "no such"):
        assert any_has(packed(names), part) == any_has(names, part) == any(part in n for n in names)


@every_list
def test_what_is_out_of_bounds_is_said_to_be(names: list[str]) -> None:
    for index in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            packed(names)[index]


@pytest.mark.parametrize("names", [[], ["a\nb"], ["a", "\n"], ["\n", ""]])
def test_names_with_a_line_end_are_no_lines(names: list[str]) -> None:
    assert Names.of(names) is None
    assert first_parts(names) == {name.split(".")[0] for name in names}


def test_few_are_made_where_few_are_asked_for() -> None:
    names = packed(MANY)
    assert names[3] == MANY[3]
    assert names[:4] == MANY[:4]
    assert names._all is None
    assert [names[i] for i in range(50)] == MANY[:50]
    assert names._all == MANY
