from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.errors import UsageError
from inspector.layout.mesh import FAMILIES, Mesh


@settings(deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.data())
def test_text_and_ranks_go_both_ways(family: str, data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.integers(1, 6)) for _ in FAMILIES[family])
    mesh = Mesh(family, sizes)
    assert Mesh.parse(str(mesh)) == mesh
    table = torch.arange(mesh.world_size).reshape(sizes)
    for rank in range(mesh.world_size):
        coordinate = mesh.coordinate(rank)
        assert table[coordinate] == rank
        assert mesh.rank(coordinate) == rank


def test_axes() -> None:
    mesh = Mesh.parse(" HSDP:2x4 ")
    assert (str(mesh), mesh.axes, mesh.world_size) == ("hsdp:2x4", ("replicate", "shard"), 8)
    assert (mesh.num_replicas, mesh.num_shards) == (2, 4)
    assert (Mesh.parse("fsdp:8").num_replicas, Mesh.parse("ddp:3").num_shards) == (1, 1)


@pytest.mark.parametrize(
    "text",
    ["", "fsdp", "fsdp:", "fsdp:0", "hsdp:8", "fsdp:2x4", "hsdp:0x4", "hsdp:2x-4", "x:2",
     "fsdp:2 x tp:2", "fsdp:999999999", "hsdp:2x4x", "\x1b[31m:2", "hsdp:2×4", "fsdp:1e3",
     "a" * 999, "hsdp:2x4,tp:2", "tp:2,tp:4", "foo:2,bar:4", "dp_shard:0,tp:2", "dp_shard:4,tp",
     "dp_shard:8+ep:4", "dp_shard:8+dp_shard:8", "dp_shard:4+ep:4+ep:4", "dp_shard:4,tp:999999",
     "dp shard:4,tp:2", "dp_shard:2x2,tp:2"],
)  # fmt: skip
def test_bad_text(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Mesh.parse(text)
    assert "hsdp:2x4" in caught.value.hint
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("dp_replicate:2,dp_shard:4,tp:2", ("replicate", "shard", "tensor")),
        ("pp:2,dp_replicate:1,dp_shard:2,cp:2", ("stage", "replicate", "shard", "shard")),
        ("dp_shard_mod_ep:2,dp_shard_in_ep:2,etp:2", ("shard", "expert", "tensor")),
        ("DP_Shard:2,rows:3", ("shard", None)),
        ("dp_shard:8", ("shard",)),
        ("hsdp:2x4+dp_replicate:2,dp_shard_mod_ep:2,ep:2", ("replicate", "shard")),
    ],
)  # fmt: skip
def test_axes_by_name(text: str, kinds: tuple[str | None, ...]) -> None:
    mesh = Mesh.parse(text)
    assert (str(mesh), mesh.kinds) == (text, kinds)
    assert Mesh.parse(str(mesh)) == mesh
    table = torch.arange(mesh.world_size).reshape(mesh.sizes)
    for rank in range(mesh.world_size):
        assert table[mesh.coordinate(rank)] == rank


def test_a_second_mesh_is_the_experts() -> None:
    mesh = Mesh.parse("dp_shard:8 + dp_shard_mod_ep:2,ep:4")
    assert mesh.experts == Mesh.parse("dp_shard_mod_ep:2,ep:4")
    assert mesh.experts.kinds == ("shard", "expert")
    assert not Mesh.parse("fsdp:8+dp_shard_mod_ep:2,ep:4").is_plain


def test_no_such_rank() -> None:
    with pytest.raises(ValueError, match="rank 8"):
        Mesh.parse("hsdp:2x4").coordinate(8)
    with pytest.raises(ValueError, match="not in"):
        Mesh.parse("hsdp:2x4").rank((2, 0))
