#!/usr/bin/env bash
# Guess:    a lossy Zfp filter of hdf5plugin keeps a big-endian array within the error asked for, as HDF5's own scale-offset
#           filter does, or refuses it.
# Happens:  it takes the bytes for little-endian numbers: 1 to 2 comes back as numbers near 0 or up to 1e24, with an accuracy of
#           0.01 or a rate of 16 bits asked for, and no error at the write or the read. Its reversible mode is right.
# Versions: hdf5plugin 7.1.0, h5py 3.16.0 (HDF5 2.0.0), numpy 2.4.6
# Source:   seen; the filter is given the bytes of the file, and zfp compresses native numbers
# Met by:   arrays from NetCDF 3, FITS and IDX (MNIST) files, which are big-endian, and put into HDF5 with their dtype.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" hdf5plugin==7.1.0 h5py==3.16.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import h5py
import hdf5plugin
import numpy as np

VALUES = np.linspace(1, 2, 64).reshape(8, 8)
FILTERS = {
    "Zfp(accuracy=0.01)": {"compression": hdf5plugin.Zfp(accuracy=0.01)},
    "Zfp(rate=16)": {"compression": hdf5plugin.Zfp(rate=16)},
    "Zfp(reversible=True)": {"compression": hdf5plugin.Zfp(reversible=True)},
    "scaleoffset=2": {"scaleoffset": 2},
}
WRONG = ("Zfp(accuracy=0.01)", "Zfp(rate=16)")


def largest_error(dtype: str, options: dict) -> float:
    path = sys.argv[1] + "/data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=VALUES.astype(dtype), chunks=VALUES.shape, **options)
    with h5py.File(path) as file:
        return float(np.abs(file["x"][()].astype(np.float64) - VALUES).max())


print("hdf5plugin", version("hdf5plugin"), "h5py", version("h5py"))
print("guess: the largest error is 0.01 or less everywhere")
as_stated = True
for dtype in ("<f4", ">f4", "<f8", ">f8"):
    for name, options in FILTERS.items():
        error = largest_error(dtype, options)
        print(f"seen, {dtype} {name}: {error:.3g}")
        wrong = dtype.startswith(">") and name in WRONG
        as_stated = as_stated and (error > 1 if wrong else error <= 0.01)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
