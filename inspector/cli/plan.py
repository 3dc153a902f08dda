"""`hsdp-inspect plan`: a checkpoint and a mesh -> what every rank would read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from inspector.cli.options import form_of, formats, output_option
from inspector.cli.output import Destination, command_line

if TYPE_CHECKING:
    from inspector.layout.target.file import PlacementLine

__all__ = ["commands"]

# On a terminal the table of ranks stops here; piped, it never does.
_MAX_TERMINAL_ROWS = 64


@click.command()
@click.argument("path")
@click.option(
    "--mesh",
    required=True,
    metavar="MESH",
    help="fsdp:S, hsdp:RxS, or axes in mesh order: dp_replicate:2,dp_shard:4,tp:2.",
)
@click.option(
    "--placements",
    "placements_file",
    metavar="FILE",
    help='Which axis cuts which dim: lines such as "layers.*.wq.weight" = "tp:0".',
)
@click.option(
    "--against",
    metavar="FILE",
    help="What the model expects: a JSON list of names, dtypes and shapes, a safetensors file or "
    "index, or another checkpoint.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@formats("text", "json", "html")
@output_option
@click.option("--reads", is_flag=True, help="With --json: every read of every rank.")
def plan(
    path: str,
    mesh: str,
    placements_file: str | None,
    against: str | None,
    as_json: bool,
    form: str | None,
    output: str | None,
    reads: bool,
) -> int:
    """Say what every rank would read to load a checkpoint under a mesh, without loading it.

    From the metadata alone: bytes, files, memory, empty shards, what would be missing, and the
    errors that `check` finds without --deep. With --against: also what `dcp.load` would miss,
    ignore, cast or refuse. Exit code 1 if something would go wrong.
    """
    from inspector.errors import UsageError
    from inspector.layout.mesh import Mesh
    from inspector.layout.target.file import read_placements
    from inspector.layout.target.rules import TargetPlacements

    # What is wrong with the arguments is told before anything is read.
    target = Mesh.parse(mesh)
    lines = None if placements_file is None else read_placements(placements_file)
    TargetPlacements(target, None, lines or ())
    form = form_of(form, as_json=as_json)
    if reads and form != "json":
        raise UsageError("--reads lists reads in JSON only", "add --json")
    answer = Destination(output, [path, *([] if against is None else [against])])
    return _run(path, target, lines, against, form=form, reads=reads, answer=answer)


def _run(
    path: str,
    mesh: object,
    lines: tuple[PlacementLine, ...] | None,
    against: str | None,
    *,
    form: str,
    reads: bool,
    answer: Destination,
) -> int:
    from inspector.checkpoint.find.locate import locate_one, read_checkpoint
    from inspector.checkpoint.storage.base import is_url
    from inspector.checkpoint.text import printable
    from inspector.checks.plan.faults import plan_faults
    from inspector.checks.plan.problems import plan_problems
    from inspector.errors import UsageError
    from inspector.layout.mesh import Mesh
    from inspector.layout.reads.load_plan import Planner
    from inspector.layout.target.rules import TargetPlacements
    from inspector.layout.writer.written_by import infer
    from inspector.report.plan import PlanReport, as_written, plan_json, plan_text
    from inspector.report.progress import ReadingLine
    from inspector.verify.job.commands import elsewhere

    assert isinstance(mesh, Mesh)  # noqa: S101 - it was parsed above
    target = locate_one(path)
    expected = None
    if against is not None:
        from inspector.checks.plan.expected import read_expected

        expected = read_expected(against)
    with ReadingLine(sys.stderr) as line:
        checkpoint = read_checkpoint(target, progress=line)
    if not checkpoint.num_tensors and not checkpoint.bytes_entries:
        raise UsageError(f"{printable(path)} holds nothing to load", "it is an empty checkpoint")
    planner = Planner(checkpoint)
    written_by = infer(checkpoint)
    rules = None
    if lines is not None or not mesh.is_plain:
        rules = TargetPlacements(mesh, None if mesh.is_plain else written_by, lines or ())
        for pattern in rules.unmatched(checkpoint.columns.fqns):
            raise UsageError(
                f"--placements: {printable(pattern, 80)} matches no tensor",
                "names are those that `show` lists; * stands for any characters",
            )
    found = planner.plan(mesh, rules)
    problems = plan_problems(found)
    problems += plan_faults(checkpoint, target, problems, written_by)
    if expected is not None:
        from inspector.checks.plan.against import compare

        problems += compare(checkpoint, expected)
    planned = PlanReport(
        plan=found,
        written_by=written_by,
        as_written=as_written(planner, written_by, mesh),
        problems=tuple(problems),
        # torch reads safetensors behind no address.
        # Nor are placements handed to them.
        commands=()
        if lines is not None or (checkpoint.format != "dcp" and is_url(checkpoint.path))
        else elsewhere(checkpoint.path, mesh),
        expected=expected,
    )
    if form == "json":
        answer.write(plan_json(planned, reads=reads))
    elif form == "html":
        from inspector.report.html.plan import plan_html

        answer.write(plan_html(planned, command_line()))
    else:
        rows = None if answer.width is None else _MAX_TERMINAL_ROWS
        answer.write(plan_text(planned, answer.width, rows), "\n")
    return planned.exit_code


#: For `cli` to add to its group.
commands: list[click.Command] = [plan]
