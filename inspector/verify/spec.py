"""`JobSpec`: what a verification is to do; `ReadSpec`: what several ranks are to read.

Values that become JSON and come back. The front end writes one beside the job's events; every rank
reads it; a bug report carries it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from inspector.checkpoint.text import plural
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.target.file import PlacementLine, StageLine
from inspector.layout.target.placement import why_not, why_not_fsdp2
from inspector.layout.target.stages import StageRequest

__all__ = [
    "BACKENDS",
    "DEVICES",
    "MEETING",
    "TASKS",
    "VIAS",
    "JobSpec",
    "RankSpec",
    "ReadSpec",
    "default_then",
    "read_spec",
    "why_not_via",
]

VIAS = ("dtensor", "fsdp2", "fsdp1")
DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("gloo", "nccl")
#: What ranks read a checkpoint for.
TASKS = ("check", "seal", "stats")

#: The variable that names the file by which the ranks of a job find each other.
MEETING = "HSDP_INSPECT_MEETING"

_VERSION = 1


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A verification job.

    Attributes:
        path: The checkpoint, absolute or a URL.
        mesh: Mesh it is loaded under: `fsdp:S`, `hsdp:RxS`, or axes by name.
        then: Meshes it is saved under and loaded again with, in order; all of one world size.
        via: `dtensor`, `fsdp2` or `fsdp1`.
        device: `cpu` or `cuda` (resolved: never `auto`).
        backend: `gloo` or `nccl`.
        events_dir: Folder for the events: one file per rank, one of the launcher.
        scratch_dir: Folder for what is saved, made and removed by the job.
        filter: Only entries whose names it selects (`checkpoint.select`); empty for all.
        sample: Share of the entries to take, more than 0 and at most 1.
        memory_bytes: What one rank may hold of tensors at a time; 0 for a share of what is free
            where it runs, the same on every rank.
        timeout_s: After so long without progress of any rank the job counts as hung.
        python: Interpreter that runs the ranks.
        imports: Modules that every rank imports after torch, so that their classes load.
        unpickle: Load bytes entries as torch would, which runs what their pickles name.
        run: Id of the job, in every event of it, so that two jobs are not taken for one.
        gpus: What CUDA_VISIBLE_DEVICES is for the ranks; empty for what it is anyway.
        placements: (pattern, what its axes cut) of `--placements`.
        stage: `2/4` for what the second of four pipeline stages loads, `all/4` for each in turn;
            empty for all entries at once.
        stages: (pattern, numbers of stages) of `[stages]` in the file of `--placements`.
    """

    #: The module that every rank runs, with the spec's path as its argument.
    worker: ClassVar[str] = "inspector.verify.ranks.worker"

    path: str
    mesh: str
    then: tuple[str, ...] = ()
    via: str = "dtensor"
    device: str = "cpu"
    backend: str = "gloo"
    events_dir: str = ""
    scratch_dir: str = ""
    filter: str = ""
    sample: float = 1.0
    memory_bytes: int = 1 << 30
    timeout_s: float = 600.0
    python: str = ""
    imports: tuple[str, ...] = ()
    unpickle: bool = False
    run: str = ""
    gpus: tuple[str, ...] = ()
    placements: tuple[tuple[str, str], ...] = ()
    stage: str = ""
    stages: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        meshes = [Mesh.parse(self.mesh), *map(Mesh.parse, self.then)]
        for mesh in meshes:
            if why := why_not(mesh):
                raise UsageError(why)
            if why := why_not_via(mesh, self.via):
                raise UsageError(
                    f"--via {self.via} does not run under {mesh}: {why}",
                    "--via dtensor loads into DTensors that are placed as FSDP over tensor "
                    "parallelism places them",
                )
            if mesh.world_size != meshes[0].world_size:
                raise UsageError(
                    f"{mesh} has {mesh.world_size} ranks, {meshes[0]} has {meshes[0].world_size}",
                    "every mesh of one job needs the same number of ranks",
                )
        if self.placements and all(mesh.is_plain for mesh in meshes):
            raise UsageError(
                f"--placements is for axes by name, and {self.mesh} has none", "dp_shard:4,tp:2 has"
            )
        if self.stage:
            StageRequest.parse(self.stage)
        if self.via not in VIAS:
            raise UsageError(f"--via {self.via!a}: it is one of {', '.join(VIAS)}")
        for module in self.imports:
            if not all(part.isidentifier() for part in module.split(".")):
                raise UsageError(f"--import {module!a}: it is no module's name")
        if not 0 < self.sample <= 1:
            raise UsageError("--sample is more than 0 % and at most 100 %")

    @property
    def world_size(self) -> int:
        return Mesh.parse(self.mesh).world_size

    @property
    def label(self) -> str:
        """What it is, in a word for the names of files."""
        return self.mesh

    @property
    def summary(self) -> list[str]:
        """What it is, and what more was asked for, for the lines that are printed."""
        said = [f"{self.world_size} ranks, {self.device}, {self.backend}"]
        if self.stage:
            teller = "[stages]" if self.stages else "the files"
            said.append(f"of pipeline stage {self.stage}, as {teller} tell")
        if self.placements:
            said.append(f"with {plural(len(self.placements), 'pattern')} of --placements")
        return said

    @property
    def placement_lines(self) -> list[PlacementLine]:
        """What `--placements` says.

        Raises:
            UsageError: A placement is none.
        """
        return [PlacementLine.parse(pattern, how) for pattern, how in self.placements]

    @property
    def stage_lines(self) -> list[StageLine]:
        """What its `[stages]` say.

        Raises:
            UsageError: A line names no stages.
        """
        return [StageLine.parse(pattern, stages) for pattern, stages in self.stages]

    def to_json(self) -> str:
        """The spec as one line of JSON."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """Read what `to_json` wrote.

        Raises:
            UsageError: It is no spec, or one of a newer hsdp-inspect.
        """
        try:
            values = json.loads(text)
            version = values.pop("version")
            values.pop("inject", None)  # Earlier versions wrote it, empty.
            if version != _VERSION:
                raise UsageError(f"a job of version {version} cannot be read by this hsdp-inspect")
            imports = tuple(values.get("imports", ()))
            lists = {"then": tuple(values["then"]), "imports": imports}
            told = {
                name: tuple((str(pattern), str(how)) for pattern, how in values.get(name, ()))
                for name in ("placements", "stages")
            }
            return cls(**{**values, **lists, "gpus": tuple(values.get("gpus", ())), **told})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError("this is no job of hsdp-inspect") from error

    @classmethod
    def read(cls, path: str | Path) -> JobSpec:
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """Payloads that several ranks read, each its share; they need no torch for it.

    Attributes:
        path: The checkpoint, absolute or a URL; of safetensors files one of them.
        task: What for, one of `TASKS`.
        world_size: How many ranks.
        values: Of a check, also count NaN and infinities.
        filter: Of statistics, only tensors whose names it selects; empty for all.
        portion_bytes: After so many bytes a rank writes down what it found.
        events_dir: As in `JobSpec`; so are the others.
    """

    worker: ClassVar[str] = "inspector.verify.shares.worker"
    #: What a job of ranks has, and these have not: they compute nothing, and do not talk.
    device: ClassVar[str] = "cpu"
    backend: ClassVar[str] = ""
    gpus: ClassVar[tuple[str, ...]] = ()

    path: str
    task: str
    world_size: int
    values: bool = False
    filter: str = ""
    portion_bytes: int = 1 << 30
    events_dir: str = ""
    scratch_dir: str = ""
    timeout_s: float = 600.0
    python: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UsageError(f"a job that is to {self.task!a} is not known")
        if type(self.world_size) is not int or not 1 <= self.world_size <= _MAX_RANKS:
            raise UsageError(f"{self.world_size} ranks: it is 1 to {_MAX_RANKS:,}")

    @property
    def label(self) -> str:
        """What it is, in a word for the names of files."""
        return f"{self.task}-{self.world_size}"

    @property
    def summary(self) -> list[str]:
        """What it is, for the lines that are printed."""
        return [f"{self.world_size} ranks that read"]

    def to_json(self) -> str:
        """The spec as one line of JSON."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)})

    @classmethod
    def of(cls, values: dict[str, Any]) -> ReadSpec:
        """Read what `to_json` wrote, as JSON has it.

        Raises:
            UsageError: It is no spec, or one of a newer hsdp-inspect.
        """
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        for name, value in values.items():
            kind = fields.get(name)
            is_right = type(value).__name__ == kind or (kind == "float" and type(value) is int)
            if not is_right:
                raise UsageError("this is no job of hsdp-inspect")
        return cls(**values)


