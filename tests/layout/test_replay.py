"""The replay against torch's own `dedup_save_plans`."""

from __future__ import annotations

import synthetic as make
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from inspector.layout.writer.replay import balance, set_order

WORLD_SIZE = 64


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, WORLD_SIZE - 1), min_size=1), st.integers(0, 5)),
        max_size=40,
    )
)
@settings(deadline=None)
def test_balance_is_dedup_save_plans(items: list[tuple[set[int], int]]) -> None:
    plans: list[list[WriteItem]] = [[] for _ in range(WORLD_SIZE)]
    for number, (ranks, size) in enumerate(items):
        data = TensorWriteData(
            ChunkStorageMetadata(torch.Size([0]), torch.Size([size])),
            TensorProperties(torch.float32),
            torch.Size([size]),
        )
        for rank in ranks:
            index = MetadataIndex(str(number), torch.Size([0]))
            plans[rank].append(WriteItem(index, WriteItemType.TENSOR, tensor_data=data))
    deduped = dedup_save_plans([SavePlan(p) for p in plans])
    actual = {int(i.index.fqn): r for r, p in enumerate(deduped) for i in p.items}
    # First seen where the lowest rank's plan has it, plan after plan.
    walk = sorted(range(len(items)), key=lambda n: (min(items[n][0]), n))
    members = [set_order(sorted(ranks)) for ranks, _ in items]
    found = balance(walk, [items[n][1] * 4 for n in walk], members, WORLD_SIZE)
    assert dict(zip(walk, found, strict=True)) == actual


def test_a_tie_goes_to_the_first_of_the_set() -> None:
    assert set_order([3, 11]) == (11, 3)
    assert balance([0], [8], [set_order([3, 11])], 12) == [11]
    assert make.as_text((make.R,)) == ("Replicate()",)
