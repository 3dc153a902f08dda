"""`check --values`: findings of NaN and infinities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from tests.checks.editing import chunk, edited, key
from tests.checks.test_payloads import deep, save


def test_a_checkpoints_findings(tmp_path: Path) -> None:
    state: dict[str, Any] = {f"w{i}": torch.zeros(40, 8) for i in range(3)}
    state["w1"][17, 3] = float("nan")
    state["w1"][30:32] = float("nan")
    state["w2"][5, 5] = float("inf")
    folder = save(tmp_path / "ck", {**state, "lr": float("nan"), "ids": torch.arange(9)})
    report = deep(folder, values=True)
    nan, inf = report.findings
    assert (nan.code, nan.severity, nan.fqn, nan.num_elements) == (
        "values-nan",
        "warning",
        "w1",
        17,
    )
    assert nan.offsets == (17, 3)
    assert "17 NaN values, the first at [17, 3]" in nan.message
    assert (inf.code, inf.fqn, inf.offsets, inf.num_elements) == ("values-inf", "w2", (5, 5), 1)
    assert "1 infinite value," in inf.message
    assert nan.file == inf.file == "__0_0.distcp"
    assert deep(folder).findings == ()


@pytest.mark.parametrize("rows", [6, 8], ids=["overlap", "overlap and a gap as large"])
def test_an_element_of_two_chunks_is_not_told_as_two(tmp_path: Path, rows: int) -> None:
    """Chunks that overlap are damage; how many elements are NaN is then known no closer."""
    values = torch.arange(18.0).reshape(6, 3)
    values[3, 1] = float("nan")
    folder = save(tmp_path / "ck", {"a": values[:4].clone(), "b": values[2:].clone()})

    def join(metadata: Metadata) -> None:
        first: Any = metadata.state_dict_metadata["a"]
        first.size = torch.Size([rows, 3])
        first.chunks.append(chunk([2, 0], [4, 3]))
        del metadata.state_dict_metadata["b"]
        assert metadata.storage_data is not None
        place = metadata.storage_data.pop(key(metadata, "b"))
        metadata.storage_data[MetadataIndex("a", torch.Size([2, 0]), 1)] = place

    report = deep(edited(folder, join), values=True)
    (nan,) = [finding for finding in report.findings if finding.code == "values-nan"]
    assert "holds up to 2 NaN values, the first at [3, 1]" in nan.message
