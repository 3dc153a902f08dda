"""`verify` of elements that are stored in another dtype than a cached plan says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checks.test_stale_dtype import recorded, saved
from tests.conftest import run_process

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]


@pytest.mark.parametrize(
    ("first", "then"), [(torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)]
)
def test_it_is_loaded_as_it_is_stored_and_that_is_said(
    tmp_path: Path, first: torch.dtype, then: torch.dtype
) -> None:
    name = f"{first}-verify"
    folder = saved(tmp_path / name, first, then)
    if recorded(folder, f"w.{name}") == then:
        pytest.skip("this torch does not keep it")
    report = tmp_path / "report.json"
    ran = run_process(
        *("verify", folder, "--mesh", "fsdp:2", "--device", "cpu", "--memory", "64MiB"),
        *("--report", report),
        env={"OMP_NUM_THREADS": "1"},
        timeout_s=300,
    )
    assert ran.code == 0, ran.out
    assert ran.out.startswith("EXACT: all 2 entries")
    assert "1 tensors loaded in the dtype that is stored, not the metadata's" in ran.out
    told = json.loads(report.read_text())
    assert [rank["stored_dtypes"] for rank in told["ranks"]] == [1, 0]
