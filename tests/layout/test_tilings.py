"""Tensors that are tiled alike are looked at once: the answers are those of looking at each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.model import Checkpoint
from inspector.checks.judge import judge
from inspector.checks.plan.problems import plan_problems
from inspector.layout import tilings
from inspector.layout.mesh import Mesh
from inspector.layout.reads.items import ItemGroups, read_items
from inspector.layout.reads.load_plan import Planner
from inspector.layout.reads.runs import RankFigures
from inspector.layout.tilings import tilings_of

PATHS = [
    folder
    for pattern in ("*", "broken/chunk_*", "broken/*truncated*", "broken/*missing*")
    for folder in sorted(Path("sample_ckpts").glob(pattern))
    if (folder / ".metadata").exists() or list(folder.glob("__*.metadata"))
]
MESHES = ("fsdp:1", "fsdp:3", "fsdp:8", "hsdp:2x4")


@contextmanager
def tiled_from(num_chunks: int) -> Iterator[None]:
    """Tensors of so many chunks and more are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tilings, "_MIN_CHUNKS", num_chunks)
        yield


@cache
def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder))


def anew(folder: Path) -> Checkpoint:
    """The checkpoint, with nothing known of its tilings."""
    checkpoint = opened(folder)
    return replace(checkpoint, columns=replace(checkpoint.columns))


@pytest.mark.parametrize("folder", PATHS, ids=lambda path: path.name)
def test_a_plan_is_the_same_whether_tensors_are_taken_together_or_not(folder: Path) -> None:
    planners = []
    for num_chunks in (1, 1 << 40):
        with tiled_from(num_chunks):
            planners.append(Planner(anew(folder)))
    for mesh in MESHES:
        together, each = (planner.plan(Mesh.parse(mesh)) for planner in planners)
        for field in fields(RankFigures):
            mine, theirs = (getattr(plan.ranks, field.name) for plan in (together, each))
            assert mine.tolist() == theirs.tolist(), (mesh, field.name)
        assert together.checkpoint_bytes == each.checkpoint_bytes
        assert together.bytes_missing.tolist() == each.bytes_missing.tolist()
        assert plan_problems(together) == plan_problems(each)
        last = together.world_size - 1
        assert list(together.reads(last)) == list(each.reads(last))
    assert len(each.items.groups.count) == len(each.items.owner)
    assert together.items.groups.count.sum() == len(each.items.owner)


@pytest.mark.parametrize("folder", PATHS, ids=lambda path: path.name)
def test_a_report_is_the_same_whether_tensors_are_taken_together_or_not(folder: Path) -> None:
    def report(num_chunks: int) -> object:
        with tiled_from(num_chunks):
            return judge(anew(folder), folder_of(str(folder)))

    assert report(1) == report(1 << 40)


def sample() -> Checkpoint:
    return anew(Path("sample_ckpts/fsdp2_hsdp_2x4_adamw"))


def test_layers_and_moments_share_their_tilings() -> None:
    with tiled_from(1):
        checkpoint = sample()
        found = tilings_of(checkpoint.columns)
    columns = checkpoint.columns
    assert len(found.first) < columns.num_tensors
    for index, kind in enumerate(found.of.tolist()):
        tensor, alike = columns.tensor(index), columns.tensor(int(found.first[kind]))
        copied = found.columns.tensor(kind)
        for other in (alike, copied):
            assert tensor.shape == other.shape
            assert np.array_equal(tensor.offsets, other.offsets)
            assert np.array_equal(tensor.sizes, other.sizes)
        assert copied.fqn == alike.fqn
        assert np.array_equal(copied.file, alike.file)
    assert tilings_of(columns) is found
    groups = read_items(checkpoint).groups
    assert len(groups.count) < groups.count.sum()
    assert {len(getattr(groups, field.name)) for field in fields(ItemGroups)} == {len(groups.count)}


def test_one_box_that_differs_makes_a_tiling_of_its_own() -> None:
    with tiled_from(1):
        columns = sample().columns
        shared = np.flatnonzero(np.bincount(tilings_of(columns).of) > 1)
    kind = int(shared[0])
    one, other = np.flatnonzero(tilings_of(columns).of == kind)[:2].tolist()
    for column in ("offsets", "sizes"):
        with tiled_from(1):
            changed = sample().columns
            numbers = getattr(changed, column).copy()
            numbers[changed.box_start[other]] += 1
            object.__setattr__(changed, column, numbers)
            of = tilings_of(changed).of
        assert of[one] != of[other]
