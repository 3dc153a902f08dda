"""What stands behind the load plan's view: meshes to offer, plans to order, answers to drop."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.text import format_bytes
from inspector.errors import InspectError
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh
from inspector.layout.reads.load_plan import Planner
from inspector.layout.target.placement import why_not
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.writer.written_by import infer
from inspector.report.plan import headline
from inspector.tui.mesh.offers import (
    even_sizes,
    first_mesh,
    other_kind,
    presets,
    with_step,
    writer_mesh,
)
from inspector.tui.plan.desk import Order, PlanDesk, Planned
from inspector.tui.plan.words import answer, facts_text, short_text
from tests.conftest import SAMPLES


def walk(mesh: str, axis: str, steps: int, count: int, even: tuple[int, ...] = ()) -> list[str]:
    found, here = [], Mesh.parse(mesh)
    for _ in range(count):
        here = with_step(here, axis, steps, even)
        found.append(str(here))
    return found


def test_shards_go_by_even_sizes_and_past_them_by_powers_of_two() -> None:
    even = (1, 2, 3, 6)
    assert walk("fsdp:1", "shard", 1, 5, even) == [
        "fsdp:2",
        "fsdp:3",
        "fsdp:6",
        "fsdp:8",
        "fsdp:16",
    ]
    assert walk("fsdp:16", "shard", -1, 5, even) == [
        "fsdp:8",
        "fsdp:6",
        "fsdp:3",
        "fsdp:2",
        "fsdp:1",
    ]
    assert walk("fsdp:1", "shard", -1, 1, even) == ["fsdp:1"]
    assert walk("hsdp:2x5", "shard", 1, 2) == ["hsdp:2x8", "hsdp:2x16"]
    assert walk("hsdp:2x5", "shard", -1, 3) == ["hsdp:2x4", "hsdp:2x2", "hsdp:2x1"]


def test_replicas_go_by_powers_of_two_and_one_is_fsdp() -> None:
    assert walk("fsdp:8", "replicate", 1, 3) == ["hsdp:2x8", "hsdp:4x8", "hsdp:8x8"]
    assert walk("hsdp:3x8", "replicate", 1, 1) == ["hsdp:4x8"]
    assert walk("hsdp:3x8", "replicate", -1, 3) == ["hsdp:2x8", "fsdp:8", "fsdp:8"]


@pytest.mark.parametrize("axis", ["shard", "replicate"])
def test_no_step_leaves_what_a_mesh_may_be(axis: str) -> None:
    for start in ("fsdp:1", "hsdp:64x1024", "fsdp:65536", "fsdp:40000", "hsdp:3x20000"):
        for steps in (1, -1):
            mesh = Mesh.parse(walk(start, axis, steps, 40)[-1])
            assert not why_not(mesh) and mesh.world_size <= MAX_WORLD_SIZE


def test_the_other_kind_has_the_same_ranks() -> None:
    for text in ("fsdp:1", "fsdp:8", "fsdp:7", "hsdp:2x4", "hsdp:3x5"):
        mesh = Mesh.parse(text)
        other = other_kind(mesh)
        assert other.world_size == mesh.world_size and other.family != mesh.family


def test_axes_by_name_are_stepped_one_by_one_and_the_experts_go_along() -> None:
    mesh = "dp_replicate:2,dp_shard:4,tp:2"
    assert walk(mesh, "tp", 1, 2) == [
        "dp_replicate:2,dp_shard:4,tp:4",
        "dp_replicate:2,dp_shard:4,tp:8",
    ]
    assert walk(mesh, "shard", 1, 1, (1, 2, 4, 5, 10)) == ["dp_replicate:2,dp_shard:5,tp:2"]
    # What is even for shards is not for other axes.
    assert walk(mesh, "tp", 1, 1, (1, 2, 5)) == ["dp_replicate:2,dp_shard:4,tp:4"]
    assert walk(mesh, "replicate", -1, 2)[1] == "dp_replicate:1,dp_shard:4,tp:2"
    assert walk("tp:4", "shard", 1, 1) == ["tp:4"]
    both = "dp_shard:8,tp:2+dp_shard_mod_ep:4,ep:2,tp:2"
    assert walk(both, "dp_shard", 1, 1) == ["dp_shard:16,tp:2+dp_shard_mod_ep:8,ep:2,tp:2"]
    assert walk(both, "dp_shard", -1, 3)[-1] == "dp_shard:2,tp:2+dp_shard_mod_ep:1,ep:2,tp:2"
    assert walk(both, "dp_shard", -1, 4)[-1] == "dp_shard:2,tp:2+dp_shard_mod_ep:1,ep:2,tp:2"
    assert walk(both, "tp", 1, 1) == ["dp_shard:8,tp:4+dp_shard_mod_ep:4,ep:2,tp:4"]
    for text in (mesh, both, "dp_shard:32768,tp:2", "dp_replicate:1,tp:65536"):
        for axis in ("shard", "replicate", "tp", "dp_shard"):
            for steps in (1, -1):
                for word in walk(text, axis, steps, 20):
                    found = Mesh.parse(word)
                    assert not why_not(found) and found.world_size <= MAX_WORLD_SIZE
    assert str(other_kind(Mesh.parse(mesh))) == str(other_kind(Mesh.parse(both))) == "fsdp:16"


def test_presets_of_axes_by_name_begin_with_the_writer_and_fsdp_of_the_same_ranks() -> None:
    written = Mesh.parse("dp_shard:4,tp:2")
    for room in (10, 60, 200):
        words = presets(written, (1, 2, 4, 8), written, room)
        assert words[:2] == ["dp_shard:4,tp:2", "fsdp:8"] and len(set(words)) == len(words)
    assert words[2:] == ["dp_shard:1,tp:2", "dp_shard:2,tp:2", "dp_shard:8,tp:2"]
    assert presets(Mesh.parse("tp:4"), (1, 2), None, 200) == ["fsdp:4", "tp:4"]


def test_even_sizes_leave_no_rank_short() -> None:
    for sample in ("fsdp2_hsdp_2x4_adamw", "hsdp_uneven_2x4", "hsdp_2x4", "hf_dcp_sharded_4"):
        checkpoint = open_checkpoint(str(SAMPLES / sample))
        planner = Planner(checkpoint)
        even = even_sizes(planner.plan(Mesh.parse("fsdp:1")).items.tensors)
        assert even.sizes[0] == 1
        heights = [t.shape[0] for t in checkpoint.tensors if t.shape and t.num_elements]
        dividing = tuple(n for n in range(1, max(heights) + 1) if all(h % n == 0 for h in heights))
        assert even.of_all is (len(dividing) > 1)
        assert len(even.offered) > 1 and even.label in ("even", "even*", "sizes")
        if even.of_all:
            assert even.sizes == dividing
        for size in even.sizes[1:4] if even.of_all else ():
            figures = planner.plan(Mesh("fsdp", (size,))).ranks
            assert len(set(figures.bytes_needed.tolist())) == 1


@pytest.mark.parametrize("room", [10, 40, 72, 140, 500])
def test_presets_fit_and_hold_the_writer_and_the_mesh_itself(room: int) -> None:
    even = tuple(1 << n for n in range(13))
    written = Mesh.parse("hsdp:2x4")
    for text in ("fsdp:1", "fsdp:64", "hsdp:8x512", "hsdp:64x1024", "fsdp:96", "hsdp:2x4"):
        words = presets(Mesh.parse(text), even, written, room)
        assert words[0] == "hsdp:2x4" and len(set(words)) == len(words)
        for word in words:
            assert not why_not(Mesh.parse(word))
        if room >= 40:
            assert sum(len(word) + 2 for word in words) <= room
            assert text in words or text == "fsdp:96"
    assert presets(Mesh.parse("fsdp:2"), (1,), None, room) == ["fsdp:1"]


def test_the_first_mesh_is_the_writers_or_as_many_shards_as_ranks() -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "fsdp_8"))
    assert str(first_mesh(checkpoint, None)) == "fsdp:8"
    for sample, mesh in (
        ("hsdp_2x4", "hsdp:2x4"),
        ("hsdp_tp_2x2x2", "dp_replicate:2,dp_shard:2,tp:2"),
        ("fsdp_ep_2x4", "dp_shard:2,ep:4"),
        ("fsdp_cp_4x2", "dp_shard:4,dp_replicate:2"),
        # Of stages no mesh is told: as many shards as ranks.
        ("pp_hsdp_2x2x2", "fsdp:8"),
    ):
        checkpoint = open_checkpoint(str(SAMPLES / sample))
        written_by = infer(checkpoint)
        assert str(first_mesh(checkpoint, written_by)) == mesh
        assert str(writer_mesh(written_by) or "fsdp:8") == mesh


@pytest.mark.parametrize("sample", sorted(p.parent.name for p in SAMPLES.glob("*/.metadata")))
def test_every_sample_is_planned_and_put_in_words(sample: str) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / sample))
    written_by = infer(checkpoint)
    desk = PlanDesk(checkpoint)
    names = [*checkpoint.columns.fqns, *(entry.fqn for entry in checkpoint.bytes_entries)]
    for filter_text in ("", "weight", "!weight"):
        chosen = matching(names, filter_text)
        tensors = [i for i in chosen if i < checkpoint.num_tensors]
        entries = [i - checkpoint.num_tensors for i in chosen if i >= checkpoint.num_tensors]
        for text in (str(first_mesh(checkpoint, written_by)), "hsdp:3x7", "dp_shard:3,tp:2"):
            mesh = Mesh.parse(text)
            rules = None if mesh.is_plain else TargetPlacements(mesh, written_by)
            if not chosen:
                with pytest.raises(InspectError, match="no name matches"):
                    desk.make(Order(mesh, filter_text, written_by))
                continue
            made = desk.make(Order(mesh, filter_text, written_by))
            assert isinstance(made, Planned)
            alone = Planner(checkpoint, tensors, entries).plan(mesh, rules)
            for figure in ("bytes_needed", "bytes_read", "num_files", "num_reads", "peak_bytes"):
                mine, its = getattr(made.plan.ranks, figure), getattr(alone.ranks, figure)
                assert mine.tolist() == its.tolist()
            assert made.num_entries == len(chosen)
            assert headline(made.plan) in short_text(made, made.problems).plain
            console = Console(width=100, record=True, file=io.StringIO())
            console.print(facts_text(made, made.problems))
            said = " ".join(console.export_text().split())
            assert f"{mesh}: {mesh.world_size}" in said and "goes wrong" in said
            peak = format_bytes(int(alone.ranks.peak_bytes.max()))
            told = f"loads on {mesh}, as far as metadata tells; memory at most {peak} a rank"
            assert told in said and told in short_text(made, []).plain
            assert "still running" in answer(made, [], is_checked=False)
