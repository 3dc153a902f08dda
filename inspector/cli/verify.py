"""The commands `verify` and `replay`: arguments -> a job or a recording -> one exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from inspector.checkpoint.text import parse_bytes, printable
from inspector.cli.output import (
    command_line,
    has_screen,
    on_end,
    print_pieces,
    read_one,
    write_file,
    write_lines,
)
from inspector.errors import UsageError
from inspector.report.progress import TerminalLine

if TYPE_CHECKING:
    from inspector.checkpoint.model import Checkpoint
    from inspector.verify.job.launcher import Job
    from inspector.verify.preflight import Preflight
    from inspector.verify.progress import Snapshot

__all__ = ["JobLine", "commands", "interrupting", "parse_share", "parse_size", "run_to_end"]

_LINE_S = 0.1
_POLL_S = 0.05
_MIN_MEMORY_BYTES = 1 << 20


def parse_size(text: str) -> int:
    """Bytes from `4GiB`, `512M`, `1.5g` or `1000000`; units are binary.

    Raises:
        UsageError: It is no size, or none at all.
    """
    size = parse_bytes(text, is_binary=True)
    if size is None:
        raise UsageError(f"{text!a} is not a size", "write 4GiB, 512M or bytes")
    if size < 1:
        raise UsageError(f"{text!a} is not a size", "it is more than 0 bytes")
    return int(size)


def parse_share(text: str) -> float:
    """A share from `5%` or `0.05`.

    Raises:
        UsageError: It is no share, or none that is more than 0 and at most 1.
    """
    word = text.strip()
    try:
        share = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    except ValueError as error:
        raise UsageError(f"{text!a} is not a share", "write 5% or 0.05") from error
    if not 0 < share <= 1:
        raise UsageError(f"{text!a} is not a share", "it is more than 0 % and at most 100 %")
    return share


class JobLine(TerminalLine):
    """How a job stands, on one line of a terminal."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._next = 0.0

    def show(self, snapshot: Callable[[], Snapshot]) -> None:
        """Show it, at most ten times a second; a snapshot is only made where it is shown."""
        now = time.monotonic()
        if not self.is_terminal or now < self._next:
            return
        from inspector.report.verify_text import progress_line

        self._next = now + _LINE_S
        self.draw(progress_line(snapshot(), time.time(), shutil.get_terminal_size().columns))


def run_to_end(job: Job, each: Callable[[Sequence[Mapping[str, Any]]], object]) -> None:
    """Run a job on this machine; the first Ctrl+C or SIGTERM stops it, the second kills it.

    Args:
        job: The job.
        each: Told of its events as they come.

    Raises:
        UsageError, StorageError: It cannot be started.
    """
    with job.start(), interrupting(job), JobLine() as progress:
        if not job.folder.is_kept:
            where = printable(str(job.folder.path), 300)
            sys.stderr.write(
                f"hsdp-inspect: the state folder cannot take the recording; it is in {where}\n"
            )
        while job.result is None:
            told = job.step()
            each(told)
            progress.show(job.snapshot)
            if not told:
                time.sleep(_POLL_S)


def interrupting(job: Job) -> AbstractContextManager[None]:
    """While it lasts, the first signal that ends a process stops the job, the second kills it."""
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if len(told) == 1:
            job.stop()
        else:
            job.kill()

    return on_end(stop)


