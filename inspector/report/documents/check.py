"""The documents of `check --json` and `plan --json`, and the lines of `watch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from typing_extensions import NotRequired

from inspector.checkpoint.find.step_folders import State
from inspector.checks.findings import Severity, Verdict
from inspector.report.documents.show import Left, NamedLeft

__all__ = [
    "WATCH_EVENTS",
    "CheckDocument",
    "CheckRunDocument",
    "CheckedParts",
    "ComparedDigests",
    "FindingObject",
    "JudgedCheckpoint",
    "PlanAgainst",
    "PlanCommand",
    "PlanDocument",
    "PlanHead",
    "PlanRank",
    "PlanRead",
    "PlanStage",
    "PlanStagesDocument",
    "PlanWriter",
    "ReadingRank",
    "RunCheckpoint",
    "RunStep",
    "StepPart",
    "StorageUse",
    "UnevenTensor",
    "WatchedLoss",
    "WatchedNewest",
    "WatchedOutage",
    "WatchedPart",
    "WatchedReturn",
    "WatchedStep",
]


class FindingObject(TypedDict):
    """One thing that is wrong, and what torch would do about it."""

    code: str
    severity: Severity
    fqn: str | None
    file: str | None
    offsets: Sequence[int] | None
    sizes: Sequence[int] | None
    num_elements: int | None
    message: str
    torch_does: str
    hint: str
    other_fqn: str | None
    entries: Sequence[str]


class StorageUse(TypedDict):
    """What a remote storage was asked."""

    requests: int
    bytes: int
    failed: int


class ComparedDigests(TypedDict):
    """Digests that were kept elsewhere: a seal, or integrity.json."""

    kind: str
    path: str
    compared: int
    matching: int


class ReadingRank(TypedDict):
    """One of several processes that read the payloads: its share, and what of it was read.

    `why_not` says why that is not all; null if it is.
    """

    rank: int
    host: str
    payloads: int
    payload_bytes: int
    payloads_read: int
    bytes_read: int
    why_not: str | None


class CheckedParts(TypedDict):
    """What was looked at; `storage` where it is a remote one, `ranks` where several read."""

    tensors: int
    chunks: int
    files: int
    payloads: int
    payload_bytes: int
    not_checked: Sequence[Left]
    against: Sequence[ComparedDigests]
    storage: NotRequired[StorageUse]
    ranks: NotRequired[Sequence[ReadingRank]]


class JudgedCheckpoint(TypedDict):
    """The judgement of one checkpoint."""

    path: str
    verdict: Verdict
    checked: CheckedParts
    findings: Sequence[FindingObject]


class ModelFitPart(TypedDict):
    """The checkpoint beside what a model expects."""

    path: str
    source: str
    num_keys: int
    num_matching: int
    complete: bool
    notes: Sequence[str]
    problems: Sequence[FindingObject]


class CheckDocument(JudgedCheckpoint):
    """`check --json` of one checkpoint; `against` where a model's keys were given."""

    schema: Literal[1]
    against: NotRequired[ModelFitPart]


class StepPart(TypedDict):
    """One checkpoint of a step."""

    path: str
    format: str
    state: State
    verdict: Verdict


class RunStep(TypedDict):
    """One step of a run: sound only if all its parts are."""

    path: str
    step: int | None
    verdict: Verdict
    resumable: bool
    why_not: str | None
    kinds: Sequence[str] | None
    lacks: Sequence[str]
    parts: Sequence[StepPart]
    findings: Sequence[FindingObject]


class RunCheckpoint(JudgedCheckpoint):
    """One checkpoint of a run.

    `is_overwritten`: its data files are newer than its metadata, so that a save over it may have
    died half-way, or be at work.
    """

    format: str
    state: State
    is_overwritten: bool
    step: int | None
    step_path: str


class CheckRunDocument(TypedDict):
    """`check --json` of a folder of checkpoints; `verdict` where they are one step."""

    schema: Literal[1]
    path: str
    newest_sound: str | None
    newest_sound_step: int | None
    newest_resumable: str | None
    newest_resumable_step: int | None
    is_partial: bool
    not_looked_at: Sequence[Left]
    findings: Sequence[FindingObject]
    steps: Sequence[RunStep]
    checkpoints: Sequence[RunCheckpoint]
    storage: NotRequired[StorageUse]
    verdict: NotRequired[Verdict]


# watch, one event a line.


