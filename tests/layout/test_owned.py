"""Entries that one rank alone has, as per-rank RNG states: they accuse nothing."""

from __future__ import annotations

from inspector.checkpoint import open_checkpoint
from inspector.checks.judge import check
from inspector.layout.writer.written_by import infer
from tests.conftest import ROOT

# Written by torch 2.13 under HSDP 2x2: twelve DTensors, `rng.rankR` of each rank, `step`.
FOLDER = ROOT / "tests" / "data" / "per_rank_rng_hsdp_2x2"


def test_the_mesh_is_told_though_every_rank_has_a_tensor_of_its_own() -> None:
    written_by = infer(open_checkpoint(str(FOLDER)))
    assert str(written_by.mesh) == "hsdp:2x2"
    assert written_by.certain
    assert written_by.num_placed == written_by.num_items > 20
    assert any("4 whole tensors" in line for line in written_by.evidence)


def test_nothing_is_called_suspect() -> None:
    report = check(str(FOLDER))
    assert report.verdict == "sound"
    assert report.findings == ()
