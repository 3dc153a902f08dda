#!/usr/bin/env bash
# Guess:    HDF5's scale-offset filter rounds floats to the decimals asked for and keeps what is no number, as it keeps
#           infinities; or the write is refused.
# Happens:  a NaN comes back as the smallest number of its chunk. If it is the chunk's first element, all float64 are kept as
#           they were, and a float32 chunk is written without an error that cannot be read again. Infinities are kept.
# Versions: h5py 3.16.0 (HDF5 2.0.0), numpy 2.4.6
# Source:   seen; the filter is H5Zscaleoffset.c of HDF5 (smallest and largest number of a chunk are found by comparing)
# Met by:   `create_dataset(..., scaleoffset=2)` of measured or masked data whose gaps are NaN, which is how pandas and xarray
#           mark them.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" h5py==3.16.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import h5py
import numpy as np

NAN, INF = float("nan"), float("inf")


def stored(values: list[float], dtype: str) -> str:
    """Write the values with two decimals as one chunk, and return what is read."""
    path = sys.argv[1] + "/data.h5"
    array = np.array(values, dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=array, chunks=array.shape, scaleoffset=2)
    try:
        with h5py.File(path) as file:
            return str(file["x"][()].tolist())
    except OSError as error:
        return f"cannot be read: {error}"


print("h5py", version("h5py"), "HDF5", h5py.version.hdf5_version)
as_stated = True
unreadable = "cannot be read"
for dtype, values, expected in (
    ("float32", [3.5, NAN, -2.25, NAN], "[3.5, -2.25, -2.25, -2.25]"),
    ("float64", [3.5, NAN, -2.25, NAN], "[3.5, -2.25, -2.25, -2.25]"),
    ("float32", [NAN, 3.5, -2.25, 1.0], unreadable),
    ("float64", [NAN, 3.5, -2.25, 1.0], "[nan, 3.5, -2.25, 1.0]"),
    ("float32", [3.5, INF, -2.25, 1.0], "[3.5, inf, -2.25, 1.0]"),
):
    seen = stored(values, dtype)
    print(dtype, "guess:", values)
    print(dtype, "seen: ", seen)
    as_stated = as_stated and seen.startswith(expected)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
