"""Which of many tensors of one content are paired, and in how many steps."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from inspector.diff import renames
from inspector.diff.renames import _paired
from tests.conftest import some_fast


def steps(action: Callable[[], object]) -> int:
    """How many calls, of Python and C functions, an action makes."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def biases(prefix: str, num: int) -> list[str]:
    return [f"{prefix}layers.{i}.attn.bias" for i in range(num)]


@pytest.mark.parametrize("prefix", some_fast(["decoder.", "decoder.model.", ""], ["decoder."]))
def test_twenty_thousand_biases(prefix: str) -> None:
    a, b = biases("model.", 20_000), biases(prefix, 20_000)
    shuffled = list(b)
    random.Random(0).shuffle(shuffled)  # noqa: S311
    found: dict[str, str] = {}
    num_steps = steps(lambda: found.update(_paired(a, shuffled, {})))
    assert [found[name] for name in a] == b
    # Four parts or so a name, and a handful of calls for each: no name is held against each.
    assert num_steps < 60 * len(a)
    small_a, small_b = a[:5_000], b[:5_000]
    assert num_steps < 5 * steps(lambda: _paired(small_a, small_b, {}))


def test_names_that_end_alike_only_a_little() -> None:
    a, b = [f"a{i}.bias" for i in range(20_000)], [f"b{i}.bias" for i in range(20_000)]
    found: dict[str, str] = {}
    assert steps(lambda: found.update(_paired(a, b, {}))) < 60 * len(a)
    assert found == dict(zip(a, b, strict=True))


def test_the_longest_common_end_wins() -> None:
    a, b = ["x.norm.bias", "y.attn.bias"], ["q.attn.bias", "q.norm.bias"]
    assert _paired(a, b, {}) == {"x.norm.bias": "q.norm.bias", "y.attn.bias": "q.attn.bias"}
    # What the names suggest as a whole comes before.
    likely = {"x.norm.bias": "q.attn.bias"}
    assert _paired(a, b, likely) == {"x.norm.bias": "q.attn.bias", "y.attn.bias": "q.norm.bias"}


def test_what_is_left_over_is_not_guessed() -> None:
    assert _paired(["a.x"], ["b.y"], {}) == {"a.x": "b.y"}
    assert _paired(["a.x", "a.z"], ["b.y", "b.v"], {}) == {}
    assert _paired(["a.x", "c.x"], ["b.x"], {}) == {"a.x": "b.x"}
    assert _paired([], ["b.y"], {}) == {}


def test_a_name_of_a_million_parts() -> None:
    long = ".".join("a" * 200_000)
    assert steps(lambda: _paired([long + ".x", "b"], [long + ".y", "c"], {})) < 1_000
    assert renames._MAX_PARTS < 100
