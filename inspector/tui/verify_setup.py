"""What the confirm screen of a verification says, and what it offers. No widget."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.errors import InspectError, UsageError
from inspector.layout.mesh import Mesh
from inspector.tui.advice import on_screen

if TYPE_CHECKING:
    from inspector.checkpoint.model import Checkpoint
    from inspector.verify.preflight import Preflight

__all__ = ["DEFAULT", "NONE", "Wishes", "first_mesh", "plan_table", "presets", "resolve"]

#: Words for the second mesh.
DEFAULT, NONE = "default", "none"
_COMMON = ("fsdp:2", "hsdp:2x2", "fsdp:4", "hsdp:2x4", "fsdp:8")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the form says, as it was typed."""

    mesh: str
    then: str = DEFAULT
    via: str = "dtensor"
    device: str = "auto"
    filter_text: str = ""


def presets(written: Mesh | None) -> list[str]:
    """Meshes to choose from, that of the writer first if a job can run under it."""
    own = [str(written)] if written is not None and written.can_launch else []
    return list(dict.fromkeys([*own, *_COMMON]))


def first_mesh(written: Mesh | None, num_gpus: int) -> str:
    """The mesh to begin with: the writer's, if this machine has as many cores or GPUs."""
    room = max(os.cpu_count() or 1, num_gpus, 2)
    own = [written] if written is not None and written.can_launch else []
    small = ["hsdp:2x2", "fsdp:4"] if own and own[0].family == "hsdp" else ["fsdp:4"]
    for mesh in [*own, *map(Mesh.parse, small), Mesh.parse("fsdp:2")]:
        if 1 < mesh.world_size <= room:
            return str(mesh)
    return "fsdp:2"


def resolve(checkpoint: Checkpoint, wishes: Wishes) -> Preflight | InspectError:
    """The job that was wished for; or why there is none. Looks at the machine: takes a moment."""
    from inspector.verify.preflight import NO_SECOND_MESH, prepare

    words = wishes.then.replace(",", " ").split()
    if words == [NONE]:
        then: tuple[str, ...] = NO_SECOND_MESH
    else:
        then = tuple(word for word in words if word != DEFAULT)
    try:
        for text in (wishes.mesh, *(() if then == NO_SECOND_MESH else then)):
            if not Mesh.parse(text).can_launch:
                raise UsageError(f"{text!a}: a job runs under fsdp:S or hsdp:RxS")
        return prepare(
            checkpoint,
            wishes.mesh,
            then=then,
            via=wishes.via,
            device=wishes.device,
            filter_text=wishes.filter_text.strip(),
        )
    except InspectError as error:
        return error


def plan_table(plan: Preflight) -> Table:
    """What will run, what it reads and needs, and what stands against it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=8)
    table.add_column(ratio=1)
    for label, text, style in _rows(plan):
        table.add_row(Text(label, "dim"), Text(text, style))
    return table


def _rows(plan: Preflight) -> Iterator[tuple[str, str, str]]:
    from inspector.report.verify_text import memory_text, meshes_text
    from inspector.verify.commands import local_argv, shell

    spec = plan.spec
    meshes = meshes_text(spec.mesh, spec.then)
    yield _row(
        "job",
        f"{plural(len(plan.expected.names), 'entry', 'entries')}, "
        f"{format_bytes(plan.num_bytes)}, under {meshes}; {plural(spec.world_size, 'rank')} on "
        f"{spec.device} over {spec.backend}, torch {printable(plan.interpreter.torch, 40)}",
    )
    yield _row("reads", f"about {format_bytes(plan.read_bytes)} by all ranks together")
    if plan.scratch_bytes:
        free = "" if plan.scratch_free is None else f" of {format_bytes(plan.scratch_free)} free"
        parent = printable(plan.scratch_parent, 120)
        yield _row("scratch", f"{format_bytes(plan.scratch_bytes)}{free} in {parent}")
    else:
        yield _row("scratch", "none: nothing is saved")
    yield _row(
        "memory",
        f"{memory_text(plan)} on each rank; {format_bytes(plan.memory_free)} is free here",
    )
    argv = local_argv(spec, "RUN/spec.json", "RUN/logs")
    yield _row("command", printable(shell(argv), 800))
    for note in plan.notes:
        yield _row("note", printable(note, 400), "yellow")
    for message, hint in plan.problems:
        yield _row("cannot", printable(message, 400), "bold red")
        if hint:
            yield _row("", printable(on_screen(hint), 200))


def _row(label: str, text: str, style: str = "") -> tuple[str, str, str]:
    return label, text, style
