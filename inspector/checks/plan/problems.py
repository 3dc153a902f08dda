"""What goes wrong in a planned load, and on which ranks; the checkpoint's own faults come to that.

The rule this module keeps: one finding for each tensor (or file) and kind, with exact counts; the
ranks that it names are those that read what is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_bytes, format_ranks, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.entries import grouped
from inspector.checks.metadata.tiling import unproven
from inspector.layout.geometry import Ints, shares
from inspector.layout.reads.load_plan import LoadPlan
from inspector.layout.target.stages import StageKeys

if TYPE_CHECKING:
    from inspector.checks.metadata.cover import Cover

__all__ = ["Gap", "find_gaps", "of_stage", "plan_problems", "say_ranks", "untold"]

_MAX_NAME = 120
_MAX_RANKS_CHARS = 60
_FROM_ANOTHER = "load an earlier checkpoint, or save this one again from the running job"


@dataclass(frozen=True, slots=True)
class Gap:
    """A tensor with elements that no chunk holds."""

    index: int
    cover: Cover


def find_gaps(checkpoint: Checkpoint) -> tuple[Gap, ...]:
    """The tensors with gaps: the same under every mesh.

    Takes a third of a second for a million chunks.
    """
    if checkpoint.per_rank_metadata:
        return ()  # What a rank sees depends on the rank: `plan_problems` counts it.
    found = []
    for index in unproven(checkpoint.columns).tolist():
        # lazy: the chunks of most checkpoints tile their tensors plainly
        from inspector.checks.metadata.cover import analyse

        tensor = checkpoint.columns.tensor(index)
        cover = analyse(tensor.offsets, tensor.sizes, tensor.shape)
        if cover.num_gap:
            found.append(Gap(index, cover))
    return tuple(found)


def plan_problems(plan: LoadPlan, gaps: Sequence[Gap] | None = None) -> list[Finding]:
    """What would go wrong on which ranks.

    Args:
        plan: The plan.
        gaps: What `find_gaps` found in its checkpoint (default: look for them now).
    """
    checkpoint = plan.checkpoint
    planned = set(plan.planned_tensors.tolist())
    if gaps is None:
        gaps = find_gaps(checkpoint)
    return [
        *(_gap(plan, gap) for gap in gaps if gap.index in planned),
        *_torn(plan),
        *_own_metadata(plan),
        *_unstored(plan),
        *_files(plan),
        *_parts(plan),
        *_left_out(plan),
    ]


def say_ranks(ranks: Ints) -> str:
    """`rank 3`, `ranks 0-3,7`, `ranks 0,2,4,6 and 508 more`."""
    noun = "rank" if len(ranks) == 1 else "ranks"
    text = format_ranks(ranks.tolist())
    if len(text) <= _MAX_RANKS_CHARS:
        return f"{noun} {text}"
    few = format_ranks(ranks[:4].tolist())
    return f"{noun} {few} and {len(ranks) - 4:,} more"


def _ranks_of(plan: LoadPlan, by_shard: Ints) -> Ints:
    """Ranks whose shard has a number other than 0, in rising order."""
    tiled = np.tile(by_shard, plan.world_size // len(by_shard))
    return np.flatnonzero(tiled)


def _gap(plan: LoadPlan, gap: Gap) -> Finding:
    """A gap, shard by shard, or rank by rank where several axes cut."""
    tensor = plan.checkpoint.columns.tensor(gap.index)
    num_shards, cover = plan.mesh.num_shards, gap.cover
    place = int(np.flatnonzero(plan.planned_tensors == gap.index)[0])
    is_plain = plan.placement(place) is None

    def in_parts(offsets: Ints, sizes: Ints) -> Ints:
        if not is_plain:
            return plan.elements_in(place, offsets, sizes)
        full = max(-(-tensor.shape[0] // num_shards), 1)
        return _in_shards(offsets, sizes, full, num_shards)

    fqn, shape = printable(tensor.fqn, _MAX_NAME), np.asarray(tensor.shape, dtype=np.int64)
    about = "" if cover.complete else "at least "
    if not len(shape):
        missing = np.ones(num_shards, dtype=np.int64)
    else:
        whole = in_parts(np.zeros_like(shape)[None], shape[None])
        extent = np.minimum(tensor.sizes, np.maximum(shape - tensor.offsets, 0))
        live = (extent > 0).all(axis=1)
        if cover.num_overlap or cover.duplicates:
            boxes = cover.gaps
            missing = in_parts(
                np.asarray([box.offsets for box in boxes], dtype=np.int64),
                np.asarray([box.sizes for box in boxes], dtype=np.int64),
            )
            num = sum(math.prod(box.sizes) for box in boxes)
            about = "" if num == cover.num_gap else "at least "
        else:
            missing = whole - in_parts(tensor.offsets[live], extent[live])
    ranks = _ranks_of(plan, missing)
    most = int(missing.max())
    where = "miss" if len(ranks) > 1 else "misses"
    up_to = "up to " if int(missing[missing > 0].min()) != most else ""
    each = f"{up_to}{about}{plural(most, 'element')}" + (" each" if len(ranks) > 1 else "")
    return Finding(
        "chunk-gap",
        f"{fqn}: {about}{cover.num_gap:,} of {plural(tensor.num_elements, 'element')} lie in no "
        f"chunk; {say_ranks(ranks)} {where} {each}",
        "loads silently, those elements left uninitialised",
        "their values are not in this checkpoint: " + _FROM_ANOTHER,
        fqn=tensor.fqn,
        offsets=cover.gaps[0].offsets,
        sizes=cover.gaps[0].sizes,
        num_elements=cover.num_gap,
    )


def _torn(plan: LoadPlan) -> Iterator[Finding]:
    """Tensors that `fully_shard` over tensor parallelism holds otherwise than torch plans.

    Counted with torch 2.13: 14 rows over dp_shard:4,tp:3 leave rank 9 none and rank 11 one, and the
    planner reads one for rank 9 and none for rank 11.
    """
    columns = plan.checkpoint.columns
    for index, lies in zip(plan.planned_tensors.tolist(), plan.placements, strict=False):
        shape = columns.shape(index)
        torn = [dim for dim in lies.cut_dims if lies.is_torn(dim, shape[dim])]
        for dim in torn[:1]:
            fqn = columns.fqns[index]
            yield Finding(
                "strided-uneven",
                f"{printable(fqn, _MAX_NAME)}: {plural(shape[dim], 'element')} along dim {dim} do "
                f"not divide over {lies.axes_words(dim)}: what fully_shard over tensor parallelism "
                "holds there is not what its placements say",
                "reads for some ranks what others hold: raises there, or leaves elements "
                "uninitialised",
                "take sizes of axes that divide it, or leave it whole along one of them",
                fqn=fqn,
                severity="warning",
            )


def _in_shards(offsets: Ints, sizes: Ints, full: int, num_shards: int) -> Ints:
    """Elements of boxes that lie in each shard."""
    num = len(offsets)
    if not num:
        return np.zeros(num_shards, dtype=np.int64)
    a_row = np.prod(sizes[:, 1:], axis=1, dtype=np.int64)
    start = offsets[:, 0]
    return shares(start, start + sizes[:, 0], np.full(num, full), a_row, num_shards)


def _own_metadata(plan: LoadPlan) -> Iterator[Finding]:
    """Metadata of every rank: a rank sees what its own names, and nothing else."""
    checkpoint = plan.checkpoint
    if not checkpoint.per_rank_metadata:
        return
    num_saved = checkpoint.world_size or 0
    extra = np.arange(num_saved, plan.world_size)
    if len(extra):
        yield Finding(
            "rank-metadata",
            f"{plural(num_saved, 'rank')} wrote metadata of their own; {say_ranks(extra)} would "
            "find none",
            "raises AssertionError: metadata is None",
            "load it on as many ranks as saved it",
        )
    lacking = plan.bytes_missing[:num_saved]
    ranks = np.flatnonzero(lacking > 0)
    if len(ranks):
        yield Finding(
            "rank-metadata",
            f"every rank sees only the chunks that its own metadata names: {say_ranks(ranks)} "
            f"would miss up to {format_bytes(int(lacking.max()))} of what they need",
            "loads silently, those elements left uninitialised",
            "load it under the mesh it was saved under, or merge it: load there, and save with "
            "use_collectives=True",
        )


def _unstored(plan: LoadPlan) -> Iterator[Finding]:
    """Chunks and bytes entries that the metadata stores nowhere."""
    items, columns = plan.items, plan.checkpoint.columns
    if not (items.groups.file < 0).any():
        return
    lost = np.flatnonzero(items.file < 0)
    for owner, rows in grouped(items.owner, lost):
        if owner < 0:
            entries = plan.checkpoint.bytes_entries
            found = [
                (entries[int(items.number[row])].fqn, "its pickle is", rows[i : i + 1])
                for i, row in enumerate(rows)
            ]
        else:
            fqn = columns.fqns[int(items.tensors.tensor[owner])]
            verb = "is" if len(rows) == 1 else "are"
            found = [(fqn, f"{plural(len(rows), 'chunk')} of it {verb}", rows)]
        for fqn, what, of in found:
            yield Finding(
                "chunk-unstored",
                f"{printable(fqn, _MAX_NAME)}: {what} stored nowhere; "
                f"{say_ranks(plan.readers(of))} would read it",
                "raises KeyError",
                "take .metadata from the original, or " + _FROM_ANOTHER,
                fqn=fqn,
            )


def _files(plan: LoadPlan) -> Iterator[Finding]:
    """Data files that are not there, or end before a payload does."""
    items, files = plan.items, plan.checkpoint.files
    # torch follows a path that leads outside; what lies there is not looked at.
    unknown = np.iinfo(np.int64).max
    sizes = [unknown if is_escape(f.path) else f.num_bytes for f in files]
    ends = np.asarray([-1 if size is None else size for size in sizes] + [unknown], np.int64)
    if not (items.groups.end > ends[items.groups.file]).any():
        return
    lost = np.flatnonzero(items.end > ends[items.file])
    for number, rows in grouped(items.file, lost):
        size, ranks = sizes[number], plan.readers(rows)
        if not len(ranks):
            continue
        what, torch_does = "it is not there", "raises FileNotFoundError"
        if size is not None:
            what = f"it has {plural(size, 'byte')}, and ends before a payload does"
            torch_does = "raises RuntimeError or EOFError"
            if plan.checkpoint.format == "safetensors":
                torch_does = "raises SafetensorError"
        yield Finding(
            "file-missing" if size is None else "file-truncated",
            f"{printable(files[number].path, _MAX_NAME)}: {what}; {say_ranks(ranks)} would read "
            f"{plural(len(rows), 'payload')} of it",
            torch_does + " on those ranks",
            "fetch the file again, or " + _FROM_ANOTHER,
            file=files[number].path,
        )


def _parts(plan: LoadPlan) -> Iterator[Finding]:
    """Safetensors files that the index or the others' names call for, and that are not there."""
    stored = plan.checkpoint.stored
    for path, num in ({} if stored is None else stored.missing).items():
        what = "its tensors are" if num is None else f"{plural(num, 'tensor')} of the index is"
        what = what if num in (None, 1) else what[:-2] + "are"
        yield Finding(
            "file-missing",
            f"{printable(path, _MAX_NAME)}: it is not there; {what} not in the plan",
            "raises RuntimeError: Missing key in checkpoint state_dict",
            "fetch the file",
            file=path,
        )


