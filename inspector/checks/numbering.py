"""A run whose step numbers started anew: its highest number is not what was saved last.

A training that resumes without the counter (Accelerate's automatic naming) or from an earlier step
writes low numbers again, while the folders of the high ones stay: the next resume by number takes
an old state. Times alone tell it, and times tell of copies as well.

The rule this module keeps: silent where the times may be those of a copy. That is where the steps
lie in the order of their names, or in no order of their numbers, or all within an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.steps import Step

__all__ = ["check_numbering"]

_MIN_LATER_S = 3600.0
# Of so many steps one may be followed in time by one of a lower number: a run is resumed now and
# then, and the order of a copy is mixed all over.
_STEPS_PER_RESTART = 4


def check_numbering(steps: Sequence[Step]) -> list[Finding]:
    """A warning for each series of steps of which lower numbers were written after the highest."""
    series: dict[str, dict[int, tuple[float, Step]]] = {}
    for step in steps:
        written_s = _written_s(step)
        if step.step is not None and step.is_numbered and written_s is not None:
            members = series.setdefault(step.series, {})
            # Two folders of one number are no series.
            members[step.step] = (written_s, step) if step.step not in members else (0.0, step)
    return [found for members in series.values() if (found := _restarted(members)) is not None]


def _restarted(members: dict[int, tuple[float, Step]]) -> Finding | None:
    highest = max(members)
    by_time = sorted(members, key=lambda number: (members[number][0], number))
    later = by_time[by_time.index(highest) + 1 :]
    if not later or any(written_s <= 0 for written_s, _ in members.values()):
        return None
    apart_s = members[later[-1]][0] - members[highest][0]
    num_restarts = sum(b < a for a, b in pairwise(by_time))
    is_mixed = num_restarts > max(1, len(members) // _STEPS_PER_RESTART)
    names = [members[number][1].path for number in by_time]
    if apart_s < _MIN_LATER_S or is_mixed or names == sorted(names):
        return None
    return _finding(members[highest][1], members[later[-1]][1], len(later), apart_s)


def _written_s(step: Step) -> float | None:
    """When a step was written; None where that is not known of all its parts."""
    times = [part.written_s for part in step.parts]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _finding(highest: Step, last: Step, num_later: int, apart_s: float) -> Finding:
    hours = apart_s / 3600
    apart = f"{hours / 24:,.0f} days" if hours >= 48 else f"{hours:,.0f} h"
    which = printable(last.path, 120)
    who = f"{which} was" if num_later == 1 else f"{plural(num_later, 'step')} of lower numbers were"
    rest = "" if num_later == 1 else f" ({which} is the last, {apart} later)"
    later = f" {apart}" if num_later == 1 else ""
    return Finding(
        "step-mismatch",
        "warning",
        f"{who} written{later} after {printable(highest.path, 120)}, which has the highest "
        f"number{rest}: the numbering restarted, or a step was copied here later",
        "loads what it is told to; frameworks that resume by number (Accelerate's load_state) take "
        f"{printable(highest.path, 60)}, and those that keep a number of checkpoints delete the "
        "lowest",
        "newest here is the highest number: if the run was resumed, name the checkpoint to load, "
        f"and see whether it is {which}; else this is no fault",
        file=highest.path,
    )
