#!/usr/bin/env bash
# Guess:    a weight that is NaN or infinite is still to be seen after mx.quantize and mx.dequantize: NaN, or NaN in its whole
#           group, as with other quantisers; and mx.to_fp8(NaN) is the NaN of float8 E4M3.
# Happens:  no NaN is left in any mode. In "affine" the NaN becomes the group's largest number and the others are right; in
#           "mxfp4" and "nvfp4" the whole group of 32 or 16 becomes zeros, from an infinity too; in "mxfp8" the group becomes
#           plus and minus one large number. mx.to_fp8(NaN) and of infinity is 448. So a diverged model, quantised, has no NaN
#           in its weights and gives plausible text. No error or warning.
# Versions: mlx 0.32.4, numpy 2.4.6
# Source:   mlx/backend/cpu/quantized.cpp (quantize, fp_quantize: maxima by comparing, which passes over NaN) and
#           mlx/backend/cpu/unary_ops.h (ToFP8: clamped to 448). Seen on the CPU backend.
# Met by:   quantising a checkpoint for a Mac and judging afterwards whether it is whole.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
seen = {}
for bad in (np.nan, np.inf):
    for mode in ("affine", "mxfp4", "mxfp8", "nvfp4"):
        weights = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
        weights[0, 3] = bad
        back = mx.dequantize(*mx.quantize(mx.array(weights), mode=mode), mode=mode).astype(mx.float32)
        values = np.array(back)[0]
        seen[mode, str(bad)] = (int(np.isnan(values).sum()), sorted({float(value) for value in values[:16]}), values[3])
fp8 = mx.from_fp8(mx.to_fp8(mx.array([np.nan, np.inf, 1.0])), mx.float32).tolist()
print("mlx", mx.__version__, "numpy", np.__version__)
print("guess: of 64 weights from -1 to 1 with one bad one in the first group, 1 to 64 are NaN")
for (mode, bad), (nans, first, value) in seen.items():
    shown = first if len(first) < 4 else "many"
    print(f"seen:  {mode:6} {bad}: {nans} NaN; the bad one becomes {value:g}; the first 16 are {shown}")
print("       to_fp8 of NaN, infinity, 1:", fp8)
is_hidden = {key: found[0] == 0 for key, found in seen.items()}
as_stated = fp8 == [448, 448, 1] and [key for key in seen if not is_hidden[key]] == [("affine", "inf")]
as_stated &= all(seen[mode, bad][1] == [0] for mode in ("mxfp4", "nvfp4") for bad in ("nan", "inf"))
as_stated &= seen["affine", "nan"][2] == 1 and len(seen["mxfp8", "nan"][1]) == 2
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
