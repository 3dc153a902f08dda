"""Who wrote a checkpoint, in words and as JSON: what is certain, and what it only looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspector.checkpoint.text import plural

if TYPE_CHECKING:
    from inspector.layout.writer.axes import AxisRoles
    from inspector.layout.writer.groups import TensorGroup
    from inspector.layout.writer.stages import Stage
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.report.documents.show import (
        AxesLayout,
        AxesUse,
        PlacedGroup,
        StageLayout,
        WrittenByMesh,
    )

__all__ = ["groups_words", "sure_words", "writer_words", "written_by_json"]


def sure_words(written_by: WrittenBy, *, short: bool = False) -> str:
    """What of the mesh is certain: never what its axes are for, which no file holds."""
    if short and written_by.proven:
        doubt = "" if written_by.certain else ", use of the axes not"
        return f"boxes and owners certain{doubt}"
    if written_by.proven:
        return "sizes, boxes and owners certain; what the axes are for is not"
    return "not certain"


def groups_words(written_by: WrittenBy, *, short: bool = False) -> str:
    """`2 groups that share no tensor, not certain`; empty if it is not parted in groups."""
    if written_by.partition is None:
        return ""
    stages = written_by.partition.stages
    meshes = {str(s.mesh) for s in stages if s.mesh is not None}
    inside = f" of {meshes.pop()}" if len(meshes) == 1 else ""
    if short:
        return f"{len(stages)} groups{inside}, like pipeline stages (not certain)"
    return f"{len(stages)} groups{inside} that share no tensor, like pipeline stages, not certain"


def writer_words(written_by: WrittenBy) -> list[str]:
    """Mesh, ranks, and how sure: the parts of one line."""
    ranks = [] if written_by.world_size is None else [plural(written_by.world_size, "rank")]
    if written_by.mesh is not None:
        return [str(written_by.mesh), *ranks, sure_words(written_by)]
    groups = groups_words(written_by)
    return [*ranks, groups] if groups else ["mesh not known", *ranks]


def written_by_json(written_by: WrittenBy) -> WrittenByMesh:
    """The `written_by` object of `show --json`."""
    layout, partition = written_by.layout, written_by.partition
    return {
        "mesh": None if written_by.mesh is None else str(written_by.mesh),
        "world_size": written_by.world_size,
        "certain": written_by.certain,
        "proven": ["sizes", "boxes", "owners"] if written_by.proven else [],
        "use": _use_json(layout),
        **_layout_json(layout),
        "stages": [] if partition is None else [_stage_json(s) for s in partition.stages],
        "num_items": written_by.num_items,
        "num_placed": written_by.num_placed,
        "evidence": written_by.evidence,
        "caveats": written_by.caveats,
    }


def _use_json(layout: AxisRoles | None) -> AxesUse:
    """What the axes are for, apart from what is proven: no file holds it."""
    if layout is None:
        return {"looks_like": None, "certain": False, "doubts": []}
    doubts = [*layout.doubts, *([layout.speaks_against] if layout.speaks_against else [])]
    return {"looks_like": layout.looks_like or None, "certain": False, "doubts": doubts}


def _layout_json(layout: AxisRoles | None) -> AxesLayout:
    """What the axes do and look like; a kind is never certain."""
    if layout is None:
        return {
            "shape": None,
            "axes": [],
            "cuts": [],
            "groups": [],
            "named_axes": None,
            "looks_like": None,
        }
    return {
        "shape": layout.mesh.sizes,
        "axes": [
            {
                "size": axis.size,
                "kind": axis.kind,
                "name": axis.name,
                "evidence": axis.evidence,
                "certain": False,
            }
            for axis in layout.axes
        ],
        "cuts": [
            {
                "dims": [{"dim": dim, "axes": axes} for dim, axes in cut.dims],
                "num_tensors": cut.num_tensors,
                "experts": cut.experts,
                "example": cut.example,
                "words": cut.words(len(layout.axes)),
            }
            for cut in layout.cuts
        ],
        "groups": [_group_json(group) for group in layout.groups],
        "named_axes": layout.named_axes,
        "looks_like": layout.looks_like or None,
    }


def _group_json(group: TensorGroup) -> PlacedGroup:
    names = [name for name, _ in group.axes]
    return {
        "what": group.what,
        "shape": [size for _, size in group.axes],
        "axes": names,
        "mesh": None if None in names else ",".join(f"{name}:{size}" for name, size in group.axes),
        "placements": [
            {"placements": words, "num_tensors": num} for words, num in group.placements
        ],
        "num_tensors": group.num_tensors,
        "example": group.example,
    }


def _stage_json(stage: Stage) -> StageLayout:
    return {
        "ranks": stage.ranks,
        "mesh": None if stage.mesh is None else str(stage.mesh),
        **_layout_json(stage.layout),
        "num_tensors": stage.num_tensors,
        "example": stage.example,
        "layers": stage.layers or None,
        "certain": False,
    }
