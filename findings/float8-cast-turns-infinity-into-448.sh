#!/usr/bin/env bash
# Guess:    casting an overflow or an infinity to float8_e4m3fn (which has no infinity) gives NaN, in torch as in ml_dtypes;
#           what a dtype cannot hold at all (a negative number in float8_e8m0fnu) gives NaN too.
# Happens:  torch saturates: 1e6 and infinity become 448, a finite number, so a test for NaN and infinity after the cast
#           finds nothing. ml_dtypes gives NaN. float8_e5m2 keeps infinity in both. In float8_e8m0fnu torch drops the
#           sign (-3 becomes 4) and turns 0 into the smallest number; ml_dtypes gives NaN for both.
# Versions: torch 2.13.0 (CPU), ml_dtypes 0.6.0
# Source:   torch/headeronly/util/Float8_e4m3fn.h (fp8e4m3fn_from_fp32_value: "saturate to max finite value") and
#           Float8_e8m0fnu.h beside it (fp8e8m0fnu_from_fp32_value: takes the exponent, drops the sign)
# Met by:   who looks for blown-up weights in a float8 checkpoint, or moves float8 between JAX and torch.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import ml_dtypes
import numpy as np
import torch

nan, inf = float("nan"), float("inf")
print("torch", torch.__version__, "ml_dtypes", ml_dtypes.__version__)
print("guess: both the same; e4m3fn [nan, nan, nan], e8m0fnu [nan, nan, nan]")
stated = {
    "float8_e4m3fn": ([1e6, inf, -inf], [448.0, 448.0, -448.0], [nan, nan, nan]),
    "float8_e5m2": ([1e6, inf, -inf], [inf, inf, -inf], [inf, inf, -inf]),
    "float8_e8m0fnu": ([-1.0, -3.0, 0.0], [1.0, 4.0, 2.0**-127], [nan, nan, nan]),
}
as_stated = True
for name, (values, by_torch, by_ml_dtypes) in stated.items():
    source = np.array(values, np.float32)
    seen_torch = torch.from_numpy(source).to(getattr(torch, name)).float().numpy()
    seen_ml_dtypes = source.astype(getattr(ml_dtypes, name)).astype(np.float32)
    print(f"seen:  {name} of {values}: torch {seen_torch.tolist()}, ml_dtypes {seen_ml_dtypes.tolist()}")
    as_stated &= np.array_equal(seen_torch, np.float32(by_torch), equal_nan=True)
    as_stated &= np.array_equal(seen_ml_dtypes, np.float32(by_ml_dtypes), equal_nan=True)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
