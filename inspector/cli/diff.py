"""`hsdp-inspect diff` and `hsdp-inspect seal`: two checkpoints, and one against itself later."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from inspector.cli.options import (
    RankRequest,
    filter_option,
    form_of,
    formats,
    output_option,
    rank_options,
)
from inspector.cli.output import (
    Destination,
    command_line,
    has_screen,
    prefetched,
    print_pieces,
    read_one,
)
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child
    from inspector.diff.model import Diff, Side
    from inspector.diff.structure import Structure

__all__ = ["commands"]


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--values", is_flag=True, help="Compare every element, however both are cut.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@formats("text", "json", "html")
@output_option
@filter_option("names that")
@click.option(
    "--rtol",
    type=float,
    help="Largest relative difference of elements that are CLOSE (default: as "
    "torch.testing.assert_close for the dtype, such as 1.3e-6 for float32 and 1.6e-2 for bfloat16; "
    "and then neighbours, 1 ulp apart, are CLOSE too).",
)
@click.option(
    "--atol", type=float, default=0.0, help="Largest absolute difference, likewise (default: 0)."
)
@click.option("--allow-close", is_flag=True, help="Exit code 0 also where tensors are only CLOSE.")
@click.option("--no-tui", is_flag=True, help="Print text, on a terminal too.")
def diff(
    a: str,
    b: str,
    values: bool,
    as_json: bool,
    form: str | None,
    output: str | None,
    filter_text: str,
    rtol: float | None,
    atol: float,
    allow_close: bool,
    no_tui: bool,
) -> int:
    """Say how two checkpoints differ, whatever their sharding.

    From the metadata alone: what only one of them holds, shapes, dtypes, placements. With
    --values every element: EXACT (every bit), CLOSE, DIFFER (how many, and where), NON_FINITE.
    CLOSE is no sameness: the exit code is 1, unless --allow-close is given.

    Exit code 0: the same; 1: different; 2: not everything could be compared, or it was stopped.
    Without --values it speaks of the structure alone; a checkpoint that lacks elements or files
    is exit code 2. The screen's is the same, for what was compared when you leave it.
    """
    for name, number in (("--rtol", rtol), ("--atol", atol)):
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise UsageError(f"{name} takes a number that is not negative, not {number}")
    answer = Destination(output, (a, b))
    has_form = as_json or form is not None or output is not None
    form = form_of(form, as_json=as_json)
    if has_screen() and not (has_form or no_tui):
        pair = a, b, filter_text, rtol, atol
        return _open_screen(*pair, with_values=values, allow_close=allow_close)
    structure = _structure(a, b, filter_text)
    found = _values(structure, rtol, atol) if values else structure.diff()
    from inspector.report.diff import diff_json, diff_text

    if form == "json":
        answer.write(diff_json(found))
    elif form == "html":
        from inspector.report.html.diff import diff_html

        sides = structure.a.checkpoint, structure.b.checkpoint
        answer.write(diff_html(found, *sides, command_line()))
    else:
        answer.write(diff_text(found, answer.width), "\n")
    if found.is_cancelled:
        sys.stderr.write("hsdp-inspect: stopped before everything was compared\n")
    return 0 if allow_close and found.is_close else found.exit_code


@click.command()
@click.argument("path")
@click.option("--output", metavar="FILE", help="Where to (default: PATH.seal.json, beside it).")
@click.option("--force", is_flag=True, help="Replace a seal of other content.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@rank_options
def seal(path: str, output: str | None, force: bool, as_json: bool, **ranks: Any) -> int:
    """Write down a digest of every tensor, to prove later that nothing changed.

    The seal lies beside the checkpoint, never in it, and does not depend on the sharding:
    `check PATH --manifest FILE` holds any save of the same content against it. It seals what is
    there: run `check --deep` before.
    """
    from inspector.checks.seal.seal import default_output, refuse_output, write_seal
    from inspector.checks.seal.seal import seal as make_seal
    from inspector.report.diff import seal_json, seal_text
    from inspector.report.progress import PayloadLine

    request = RankRequest(**ranks)
    request.check()
    side = _side(path)
    digests = None
    if request.print_command:
        from inspector.cli.ranks import print_job, spec_of

        print_job(spec_of(side.checkpoint, side.storage, request, task="seal"), request)
        return 0
    output = default_output(side.storage, path) if output is None else output
    # Before everything is read, and again before it is written.
    refuse_output(side.storage, output, path)
    if request.is_asked:
        from inspector.cli.ranks import hash_by_ranks

        digests = partial(hash_by_ranks, request=request)
    with PayloadLine(sys.stderr) if digests is None else nullcontext() as line:
        manifest = make_seal(side.checkpoint, side.storage, progress=line, digests=digests)
    is_new = write_seal(manifest, side.storage, output, force=force)
    if as_json:
        print_pieces(seal_json(manifest, output, is_new=is_new))
    else:
        print_pieces(seal_text(manifest, output, is_new=is_new), "\n")
    return 2 if manifest.not_sealed else 0


commands: list[click.Command] = [diff, seal]


def _open_screen(
    a: str,
    b: str,
    filter_text: str,
    rtol: float | None,
    atol: float,
    *,
    with_values: bool,
    allow_close: bool,
) -> int:
    from inspector.diff.model import Tolerance
    from inspector.tui.diff.opening import PairOf
    from inspector.tui.launch import run_diff

    pair = PairOf(a, b, filter_text, Tolerance(rtol, atol))
    return run_diff(pair, with_values=with_values, allow_close=allow_close)


def _structure(a: str, b: str, filter_text: str) -> Structure:
    """Both sides, read and compared."""
    # Both are read while the rest is imported.
    with prefetched(a) as child_a, prefetched(b) as child_b:
        from inspector.diff.structure import compare_structure

        sides = _side(a, child_a), _side(b, child_b)
    structure = compare_structure(*sides, filter_text)
    lone = structure.only_in_a or structure.only_in_b
    if filter_text and not (structure.diffs or structure.entries or lone):
        raise UsageError("no name of either checkpoint matches the filter")
    return structure


def _side(path: str, child: Child | None = None) -> Side:
    """The checkpoint at a path, with a line of progress on a terminal if it takes long."""
    from inspector.checkpoint.find.locate import locate_one
    from inspector.diff.model import Side

    target = locate_one(path)
    return Side(read_one(target, child), target)


def _values(structure: Structure, rtol: float | None, atol: float) -> Diff:
    from inspector.diff.model import Tolerance
    from inspector.diff.values import compare_values
    from inspector.report.progress import PayloadLine

    with PayloadLine(sys.stderr) as line:
        return compare_values(structure, tolerance=Tolerance(rtol, atol), progress=line)
