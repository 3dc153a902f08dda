"""Checkpoints with metadata of every rank: each replica is stored, a tensor without dims too."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.conftest import run_cli


def save_per_rank(folder: Path, *steps: float) -> Path:
    """A save without collectives, by one rank for each value of `step`."""
    for rank, step in enumerate(steps):
        dist.init_process_group("fake", rank=rank, world_size=len(steps), store=FakeStore())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = {"step": torch.tensor(step), "w": torch.arange(4.0)}
                dcp.save(state, checkpoint_id=folder, use_collectives=False)
        finally:
            dist.destroy_process_group()
    return folder


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    return save_per_rank(tmp_path / "alike", 3.0, 3.0)


def test_seal(alike: Path) -> None:
    sealed = run_cli("seal", alike)
    assert (sealed.code, sealed.err) == (0, "")
    assert "2 tensors" in sealed.out
    assert run_cli("check", alike, "--manifest", f"{alike}.seal.json").code == 0


def test_diff(alike: Path, tmp_path: Path) -> None:
    assert run_cli("diff", alike, alike, "--values").code == 0
    other = save_per_rank(tmp_path / "other", 4.0, 4.0)
    found = run_cli("diff", alike, other, "--values", "--json")
    assert found.code == 1
    verdicts = {t["fqn"]: t["verdict"] for t in found.json()["tensors"]}
    assert verdicts == {"step": "DIFFER", "w": "EXACT"}


def test_replicas_that_differ_are_no_content(alike: Path, tmp_path: Path) -> None:
    torn = save_per_rank(tmp_path / "torn", 3.0, 4.0)
    found = run_cli("diff", alike, torn, "--values", "--json")
    (step,) = (t for t in found.json()["tensors"] if t["fqn"] == "step")
    assert step["verdict"] == "NOT_COMPARED"
    assert "hold different values for the same elements" in step["detail"]
    assert found.code == 2
    assert run_cli("seal", torn).code == 2
