#!/usr/bin/env bash
# Guess:    an array that is made smaller and then larger again has its fill value in the rows that were cut off.
# Happens:  rows whose chunk was cut through come back with their old values; only chunks that were cut off whole are
#           removed. So it depends on the chunk's size (with sharding, on the shard's) which of the new rows are empty and
#           which hold data that was meant to be gone. zarr and TensorStore agree in this, and so does blosc2.
# Versions: zarr 3.1.6, tensorstore 0.1.86, blosc2 4.14.1, numpy 2.4.6
# Source:   zarr/core/array.py (_resize deletes whole chunks and rewrites none); seen of the other two
# Met by:   embedding tables and logs that are cut back to a step and grown again, as after a resumed run.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" zarr==3.1.6 tensorstore==0.1.86 blosc2==4.14.1 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import blosc2
import numpy as np
import tensorstore
import zarr

VALUES = np.arange(1.0, 9.0)


def of_zarr(chunk: int) -> list[float]:
    array = zarr.create_array({}, shape=(8,), chunks=(chunk,), dtype="f8", fill_value=0)
    array[:] = VALUES
    array.resize((3,))
    array.resize((8,))
    return array[:].tolist()


def of_tensorstore(chunk: int) -> list[float]:
    grid = {"name": "regular", "configuration": {"chunk_shape": [chunk]}}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory", "path": f"{chunk}/"},
        "metadata": {"shape": [8], "data_type": "float64", "chunk_grid": grid, "fill_value": 0.0},
        "create": True,
    }
    array = tensorstore.open(spec).result()
    array.write(VALUES).result()
    array = array.resize(exclusive_max=[3]).result()
    return array.resize(exclusive_max=[8]).result().read().result().tolist()


def of_blosc2(chunk: int) -> list[float]:
    array = blosc2.asarray(VALUES, chunks=(chunk,), blocks=(chunk,))
    array.resize((3,))
    array.resize((8,))
    return array[:].tolist()


print("zarr", version("zarr"), "tensorstore", version("tensorstore"), "blosc2", version("blosc2"))
guess = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]
print("guess:             ", guess)
as_stated = True
for chunk in (8, 4, 1):
    kept = [float(n) if n <= max(3, chunk) else 0.0 for n in range(1, 9)]
    for library in (of_zarr, of_tensorstore, of_blosc2):
        found = library(chunk)
        print(f"seen, chunks of {chunk}:  {found}  {library.__name__}")
        as_stated = as_stated and found == kept
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
