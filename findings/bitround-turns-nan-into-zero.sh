#!/usr/bin/env bash
# Guess:    the BitRound filter, which rounds the mantissa so that an array compresses better, keeps a NaN a NaN.
# Happens:  it rounds all bits as one integer. The carry of the NaN that NVIDIA GPUs write (0x7fffffff, PTX's canonical
#           NaN) runs through the exponent into the sign: it is stored as -0.0, with the other sign as 0.0. A NaN of
#           small payload becomes inf; NumPy's own NaN (0x7fc00000) stays. It is so for any number of kept bits but the
#           full one, and for float16 and float64 too.
# Versions: numcodecs 0.16.6, numpy 2.4.6
# Source:   numcodecs/bitround.py (BitRound.encode: an integer addition, no test for NaN)
# Met by:   who stores gradients or activations from a GPU in zarr with this filter, and looks for NaN later.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" numcodecs==0.16.6 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from numcodecs import BitRound

CASES = [
    ("float32", "u4", 0x7FFFFFFF, 10),
    ("float32", "u4", 0xFFFFFFFF, 10),
    ("float32", "u4", 0x7F800001, 10),
    ("float32", "u4", 0x7FC00000, 10),
    ("float16", "u2", 0x7FFF, 5),
    ("float64", "u8", 0x7FFFFFFFFFFFFFFF, 20),
]
print("numcodecs", version("numcodecs"))
print("guess: nan of each")
seen = []
for dtype, bits, value, keep in CASES:
    nan = np.array([value], bits).view(dtype)
    assert np.isnan(nan).all()
    codec = BitRound(keepbits=keep)
    back = codec.decode(codec.encode(nan))[0]
    seen.append(str(float(back)))
    print(f"seen:  {dtype} {value:#x} with {keep} bits kept: {seen[-1]}")
as_stated = seen == ["-0.0", "0.0", "inf", "nan", "-0.0", "-0.0"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