_MAX_RANKS = 65_536
RankSpec = JobSpec | ReadSpec


def read_spec(path: str | Path) -> RankSpec:
    """Read a spec of either kind from a file.

    Raises:
        OSError: It cannot be read.
        UsageError: It is no spec, or one of a newer hsdp-inspect.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        values = json.loads(text)
        if type(values) is not dict or "task" not in values:
            return JobSpec.from_json(text)
        if values.pop("version", None) != _VERSION:
            raise UsageError("a job of another version cannot be read by this hsdp-inspect")
        return ReadSpec.of(values)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError("this is no job of hsdp-inspect") from error


def why_not_via(mesh: Mesh, via: str) -> str:
    """Why a job does not go that way under a mesh; empty if it does."""
    if mesh.is_plain or via == "dtensor":
        return ""
    return "FSDP1 has one or two axes" if via == "fsdp1" else why_not_fsdp2(mesh)


def default_then(mesh: Mesh) -> Mesh:
    """The second mesh where none is given.

    For HSDP, and for axes by name, the FSDP mesh of the same world size; for FSDP an HSDP mesh of
    two replicas where the world size is even, otherwise the same mesh.
    """
    size = mesh.world_size
    if mesh.family != "fsdp" or not mesh.is_plain:
        return Mesh("fsdp", (size,))
    return Mesh("hsdp", (2, size // 2)) if size % 2 == 0 else mesh
