#!/usr/bin/env bash
# Guess:    what safetensors.numpy.save_file writes, safetensors.numpy.load_file reads; bfloat16 (through ml_dtypes) does.
# Happens:  float8 arrays are written, and reading them raises AttributeError: numpy has no float8. load_file of the
#           whole file fails, so one float8 tensor keeps all others of the file from being read by it.
# Versions: safetensors 0.8.0, numpy 2.4.6, ml_dtypes 0.6.0
# Source:   safetensors' bindings/python/src/lib.rs (get_pydtype: the dtype is looked up as an attribute of numpy; only
#           bfloat16 is taken from ml_dtypes), called by safetensors/numpy.py (load_file)
# Met by:   tools without torch that read float8 models (scales and norms too), JAX users.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

path = sys.argv[1] + "/w.safetensors"
print("safetensors", safetensors.__version__, "numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
print("guess: each file can be read by the module that wrote it")
seen = []
for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu):
    save_file({"norm": np.ones(2, np.float32), "w": np.ones(2, dtype)}, path)
    try:
        seen.append(", ".join(f"{k} {v.dtype}" for k, v in sorted(load_file(path).items())))
    except AttributeError as error:
        seen.append(f"AttributeError: {error}")
    print(f"seen:  {dtype.__name__} written; reading: {seen[-1]}")
as_stated = seen[0] == "norm float32, w bfloat16" and all("has no attribute 'float8" in s for s in seen[1:])
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py" "$dir"
