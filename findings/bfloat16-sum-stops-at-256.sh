#!/usr/bin/env bash
# Guess:    numpy adds bfloat16 as it adds float16, pairwise and with a float32 mean: 1000 ones have the sum 1000, the mean 1
#           and the standard deviation 0.
# Happens:  the sum stops at 256, where adding 1 no longer changes a bfloat16; the mean is 0.256 and the standard deviation
#           0.5. In float8_e4m3fn the sum of 1000 ones is 16, in float8_e5m2 8, in int4 it wraps to -8. cumsum, average and
#           trace too. No warning. np.linalg.norm, the dot product and sum(dtype=np.float32) are right.
# Versions: ml_dtypes 0.6.0, numpy 2.4.6
# Source:   ml_dtypes/_src/ufuncs.h (the add of two numbers is registered for each type; numpy's pairwise summation is only of
#           its own types, and its float32 mean only of float16: numpy/_core/_methods.py, _mean)
# Met by:   who looks at the mean or spread of bfloat16 weights read by safetensors.numpy, jax or tensorstore. Cast first.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" ml_dtypes==0.6.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

path = sys.argv[1] + "/ones.safetensors"
types = (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4)
seen = {}
for dtype in types:
    ones = np.ones(1000, dtype)
    results = (ones.sum(), ones.mean(), ones.std(), np.linalg.norm(ones), ones.sum(dtype=np.float32))
    seen[np.dtype(dtype).name] = [round(float(value), 2) for value in results]
save_file({"w": np.ones(1000, ml_dtypes.bfloat16)}, path)
of_file = float(load_file(path)["w"].sum())
print("ml_dtypes", version("ml_dtypes"), "numpy", np.__version__, "safetensors", version("safetensors"))
print("guess: of 1000 ones: sum 1000, mean 1, standard deviation 0, norm 31.62, float32 sum 1000")
for name, values in seen.items():
    print(f"seen:  {name:13} {values}")
print("       sum of a bfloat16 tensor read from a safetensors file:", of_file)
as_stated = seen == {
    "float16": [1000, 1, 0, 31.62, 1000],
    "bfloat16": [256, 0.26, 0.5, 31.62, 1000],
    "float8_e4m3fn": [16, 0.02, 0.12, 31.62, 1000],
    "float8_e5m2": [8, 0.01, 0.09, 31.62, 1000],
    "int4": [-8, 0, 0, 31.62, 1000],
} and of_file == 256
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
