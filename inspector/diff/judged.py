"""A tensor's `Tally` -> its verdict, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

from inspector.checkpoint.text import plural, printable
from inspector.diff.elements import Tally, index_of
from inspector.diff.model import TensorDiff, Verdict

__all__ = ["judged", "may_be_reordered", "reordered"]


def judged(diff: TensorDiff, tally: Tally, error: str) -> TensorDiff:
    """What the metadata said of a tensor, with what its elements say."""
    shape = diff.shape_a or ()

    def index(position: int | None) -> tuple[int, ...] | None:
        return None if position is None else index_of(position, shape)

    is_whole = not error and tally.num_compared == diff.num_elements
    max_abs, max_rel = tally.max_abs, tally.max_rel
    if is_whole and not tally.num_different:
        max_abs, max_rel = 0, 0.0
    return replace(
        diff,
        verdict=_verdict(diff, tally, is_whole=is_whole),
        num_compared=tally.num_compared,
        num_different=tally.num_different,
        first_index=index(tally.first),
        max_abs=max_abs,
        max_abs_index=index(tally.max_abs_at),
        max_rel=max_rel,
        max_ulps=tally.max_ulps,
        num_not_close=tally.num_not_close,
        num_non_finite=tally.num_non_finite,
        first_non_finite=index(tally.first_non_finite),
        num_nan_both=tally.num_nan_both,
        detail=_detail(diff, tally, error, is_whole=is_whole),
    )


def may_be_reordered(diff: TensorDiff, tally: Tally) -> bool:
    """Whether a tensor may hold the same elements in another order, by a sum of their bits."""
    is_whole = tally.num_compared == diff.num_elements
    return diff.verdict != "DTYPE" and is_whole and tally.num_different > 1 and not tally.imbalance


def reordered(diff: TensorDiff) -> TensorDiff:
    """A tensor that was found to hold the same elements in another order."""
    parts = ["the same elements in another order", *([diff.detail] if diff.detail else [])]
    return replace(diff, is_reordered=True, detail="; ".join(parts))


def _verdict(diff: TensorDiff, tally: Tally, *, is_whole: bool) -> Verdict:
    if diff.verdict == "DTYPE":
        return "DTYPE"
    if tally.num_non_finite:
        return "NON_FINITE"
    if tally.num_not_close:
        return "DIFFER"
    if not is_whole or not tally.num_compared:
        # Close as far as it goes is different all the same.
        return "DIFFER" if tally.num_different else "NOT_COMPARED"
    return "CLOSE" if tally.num_different else "EXACT"


def _detail(diff: TensorDiff, tally: Tally, error: str, *, is_whole: bool) -> str:
    parts = []
    if diff.verdict == "DTYPE":
        parts.append(f"{diff.dtype_a} in A, {diff.dtype_b} in B")
        if is_whole and not tally.num_different:
            parts.append("every value is the same number")
    if tally.num_nan_both:
        parts.append(f"{plural(tally.num_nan_both, 'NaN')} with other payload bits")
    if not is_whole:
        left = diff.num_elements - tally.num_compared
        what = plural(left, "element") if tally.num_compared else "values"
        parts.append(f"{what} not compared: {printable(error, 400) or 'it was stopped'}")
    return "; ".join(parts)