def _left_out(plan: LoadPlan) -> Iterator[Finding]:
    for item in plan.not_planned:
        subject = f"{printable(item.fqn, _MAX_NAME)}: " if item.fqn else ""
        yield Finding(
            "metadata-unknown-class" if item.is_later else "entry-malformed",
            f"{subject}{printable(item.why, 300)}; it is not in the plan",
            "raises AssertionError: metadata is None, if it lacks the class"
            if item.is_later
            else "depends on the value: a negative size loads silently and wrong, others raise",
            "hsdp-inspect check says what is wrong with it",
            fqn=item.fqn or None,
        )


def untold(findings: Iterable[Finding], problems: Iterable[Finding]) -> list[Finding]:
    """The errors among findings, save those that are told already as problems of a load.

    Args:
        findings: What checks of the checkpoint found.
        problems: What is told already, rank by rank: the same code and name, or file, is the same.
    """
    told = {(problem.code, problem.fqn or problem.file) for problem in problems}
    return [f for f in findings if f.severity == "error" and (f.code, f.fqn or f.file) not in told]


def of_stage(plan: LoadPlan, stage: StageKeys | None, findings: Iterable[Finding]) -> list[Finding]:
    """The findings that concern what a stage loads: not entries and files of others alone.

    Args:
        plan: The plan of the stage's entries.
        stage: The stage; None for all entries, which all concern.
        findings: What was found in the whole checkpoint.
    """
    if stage is None:
        return list(findings)
    left_out = set(stage.left_out)
    files = plan.checkpoint.files
    read = {files[i].path for i in set(plan.items.groups.file.tolist()) if i >= 0}
    others = {file.path for file in files if file.num_payloads} - read
    return [
        f
        for f in findings
        if (f.fqn not in left_out if f.fqn is not None else f.file not in others)
    ]