class _WatchEvent(TypedDict):
    schema: Literal[1]
    t: float


class WatchedPart(TypedDict):
    """One checkpoint of a step."""

    path: str
    state: State
    verdict: Verdict
    not_checked: Sequence[Left]


class WatchedStep(_WatchEvent):
    """A step was judged."""

    event: Literal["step"]
    path: str
    address: str
    step: int | None
    verdict: Verdict
    resumable: bool
    why_not: str | None
    deep: bool
    payload_bytes: int
    parts: Sequence[WatchedPart]
    findings: Sequence[FindingObject]


class WatchedNewest(_WatchEvent):
    """Another step is the newest to resume from, or none is."""

    event: Literal["latest"]
    path: str | None
    address: str | None
    step: int | None


class WatchedLoss(_WatchEvent):
    """A step is not there any more."""

    event: Literal["gone"]
    path: str


class WatchedOutage(_WatchEvent):
    """The run cannot be listed."""

    event: Literal["unreachable"]
    message: str
    hint: str


class WatchedReturn(_WatchEvent):
    """The run can be listed again."""

    event: Literal["reachable"]


#: The type of every event of `watch`, by its name.
WATCH_EVENTS: dict[str, type[Any]] = {
    "step": WatchedStep,
    "latest": WatchedNewest,
    "gone": WatchedLoss,
    "unreachable": WatchedOutage,
    "reachable": WatchedReturn,
}


# plan.


class PlanWriter(TypedDict):
    """The mesh that wrote the checkpoint, and what a load under it would read."""

    mesh: str | None
    certain: bool
    bytes_read: int | None
    times_read: float | None


class UnevenTensor(TypedDict):
    """A tensor of which some ranks hold nothing."""

    fqn: str
    num_ranks: int


class PlanCommand(TypedDict):
    """A command line that proves the plan, and where to run it."""

    where: str
    line: str


class PlanAxis(TypedDict):
    """An axis of the mesh, and what it is for by its name (null: the name does not tell)."""

    name: str
    size: int
    kind: str | None


class PlanAgainst(TypedDict):
    """What the checkpoint was compared with."""

    path: str
    source: str
    num_keys: int
    num_matching: int
    notes: Sequence[str]


class PlanStage(TypedDict):
    """The pipeline stage whose entries are planned, and who says which these are."""

    number: int
    count: int
    told_by: Literal["placements", "checkpoint"]
    words: str
    num_entries: int
    num_shared: int
    num_left_out: int
    errors_left_out: int


class PlanHead(TypedDict):
    """The plan of all ranks together; `against` with --against, `stage` with --stage."""

    schema: Literal[1]
    path: str
    mesh: str
    world_size: int
    num_replicas: int
    num_shards: int
    axes: Sequence[PlanAxis]
    placed_by: Mapping[str, int]
    bytes_needed: int
    bytes_read: int
    amplification: float
    checkpoint_bytes: int
    times_read: float
    imbalance: float
    worst_rank: int
    headline: str
    empty_tensors: Sequence[UnevenTensor]
    not_planned: Sequence[NamedLeft]
    written_by: PlanWriter
    commands: Sequence[PlanCommand]
    commands_warning: str | None
    against: NotRequired[PlanAgainst]
    stage: NotRequired[PlanStage]


class PlanRank(TypedDict):
    """What one rank would read."""

    rank: int
    coordinate: Sequence[int]
    bytes_needed: int
    bytes_read: int
    num_reads: int
    num_files: int
    num_empty_tensors: int
    peak_bytes: int


class PlanRead(TypedDict):
    """One read of one rank, as torch's planner would ask for it."""

    rank: int
    fqn: str
    file: str | None
    storage_offsets: Sequence[int]
    dest_offsets: Sequence[int]
    lengths: Sequence[int]
    byte_offset: int
    byte_length: int
    is_bytes: bool


class PlanDocument(PlanHead):
    """`plan --json`; `reads` with --reads."""

    ranks: Sequence[PlanRank]
    problems: Sequence[FindingObject]
    reads: NotRequired[Sequence[PlanRead]]


class PlanStagesDocument(TypedDict):
    """`plan --stage all/N --json`: a plan for each stage in turn."""

    schema: Literal[1]
    path: str
    mesh: str
    world_size: int
    bytes_needed: int
    bytes_read: int
    amplification: float
    stages: Sequence[PlanDocument]
