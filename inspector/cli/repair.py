"""`hsdp-inspect repair`: what can be done about a damaged checkpoint, done in a new folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from inspector.cli.export import terminable
from inspector.cli.output import print_pieces
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.repair.run import RepairReport, RepairRequest

__all__ = ["commands"]


@click.command()
@click.argument("path")
@click.argument("output", metavar="[OUT]", required=False)
@click.option(
    "--like",
    metavar="CKPT",
    help="Another step of the same run: its metadata stands for one that is lost, if every "
    "payload of every file is of the same dtype, shape and length, in the same order.",
)
@click.option(
    "--from",
    "older",
    metavar="CKPT",
    help="An older step: entries that cannot be repaired are taken from it, with ITS values.",
)
@click.option("--allow-likely", "likely", is_flag=True, help="Also do what nothing proves.")
@click.option("--dry-run", is_flag=True, help="Only say what could be done. [default without OUT]")
@click.option("--copy", "is_copy", is_flag=True, help="Copy the files; else they are hard links.")
@click.option(
    "--verify",
    "mesh",
    metavar="MESH",
    help="Then run verify on OUT, under this mesh; its exit code counts, too.",
)
@click.option(
    "--python", default="", metavar="EXE", help="The interpreter whose torch writes .metadata."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def repair(
    path: str,
    output: str | None,
    like: str | None,
    older: str | None,
    likely: bool,
    dry_run: bool,
    is_copy: bool,
    mesh: str | None,
    python: str,
    as_json: bool,
) -> int:
    """Say what can be repaired in a checkpoint; with OUT, do it in that new folder.

    PATH is never written to. Each step says why it is sure: a metadata file under another name,
    byte ranges by the payloads' own zip directories, boxes that the payloads fill exactly, files
    that were exchanged or renamed. Where two payloads could be meant, nothing is done. OUT gets
    its name when check --deep says that it is sound; else it is thrown away.

    Exit code 0: sound, or repaired and sound; 1: damaged (and only planned, or not wholly
    repairable); 2: it could not be read.
    """
    if dry_run:
        output = None
    if mesh is not None and (output is None or as_json):
        raise UsageError("--verify is for OUT, and not with --json", "run verify OUT --mesh MESH")
    _check_mesh(mesh)
    from inspector.repair.run import RepairRequest

    request = RepairRequest(output, like, older, likely, is_copy, python)
    with terminable():
        report = _repair(path, request)
    _tell(report, as_json=as_json)
    if mesh is not None and report.verdict == "repaired":
        from inspector.cli.group import run_command

        sys.stdout.flush()
        return run_command(["verify", output or "", "--mesh", mesh])
    return report.exit_code


def _check_mesh(mesh: str | None) -> None:
    if mesh is not None:
        from inspector.layout.mesh import Mesh

        Mesh.parse(mesh)


def _repair(path: str, request: RepairRequest) -> RepairReport:
    from inspector.checkpoint.find.locate import locate_one
    from inspector.checkpoint.outside import outermost
    from inspector.repair.folder import refuse_output
    from inspector.repair.run import repair as run_repair
    from inspector.report.progress import PayloadLine

    if request.output is not None:
        others = [other for other in (path, request.like, request.older) if other]
        closed = [outermost(locate_one(other).local_path(""), other) for other in others]
        refuse_output(request.output, [folder for folder in closed if folder is not None])
    return run_repair(path, request, lambda: PayloadLine(sys.stderr))


def _tell(report: RepairReport, *, as_json: bool) -> None:
    from inspector.report.repair import repair_json, repair_text

    if as_json:
        print_pieces(repair_json(report))
    else:
        print_pieces(repair_text(report), "\n")


commands: list[click.Command] = [repair]
