#!/usr/bin/env bash
# Guess:    flax.serialization gives every numpy array back as it was, or raises, as it does of object and structured arrays.
# Happens:  a big-endian array comes back with the same bytes read as little-endian: 1.0 becomes 4.6e-41, 1 becomes 16777216.
#           The file holds the name of the dtype without its byte order, beside the bytes as they lay in memory. No error.
# Versions: flax 0.12.8, jax 0.10.2, numpy 2.4.6
# Source:   flax/serialization.py (_ndarray_to_bytes: dtype.name and tobytes(); _ndarray_from_bytes)
# Met by:   data and statistics read from big-endian files: IDX (MNIST), FITS, netCDF 3, AIFF, many HDF5 and binary dumps. jax
#           itself refuses such arrays, so it is those that are kept beside the parameters that are changed.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" flax==0.12.8 jax==0.10.2 numpy==2.4.6
export PYTHONPATH="$dir/lib" JAX_PLATFORMS=cpu
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import jax
import numpy as np
from flax import serialization

state = {"mean": np.array([1.0, 0.5], ">f4"), "count": np.array([1, 2], ">i4"), "labels": np.array([3, 4], np.uint8)}
saved = serialization.to_bytes(state)
loaded = {
    "from_bytes": serialization.from_bytes(state, saved),
    "msgpack_restore": serialization.msgpack_restore(saved),
}
print("flax", version("flax"), "jax", jax.__version__, "numpy", np.__version__)
print("guess:", {name: values.tolist() for name, values in state.items()})
seen = {}
for call, values in loaded.items():
    seen[call] = {name: array.tolist() for name, array in values.items()}
    print(f"seen:  {call}: {seen[call]}")
expected = {"mean": [4.600602988224807e-41, 8.828180325246348e-44], "count": [16777216, 33554432], "labels": [3, 4]}
as_stated = seen["from_bytes"] == seen["msgpack_restore"] == expected
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