@click.command()
@click.argument("path")
@click.option(
    "--mesh",
    required=True,
    metavar="MESH",
    help="fsdp:S, hsdp:RxS, or axes in mesh order: dp_replicate:2,dp_shard:2,tp:2.",
)
@click.option(
    "--placements",
    "placements_file",
    default="",
    metavar="FILE",
    help="Which axis cuts which dim, as for `plan`.",
)
@click.option(
    "--stage",
    default="",
    metavar="K/N",
    help="Only what pipeline stage K of N loads, or all/N: each in turn, as for `plan`.",
)
@click.option(
    "--then",
    multiple=True,
    metavar="MESH",
    help="Save, and load again under this mesh; `none` saves nothing. "
    "[default: fsdp for hsdp, hsdp of two replicas for fsdp]",
)
@click.option(
    "--via",
    type=click.Choice(("dtensor", "fsdp2", "fsdp1")),
    default="dtensor",
    show_default=True,
    help="What is loaded into: DTensors, or the state dict of a module wrapped by FSDP.",
)
@click.option(
    "--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True
)
@click.option(
    "--backend",
    type=click.Choice(("gloo", "nccl")),
    default=None,
    help="Of the process group.  [default: nccl with a GPU for each rank, else gloo]",
)
@click.option("--memory", metavar="SIZE", help="What a rank may hold of tensors (4GiB).")
@click.option("--filter", "filter_text", default="", metavar="TEXT", help="As for `show`.")
@click.option("--sample", default="100%", metavar="SHARE", help="Verify a part of it (5%).")
@click.option("--scratch", default="", metavar="DIR", help="Where the saved copy goes.")
@click.option("--python", default="", metavar="EXE", help="Interpreter that runs the ranks.")
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Import this in the ranks, so that its tensor classes load (torchao).",
)
@click.option(
    "--unpickle",
    is_flag=True,
    help="Also load bytes entries as torch does, which runs what their pickles name; what the gate "
    "finds unsafe stays out.",
)
@click.option("--events", default="", metavar="DIR", help="Where the ranks write their events.")
@click.option(
    "--timeout", default=600.0, metavar="S", help="Without progress for so long, it is stuck."
)
@click.option("--json", "as_json", is_flag=True, help="Every event as a line of JSON.")
@click.option(
    "--report", default="", metavar="FILE", help="Write the report there (.json, .html or text)."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "html"]),
    help="Of the report. [default: by its name]",
)
@click.option("--print-command", is_flag=True, help="Print the command lines, run nothing.")
@click.option("--nnodes", type=int, default=0, help="Nodes of a job that is printed.")
@click.option("--nproc-per-node", type=int, default=0, help="Its ranks on each.  [default: 8]")
@click.option("--port", type=int, default=0, help="Where its nodes meet.  [default: 29500]")
def verify(
    path: str,
    mesh: str,
    placements_file: str,
    stage: str,
    then: tuple[str, ...],
    via: str,
    device: str,
    memory: str | None,
    filter_text: str,
    sample: str,
    scratch: str,
    python: str,
    imports: tuple[str, ...],
    unpickle: bool,
    events: str,
    timeout: float,
    as_json: bool,
    report: str,
    form: str | None,
    print_command: bool,
    backend: str | None,
    nnodes: int,
    nproc_per_node: int,
    port: int,
) -> int:
    """Load a checkpoint under a mesh with torchrun, and compare every bit with what is stored.

    It is then saved, loaded again under a second mesh, and compared again. Exit code 0: all that
    was asked for is exact; 1: something differs, or torch itself cannot read the metadata; 2: it
    could not be done, or not all of it.
    """
    from inspector.checkpoint.find.locate import locate_one
    from inspector.checkpoint.outside import outermost, refuse_inside
    from inspector.checkpoint.storage.base import is_url
    from inspector.layout.target.file import PlacementFile, read_placement_file
    from inspector.verify.preflight import prepare

    # What is wrong with the arguments is told before anything is read.
    if form is not None and not report:
        raise UsageError("--format is of the report", "--report FILE says where it goes")
    memory_bytes = None if memory is None else parse_size(memory)
    if memory_bytes is not None and memory_bytes < _MIN_MEMORY_BYTES:
        raise UsageError(
            f"--memory {memory!a}: a rank needs at least 1 MiB to hold tensors in",
            "leave it out: then it is a share of what is free",
        )
    told, stages = read_placement_file(placements_file) if placements_file else PlacementFile()
    stages = stages if stage else ()
    share = parse_share(sample)
    world_size = _check_mesh(mesh, then, stage)
    shape = None
    if print_command:
        from inspector.verify.job.manifests import Shape

        shape = Shape.of(world_size, nnodes, nproc_per_node, port)
    elif nnodes or nproc_per_node or port:
        raise UsageError(
            "--nnodes, --nproc-per-node and --port are for a job that is printed",
            "--print-command prints it",
        )
    checkpoint = read_one(locate_one(path))
    local = None if is_url(checkpoint.path) else checkpoint.path
    closed = [checkpoint.path, outermost(local, path) or ""]
    for option, place in (("--report", report), ("--events", events), ("--scratch", scratch)):
        refuse_inside(option, place, closed)
    plan = prepare(
        checkpoint,
        mesh,
        then=then,
        via=via,
        device=device,
        memory_bytes=memory_bytes,
        filter_text=filter_text,
        sample=share,
        scratch=scratch,
        python=python,
        imports=imports,
        unpickle=unpickle,
        timeout_s=timeout,
        backend=backend or "",
        placements=told,
        stage=stage,
        stages=stages,
        is_elsewhere=print_command,
    )
    if shape is not None:
        from inspector.verify.job.commands import print_lines

        lines = print_lines(
            plan.spec,
            events,
            scratch,
            device,
            shape=shape,
            is_measured=memory_bytes is None,
            python=python,
            backend=backend or "",
        )
        print_pieces(lines, "\n")
        return 0
    plan.check()
    job, code = _run(plan, events, as_json=as_json)
    if report:
        _write_report(report, form or _form_of(report), job, checkpoint)
    return code


