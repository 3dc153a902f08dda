"""`check --values`: findings of NaN and infinities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
