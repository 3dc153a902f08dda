"""A `StatsReport` -> text with histograms, and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.text import (
    Number,
    format_bytes,
    format_shape,
    json_number,
    plural,
    printable,
)
from inspector.report.fitting import bar
from inspector.report.json import SCHEMA, dump, dump_list
from inspector.report.table import TextColumn, render_table, wrapped
from inspector.values.histogram import Bars
from inspector.values.ranking import Ranked
from inspector.values.stats import STOPPED, NotRead, StatsReport, TensorStats

if TYPE_CHECKING:
    from inspector.report.documents.values import DifferingCopies, NotReadTensor, TensorFigures
    from inspector.values.replicas import ReplicaDifference

__all__ = ["format_number", "histogram_lines", "stats_facts", "stats_json", "stats_text"]

_LABEL_CELLS = 14
_MAX_NOT_READ = 20


def format_number(number: float | int | None, digits: int = 4) -> str:
    """A figure as people read it: integers whole, others to so many digits; `-` for none."""
    if number is None or number != number:
        return "-"
    return f"{number:,}" if isinstance(number, int) else f"{number:.{digits}g}"


# Text.


def stats_text(
    report: StatsReport,
    ranked: Sequence[Ranked],
    *,
    path: str,
    histograms: str = "",
    width: int | None = None,
    max_rows: int | None = None,
    is_unicode: bool = True,
) -> Iterator[str]:
    """The lines of `stats`.

    Args:
        report: What was read.
        ranked: Its tensors, what is oddest first.
        path: The checkpoint's, raw.
        histograms: Scale of the histograms (`linear` or `log`), or empty for none.
        width: Cells of the terminal; None if there is none.
        max_rows: Rows a table may have, and tensors that are drawn; None for all.
        is_unicode: Whether what reads the text can show block characters.
    """
    yield f"{printable(path)}: {_summary(report, ranked)}"
    shown = ranked[:max_rows]
    if len(ranked) == 1:
        yield from _one(ranked[0], histograms or "linear", width, is_unicode)
    else:
        lines = _table(shown, width)
        if lines:
            yield ""
            yield from lines
        if any(item.stats.is_complex for item in shown):
            yield "|z|: figures of complex tensors are of absolute values"
        if len(ranked) > len(shown):
            left = len(ranked) - len(shown)
            yield f"... {left:,} more tensors: narrow them with --filter, or send this to a file"
        for item in shown if histograms else ():
            yield from _one(item, histograms, width, is_unicode)
    yield from _differing_lines(report, width)
    yield from _not_read_lines(report, width)


def _summary(report: StatsReport, ranked: Sequence[Ranked]) -> str:
    num_elements = sum(item.stats.num_read for item in ranked)
    counts = f"{plural(len(ranked), 'tensor')}, {plural(num_elements, 'element')}"
    parts = [f"{counts} ({format_bytes(report.payload_bytes)} read)"]
    for kind, what in (
        ("nan", "with NaN"),
        ("inf", "with infinities"),
        ("zero", "all zero"),
        ("odd", "of an odd norm or value"),
    ):
        count = sum(item.kind == kind for item in ranked)
        if count:
            parts.append(f"{count:,} {what}")
    if report.differing:
        parts.append(f"{len(report.differing):,} with copies that differ")
    if report.not_read:
        parts.append(f"{len(report.not_read):,} not read in full")
    said = "; ".join(parts)
    return f"stopped before every byte was read; so far {said}" if report.is_cancelled else said


_COLUMNS = (
    TextColumn("TENSOR", min_width=34),
    TextColumn("DTYPE", priority=5),
    TextColumn("SHAPE", min_width=8, priority=7),
    TextColumn("MIN", "right", priority=3),
    TextColumn("MAX", "right", priority=3),
    TextColumn("MEAN", "right", priority=4),
    TextColumn("STD", "right", priority=2),
    TextColumn("L2", "right", priority=6),
    TextColumn("ZEROS", "right", priority=8),
    TextColumn("NOTE", min_width=20, priority=1),
)


def _table(shown: Sequence[Ranked], width: int | None) -> list[str]:
    rows = [_row(item) for item in shown]
    if width is None or any(row[-1] for row in rows):
        return render_table(_COLUMNS, rows, width)
    # Notes without a word would take the room of figures.
    return render_table(_COLUMNS[:-1], [row[:-1] for row in rows], width)


def _row(item: Ranked) -> tuple[str, ...]:
    stats = item.stats
    mark = "|z| " if stats.is_complex else ""
    return (
        printable(stats.fqn, 200) or "''",
        mark + short_name(stats.dtype),
        format_shape(stats.shape),
        format_number(stats.low),
        format_number(stats.high),
        format_number(stats.mean),
        format_number(stats.std),
        format_number(stats.l2),
        format_number(stats.num_zero),
        item.reason or ("integers as stored" if stats.is_quantized else ""),
    )


def stats_facts(item: Ranked) -> list[tuple[str, str]]:
    """One tensor's figures as labels and printable text."""
    stats = item.stats
    size = plural(stats.num_elements, "element")
    if stats.num_read < stats.num_elements:
        size += f", {stats.num_read:,} of them read"
    facts = [("tensor", f"{stats.dtype} {format_shape(stats.shape)}, {size}")]
    if stats.is_complex:
        facts.append(("figures", "of absolute values"))
    elif stats.is_quantized:
        facts.append(("figures", "of the integers as stored, not times their scale"))
    facts += [
        ("min, max", f"{format_number(stats.low, 6)}, {format_number(stats.high, 6)}"),
        ("mean, std", f"{format_number(stats.mean, 6)}, {format_number(stats.std, 6)}"),
        ("L2 norm", f"{format_number(stats.l2, 6)} (rms {format_number(stats.rms, 6)})"),
        ("zeros", f"{stats.num_zero:,}{_share(stats.num_zero, stats.num_read)}"),
    ]
    for label, count, first in (
        ("NaN", stats.num_nan, stats.first_nan),
        ("infinite", stats.num_inf, stats.first_inf),
    ):
        where = f"{_share(count, stats.num_read)}, the first at {format_shape(first or ())}"
        facts.append((label, f"{count:,}{where if count else ''}"))
    if item.excess is not None:
        facts.append(("odd", item.reason))
    elif item.reason and item.factor is not None and not stats.num_non_finite:
        facts.append(("siblings", f"{item.reason} ({printable(item.group, 120)})"))
    if stats.num_non_finite and stats.num_finite:
        facts.append(("", "min, max, mean, std and L2 norm are of the finite elements"))
    return facts


