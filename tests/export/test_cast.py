"""Rounding: once, to the nearest, ties to even; as exact arithmetic has it."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from inspector.checkpoint.payload.cast import CAST_DTYPES, cast, is_cast
from tests.conftest import run_cli
from tests.diff.making import DTYPES, sample, shards, write
from tests.export.helping import exported

BITS = {"bfloat16": (8, -126, 127), "float16": (11, -14, 15), "float32": (24, -126, 127)}
NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


def nearest(value: float, dtype: str) -> float:
    """The nearest number of a type, by exact arithmetic."""
    if value == 0 or not math.isfinite(value):
        return value
    precision, lowest, highest = BITS[dtype]
    exact = abs(Fraction(value))
    exponent = max(math.frexp(value)[1] - 1, lowest)
    step = Fraction(2) ** (exponent - precision + 1)
    # `round` of a fraction: to the nearest, ties to even.
    rounded = round(exact / step) * step
    if rounded >= Fraction(2) ** (highest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def made(values: list[float], source: type, dtype: str) -> tuple[np.ndarray, int]:
    array = np.array(values, source)
    out = np.empty(len(values), NUMPY[dtype])
    return out, cast(array, out)


EDGES = [
    0.0, -0.0, 1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40, 1 + 3 * 2.0**-8, 65504.0, 65519.999, 65520.0,
    3.4e38, 3.3961775e38, 1e300, 5e-324, 2.0**-133, 2.0**-134, 3 * 2.0**-134, 2.0**-24, 2.0**-25,
    1.5 * 2.0**-25, math.inf, -math.inf, -1 - 2.0**-8 - 2.0**-50, 1 + 2.0**-24 + 2.0**-60,
]  # fmt: skip


@pytest.mark.parametrize("dtype", BITS)
def test_doubles_are_rounded_once(dtype: str) -> None:
    found, lost = made(EDGES, np.float64, dtype)
    want = [nearest(value, dtype) for value in EDGES]
    assert [(float(a), math.copysign(1, float(a))) for a in found] == [
        (b, math.copysign(1, b)) for b in want
    ]
    finite = [math.isfinite(value) for value in EDGES]
    assert lost == sum(f and math.isinf(w) for f, w in zip(finite, want, strict=True))


@settings(max_examples=200, deadline=None)
@given(value=st.floats(allow_nan=False), dtype=st.sampled_from(sorted(BITS)))
def test_any_double(value: float, dtype: str) -> None:
    assert float(made([value], np.float64, dtype)[0][0]) == nearest(value, dtype)


@settings(max_examples=100, deadline=None)
@given(value=st.floats(allow_nan=False, width=32), dtype=st.sampled_from(["bfloat16", "float16"]))
def test_any_single(value: float, dtype: str) -> None:
    found = float(made([value], np.float32, dtype)[0][0])
    assert found == nearest(value, dtype)
    # Of these torch makes the same.
    torch_dtype = getattr(torch, dtype)
    assert found == float(torch.tensor(value, dtype=torch.float32).to(torch_dtype))


def test_nan_stays_nan() -> None:
    for dtype in BITS:
        for source in (np.float64, np.float32, np.float16):
            found, lost = made([math.nan, -math.nan], source, dtype)
            assert (np.isnan(found.astype(np.float32)).all(), lost) == (True, 0)
    signalling = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    out = np.empty(2, ml_dtypes.bfloat16)
    assert cast(signalling, out) == 0
    assert np.isnan(out.astype(np.float32)).all()


def test_only_floating_point_tensors_change(tmp_path: Path) -> None:
    state = {f"{dtype}".removeprefix("torch."): sample(dtype, (6, 5)) for dtype in DTYPES}
    del state["complex128"]
    folder = write(tmp_path / "ck", state, {name: shards((6, 5), 1, 2) for name in state})
    for short, full in CAST_DTYPES.items():
        report = exported(folder, tmp_path / short, dtype=short)
        assert report.verdict == "written"
        found = load_file(tmp_path / short) if "float8_e8m0fnu" not in state else None
        if found is None:
            from safetensors import safe_open

            with safe_open(tmp_path / short, "pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, value in state.items():
            target = getattr(torch, full)
            want = value.to(target) if value.dtype.is_floating_point else value
            if value.dtype == torch.float64 and short == "bf16":
                want = torch.from_numpy(
                    np.array([nearest(x, full) for x in value.flatten().tolist()])
                ).reshape(value.shape).to(target)  # fmt: skip
            assert found[name].dtype == want.dtype, name
            assert torch.equal(found[name].view(torch.uint8), want.contiguous().view(torch.uint8))
            assert is_cast(name, full) == (want.dtype != value.dtype)


def test_what_becomes_infinite_is_counted(tmp_path: Path) -> None:
    state = {"w": torch.tensor([1.0, 7e4, -1e5, math.inf]), "v": torch.ones(2)}
    folder = write(tmp_path / "ck", state)
    ran = run_cli("export", folder, tmp_path / "out", "--dtype", "f16")
    assert ran.code == 1
    assert "w: 2 elements beyond the range of float16 became infinite" in ran.out
    assert exported(folder, tmp_path / "b", dtype="bf16").exit_code == 0
