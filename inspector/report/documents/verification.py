"""The events of `verify --json` and `replay --json`, one a line, and the file of `--report`.

A line has an end: of an event that is too long for it the longest texts are cut, which `cut` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from typing_extensions import NotRequired

from inspector.report.documents.show import NamedLeft
from inspector.verify.progress import Failure
from inspector.verify.verdicts import Fault

__all__ = ["EVENTS", "READ_EVENTS", "VerifyReport"]

_Phase = Literal["load", "compare", "replicas", "save", "reload", "recheck", "read"]
_Kind = Literal["exception", "killed", "timeout", "out-of-memory", "launch"]


class _Event(TypedDict):
    schema: Literal[1]
    t: float
    run: NotRequired[str]
    cut: NotRequired[bool]


class _OfRank(_Event):
    rank: int


class _Job(_Event):
    """What is run."""

    rank: None
    path: str
    mesh: str
    then: Sequence[str]
    via: Literal["dtensor", "fsdp2", "fsdp1"]
    device: str
    backend: str
    world_size: int


class _Spec(TypedDict, total=False):
    run_folder: str
    num_entries: int


class PlacementPattern(TypedDict):
    """A line of --placements: the names it is for, and the dim that each axis cuts."""

    pattern: str
    cuts: str


class StagePattern(TypedDict):
    """A line of its [stages]: the names it is for, and the numbers of the stages that hold them."""

    pattern: str
    stages: str


class Spec(_Job, _Spec):
    """What will run; the first line."""

    event: Literal["spec"]
    command: Sequence[str]
    filter: str
    sample: float
    stage: str
    stages: Sequence[StagePattern]
    placements: Sequence[PlacementPattern]
    unpickle: bool
    memory_bytes: int


class Hello(_OfRank):
    """A rank is up."""

    event: Literal["hello"]
    pid: int
    host: str
    device: str
    torch: str
    local_rank: int
    world_size: int
    elapsed_s: float


class Heartbeat(_OfRank):
    """A rank is alive; the phase is empty before its first."""

    event: Literal["heartbeat"]
    phase: _Phase | Literal[""]
    rss_bytes: NotRequired[int]
    anon_bytes: NotRequired[int]
    peak_rss_bytes: NotRequired[int]
    cuda_bytes: NotRequired[int]
    io_bytes: NotRequired[int]


class LeftOutGroup(TypedDict):
    """Entries that are left out for one reason."""

    why: str
    count: int
    asked: bool


class PlanOfRank(_OfRank):
    """What a rank is going to verify; rank 0 tells of what is left out."""

    event: Literal["plan"]
    tensors: int
    entries: int
    waves: int
    bytes: Sequence[int]
    num_payloads: NotRequired[int]
    stored_dtypes: NotRequired[dict[str, str]]
    left_out: NotRequired[Sequence[LeftOutGroup]]
    memory_bytes: NotRequired[int]


class EnteredPhase(_OfRank):
    """A rank enters a phase; of a save, what the check of the saved folder said."""

    event: Literal["phase"]
    phase: _Phase
    hop: int
    mesh: NotRequired[str]
    wave: NotRequired[int]
    num_waves: NotRequired[int]
    folder: NotRequired[str]
    checked: NotRequired[str]
    num_findings: NotRequired[int]
    num_bytes: NotRequired[int]
    num_files: NotRequired[int]


class ProgressOfRank(_OfRank):
    """How far a rank is in a phase."""

    event: Literal["progress"]
    phase: _Phase
    hop: int
    bytes_done: int
    bytes_total: int
    tensors_done: int
    tensors_total: int


class VerifiedTensor(_OfRank):
    """What a rank found of an entry in a phase."""

    event: Literal["tensor"]
    phase: _Phase
    fqn: str
    verdict: str
    detail: str
    num_elements: NotRequired[int | None]
    num_different: NotRequired[int | None]
    first_index: NotRequired[Sequence[int] | None]
    expected: NotRequired[str | None]
    found: NotRequired[str | None]
    file: NotRequired[str | None]
    num_compared: NotRequired[int]
    bytes_read: NotRequired[int]
    via: NotRequired[str]
    mesh: NotRequired[str]
    hop: NotRequired[int]
    entry: NotRequired[int]
    ranks: NotRequired[int]
    asked: NotRequired[bool]
    num_unwritten: NotRequired[int]
    num_uncovered: NotRequired[int]
    is_partial: NotRequired[bool]
    cut: NotRequired[bool]


class TorchReads(_OfRank):
    """Whether torch's own `read_metadata` reads what the job read."""

    event: Literal["torch_reads"]
    ok: bool
    torch: str
    error: str | None
    unsafe: NotRequired[bool]
    second_reading: NotRequired[str]
    num_payloads: NotRequired[int]
    num_forgotten: NotRequired[int]
    forgotten: NotRequired[Sequence[str]]
    tried: NotRequired[bool]


