from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import UsageError
from inspector.layout.mesh import FAMILIES, Mesh


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
    assert mesh.can_launch is (family in ("fsdp", "hsdp"))


def test_axes() -> None:
    mesh = Mesh.parse(" HSDP:2x4 ")
    assert (str(mesh), mesh.axes, mesh.world_size) == ("hsdp:2x4", ("replicate", "shard"), 8)
    assert (mesh.num_replicas, mesh.num_shards) == (2, 4)
    assert (Mesh.parse("fsdp:8").num_replicas, Mesh.parse("ddp:3").num_shards) == (1, 1)


@pytest.mark.parametrize(
    "text",
    ["", "fsdp", "fsdp:", "fsdp:0", "hsdp:8", "fsdp:2x4", "hsdp:0x4", "hsdp:2x-4", "x:2",
     "fsdp:2 x tp:2", "fsdp:999999999", "hsdp:2x4x", "\x1b[31m:2", "hsdp:2×4", "fsdp:1e3",
     "a" * 999],
)  # fmt: skip
def test_bad_text(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Mesh.parse(text)
    assert "hsdp:2x4" in caught.value.hint
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_no_such_rank() -> None:
    with pytest.raises(ValueError, match="rank 8"):
        Mesh.parse("hsdp:2x4").coordinate(8)
    with pytest.raises(ValueError, match="not in"):
        Mesh.parse("hsdp:2x4").rank((2, 0))
