"""`hsdp-inspect plan`: a checkpoint and a mesh -> what every rank would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from inspector.cli.options import form_of, formats, output_option
from inspector.cli.output import Destination, command_line, read_one
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.layout.mesh import Mesh
    from inspector.layout.target.file import PlacementFile
    from inspector.layout.target.stages import StageKeys, StageRequest
    from inspector.report.plan import PlanReport

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
    "--stage",
    "stage_text",
    metavar="K/N",
    help="Only what pipeline stage K of N loads, 1 being the first, or all/N: each in turn. The "
    "mesh is that of one stage.",
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
    stage_text: str | None,
    against: str | None,
    as_json: bool,
    form: str | None,
    output: str | None,
    reads: bool,
) -> int:
    """Say what every rank would read to load a checkpoint under a mesh, without loading it.

    From the metadata alone: bytes, files, memory, empty shards, what would be missing, and the
    errors that `check` finds without --deep. With --against: also what `dcp.load` would miss,
    ignore, cast or refuse. With --stage: what one pipeline stage loads. Exit code 1 if something
    would go wrong.
    """
    from inspector.layout.mesh import Mesh
    from inspector.layout.target.file import PlacementFile, read_placement_file
    from inspector.layout.target.rules import TargetPlacements
    from inspector.layout.target.stages import StageRequest
    from inspector.report.plan import plan_json, stages_json

    # What is wrong with the arguments is told before anything is read.
    target = Mesh.parse(mesh)
    stage = None if stage_text is None else StageRequest.parse(stage_text)
    told = PlacementFile() if placements_file is None else read_placement_file(placements_file)
    TargetPlacements(target, None, told.placements)
    form = form_of(form, as_json=as_json)
    if form == "html" and stage is not None and stage.number is None:
        raise UsageError(f"--stage {stage}: a page is of one stage", "give each a page of its own")
    if reads and form != "json":
        raise UsageError("--reads lists reads in JSON only", "add --json")
    answer = Destination(output, [path, *([] if against is None else [against])])
    plans = _plans(path, target, told, stage, against)
    if form == "json":
        is_one = stage is None or stage.number is not None
        document = plan_json(plans[0], reads=reads) if is_one else stages_json(plans, reads=reads)
        answer.write(document)
    elif form == "html":
        from inspector.report.html.plan import plan_html

        answer.write(plan_html(plans[0], command_line()))
    else:
        rows = None if answer.width is None else _MAX_TERMINAL_ROWS
        answer.write(_text(plans, answer.width, rows), "\n")
    return max(planned.exit_code for planned in plans)


def _text(plans: list[PlanReport], width: int | None, rows: int | None) -> Iterator[str]:
    from inspector.report.plan import plan_text

    for number, planned in enumerate(plans):
        if number:
            yield ""
        yield from plan_text(planned, width, rows)


def _plans(
    path: str, mesh: Mesh, told: PlacementFile, stage: StageRequest | None, against: str | None
) -> list[PlanReport]:
    """The plan of all entries, or of each stage that was asked for."""
    from inspector.checkpoint.find.locate import locate_one
    from inspector.checkpoint.storage.base import is_url
    from inspector.checkpoint.text import printable
    from inspector.checks.judge import check_all
    from inspector.checks.plan.against import compare
    from inspector.checks.plan.expected import read_expected
    from inspector.checks.plan.problems import of_stage, plan_problems, untold
    from inspector.layout.reads.load_plan import Planner
    from inspector.layout.target.rules import TargetPlacements
    from inspector.layout.target.stages import stage_keys
    from inspector.layout.writer.written_by import infer
    from inspector.report.plan import PlanReport, as_written
    from inspector.verify.job.commands import elsewhere

    target = locate_one(path)
    expected = None if against is None else read_expected(against)
    checkpoint = read_one(target)
    if not checkpoint.num_tensors and not checkpoint.bytes_entries:
        raise UsageError(f"{printable(path)} holds nothing to load", "it is an empty checkpoint")
    written_by = infer(checkpoint)
    rules = None
    if told.placements or not mesh.is_plain:
        rules = TargetPlacements(mesh, None if mesh.is_plain else written_by, told.placements)
        for pattern in rules.unmatched(checkpoint.columns.fqns):
            raise UsageError(
                f"--placements: {printable(pattern, 80)} matches no tensor",
                "names are those that `show` lists; * stands for any characters",
            )
    parts: tuple[StageKeys | None, ...] = (None,)
    if stage is not None:
        parts = stage_keys(checkpoint, stage, told.stages, written_by)
    # torch reads safetensors behind no address. Nor are placements and stages handed to them.
    is_told = bool(told.placements) or stage is not None
    is_said = not is_told and (checkpoint.format == "dcp" or not is_url(checkpoint.path))
    faults, _ = check_all(checkpoint, target, written_by)
    missed = [] if expected is None else compare(checkpoint, expected)
    plans = []
    for part in parts:
        keys = (None, None) if part is None else (part.tensors, part.entries)
        planner = Planner(checkpoint, *keys)
        found = planner.plan(mesh, rules)
        problems = plan_problems(found)
        more = [*untold(faults, problems), *missed]
        kept = of_stage(found, part, more)
        plans.append(
            PlanReport(
                plan=found,
                written_by=written_by,
                as_written=as_written(planner, written_by, mesh),
                problems=(*problems, *kept),
                commands=elsewhere(checkpoint.path, mesh) if is_said else (),
                expected=expected,
                stage=part,
                num_elsewhere=sum(f.severity == "error" for f in more if f not in kept),
            )
        )
    return plans


#: For `cli` to add to its group.
commands: list[click.Command] = [plan]
