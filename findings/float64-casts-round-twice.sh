#!/usr/bin/env bash
# Guess:    a cast from float64 or int64 rounds once, to the nearest number, as numpy's to float16 does.
# Happens:  torch (bfloat16, float16, float8) and ml_dtypes (bfloat16, float8) go by way of float32 and round twice: what lies
#           a little above the middle of two numbers becomes the middle first, and then the even one, the farther. Integers
#           too: 16842753 becomes 16777216 in bfloat16, 65537 off, where 16908288 is 65535 off.
# Versions: torch 2.13.0, ml_dtypes 0.6.0, numpy 2.4.6
# Source:   c10/util/TypeCast.h (a static_cast) and torch/headeronly/util/BFloat16.h (made from float only);
#           ml_dtypes/_src/custom_float.h
# Met by:   who compares weights that were averaged in float64 with the same numbers cast elsewhere, bit by bit.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
import torch

digits = {"float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}
by_torch, by_numpy, nearest = {}, {}, {}
for name, bits in digits.items():
    step = 2.0**-bits
    value = 1 + step / 2 + 2.0**-40  # Above the middle of 1 and 1 + step.
    nearest[name] = 1 + step
    by_torch[name] = torch.tensor([value], dtype=torch.float64).to(getattr(torch, name)).double().item()
    numpy_type = np.float16 if name == "float16" else getattr(ml_dtypes, name)
    by_numpy[name] = float(np.array([value]).astype(numpy_type)[0])
integer = torch.tensor([2**24 + 2**16 + 1]).to(torch.bfloat16).double().item()
print("torch", torch.__version__, "ml_dtypes", version("ml_dtypes"), "numpy", np.__version__)
print("guess:", nearest, "and", 2**24 + 2**17)
print("seen:  torch            ", by_torch, "and", int(integer))
print("       numpy, ml_dtypes ", by_numpy)
as_stated = set(by_torch.values()) == {1.0} and integer == 2**24
as_stated &= by_numpy == {**dict.fromkeys(digits, 1.0), "float16": nearest["float16"]}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
