"""What a rank asks of its group before it begins: here a group of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from inspector.verify.ranks import group
from inspector.verify.spec import JobSpec

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


def test_memory_is_measured_where_the_rank_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free on its node, shared by the ranks there; what the job says stands."""
    monkeypatch.setattr(group, "free_memory", lambda: 16 << 30)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    printed = JobSpec("/x", "fsdp:8", memory_bytes=0)
    assert group.with_memory(printed, CPU).memory_bytes == 2 << 30
    told = JobSpec("/x", "fsdp:8", memory_bytes=1 << 20)
    assert group.with_memory(told, CPU) == told
    # The least of all ranks': another has less.
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: tensor.fill_(1 << 29))
    assert group.with_memory(printed, CPU).memory_bytes == 1 << 29


def test_a_collective_is_tried_before_it_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    group._try_nccl(CPU)
    # Another rank's number never came.
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="nccl summed 2 ranks up to 1"):
        group._try_nccl(CPU)
