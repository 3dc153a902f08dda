"""The documents of `show --json`, and what every document may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from typing_extensions import NotRequired

from inspector.checkpoint.find.step_folders import State
from inspector.checkpoint.model import Framework

__all__ = [
    "AxesLayout",
    "AxesUse",
    "Axis",
    "AxisCut",
    "CutDim",
    "Left",
    "ListedCheckpoint",
    "NamedLeft",
    "ShowDocument",
    "ShowFolderDocument",
    "ShownBytes",
    "ShownCheckpoint",
    "ShownChunk",
    "ShownFile",
    "ShownTensor",
    "StageLayout",
    "WrittenByMesh",
]


class Left(TypedDict):
    """What was left out, and why."""

    what: str
    why: str


class NamedLeft(TypedDict):
    """An entry that was left out, and why."""

    fqn: str
    why: str


class Axis(TypedDict):
    """One axis of the mesh, and what it looks like."""

    size: int
    kind: str | None
    name: str | None
    evidence: str
    certain: Literal[False]


class CutDim(TypedDict):
    """A dim, and the axes that cut it, the one that cuts first in front."""

    dim: int
    axes: Sequence[int]


class AxisCut(TypedDict):
    """Tensors whose dims are cut by the same axes."""

    dims: Sequence[CutDim]
    num_tensors: int
    experts: bool
    example: str
    words: str


class PlacementCount(TypedDict):
    """Placements, and how many tensors lie so."""

    placements: Sequence[str]
    num_tensors: int


class PlacedGroup(TypedDict):
    """Tensors on a mesh of their own over the same ranks: experts, or all others.

    What its axes are called is what they look like, never certain.
    """

    what: str
    shape: Sequence[int]
    axes: Sequence[str | None]
    mesh: str | None
    placements: Sequence[PlacementCount]
    num_tensors: int
    example: str


class AxesLayout(TypedDict):
    """What the axes of a mesh do, and what they look like."""

    shape: Sequence[int] | None
    axes: Sequence[Axis]
    cuts: Sequence[AxisCut]
    groups: Sequence[PlacedGroup]
    named_axes: str | None
    looks_like: str | None


class AxesUse(TypedDict):
    """What the axes are for, of which no file tells: apart from what is `proven`.

    `doubts`: what else writes the same files, or speaks against it.
    """

    looks_like: str | None
    certain: Literal[False]
    doubts: Sequence[str]


class StageLayout(AxesLayout):
    """Ranks that share no tensor with the others."""

    ranks: Sequence[int]
    mesh: str | None
    num_tensors: int
    example: str
    layers: str | None
    certain: Literal[False]


class WrittenByMesh(AxesLayout):
    """The mesh that wrote the checkpoint, as far as it tells.

    `certain`: what is `proven` (sizes, boxes, owners) is so, and the name of the mesh means no more
    than replicas, and shards of dim 0. What these are for is in `use`, and is never certain.
    """

    mesh: str | None
    world_size: int | None
    certain: bool
    proven: Sequence[str]
    use: AxesUse
    stages: Sequence[StageLayout]
    num_items: int
    num_placed: int
    evidence: Sequence[str]
    caveats: Sequence[str]


class ShownCheckpoint(TypedDict):
    """The checkpoint as a whole."""

    path: str
    format: str
    version: str | None
    torch: str | None
    torch_evidence: str
    num_tensors: int
    num_bytes_entries: int
    num_chunks: int
    num_elements: int
    tensor_bytes: int
    stored_bytes: int
    metadata_bytes: int
    num_files: int
    framework: Framework | None
    written_by: WrittenByMesh
    per_rank_metadata: bool
    num_malformed: int
    unknown_globals: Sequence[str]
    unsafe_globals: Sequence[str]
    notes: Sequence[str]


class ShownChunk(TypedDict):
    """One box of a tensor, and where its bytes are."""

    offsets: Sequence[int]
    sizes: Sequence[int]
    file: str | None
    offset: int | None
    length: int | None
    rank: int | None


class ShownTensor(TypedDict):
    """One tensor; `chunks` with --chunks."""

    fqn: str
    dtype: str
    shape: Sequence[int]
    num_chunks: int
    num_elements: int
    num_bytes: int
    placements: Sequence[str] | None
    evidence: Sequence[str]
    state_path: Sequence[str | int] | None
    chunks: NotRequired[Sequence[ShownChunk]]


class ShownBytes(TypedDict):
    """One entry that is no tensor; `value` where it is plain and could be read."""

    fqn: str
    file: str | None
    offset: int | None
    length: int | None
    state_path: Sequence[str | int] | None
    value: NotRequired[Any]


class ShownFile(TypedDict):
    """One data file."""

    path: str
    rank: int | None
    num_bytes: int | None
    referenced_bytes: int
    num_payloads: int


class ShowDocument(TypedDict):
    """`show --json [--chunks]` of one checkpoint."""

    schema: Literal[1]
    checkpoint: ShownCheckpoint
    tensors: Sequence[ShownTensor]
    bytes: Sequence[ShownBytes]
    files: Sequence[ShownFile]


class ListedCheckpoint(TypedDict):
    """One checkpoint of a folder; `step_path` is the folder of the step that it is a part of.

    `is_overwritten`: its data files are newer than its metadata, so that a save over it may have
    died, or be at work.
    """

    path: str
    step_path: str
    format: str
    state: State
    is_overwritten: bool
    step: int | None
    num_bytes: int
    num_files: int
    modified_s: float | None
    detail: str


class ShowFolderDocument(TypedDict):
    """`show --json` of a folder of checkpoints."""

    schema: Literal[1]
    path: str
    newest: str | None
    newest_step: str | None
    is_partial: bool
    not_looked_at: Sequence[Left]
    checkpoints: Sequence[ListedCheckpoint]
