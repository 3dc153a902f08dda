"""Tensors whose elements stand in another order, and weights that stand while others move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inspector.diff.model import unmoved_weights
from inspector.report.diff import diff_json, diff_text
from tests.diff.making import DTYPES, diff_of, only, sample, shards, tiling, write

SAID = "the same elements in another order"


def compared(tmp_path: Path, a: torch.Tensor, b: torch.Tensor) -> tuple[bool, str]:
    shape = tuple(a.shape)
    left = write(tmp_path / "a", {"t": a}, {"t": shards(shape, 0, 3)})
    right = write(tmp_path / "b", {"t": b}, {"t": tiling(shape, 1)})
    found = only(diff_of(left, right))
    assert found.is_reordered == (SAID in found.detail)
    return found.is_reordered, found.verdict


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool], ids=str)
def test_rows_in_another_order(dtype: torch.dtype, tmp_path: Path) -> None:
    a = sample(dtype, (48, 7))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    raw = a.contiguous().view(torch.uint8)[order].view(dtype)
    assert compared(tmp_path, a, raw)[0]


def test_rope_permuted_shard_by_shard(tmp_path: Path) -> None:
    w = sample(torch.float32, (32, 16))

    def permuted(part: torch.Tensor, heads: int) -> torch.Tensor:
        rows, width = part.shape
        return part.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)

    good = permuted(w, 4)
    bad = torch.cat([permuted(shard, 2) for shard in w.chunk(4)])
    assert compared(tmp_path, good, bad) == (True, "DIFFER")


def test_a_large_tensor_of_many_blocks(tmp_path: Path) -> None:
    a = torch.arange(3 << 20, dtype=torch.float32).reshape(3072, 1024)
    assert compared(tmp_path, a, a.flip(0)) == (True, "DIFFER")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # Their sums are the same; of the second their squares, too.
        ([1, 4], [2, 3]),
        ([0, 3, 5, 6], [1, 2, 4, 7]),
        ([1, 1, 2], [1, 2, 2]),
        ([5, 5, 5], [5, 5, 6]),
        ([-1, 1], [0, 0]),
    ],
)
def test_other_elements_are_not(a: list[int], b: list[int], tmp_path: Path) -> None:
    for dtype in (torch.int64, torch.uint8, torch.int16):
        left, right = torch.tensor(a).to(dtype), torch.tensor(b).to(dtype)
        assert not compared(tmp_path / str(dtype), left, right)[0]


def test_one_bit_besides_is_not(tmp_path: Path) -> None:
    a = sample(torch.bfloat16, (64, 8))
    b = a.flip(0).clone()
    b[5, 5] += 1
    assert not compared(tmp_path, a, b)[0]


def test_numbers_of_two_dtypes_are_not_counted_out(tmp_path: Path) -> None:
    a = sample(torch.bfloat16, (8, 8))
    assert compared(tmp_path, a, a.flip(0).float()) == (False, "DTYPE")


def test_it_is_in_the_json(tmp_path: Path) -> None:
    a = sample(torch.float32, (8, 8))
    left, right = write(tmp_path / "a", {"t": a}), write(tmp_path / "b", {"t": a.flip(0)})
    diff = diff_of(left, right)
    assert '"same_elements": true' in "".join(diff_json(diff))
    assert SAID in "\n".join(diff_text(diff))


# -- what did not move ---------------------------------------------------------------------------


def training(step: int, stale: frozenset[str], prefix: str, state: str) -> dict[str, torch.Tensor]:
    """Weights and Adam's state after some steps; those of `stale` are as they were at first."""
    found = {}
    for i in range(4):
        name = f"layers.{i}.w"
        moved = 0 if name in stale else step
        found[f"{prefix}{name}"] = sample(torch.float32, (4, 4), 100 * i + moved)
        for n, slot in enumerate(("exp_avg", "exp_avg_sq")):
            key = state.format(param=name, slot=slot)
            found[key] = sample(torch.float32, (4, 4), 1000 * (n + 1) + 100 * i + step)
    return found


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize(
    "state", ["optimizer.state.{param}.{slot}", "optimizer.state.{slot}.{param}"]
)
def test_weights_that_stand_while_their_state_moves(
    prefix: str, state: str, tmp_path: Path
) -> None:
    stale = frozenset({"layers.0.w", "layers.3.w"})
    a = write(tmp_path / "a", training(1, stale, prefix, state))
    b = write(tmp_path / "b", training(2, stale, prefix, state))
    diff = diff_of(a, b)
    names = tuple(f"{prefix}{name}" for name in sorted(stale))
    assert unmoved_weights(diff) == names
    text = "\n".join(diff_text(diff))
    assert "weights equal while their exp_avg moved" in text
    # EXACT is named, and not only counted.
    _, _, named = text.partition("EXACT, every bit (2)")
    for name in names:
        assert named.count(f"  {name}") == 2
    assert unmoved_weights(diff_of(a, a)) == ()


def test_frozen_weights_without_state_are_not_told(tmp_path: Path) -> None:
    state = "optimizer.state.{param}.{slot}"
    a, b = training(1, frozenset(), "", state), training(2, frozenset(), "", state)
    for tensors in (a, b):
        tensors["frozen.w"] = torch.ones(4)
        # Of a frozen one some optimizers keep a state that stays as it was.
        tensors["optimizer.state.frozen.w.exp_avg"] = torch.zeros(4)
    diff = diff_of(write(tmp_path / "a", a), write(tmp_path / "b", b))
    assert unmoved_weights(diff) == ()
    assert "exp_avg moved" not in "\n".join(diff_text(diff))


def test_many_exact_tensors_are_cut_short(tmp_path: Path) -> None:
    a = {f"t{i}": torch.ones(1) for i in range(50)}
    b = {**a, "t0": torch.zeros(1)}
    text = list(diff_text(diff_of(write(tmp_path / "a", a), write(tmp_path / "b", b))))
    assert "EXACT, every bit (49)" in text
    assert "  ... and 37 more: --json names all" in text
