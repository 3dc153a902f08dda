#!/usr/bin/env bash
# Guess:    np.sort and np.unique of an ml_dtypes.bfloat16 array treat NaN as for float16 and float32: it sorts last and
#           is one unique value.
# Happens:  NaN compares false with everything and the sort knows no better: the numbers around it stay out of order, so
#           np.percentile and np.searchsorted of the result are wrong too. np.unique keeps every NaN of bfloat16; of
#           float8_e5m2 with a NaN it returns ONE value, whatever else there was. As float32 all is well.
# Versions: ml_dtypes 0.6.0, numpy 2.4.6
# Source:   the comparison that ml_dtypes registers for its dtypes (ml_dtypes/_src/custom_float.h), as numpy's sort uses it;
#           np.unique then cuts at the first NaN that np.searchsorted finds for a dtype of kind "f"
# Met by:   tools that take quantiles or unique values of bfloat16 weights or gradients in numpy.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" numpy==2.4.6 ml_dtypes==0.6.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import ml_dtypes
import numpy as np

values = [3, np.nan, 1, -np.inf, 2, np.nan]
print("ml_dtypes", ml_dtypes.__version__, "numpy", np.__version__)
print("guess: [-inf, 1.0, 2.0, 3.0, nan, nan], 5 unique values")
stated = {"float16": (True, 5), "bfloat16": (False, 6), "float8_e5m2": (False, 1)}
as_stated = True
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2):
    array = np.array(values, dtype)
    ordered = np.sort(array).astype(np.float32)
    unique = len(np.unique(array))
    numbers = ordered[~np.isnan(ordered)]
    is_sorted = bool((np.diff(numbers[1:]) >= 0).all()) and bool(np.isnan(ordered[-2:]).all())
    print(f"seen:  {dtype.__name__}: {ordered.tolist()}, {unique} unique values")
    as_stated &= (is_sorted, unique) == stated[dtype.__name__]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
