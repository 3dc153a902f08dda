#!/usr/bin/env bash
# Guess:    `np.nan_to_num` and `np.nansum` treat a NaN of a bfloat16 or float8 array as they treat one of float16.
# Happens:  they leave it where it is, without a word: nan_to_num returns the array unchanged, infinities too, and nansum
#           and nanmean are NaN (nanmax is right). NumPy does its work only for its own floats (np.inexact), and the types of ml_dtypes are
#           none, though np.isnan finds the NaN.
# Versions: ml_dtypes 0.6.0, numpy 2.4.6
# Source:   numpy/lib/_type_check_impl.py (nan_to_num), numpy/lib/_nanfunctions_impl.py (_replace_nan): issubclass of
#           np.inexact
# Met by:   who cleans weights or gradients of JAX or a bfloat16 safetensors file before averaging or exporting them.
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


def cleaned(dtype) -> tuple[list[float], float, float]:
    array = np.array([1.0, np.nan, np.inf, 2.0], dtype)
    numbers = np.nan_to_num(array, nan=0.0, posinf=9.0).astype(float).tolist()
    finite = array[[0, 1, 3]]
    assert np.isnan(array).sum() == 1
    return numbers, float(np.nansum(finite)), float(np.nanmean(finite))


print("ml_dtypes", version("ml_dtypes"), "numpy", version("numpy"))
guess = ([1.0, 0.0, 9.0, 2.0], 3.0, 1.5)
print("guess: ", *guess)
seen = {}
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2):
    seen[np.dtype(dtype).name] = str(cleaned(dtype))
    print(f"seen:   {np.dtype(dtype).name}", *cleaned(dtype))
kept = str(([1.0, np.nan, np.inf, 2.0], np.nan, np.nan))
as_stated = list(seen.values()) == [str(guess), kept, kept]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
