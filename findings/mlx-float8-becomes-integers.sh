#!/usr/bin/env bash
# Guess:    mlx.core.load of a safetensors file with float8 weights gives their numbers or raises "unsupported dtype", as it
#           does of F8_E5M2 and F64.
# Happens:  F8_E4M3 and F8_E8M0 come as uint8: the bits are taken for integers, so 1.0 is 56 and a scale of 1.0 is 127. No
#           error or warning; arithmetic goes on with them (0.5 times the weight 1.0 is 28). Saved again, the file says U8,
#           and torch or transformers then read integers too. mx.from_fp8 turns E4M3 back, which one must know to call.
# Versions: mlx 0.32.4, ml_dtypes 0.6.0, numpy 2.4.6, safetensors 0.8.0
# Source:   mlx/io/safetensors.cpp (dtype_from_safetensor_str)
# Met by:   opening an FP8 checkpoint (the common one has E4M3 weights and scales) on a Mac or with mlx's CPU build, and by
#           scripts that load, rename and save.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" mlx==0.32.4 mlx-cpu==0.32.4 ml_dtypes==0.6.0 numpy==2.4.6 \
    safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import json
import sys
from importlib.metadata import version

import ml_dtypes
import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

path = sys.argv[1] + "/weights.safetensors"


def read_dtype() -> str:
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["w"]["dtype"]


numbers = np.array([1.0, -2.0, 0.5])
seen = {}
for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e5m2):
    save_file({"w": np.abs(numbers).astype(dtype) if dtype is ml_dtypes.float8_e8m0fnu else numbers.astype(dtype)}, path)
    before = read_dtype()
    try:
        loaded = mx.load(path)["w"]
        mx.save_safetensors(path, {"w": loaded})
        seen[before] = (str(loaded.dtype), loaded.tolist(), read_dtype())
    except RuntimeError as error:
        seen[before] = str(error)
    if before == "F8_E4M3":
        halved, back = (0.5 * loaded).tolist(), mx.from_fp8(loaded, mx.float32).tolist()
print("mlx", mx.__version__, "ml_dtypes", version("ml_dtypes"), "numpy", np.__version__, "safetensors", version("safetensors"))
print("guess: the numbers [1, -2, 0.5] (e8m0: [1, 2, 0.5]), or an error; and the same dtype when saved again")
for before, found in seen.items():
    print(f"seen:  {before:8} {found}")
print("       0.5 times the F8_E4M3 weights:", halved, "; by mx.from_fp8:", back)
as_stated = seen == {
    "BF16": ("mlx.core.bfloat16", [1, -2, 0.5], "BF16"),
    "F8_E4M3": ("mlx.core.uint8", [56, 192, 48], "U8"),
    "F8_E8M0": ("mlx.core.uint8", [127, 128, 126], "U8"),
    "F8_E5M2": "[safetensor] unsupported dtype F8_E5M2",
} and (halved, back) == ([28, 96, 24], [1, -2, 0.5])
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py" "$dir"
