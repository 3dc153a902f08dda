"""Which tensors to look at first: NaN, infinities, then norms unlike those of their siblings.

Siblings are the same parameter in other layers: names that are alike once path parts that are
integers are read as `*` (`layers.7.wq.weight` is one of `layers.*.wq.weight`). What is compared is
the root mean square, which does not depend on a tensor's size, by its logarithm: the distance from
the siblings' median in units of their median absolute deviation (times 1.4826, which makes it a
standard deviation for normal data; Iglewicz
and Hoaglin, "How to Detect and Handle Outliers", 1993). Besides, a value that is absurdly large
beside the other tensors', as a flipped bit of an exponent makes it.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inspector.checkpoint.text import format_shape, plural
from inspector.values.stats import TensorStats

__all__ = ["Kind", "Ranked", "group_of", "rank"]

Kind = Literal["nan", "inf", "zero", "odd", ""]

#: A norm so many deviations off its siblings' median is odd. Iglewicz and Hoaglin say 3.5; norms
#: that change from layer to layer are no news, so it takes more here.
ODD_SCORE = 6.0
#: Siblings that it takes to say what is usual.
MIN_SIBLINGS = 3
#: A value is absurd if it is so large, and so many times the median of the other tensors' largest.
#: Optimizer states may be 1e-10 where parameters are 1; but neither is ever a million.
ABSURD_VALUE = 1e6
ABSURD_FACTOR = 1e6
# Siblings that are nearly equal do not make a difference of a few percent odd.
_LEAST_DEVIATION = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A tensor, and why it stands where it does.

    Attributes:
        stats: Its statistics.
        kind: `nan`, `inf` (and no NaN), `zero` (more than one element, all of them 0), `odd` (its
            norm, or an absurd value), or empty: nothing to tell.
        reason: That in a few words, printable: `rms 41x the median of its 31 siblings`. May be
            there though `kind` is empty.
        group: Raw pattern of its siblings' names.
        num_siblings: Others of the group with a norm.
        factor: Its root mean square over the siblings' median, None without siblings.
        score: Distance from that median in deviations (always positive), None likewise.
        excess: Its largest |value| over the other tensors' median, None if that is not absurd.
    """

    stats: TensorStats
    kind: Kind
    reason: str
    group: str
    num_siblings: int
    factor: float | None
    score: float | None
    excess: float | None = None


def group_of(fqn: str) -> str:
    """The name with `*` for every part that is an integer."""
    return ".".join("*" if part.isdecimal() and part.isascii() else part for part in fqn.split("."))


def rank(tensors: Iterable[TensorStats]) -> list[Ranked]:
    """All tensors, what is oddest first.

    NaN (the most first), infinities, all zero among siblings that are not, absurd values, norms
    unlike their siblings', by the distance; then others that are all zero, others with something
    to tell, and the rest in the checkpoint's order.
    """
    groups: dict[str, list[TensorStats]] = {}
    position: dict[int, int] = {}
    for stats in tensors:
        position[stats.index] = len(position)
        groups.setdefault(group_of(stats.fqn), []).append(stats)
    usual = _usual_largest(member for members in groups.values() for member in members)
    ranked = [
        _absurd(item, usual) for name, members in groups.items() for item in _group(name, members)
    ]
    return sorted(ranked, key=lambda item: _order(position[item.stats.index], item))


def _order(position: int, item: Ranked) -> tuple[int, float, int]:
    stats = item.stats
    place = {"nan": 0, "inf": 1, "zero": 2, "odd": 3, "": 5}[item.kind]
    if item.kind == "zero" and not item.num_siblings:
        place = 4
    odd = item.excess or item.score or 0.0
    size = {"nan": stats.num_nan, "inf": stats.num_inf}.get(item.kind, odd)
    return place, -size if item.reason else 0.0, position


def _largest(stats: TensorStats) -> float:
    """The largest |value| of a tensor of floats; 0 for others, and for single numbers.

    Single numbers are not parameters: a count of steps is of a million in time.
    """
    if ("float" not in stats.dtype and not stats.is_complex) or stats.num_elements < 2:
        return 0.0
    return max(abs(float(stats.low or 0)), abs(float(stats.high or 0)))


def _usual_largest(tensors: Iterable[TensorStats]) -> float | None:
    """The median of the tensors' largest |value|; None of too few."""
    found = [largest for largest in map(_largest, tensors) if largest > 0]
    return statistics.median(found) if len(found) > MIN_SIBLINGS else None


def _absurd(item: Ranked, usual: float | None) -> Ranked:
    """The same, odd if its largest value is absurd and nothing worse is known."""
    largest = _largest(item.stats)
    if item.kind not in ("", "odd") or usual is None or largest < ABSURD_VALUE:
        return item
    excess = min(largest / usual, sys.float_info.max)
    if excess < ABSURD_FACTOR:
        return item
    reason = f"largest |value| {largest:.3g} is {excess:.2g}x the tensors' median"
    return replace(item, kind="odd", reason=reason, excess=excess)


def _group(name: str, members: Sequence[TensorStats]) -> list[Ranked]:
    logs = {m.index: math.log(m.rms) for m in members if 0 < m.rms < math.inf}
    usual = None
    if len(logs) > 1:
        # The median of all, its own included, as the method has it.
        median = statistics.median(logs.values())
        spread = 1.4826 * statistics.median(abs(x - median) for x in logs.values())
        usual = median, max(spread, _LEAST_DEVIATION)
    return [
        _ranked(name, stats, logs.get(stats.index), usual, len(logs), len(members))
        for stats in members
    ]


def _ranked(
    group: str,
    stats: TensorStats,
    log: float | None,
    usual: tuple[float, float] | None,
    num_logs: int,
    num_members: int,
) -> Ranked:
    """One tensor beside its group: median and deviation of the norms that have a logarithm."""
    num_siblings = num_logs - (log is not None)
    factor = score = None
    if log is not None and usual is not None:
        factor = math.exp(min(log - usual[0], 700.0))
        score = abs(log - usual[0]) / usual[1]
    kind: Kind = ""
    reason = ""
    if stats.num_non_finite:
        kind = "nan" if stats.num_nan else "inf"
        counts = [f"{stats.num_nan:,} NaN"] * bool(stats.num_nan)
        counts += [f"{stats.num_inf:,} infinite"] * bool(stats.num_inf)
        reason = " and ".join(counts)
        if stats.first_non_finite:
            reason += f", the first at {format_shape(stats.first_non_finite)}"
    elif stats.is_all_zero and stats.num_read > 1:
        kind, reason = "zero", f"all {stats.num_read:,} elements are 0"
        if num_siblings:
            reason += f", unlike {num_siblings:,} of its {plural(num_members - 1, 'sibling')}"
    elif factor is not None and score is not None and num_siblings >= MIN_SIBLINGS:
        if score >= ODD_SCORE:
            kind = "odd"
        if score >= ODD_SCORE / 2:
            reason = f"rms {_times(factor)} the median of its {plural(num_siblings, 'sibling')}"
    return Ranked(stats, kind, reason, group, num_siblings, factor, score)


def _times(factor: float) -> str:
    """`41x`, `2.4x`, `1/41 of`."""
    return f"{factor:.3g}x" if factor >= 1 else f"1/{1 / factor:.3g} of"
