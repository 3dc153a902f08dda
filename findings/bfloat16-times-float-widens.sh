#!/usr/bin/env bash
# Guess:    a Python number takes the type of the array that it meets, as in numpy since 2.0 and in torch: bfloat16 weights
#           times 0.5 are bfloat16, and np.where(mask, weights, 0.0) too.
# Happens:  times 0.5 they are float32, while times 2 they stay bfloat16; np.where with 0.0 gives float64, four times the
#           memory, and with 0 bfloat16. float8 likewise. float16 stays float16 in all of these. In place (w *= 0.5) the type
#           stays.
# Versions: ml_dtypes 0.6.0, numpy 2.4.6, safetensors 0.8.0
# Source:   ml_dtypes/_src/custom_float.h (the casts that are registered for each type; numpy takes a Python float for a weak
#           number only beside its own types: numpy's NEP 50, and CommonDType of user types by their casts)
# Met by:   averaging, scaling and masking weights in numpy (weight averages, merged adapters, NaNs replaced) that are then
#           saved: the file is twice or four times as large and its dtype F32 or F64.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" ml_dtypes==0.6.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import os
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

seen = {}
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    w = np.ones(1000, dtype)
    mask = w > 2
    results = (w * 0.5, w * 2, np.where(mask, w, 0.0), np.where(mask, w, 0), np.where(mask, w, w.dtype.type(0)))
    seen[w.dtype.name] = [result.dtype.name for result in results]
w = np.ones(100_000, ml_dtypes.bfloat16)
sizes = []
for name, values in (("weights", w), ("masked", np.where(np.isnan(w), 0.0, w))):
    save_file({"w": values}, f"{sys.argv[1]}/{name}.safetensors")
    sizes.append(os.path.getsize(f"{sys.argv[1]}/{name}.safetensors") // 100_000)
print("ml_dtypes", version("ml_dtypes"), "numpy", np.__version__, "safetensors", version("safetensors"))
print("guess: w * 0.5, w * 2, where(mask, w, 0.0), where(mask, w, 0), where(mask, w, zero of w's type): all of w's type")
for name, dtypes in seen.items():
    print(f"seen:  {name:13} {dtypes}")
print("       bytes of each number in a file of the weights, and of the weights with NaN replaced by 0.0:", sizes)
as_stated = seen == {
    "float16": ["float16"] * 5,
    "bfloat16": ["float32", "bfloat16", "float64", "bfloat16", "bfloat16"],
    "float8_e4m3fn": ["float32", "float8_e4m3fn", "float64", "float8_e4m3fn", "float8_e4m3fn"],
} and sizes == [2, 8]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py" "$dir"
