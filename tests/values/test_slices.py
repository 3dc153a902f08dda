"""Windows and heat maps: the numbers are torch's, and no more is read than is shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.payload.source import PayloadError
from inspector.errors import Cancelled, UsageError
from inspector.values import slices
from inspector.values.slices import Heat, Window, heat, plane_of, value_text, window
from tests.checks.test_payloads import save
from tests.conftest import SAMPLES, some_fast
from tests.values.torch_stats import load

FOLDERS = [SAMPLES / name for name in ("dtypes_4", "fsdp2_tp_2x2", "hsdp_uneven_2x4")]


def opened(folder: Path, fqn: str) -> tuple[Any, Any, Any]:
    checkpoint = open_checkpoint(str(folder))
    index = checkpoint.columns.fqns.index(fqn)
    return checkpoint, folder_of(str(folder)), checkpoint.tensors[index]


def shown(folder: Path, fqn: str, *where: Any) -> Window:
    return window(*opened(folder, fqn), *where)


def drawn(folder: Path, fqn: str, *where: Any, **options: Any) -> Heat:
    return heat(*opened(folder, fqn), *where, **options)


def numbers(tensor: torch.Tensor) -> np.ndarray:
    wide = tensor.to(torch.complex128).abs() if tensor.is_complex() else tensor.double()
    return wide.numpy()


@pytest.mark.parametrize("folder", some_fast(FOLDERS, FOLDERS[1:]), ids=lambda p: p.name)
def test_every_window_and_map_of_the_samples(folder: Path) -> None:
    for fqn, tensor in load(folder).items():
        if not tensor.numel():
            continue
        plane = plane_of(tensor.shape)
        whole = tensor.reshape(*plane.leading, plane.rows, plane.columns)
        for leading in np.ndindex(*plane.leading):
            full = numbers(whole[leading])
            got = shown(folder, fqn, leading, range(plane.rows), range(plane.columns))
            assert got.held.all()
            values = got.values
            kind = np.complex128 if tensor.is_complex() else np.float64
            wanted = whole[leading].to(torch.complex128 if tensor.is_complex() else torch.float64)
            assert (values.astype(kind) == wanted.numpy()).all(), fqn
            part = shown(folder, fqn, leading, range(1, 99), range(1, 3))
            assert part.values.shape == full[1:99, 1:3].shape
            assert (part.values == values[1:99, 1:3]).all()
            found = drawn(folder, fqn, leading, 3, 4)
            for i, j in np.ndindex(found.mean.shape):
                rows = slice(*found.row_starts[i : i + 2].tolist())
                cell = full[rows, slice(*found.column_starts[j : j + 2].tolist())]
                assert found.mean[i, j] == pytest.approx(cell.mean())
                assert found.rms[i, j] == pytest.approx(math.sqrt((cell**2).mean()))
                assert (found.low[i, j], found.high[i, j]) == (cell.min(), cell.max())
                assert found.num_read[i, j] == cell.size
                assert found.peak[i, j] == np.abs(cell).max()
            assert not found.is_sampled
            assert found.num_read.sum() == full.size


def test_planes() -> None:
    for shape, leading, rows, columns in (
        ((), (), 1, 1), ((7,), (), 1, 7), ((4, 5), (), 4, 5), ((2, 3, 4, 5), (2, 3), 4, 5),
    ):  # fmt: skip
        plane = plane_of(shape)
        assert (plane.leading, plane.rows, plane.columns) == (leading, rows, columns)
        for index in np.ndindex(*shape):
            assert plane.index(*plane.cell(index)) == index
    with pytest.raises(UsageError, match="4 numbers, not 2"):
        plane_of((2, 3, 4, 5)).cell((1, 1))
    with pytest.raises(UsageError, match="outside"):
        plane_of((2, 3)).cell((1, 3))
    with pytest.raises(UsageError, match="outside"):
        plane_of((2, 3)).cell((-1, 0))


def test_gaps_are_marked() -> None:
    folder = SAMPLES / "broken" / "chunk_gap"
    got = shown(folder, "model.net1.weight", (), range(8), range(5))
    assert got.held.any(axis=1).tolist() == [True] * 4 + [False] * 4
    assert not got.values[4:].any()
    found = drawn(folder, "model.net1.weight", (), 2, 5)
    assert found.num_read.tolist() == [[4] * 5, [0] * 5]
    assert np.isnan(found.mean[1]).all()


def test_nan_and_infinities_are_counted_apart(tmp_path: Path) -> None:
    tensor = torch.ones(4, 6)
    tensor[0, 0], tensor[3, 5], tensor[3, 4] = float("nan"), float("inf"), 5.0
    folder = save(tmp_path / "ck", {"w": tensor})
    found = drawn(folder, "w", (), 2, 3)
    assert found.num_non_finite.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert found.mean[0, 0] == 1.0
    assert found.high[1, 2] == 5.0
    tensor[:] = float("nan")
    found = drawn(save(tmp_path / "bad", {"w": tensor}), "w", (), 2, 2)
    assert np.isnan(found.mean).all()
    assert np.isnan(found.low).all()


@pytest.mark.parametrize("shape", [(4000, 50), (1, 200_000), (200_000, 1), (2, 100_000)], ids=str)
def test_a_large_plane_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    rows, columns = shape
    tensor = torch.arange(rows * columns, dtype=torch.float32).reshape(shape)
    folder = save(tmp_path / "ck", {"w": tensor})
    monkeypatch.setattr(slices, "HEAT_BYTES", 16_000)
    found = drawn(folder, "w", (), 10, 20)
    assert found.is_sampled
    assert found.mean.shape == (min(rows, 10), min(columns, 20))
    assert (found.num_read > 0).all()
    assert found.num_read.sum() <= 4000
    middle = (found.row_starts[:-1] + found.row_starts[1:] - 1) / 2
    across = (found.column_starts[:-1] + found.column_starts[1:] - 1) / 2
    wanted = middle[:, None] * columns + across
    assert np.abs(found.mean - wanted).max() < rows * columns / 8


def test_a_map_can_be_stopped(tmp_path: Path) -> None:
    folder = save(tmp_path / "ck", {"w": torch.ones(9, 9)})
    with pytest.raises(Cancelled):
        drawn(folder, "w", (), 3, 3, stop=lambda: True)


def test_what_cannot_be_meant_is_refused() -> None:
    folder, fqn = SAMPLES / "dtypes_4", "shapes.three_dims"
    for leading in ((), (0, 0), (6,), (-1,)):
        with pytest.raises(UsageError):
            shown(folder, fqn, leading, range(2), range(2))
        with pytest.raises(UsageError):
            drawn(folder, fqn, leading, 2, 2)
    assert shown(folder, fqn, (5,), range(5, 9), range(9)).values.shape == (0, 3)
    assert shown(folder, "shapes.no_columns", (), range(5), range(5)).values.shape == (5, 0)
    assert drawn(folder, "shapes.no_columns", (), 4, 4).mean.shape == (4, 0)
    assert drawn(folder, "shapes.no_rows", (), 4, 4).mean.shape == (0, 4)


def test_a_damaged_payload_says_so() -> None:
    folder = SAMPLES / "broken" / "payload_zeroed"
    damaged = 0
    for tensor in open_checkpoint(str(folder)).tensors:
        leading = (0,) * len(plane_of(tensor.shape).leading)
        try:
            shown(folder, tensor.fqn, leading, range(99), range(99))
        except PayloadError as error:
            damaged += 1
            assert "only zeros" in error.message
    assert damaged == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"), (np.float64(math.nan), "nan"), (np.int64(-(1 << 62)), None),
        (np.bool_(True), "True"), (np.complex64(1 - 2j), "1-2j"), (np.float32(-math.inf), "-inf"),
    ],
)  # fmt: skip
def test_text_of_values(value: Any, text: str | None) -> None:
    assert value_text(value) == (text or str(-(1 << 62)))
