"""The documents of `stats`, `diff`, `seal`, `export` and `repair` with `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from typing_extensions import NotRequired

from inspector.checkpoint.text import Number
from inspector.checks.findings import Verdict as CheckVerdict
from inspector.diff.model import BytesDiff, Damage, MeshSide, PlacementChange, Verdict
from inspector.export.outcome import Omission, WrittenFile, WrittenTensor
from inspector.export.outcome import Verdict as ExportVerdict
from inspector.repair.plan import RepairStep, Unrepaired
from inspector.repair.run import RepairVerdict
from inspector.report.documents.show import NamedLeft

__all__ = [
    "CarriedCounts",
    "ChangedGroups",
    "ComparedTensor",
    "DiffDocument",
    "DiffHead",
    "DiffTolerance",
    "DifferingCopies",
    "ExportChecksums",
    "ExportDocument",
    "NotReadTensor",
    "RepairDocument",
    "SealDocument",
    "StatsDocument",
    "TensorFigures",
    "TensorHistogram",
]


class TensorHistogram(TypedDict):
    """How many elements lie between two edges."""

    scale: Literal["linear", "log"]
    edges: Sequence[Number]
    counts: Sequence[int]
    num_zero: int


class TensorFigures(TypedDict):
    """The figures of one tensor, over its finite elements; `histogram` with --histogram."""

    fqn: str
    dtype: str
    shape: Sequence[int]
    num_elements: int
    num_read: int
    of: str
    min: Number
    max: Number
    mean: Number
    std: Number
    l2: Number
    rms: Number
    num_zero: int
    num_nan: int
    num_inf: int
    first_non_finite: Sequence[int] | None
    first_nan: Sequence[int] | None
    first_inf: Sequence[int] | None
    kind: str | None
    reason: str | None
    group: str
    factor: Number | None
    histogram: NotRequired[TensorHistogram]


class NotReadTensor(TypedDict):
    """A tensor that was not read in full."""

    fqn: str
    num_elements: int
    why: str


class DifferingCopies(TypedDict):
    """Copies of one tensor, stored by several ranks, that differ."""

    fqn: str
    num_elements: int
    num_different: int
    first_index: Sequence[int]
    ranks: Sequence[int | None]


class StatsDocument(TypedDict):
    """`stats --json`."""

    schema: Literal[1]
    complete: bool
    tensors: Sequence[TensorFigures]
    not_read: Sequence[NotReadTensor]
    replicas_differ: Sequence[DifferingCopies]


class DiffTolerance(TypedDict):
    """What counted as CLOSE."""

    atol: float
    rtol: dict[str, float]
    one_ulp_is_close: bool


class ChangedGroups(TypedDict):
    """A list of an optimizer's groups that both have, of other lengths."""

    fqn: str
    num_a: int
    num_b: int


class ComparedTensor(TypedDict):
    """A tensor that both hold."""

    fqn: str
    verdict: Verdict
    dtype_a: str | None
    dtype_b: str | None
    shape_a: Sequence[int] | None
    shape_b: Sequence[int] | None
    num_elements: int
    num_compared: int
    num_different: int
    first_index: Sequence[int] | None
    max_abs: Number | None
    max_abs_index: Sequence[int] | None
    max_rel: Number | None
    max_ulps: int | None
    num_not_close: int
    num_non_finite: int
    first_non_finite: Sequence[int] | None
    num_nan_both: int
    same_elements: bool
    detail: str


class DiffHead(TypedDict):
    """The comparison without its tensors."""

    schema: Literal[1]
    verdict: Literal["same", "different", "unknown"]
    values_compared: bool
    cancelled: bool
    a: MeshSide
    b: MeshSide
    counts: dict[str, int]
    only_in_a: Sequence[str]
    only_in_b: Sequence[str]
    unmoved_weights: Sequence[str]
    renamed: Sequence[tuple[str, str]]
    missing_parts: Sequence[str]
    param_groups: Sequence[ChangedGroups]
    damage: Sequence[Damage]
    tolerance: DiffTolerance | None
    likely_renamed: Sequence[tuple[str, str]]
    placements_changed: Sequence[PlacementChange]
    bytes: Sequence[BytesDiff]


class DiffDocument(DiffHead):
    """`diff --json`."""

    tensors: Sequence[ComparedTensor]


class SealDocument(TypedDict):
    """`seal --json`."""

    schema: Literal[1]
    path: str
    manifest: str
    written: bool
    content_sha256: str
    tensors: int
    bytes: int
    num_bytes: int
    not_sealed: Sequence[NamedLeft]


class ExportChecksums(TypedDict):
    """Payloads that were held against a stored CRC32, and those that have none."""

    checked: int
    none_stored: int


class ExportDocument(TypedDict):
    """`export --json`."""

    schema: Literal[1]
    verdict: ExportVerdict
    path: str
    output: str
    format: str
    num_tensors: int
    num_bytes: int
    files: Sequence[WrittenFile]
    tensors: Sequence[WrittenTensor]
    left_out: Sequence[Omission]
    checksums: ExportChecksums
    stored_dtypes: dict[str, str]
    leftovers: Sequence[str]


class CarriedCounts(TypedDict):
    """How the files of the new folder were made."""

    linked: int
    copied: int
    copied_bytes: int


class RepairDocument(TypedDict):
    """`repair --json`."""

    schema: Literal[1]
    verdict: RepairVerdict
    path: str
    output: str | None
    before: CheckVerdict
    after: CheckVerdict | None
    steps: Sequence[RepairStep]
    not_repaired: Sequence[Unrepaired]
    files: CarriedCounts | None
    torch: str | None
