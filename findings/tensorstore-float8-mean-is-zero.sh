#!/usr/bin/env bash
# Guess:    TensorStore's downsample by "mean" gives the mean of float8 arrays as it does of float16 and bfloat16, or raises for
#           a type that it cannot add.
# Happens:  for every float8 type and float4_e2m1fn the mean is 0, whatever the numbers, NaN too; int4, float16 and bfloat16
#           are right, and so is "median" of float8. No error.
# Versions: tensorstore 0.1.86, ml_dtypes 0.6.0, numpy 2.4.6
# Source:   seen; the driver is tensorstore/driver/downsample of the C++ part
# Met by:   previews and pyramids of quantised weights or activations, float8 arrays written by Orbax among them.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" tensorstore==0.1.86 ml_dtypes==0.6.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
import tensorstore

RIGHT = ("float16", "bfloat16", "int4")
FLOAT8 = ("e3m4", "e4m3fn", "e4m3fnuz", "e4m3b11fnuz", "e5m2", "e5m2fnuz")
ZERO = (*(f"float8_{kind}" for kind in FLOAT8), "float4_e2m1fn")


def downsampled(dtype: str, method: str) -> list[float]:
    """Return [1, 3, 2, 2] of the dtype, halved by the method."""
    array = np.array([1, 3, 2, 2]).astype(getattr(ml_dtypes, dtype, dtype))
    result = tensorstore.downsample(tensorstore.array(array), [2], method).read().result()
    return result.astype(float).tolist()


print("tensorstore", version("tensorstore"))
print("mean of 1, 3 and of 2, 2; guess: [2.0, 2.0]")
seen = {dtype: downsampled(dtype, "mean") for dtype in (*RIGHT, *ZERO)}
for dtype, mean in seen.items():
    print(f"  seen, {dtype}: {mean}")
medians = [downsampled(dtype, "median") for dtype in ZERO]
print("medians of the last", len(ZERO), "types:", medians)
as_stated = all(seen[dtype] == [2.0, 2.0] for dtype in RIGHT) and all(seen[dtype] == [0.0, 0.0] for dtype in ZERO)
as_stated = as_stated and all(median == [1.0, 2.0] for median in medians)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