class PrintedLine(_Event):
    """A line that a rank, or torchrun (null), printed."""

    event: Literal["log"]
    rank: int | None
    stream: Literal["stdout", "stderr"]
    text: str


class FailedRank(_Event):
    """A rank, or the job (null), failed; `root` marks what the other failures came of."""

    event: Literal["failed"]
    rank: int | None
    kind: _Kind
    message: str
    stack: str
    phase: NotRequired[_Phase | Literal[""]]
    root: NotRequired[bool]
    is_echo: NotRequired[bool]


class Bye(_OfRank):
    """A rank has ended well."""

    event: Literal["bye"]
    bytes_read: int
    payloads_checked: int
    payloads_unsummed: int
    payload_faults: int
    stored_dtypes: int
    unpickled: int
    verdicts: dict[str, int]
    canaries: dict[str, int]
    peak_anon_bytes: int
    peak_rss_bytes: int
    elapsed_s: float


class ResultReads(TypedDict):
    """What torch's own `read_metadata` said."""

    ok: bool
    torch: str | None
    error: str | None
    tried: bool


class ResultPhase(TypedDict):
    """How long a phase took, all waves together."""

    phase: _Phase
    elapsed_s: float


class ResultFailure(TypedDict):
    """A failure, in short."""

    rank: int | None
    kind: _Kind
    message: str


class ResultTensors(TypedDict):
    """Entries, counted; `different` and the first of `not_verified` by name."""

    total: int
    verified: int
    exact: int
    different: Sequence[str]
    raw: int
    via: dict[str, int]
    num_not_verified: int
    num_not_asked: int
    not_verified: Sequence[NamedLeft]


class _Result(TypedDict, total=False):
    run_folder: str


class Result(_Job, _Result):
    """What came of it; the last line. `stage` is empty unless --stage was given."""

    event: Literal["result"]
    stage: str
    verdict: Literal["exact", "differs", "partial", "unreadable", "failed", "cancelled"]
    why: str
    elapsed_s: float
    bytes_read: int
    torch_reads: ResultReads
    phases: Sequence[ResultPhase]
    failures: Sequence[ResultFailure]
    tensors: ResultTensors


#: The type of every event, by its name.
EVENTS: dict[str, type[Any]] = {
    "spec": Spec,
    "hello": Hello,
    "heartbeat": Heartbeat,
    "plan": PlanOfRank,
    "phase": EnteredPhase,
    "progress": ProgressOfRank,
    "tensor": VerifiedTensor,
    "torch_reads": TorchReads,
    "log": PrintedLine,
    "failed": FailedRank,
    "bye": Bye,
    "result": Result,
}


class ReadJob(_Event):
    """What ranks read that do nothing else."""

    rank: None
    path: str
    task: Literal["check", "seal", "stats"]
    world_size: int


class ReadStart(ReadJob, _Spec):
    """What will be read; the first line."""

    event: Literal["spec"]
    values: bool
    filter: str
    command: Sequence[str]


class ReaderUp(_OfRank):
    """A rank that reads is up."""

    event: Literal["hello"]
    pid: int
    host: str
    device: str
    local_rank: int
    world_size: int


class FoundByRank(_OfRank):
    """What a rank found in its share; the first 1,000 of it."""

    event: Literal["finding"]
    code: str
    severity: Literal["error", "warning", "note"]
    fqn: str | None
    file: str | None
    message: str


class ReadShare(_OfRank):
    """A rank has read its share."""

    event: Literal["bye"]
    bytes_read: int
    payloads_read: int
    elapsed_s: float


class ReadResult(ReadJob, _Result):
    """Whether every rank read its share; no verdict on what it read. The last line."""

    event: Literal["result"]
    verdict: Literal["read", "failed", "cancelled"]
    why: str
    elapsed_s: float
    bytes_read: int
    payloads_read: int
    num_wrong: int
    failures: Sequence[ResultFailure]


#: Those of `replay --json` of ranks that only read.
READ_EVENTS: dict[str, type[Any]] = {
    "spec": ReadStart,
    "hello": ReaderUp,
    "heartbeat": Heartbeat,
    "phase": EnteredPhase,
    "progress": ProgressOfRank,
    "finding": FoundByRank,
    "log": PrintedLine,
    "failed": FailedRank,
    "bye": ReadShare,
    "result": ReadResult,
}


class WrongEntry(TypedDict):
    """An entry that is not as it was stored."""

    fqn: str
    verdict: str
    num_faults: int
    faults: Sequence[Fault]


class VerifyReport(TypedDict):
    """The file of `verify --report FILE.json`."""

    schema: Literal[1]
    result: dict[str, Any]
    ranks: Sequence[dict[str, Any]]
    wrong: Sequence[WrongEntry]
    via: dict[str, Sequence[str]]
    failures: Sequence[Failure]
