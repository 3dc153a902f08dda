"""What the metadata of two checkpoints have in common; no payload is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from inspector.diff.structure import compare_structure, likely_renames
from tests.conftest import SAMPLES
from tests.diff.making import shards, side, write

F32 = "float32"


def kinds(*names: str) -> dict[str, tuple[tuple[int, ...], str]]:
    return dict.fromkeys(names, ((4, 4), F32))


def test_no_payload_is_read(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / "a")
    for path in (tmp_path / "a").glob("*.distcp"):
        # Of the right size, and without a payload.
        path.write_bytes(bytes(path.stat().st_size))
    found = compare_structure(side(tmp_path / "a"), side(SAMPLES / "fsdp_8")).diff()
    assert (found.verdict, found.exit_code, found.values_compared) == ("same", 0, False)
    assert {tensor.verdict for tensor in found.tensors} == {"NOT_COMPARED"}


def test_meshes_and_placements_are_told_beside_the_content() -> None:
    found = compare_structure(side(SAMPLES / "hsdp_2x4"), side(SAMPLES / "fsdp_8")).diff()
    assert (found.a.mesh, found.b.mesh) == ("hsdp:2x4", "fsdp:8")
    assert {(c.a, c.b) for c in found.placements} == {(("Replicate()", "Shard(0)"), ("Shard(0)",))}
    same = compare_structure(side(SAMPLES / "fsdp_8"), side(SAMPLES / "fsdp_8")).diff()
    assert not same.placements


def test_what_only_one_side_names(tmp_path: Path) -> None:
    x = torch.ones(4, 4)
    a = write(tmp_path / "a", {"both": x, "gone": x}, entries={"lr": 1, "old": 2})
    b = write(tmp_path / "b", {"both": x, "come": torch.ones(3)}, entries={"lr": 1, "new": 2})
    found = compare_structure(side(a), side(b)).diff()
    assert found.only_in_a == ("gone", "old")
    assert found.only_in_b == ("come", "new")
    assert (found.num_entries, found.likely_renamed) == (1, ())
    assert (found.verdict, found.exit_code) == ("different", 1)


def test_a_tensor_that_became_a_bytes_entry_is_no_tensor_any_more(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"step": torch.ones(())}, entries={"lr": 1e-3})
    b = write(tmp_path / "b", {"lr": torch.ones(())}, entries={"step": 1})
    found = compare_structure(side(a), side(b)).diff()
    assert {(t.fqn, t.verdict, t.detail) for t in found.tensors} == {
        ("step", "DTYPE", "a tensor in A, a bytes entry in B"),
        ("lr", "DTYPE", "a bytes entry in A, a tensor in B"),
    }
    assert not found.only_in_a
    assert found.exit_code == 1


def test_the_filter_narrows_both_sides(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"w.one": torch.ones(2), "w.two": torch.ones(2)})
    b = write(tmp_path / "b", {"w.one": torch.ones(2), "v.two": torch.ones(3)})
    found = compare_structure(side(a), side(b), "one").diff()
    assert [tensor.fqn for tensor in found.tensors] == ["w.one"]
    assert found.exit_code == 0
    assert compare_structure(side(a), side(b), "two").diff().exit_code == 1


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("module.l.0.w", "module.l.1.w"), ("l.0.w", "l.1.w"), 2),
        (("_orig_mod.l.0.w",), ("l._fsdp_wrapped_module.0.w",), 1),
        (("model.l.0.w", "model.l.1.w"), ("backbone.net.l.0.w", "backbone.net.l.1.w"), 2),
        (("l.0.w", "l.1.w"), ("model.l.0.w", "model.l.1.w"), 2),
        (("head.w",), ("lm_head.w",), 1),
        (("a.x",), ("b.y",), 0),
        # Two could be meant: neither is said.
        (("p.w",), ("q.w", "r.w"), 0),
    ],
)
def test_likely_renames(a: tuple[str, ...], b: tuple[str, ...], expected: int) -> None:
    found = likely_renames(kinds(*a), kinds(*b))
    assert len(found) == expected
    for old, new in found:
        assert old.rpartition(".")[2] == new.rpartition(".")[2]
    assert len({new for _, new in found}) == expected


def test_a_likely_rename_has_the_shape_and_dtype() -> None:
    assert not likely_renames({"model.w": ((4, 4), F32)}, {"net.w": ((4, 5), F32)})
    assert not likely_renames({"model.w": ((4, 4), F32)}, {"net.w": ((4, 4), "bfloat16")})


@pytest.mark.slow
def test_many_names_are_matched_quickly() -> None:
    """A hundred thousand names that end alike, as layers do."""
    a = kinds(*(f"model.layers.{i}.mlp.w{j}.weight" for i in range(10_000) for j in range(10)))
    b = {name.replace("model.", "decoder."): kind for name, kind in a.items()}
    assert len(likely_renames(a, b)) == 100_000


def test_a_mesh_that_cannot_be_told_is_none(tmp_path: Path) -> None:
    x = torch.ones(4, 4)
    a = write(tmp_path / "a", {"t": x}, {"t": shards((4, 4), 0, 2)}, num_files=1)
    found = compare_structure(side(a), side(a)).diff()
    assert (found.a.mesh, found.exit_code) == (None, 0)
