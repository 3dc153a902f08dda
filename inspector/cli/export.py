"""`hsdp-inspect export` and `repair`: new files, or a new folder, of what a checkpoint holds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from inspector.cli.options import filter_option
from inspector.cli.output import on_end, prefetched, print_pieces, read_one
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child
    from inspector.export.outcome import ExportReport
    from inspector.export.selection import ExportRequest
    from inspector.repair.run import RepairReport, RepairRequest

__all__ = ["commands", "terminable"]

_LEAST_MEMORY = 100 * 10**6


@click.command()
@click.argument("path")
@click.argument("output", metavar="OUT")
@click.option(
    "--format",
    "form",
    type=click.Choice(["safetensors", "torch", "npz", "npy"]),
    default="safetensors",
    show_default=True,
    help="torch: one file as torch.save writes it; npy: one tensor.",
)
@filter_option("tensors whose names")
@click.option("--strip-prefix", "prefix", default="", metavar="TEXT", help="Taken off the names.")
@click.option(
    "--rename",
    "rules",
    metavar="FILE",
    help="Rules, one a line: OLD -> NEW; a * is one part of a name, such as "
    "layers.*.wq.weight -> layers.*.q_proj.weight. A name with spaces or stars stands in quotes.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "f16", "f32"]),
    help="Floating point tensors in this type, rounded once to the nearest, ties to even.",
)
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="OUT becomes a folder of safetensors shards of at most this (5GB), with Hugging Face's "
    "index.",
)
@click.option(
    "--nested",
    is_flag=True,
    help="torch: dicts and lists as they were saved, where the checkpoint tells. [default: flat "
    "names]",
)
@click.option(
    "--allow-damaged", is_flag=True, help="Leave out what is damaged; the exit code is 1 then."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT, once all is written.")
@click.option(
    "--memory",
    default="300MB",
    show_default=True,
    metavar="SIZE",
    help="What the process may take, about.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def export(
    path: str,
    output: str,
    form: str,
    filter_text: str,
    prefix: str,
    rules: str | None,
    dtype: str | None,
    max_shard_size: str | None,
    nested: bool,
    allow_damaged: bool,
    overwrite: bool,
    memory: str,
    as_json: bool,
) -> int:
    """Write the tensors of a checkpoint to OUT, each byte checked while it is read.

    However large a tensor is and however it is scattered, memory stays what --memory says. What
    is damaged (a gap, an overlap that differs, a wrong CRC32) is named, and nothing is written;
    nothing is ever filled in. OUT appears when it is whole: it is written beside its place, read
    again, held against the source, and then renamed. Bytes entries are no tensors and are left
    out by name; with --format torch those that are plain values are written too. OUT may be - for
    one tensor with --format npy.

    Exit code 0: written; 1: something is damaged, or became infinite in --dtype; 2: it could not
    be done.
    """
    from inspector.export.formats.safetensors import parse_size
    from inspector.export.selection import ExportRequest, read_rules

    memory_bytes = parse_size(memory, "--memory")
    if memory_bytes < _LEAST_MEMORY:
        raise UsageError("--memory takes 100MB or more: the program itself takes most of that")
    shard = None if max_shard_size is None else parse_size(max_shard_size, "--max-shard-size")
    request = ExportRequest(
        form, filter_text, prefix, () if rules is None else read_rules(rules), dtype, shard, nested
    )
    request.check()
    with prefetched(path) as child, terminable():
        report = _export(path, output, request, allow_damaged, overwrite, memory_bytes, child)
    return _tell(report, as_json=as_json)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl+C does: nothing stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with on_end(stop, ("SIGTERM", "SIGHUP")):
        yield


def _export(
    path: str,
    output: str,
    request: ExportRequest,
    allow_damaged: bool,
    overwrite: bool,
    memory_bytes: int,
    child: Child | None,
) -> ExportReport:
    from inspector.checkpoint.find.locate import locate_one
    from inspector.checkpoint.text import printable
    from inspector.export.run import export as run_export
    from inspector.export.run import stream
    from inspector.export.selection import select
    from inspector.export.target import leftovers, refuse_target
    from inspector.report.progress import PayloadLine

    target = locate_one(path)
    is_pipe = output == "-"
    if is_pipe:
        _refuse_pipe(request)
    else:
        refuse_target(target, path, output, is_folder=request.is_folder, overwrite=overwrite)
        left = leftovers(output)
        for place in left:
            sys.stderr.write(
                f"hsdp-inspect: {printable(place)} was left by an export that was killed, or "
                "belongs to one that still runs\n"
            )
    checkpoint = read_one(target, child)
    selection = select(checkpoint, target, request)
    with PayloadLine(sys.stderr) as told:
        if is_pipe:
            write = sys.stdout.buffer.write
            return stream(
                checkpoint, target, selection, write, memory_bytes=memory_bytes, progress=told
            )
        report = run_export(
            checkpoint,
            target,
            selection,
            output,
            allow_damaged=allow_damaged,
            overwrite=overwrite,
            memory_bytes=memory_bytes,
            progress=told,
        )
    return replace(report, leftovers=tuple(left))


def _refuse_pipe(request: ExportRequest) -> None:
    if request.form != "npy":
        raise UsageError("only --format npy goes to stdout", "OUT is a path")
    if sys.stdout.isatty():
        raise UsageError("a .npy is no text for a terminal", "send stdout to a file or a pipe")


def _tell(report: ExportReport, *, as_json: bool) -> int:
    from inspector.report.export import export_json, export_text

    if report.output == "-":
        # stdout has the tensor.
        sys.stdout.buffer.flush()
        if report.exit_code:
            sys.stderr.writelines(f"{line}\n" for line in export_text(report))
    elif as_json:
        print_pieces(export_json(report))
    else:
        print_pieces(export_text(report), "\n")
    return report.exit_code


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
    if mesh is not None:
        from inspector.layout.mesh import Mesh

        Mesh.parse(mesh)
    from inspector.repair.run import RepairRequest

    request = RepairRequest(output, like, older, likely, is_copy, python)
    with terminable():
        report = _repair(path, request)
    _tell_repaired(report, as_json=as_json)
    if mesh is not None and report.verdict == "repaired":
        from inspector.cli.group import run_command

        sys.stdout.flush()
        return run_command(["verify", output or "", "--mesh", mesh])
    return report.exit_code


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


def _tell_repaired(report: RepairReport, *, as_json: bool) -> None:
    from inspector.report.export import repair_json, repair_text

    if as_json:
        print_pieces(repair_json(report))
    else:
        print_pieces(repair_text(report), "\n")


commands: list[click.Command] = [export, repair]
