"""What stands in the cell of a rank: characters and the names of their styles.

The rule this module keeps: a cell can be read without colour. A glyph says the state, a bar or a
number how far it is; and whatever comes from a rank has passed the display gate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from inspector.checkpoint.text import format_bytes
from inspector.tui.kit.cell_text import fit, shown
from inspector.tui.verification.figures import RankProgress

__all__ = ["GLYPHS", "Run", "cell_lines", "ends", "merged", "number_words", "stage_bar", "word"]

Run: TypeAlias = "tuple[str, str]"
"""Text, and the name of its style: empty for the cell's own, or `mark`, `bar`, `rest`, `dim`."""

GLYPHS = {"waiting": "·", "running": "▸", "done": "✓", "wrong": "≠", "failed": "✗", "stopped": "■"}
_WORDS = {"done": "exact", "wrong": "differs", "failed": "failed", "stopped": "stopped"}
_STEPS = "▁▂▃▄▅▆▇█"
#: The worst of several ranks in one cell is shown.
_WORST = ("done", "running", "waiting", "stopped", "wrong", "failed")


def merged(ranks: Sequence[RankProgress]) -> RankProgress:
    """Several ranks as one: the worst state, the mean share, the sum of bytes."""
    if len(ranks) == 1:
        return ranks[0]
    worst = max(ranks, key=lambda rank: _WORST.index(rank.state))
    resident = [rank.memory for rank in ranks if rank.memory is not None]
    return RankProgress(
        ranks[0].rank,
        worst.state,
        worst.phase,
        (sum(rank.share for rank in ranks) / len(ranks),),
        sum(rank.num_bytes for rank in ranks),
        sum(rank.rate for rank in ranks),
        max(resident, default=None),
        None,
    )


def word(rank: RankProgress) -> str:
    """What a rank is doing, in a word; raw."""
    if rank.state == "running":
        return rank.phase or "starting"
    if rank.state == "wrong" and rank.share < 1 and rank.phase:
        return rank.phase
    return _WORDS.get(rank.state, rank.state)


def cell_lines(rank: RankProgress, width: int, height: int, more: int = 0) -> list[list[Run]]:
    """The lines of a cell, each exactly `width` characters wide.

    Args:
        rank: The rank, or several as one (`merged`).
        width: Of the cell.
        height: Likewise.
        more: Ranks that share the cell with the first of them.
    """
    # What it does is told before how many they are, which stands above the cells, too.
    told = len(shown(word(rank), width)) + len(_percent(rank.share)) + 2
    number = number_words(rank.rank, more, width - 4 - told if width >= 11 else 0)
    if height == 1:
        return [_one_line(rank, width, number)]
    lines = [
        _title(rank, width, number),
        [(" ", ""), *stage_bar(rank.shares, width - 2), (" ", "")],
    ]
    if height >= 3:
        moved = format_bytes(rank.num_bytes) if rank.num_bytes else ""
        rate = f"{format_bytes(rank.rate)}/s" if rank.rate >= 1 else ""
        memory = _memory(rank)
        pairs = [(moved, rate), (memory, "")] if height >= 4 else [(moved, rate or memory)]
        lines += [[(ends(left, right, width), "dim")] for left, right in pairs]
    return lines[:height]


def number_words(rank: int, more: int, room: int) -> str:
    """`4`, or `4 +3` for it and three more if there is room: half a number would be a wrong one."""
    both = f"{rank} +{more}" if more else ""
    return both if both and len(both) <= room else str(rank)


def _memory(rank: RankProgress) -> str:
    if rank.memory is None:
        return ""
    gpu = "" if rank.gpu_memory is None else f", {format_bytes(rank.gpu_memory)} GPU"
    return f"{format_bytes(rank.memory)} mem{gpu}"


def ends(left: str, right: str, width: int) -> str:
    """Texts at both ends of a line; the right one goes if there is no room."""
    room = width - 2
    if len(left) + len(right) + 1 > room:
        right = ""
    return f" {fit(left, room - len(right))}{right} " if room > 0 else " " * width


def _percent(share: float) -> str:
    # Rounded up, 99.6 % would look done.
    return f"{min(99 if share < 1 else 100, math.floor(share * 100))}%"


def _title(rank: RankProgress, width: int, number: str) -> list[Run]:
    percent = _percent(rank.share) if rank.state not in ("waiting", "done") else ""
    room = width - 4 - len(number) - (len(percent) + 1 if percent else 0)
    what = fit(shown(word(rank), max(room - 1, 0)), max(room - 1, 0))
    runs = [(f" {GLYPHS[rank.state]} ", "mark"), (f"{number} ", "name"), (what, "")]
    if percent:
        runs.append((f" {percent}", ""))
    return _exactly([*runs, (" ", "")], width)


def _one_line(rank: RankProgress, width: int, number: str) -> list[Run]:
    glyph = GLYPHS[rank.state]
    step = _STEPS[min(7, int(rank.share * 8))]
    is_moving = rank.state in ("running", "wrong", "failed", "stopped") and rank.share < 1
    if width < 3:
        moving = rank.state == "running"
        return _exactly([(step if moving and rank.phase else glyph, "mark")], width)
    if width < 11:
        percent = _percent(rank.share) if is_moving else ""
        tail = percent if len(number) + len(percent) + 2 <= width else step if is_moving else ""
        room = width - 1 - len(tail)
        style = "mark" if tail == step else ""
        return _exactly([(glyph, "mark"), (fit(number, room), "name"), (tail, style)], width)
    percent = _percent(rank.share) if is_moving else ""
    room = width - 2 - len(number) - 1 - (len(percent) + 1 if percent else 0)
    what = fit(shown(word(rank), max(room, 0)), max(room, 0))
    text = [(f"{glyph} ", "mark"), (f"{number} ", "name"), (what, "")]
    return _exactly([*text, (f" {percent}" if percent else "", "")], width)


def _exactly(runs: list[Run], width: int) -> list[Run]:
    """Runs cut or padded to `width` characters."""
    kept: list[Run] = []
    for text, style in runs:
        text = text[:width]
        width -= len(text)
        if text:
            kept.append((text, style))
    return [*kept, (" " * width, "")] if width else kept


def stage_bar(shares: Sequence[float], width: int) -> list[Run]:
    """A bar of one piece for each stage, filled as it goes; thick is done, thin is to do."""
    count = len(shares)
    if not count or width < 2 * count:
        share = sum(shares) / count if count else 0.0
        return _piece(share, max(width, 0))
    room = width - (count - 1)
    runs: list[Run] = []
    for i, share in enumerate(shares):
        piece = room * (i + 1) // count - room * i // count
        runs += _piece(share, piece)
        if i < count - 1:
            runs.append((" ", ""))
    return runs


def _piece(share: float, width: int) -> list[Run]:
    part = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    halves = math.floor(part * width * 2)
    if part > 0:
        halves = max(1, halves)
    whole, half = divmod(halves, 2)
    done = "━" * whole + "╸" * half
    runs = [(done, "bar"), ("─" * (width - len(done)), "rest")]
    return [(text, style) for text, style in runs if text]
