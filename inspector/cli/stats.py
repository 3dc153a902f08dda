"""`hsdp-inspect stats`: what the numbers in a checkpoint are."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from inspector.cli.options import RankRequest, filter_option, rank_options
from inspector.cli.output import prefetched, print_pieces, read_one, terminal_width, unreached
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child
    from inspector.checkpoint.model import Checkpoint
    from inspector.values.stats import NotRead

__all__ = ["commands"]

# On a terminal a table stops here; piped, it never does.
_MAX_TERMINAL_ROWS = 200
_SCALES = ("linear", "log")


class _Command(click.Command):
    """Takes the word after `--histogram` for its scale only if it is one: else it is PATH."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for i, arg in enumerate(args[:end]):
            if arg == "--histogram" and not set(args[i + 1 : i + 2]) & set(_SCALES):
                args[i] = "--histogram=linear"
        return super().parse_args(ctx, args)


@click.command(cls=_Command)
@click.argument("path")
@filter_option("tensors whose names")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option(
    "--histogram",
    "histograms",
    type=click.Choice(_SCALES),
    default=None,
    metavar="[linear|log]",
    help="Draw every tensor's histogram: of the values, or (log) of |value| over powers of two. "
    "[default of the scale: linear]",
)
@rank_options
def stats(path: str, filter_text: str, as_json: bool, histograms: str | None, **ranks: Any) -> int:
    """Say what the numbers in a checkpoint are: range, mean, norm, zeros, NaN.

    What is oddest comes first: NaN, infinities, tensors that are all zero, and norms unlike those
    of the same parameter in other layers. All figures but the counts are of the finite elements;
    of complex ones, of absolute values. NaN and infinities are told, and are no error (exit code
    0), as with `check --values`; 1 means that some elements could not be read, 2 that a storage
    did not answer for some, or that some are of a class that only its package can read or of a
    dtype that numpy has not (float4).
    """
    request = RankRequest(**ranks)
    request.check()
    with prefetched(path) as child:
        return _stats(path, filter_text, as_json, histograms or "", child, request)


def _stats(
    path: str,
    filter_text: str,
    as_json: bool,
    histograms: str,
    child: Child | None,
    request: RankRequest,
) -> int:
    from inspector.checkpoint.find.locate import locate
    from inspector.checkpoint.find.search import newest
    from inspector.checkpoint.text import plural, printable
    from inspector.report.progress import PayloadLine
    from inspector.report.stats import stats_json, stats_text
    from inspector.values.ranking import rank
    from inspector.values.replicas import replica_differences
    from inspector.values.stats import collect_stats

    target = locate(path)
    if isinstance(target, list):
        chosen = newest(target) or target[-1]
        raise UsageError(
            f"{printable(path)} holds {plural(len(target), 'checkpoint')}",
            f"give one of them: {printable(path.rstrip('/'))}/{printable(chosen.path)}",
        )
    checkpoint = read_one(target, child)
    wanted = _wanted(checkpoint, filter_text)
    if request.print_command:
        from inspector.cli.ranks import print_job, spec_of

        asked = spec_of(checkpoint, target, request, task="stats", filter_text=filter_text)
        print_job(asked, request)
        return 0
    if request.is_asked:
        from inspector.cli.ranks import sum_by_ranks

        report = sum_by_ranks(checkpoint, target, request, filter_text)
    else:
        with PayloadLine(sys.stderr) as line:
            report = collect_stats(checkpoint, target, wanted, progress=line)
    report = replace(report, not_read=report.not_read + _unseen(checkpoint, filter_text))
    if not report.is_cancelled:
        differing = tuple(replica_differences(checkpoint, target, wanted))
        report = replace(report, differing=differing)
    ranked = rank(report.tensors)
    if as_json:
        print_pieces(stats_json(report, ranked, histograms=histograms))
    else:
        width = terminal_width()
        pieces = stats_text(
            report,
            ranked,
            path=checkpoint.path,
            histograms=histograms,
            width=width,
            max_rows=None if width is None else _MAX_TERMINAL_ROWS,
            is_unicode="utf" in (sys.stdout.encoding or "").lower(),
        )
        print_pieces(pieces, "\n")
    if report.is_cancelled:
        sys.stderr.write("hsdp-inspect: stopped before every byte was read\n")
        return 2
    if target.used is not None and target.used.num_failed:
        return unreached()
    for why in report.lost:
        sys.stderr.write(f"hsdp-inspect: {why}\n")
    if not report.tensors:
        sys.stderr.write("hsdp-inspect: nothing could be read\n")
        return 2
    if report.lost or report.lacks_classes_alone:
        return 2
    return 1 if report.not_read else 0


def _wanted(checkpoint: Checkpoint, filter_text: str) -> list[int]:
    """The tensors that a filter selects, in the checkpoint's order.

    Raises:
        UsageError: There are none.
    """
    from inspector.values.stats import wanted_tensors

    if not checkpoint.num_tensors and not checkpoint.malformed:
        raise UsageError("there is no tensor in this checkpoint, so there are no statistics")
    wanted = wanted_tensors(checkpoint, filter_text)
    if not wanted and not _malformed(checkpoint, filter_text):
        raise UsageError("no tensor's name matches the filter", "hsdp-inspect show lists the names")
    return wanted


def _unseen(checkpoint: Checkpoint, filter_text: str) -> tuple[NotRead, ...]:
    """What there is besides the tensors: malformed entries, and files that should hold tensors.

    Nobody knows the names in such a file, so a filter does not leave it out.
    """
    from inspector.layout.contents import missing_files
    from inspector.values.stats import NotRead

    files = tuple(NotRead(-1, path, 0, why) for path, why in missing_files(checkpoint))
    return _malformed(checkpoint, filter_text) + files


def _malformed(checkpoint: Checkpoint, filter_text: str) -> tuple[NotRead, ...]:
    """Entries that could not even become tensors, of which the filter selects the name."""
    from inspector.checkpoint.find.locate import matching
    from inspector.checkpoint.text import printable
    from inspector.values.stats import NotRead

    known = set(checkpoint.fqns)
    entries = {item.fqn: item for item in checkpoint.malformed if item.fqn not in known}
    names = list(entries)
    return tuple(
        NotRead(-1, names[i], 0, printable(entry.what, 300), is_foreign=entry.is_later)
        for i in matching(names, filter_text)
        for entry in [entries[names[i]]]
    )


commands: list[click.Command] = [stats]