def _share(count: int, total: int) -> str:
    return f" ({count / total:.3g} of all)" if count and total else ""


def _one(item: Ranked, scale: str, width: int | None, is_unicode: bool) -> Iterator[str]:
    yield ""
    yield printable(item.stats.fqn) or "''"
    for label, text in stats_facts(item):
        yield f"  {label:<{_LABEL_CELLS}}{text}"
    if not item.stats.num_finite:
        return
    yield ""
    num_bars = 20
    bars = item.stats.log(num_bars) if scale == "log" else item.stats.linear(num_bars)
    for line in histogram_lines(bars, (width or 80) - 2, is_unicode=is_unicode):
        yield f"  {line}"


def histogram_lines(bars: Bars, width: int, *, is_unicode: bool = True) -> list[str]:
    """A histogram, a line of `width` cells for each bar: where it begins, the bar, its count."""
    total = float(bars.counts.max()) if len(bars.counts) else 0.0
    edges = bars.edges.tolist()
    # What is 0 but for rounding says 0; a scale of powers of two has no 0.
    least = 0.0 if bars.scale == "log" else max(abs(edges[0]), abs(edges[-1])) * 1e-12
    labels = [_edge(a, least) for a in edges[:-1]]
    counts = [f"{int(count):,}" for count in bars.counts.tolist()]
    if bars.scale == "log" and bars.num_zero:
        labels.insert(0, "0")
        counts.insert(0, f"{bars.num_zero:,}")
        total = max(total, float(bars.num_zero))
    values = [float(bars.num_zero)] if len(labels) > len(bars.counts) else []
    values += bars.counts.tolist()
    left, right = max(map(len, labels), default=0), max(map(len, counts), default=0)
    room = max(width - left - right - 4, 1)
    lines = []
    for label, value, count in zip(labels, values, counts, strict=True):
        drawn = bar(value / total if total else 0.0, room, ascii_only=not is_unicode)
        lines.append(f"{label:>{left}}  {drawn}  {count:>{right}}")
    name = "|value|" if bars.scale == "log" else "value"
    last = _edge(edges[-1], least)
    lines.append(f"{last:>{left}}  (each line: about so many elements from this {name} to the")
    lines.append(f"{'':>{left}}  next; they are counted in bins of 1/16 of a power of two)")
    return lines


