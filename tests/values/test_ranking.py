"""`rank`: NaN first, then infinities, zeros, odd norms; and it says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from inspector.values.ranking import Ranked, group_of, rank
from tests.checks.test_payloads import save
from tests.values.test_stats import stats_of


def layers(tmp_path: Path, change: dict[str, torch.Tensor], count: int = 32) -> list[Ranked]:
    torch.manual_seed(0)
    state = {f"layers.{i}.wq.weight": torch.randn(40, 8) for i in range(count)}
    state["embedding"] = torch.randn(9) * 1000
    state.update(change)
    return rank(stats_of(save(tmp_path / "ck", state)).tensors)


def test_what_is_oddest_comes_first(tmp_path: Path) -> None:
    bad = torch.randn(40, 8)
    bad[3, 5] = float("nan")
    worse = bad.clone()
    worse[:2] = float("nan")
    infinite = torch.randn(40, 8)
    infinite[39, 7] = float("-inf")
    ranked = layers(
        tmp_path,
        {
            "layers.4.wq.weight": torch.randn(40, 8) * 41,
            "layers.9.wq.weight": torch.randn(40, 8) / 500,
            "layers.7.wq.weight": torch.zeros(40, 8),
            "layers.2.wq.weight": bad,
            "layers.3.wq.weight": worse,
            "layers.8.wq.weight": infinite,
        },
    )
    first = ranked[:6]
    assert [r.stats.fqn.split(".")[1] for r in first] == ["3", "2", "8", "7", "9", "4"]
    assert [r.kind for r in ranked[:7]] == ["nan", "nan", "inf", "zero", "odd", "odd", ""]
    assert first[0].reason == "17 NaN, the first at [0, 0]"
    assert first[1].reason == "1 NaN, the first at [3, 5]"
    assert first[2].reason == "1 infinite, the first at [39, 7]"
    assert first[3].reason == "all 320 elements are 0, unlike 31 of its 31 siblings"
    assert first[5].group == "layers.*.wq.weight"
    factor = first[5].factor
    assert factor is not None
    assert 36 < factor < 46
    assert first[5].reason == f"rms {factor:.3g}x the median of its 30 siblings"
    assert first[4].reason.startswith("rms 1/")


def test_without_anything_odd_the_order_is_the_checkpoints(tmp_path: Path) -> None:
    ranked = layers(tmp_path, {})
    assert [r.stats.index for r in ranked] == sorted(r.stats.index for r in ranked)
    assert not any(r.kind or r.reason for r in ranked)


def test_zeros_among_zeros_are_told_after_odd_norms(tmp_path: Path) -> None:
    change = {f"layers.{i}.wq.bias": torch.zeros(8) for i in range(32)}
    change["layers.4.wq.weight"] = torch.randn(40, 8) * 100
    ranked = layers(tmp_path, change)
    assert ranked[0].kind == "odd"
    assert {r.kind for r in ranked[1:33]} == {"zero"}
    assert ranked[1].reason == "all 8 elements are 0"


def test_two_alike_make_no_norm(tmp_path: Path) -> None:
    ranked = layers(tmp_path, {"layers.1.wq.weight": torch.randn(40, 8) * 1e6}, count=3)
    assert not any(r.kind for r in ranked)


def test_norms_out_of_range_do_no_harm(tmp_path: Path) -> None:
    stats = layers(tmp_path, {})[0].stats
    ranked = rank([replace(stats, index=i, l2=l2) for i, l2 in enumerate((0.0, float("inf")))])
    assert all(r.factor is None for r in ranked)


def test_groups() -> None:
    assert group_of("layers.12.wq.3.weight") == "layers.*.wq.*.weight"
    assert group_of("layer12.x") == "layer12.x"
    assert group_of("") == ""
    assert group_of("a.²") == "a.²"
