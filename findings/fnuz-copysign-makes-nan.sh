#!/usr/bin/env bash
# Guess:    np.copysign(0, -1) of the float8 types without a negative zero (the fnuz types of AMD's MI300) is 0, as -zero and
#           zero * -1 are.
# Happens:  it is NaN: the sign bit alone is the bit pattern of NaN in these types. So a quantiser that rounds the magnitudes
#           and then puts the signs back (copysign(round(abs(x)), x)) turns each small negative weight into NaN. Negating,
#           abs and multiplying are right. No warning.
# Versions: ml_dtypes 0.6.0, numpy 2.4.6
# Source:   ml_dtypes/_src/ufuncs.h (CopySign: the sign bit is put to the magnitude whatever both together mean)
# Met by:   quantising to the float8 of MI300 in numpy or with a reference written in it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" ml_dtypes==0.6.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np

weights = np.array([0.5, 0.001, -0.001, -0.5], np.float32)
seen = {}
for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e4m3b11fnuz):
    zero, minus_one = np.array([0.0, -1.0]).astype(dtype)
    magnitudes = np.round(np.abs(weights) * 16).astype(dtype)
    signed = np.copysign(magnitudes, weights.astype(dtype)).astype(np.float32)
    values = [np.copysign(zero, minus_one), -zero, zero * minus_one]
    seen[np.dtype(dtype).name] = ([float(value) for value in values], signed.tolist())
print("ml_dtypes", version("ml_dtypes"), "numpy", np.__version__)
print("guess: copysign(0, -1), -0, 0 * -1: 0; the weights in sixteenths 8, 0, 0, -8")
for name, (values, signed) in seen.items():
    print(f"seen:  {name:18} {values}; {signed}")
as_stated = repr(seen.pop("float8_e4m3fn")) == "([-0.0, -0.0, -0.0], [8.0, 0.0, -0.0, -8.0])"
as_stated &= all(repr(found) == "([nan, 0.0, 0.0], [8.0, 0.0, nan, -8.0])" for found in seen.values())
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