def _check_mesh(mesh: str, then: tuple[str, ...], stage: str) -> int:
    """The number of ranks, if they can be launched."""
    from inspector.verify.preflight import NO_SECOND_MESH
    from inspector.verify.spec import JobSpec

    then = () if then == NO_SECOND_MESH else then
    return JobSpec(path="", mesh=mesh, then=then, stage=stage).world_size


def _run(plan: Preflight, events: str, *, as_json: bool) -> tuple[Snapshot, int]:
    """Run the job and print what came of it: how it stands at its end, and the exit code."""
    from inspector.report.verify_text import plan_text, verify_text
    from inspector.verify.job.launcher import Job
    from inspector.verify.result import exit_code

    if not as_json:
        for line in plan_text(plan):
            sys.stderr.write(f"hsdp-inspect: {line}\n")
    spec = dataclasses.replace(plan.spec, events_dir=os.path.abspath(events) if events else "")
    job = Job(spec, expected=plan.expected, scratch_parent=plan.scratch_parent)

    def tell(events: Sequence[Mapping[str, Any]]) -> None:
        if as_json and events and not write_lines(json.dumps(event) + "\n" for event in events):
            # Nobody reads what the job finds: it ends, and without a verdict.
            raise BrokenPipeError

    run_to_end(job, tell)
    assert job.result is not None  # noqa: S101 - the loop ends with it
    snapshot = job.snapshot()
    if not as_json:
        print_pieces(verify_text(snapshot), "\n")
    return snapshot, exit_code(job.result)


def _form_of(report: str) -> str:
    """The report's format by its name."""
    ending = os.path.splitext(report)[1].lower()
    return {".json": "json", ".html": "html", ".htm": "html"}.get(ending, "text")


def _write_report(path: str, form: str, snapshot: Snapshot, checkpoint: Checkpoint) -> None:
    from inspector.report.verify_text import report_json, verify_text

    pieces: Iterable[str]
    if form == "json":
        pieces = (json.dumps(report_json(snapshot), indent=1) + "\n",)
    elif form == "html":
        from inspector.report.html.verify import verify_html

        pieces = verify_html(snapshot, checkpoint, command_line())
    else:
        pieces = (line + "\n" for line in verify_text(snapshot))
    write_file("the report", path, pieces)


@click.command()
@click.argument("events")
@click.option("--json", "as_json", is_flag=True, help="Every event as a line of JSON.")
@click.option("--follow", is_flag=True, help="Wait for more until every rank has ended.")
@click.option("--tui/--no-tui", default=None, help="Show it on the screen, or print the end.")
def replay(events: str, as_json: bool, follow: bool, tui: bool | None) -> int:
    """Show a recorded verification: its events.jsonl, run folder, or a folder of ranks' events.

    On a terminal it plays as it ran; otherwise its end is printed.
    """
    if not as_json and (has_screen() if tui is None else tui):
        from inspector.tui.one_screen import run_replay

        return run_replay(events, follow=follow)
    from inspector.report.verify_text import verify_text
    from inspector.verify.progress import JobState
    from inspector.verify.recording import read_events
    from inspector.verify.result import confirmed, exit_code

    state = JobState()
    is_read = as_json
    try:
        with JobLine() as progress:
            for event in read_events(events, follow=follow):
                if event is not None:
                    state.apply(event)
                    if is_read:
                        is_read = write_lines((json.dumps(event) + "\n",))
                if as_json and follow and not is_read:
                    # There is nobody to wait for more for. Without `follow`, its end is the code.
                    raise BrokenPipeError
                progress.show(state.snapshot)
    except KeyboardInterrupt:
        if not follow:
            raise
    snapshot = state.snapshot()
    if not snapshot.version:
        raise UsageError(f"there are no events in {events!a}", "give a run's events.jsonl")
    result = confirmed(snapshot) or None
    if not as_json:
        print_pieces(verify_text(snapshot, result), "\n")
    return exit_code(result or {})


#: For `cli` to add to its group.
commands: list[click.Command] = [verify, replay]