def _edge(value: float, least: float) -> str:
    return "0" if abs(value) < least else f"{value:.3g}"


def _differing_lines(report: StatsReport, width: int | None) -> Iterator[str]:
    if report.differing:
        yield ""
        yield "COPIES THAT DIFFER: every rank stored its own, and the figures are of the first"
    for item in report.differing:
        ranks = ["?" if rank is None else f"{rank:,}" for rank in item.ranks]
        line = (
            f"{printable(item.fqn, 200) or repr('')}: {plural(item.num_different, 'element')} of "
            f"{item.num_elements:,}, the first at {list(item.first_index)}: rank {ranks[0]} has "
            f"{item.values[0]}, rank {ranks[1]} {item.values[1]}"
        )
        yield from wrapped(line, width, "  ", "    ")


def _not_read_lines(report: StatsReport, width: int | None) -> Iterator[str]:
    left = [item for item in report.not_read if not (report.is_cancelled and item.why == STOPPED)]
    if report.not_read:
        yield ""
        yield "NOT READ"
    for item in left[: None if width is None else _MAX_NOT_READ]:
        count = f"{plural(item.num_elements, 'element')}: " if item.num_elements else ""
        line = f"{printable(item.fqn, 200) or repr('')}: {count}{item.why}"
        yield from wrapped(line, width, "  ", "    ")
    if width is not None and len(left) > _MAX_NOT_READ:
        yield f"  ... and {len(left) - _MAX_NOT_READ:,} more"
    num_stopped = len(report.not_read) - len(left)
    if num_stopped:
        yield f"  {plural(num_stopped, 'tensor')}, or a part of each: {STOPPED}"


# JSON.


def stats_json(
    report: StatsReport, ranked: Sequence[Ranked], *, histograms: str = ""
) -> Iterator[str]:
    """The document of `stats --json`, in pieces; tensors in the checkpoint's order."""
    by_index = {item.stats.index: item for item in ranked}
    is_complete = not (report.is_cancelled or report.not_read)
    yield f'{{"schema": {SCHEMA}, "complete": {dump(is_complete)}, "tensors": '
    yield from dump_list(_tensor(t, by_index[t.index], histograms) for t in report.tensors)
    yield ', "not_read": '
    yield from dump_list(map(_not_read, report.not_read))
    yield ', "replicas_differ": '
    yield from dump_list(map(_differing, report.differing))
    yield "}\n"


def _not_read(item: NotRead) -> NotReadTensor:
    return {"fqn": item.fqn, "num_elements": item.num_elements, "why": item.why}


def _differing(found: ReplicaDifference) -> DifferingCopies:
    return {
        "fqn": found.fqn,
        "num_elements": found.num_elements,
        "num_different": found.num_different,
        "first_index": found.first_index,
        "ranks": found.ranks,
    }


def _of(stats: TensorStats) -> str:
    if stats.is_quantized:
        return "integers as stored"
    return "absolute values" if stats.is_complex else "values"


def _tensor(stats: TensorStats, item: Ranked, histograms: str) -> TensorFigures:
    document: TensorFigures = {
        "fqn": stats.fqn,
        "dtype": stats.dtype,
        "shape": stats.shape,
        "num_elements": stats.num_elements,
        "num_read": stats.num_read,
        "of": _of(stats),
        "min": _number(stats.low),
        "max": _number(stats.high),
        "mean": _number(stats.mean),
        "std": _number(stats.std),
        "l2": _number(stats.l2),
        "rms": _number(stats.rms),
        "num_zero": stats.num_zero,
        "num_nan": stats.num_nan,
        "num_inf": stats.num_inf,
        "first_non_finite": stats.first_non_finite,
        "first_nan": stats.first_nan,
        "first_inf": stats.first_inf,
        "kind": item.kind or None,
        "reason": item.reason or None,
        "group": item.group,
        "factor": None if item.factor is None else _number(item.factor),
    }
    if histograms and stats.num_finite:
        bars = stats.log(64) if histograms == "log" else stats.linear(64)
        document["histogram"] = {
            "scale": bars.scale,
            "edges": [_number(x) for x in bars.edges.tolist()],
            "counts": bars.counts.astype(int).tolist(),
            "num_zero": bars.num_zero,
        }
    return document


def _number(number: float | int | None) -> Number:
    """A figure; of no element it is `nan`."""
    return json_number(math.nan if number is None else number)
