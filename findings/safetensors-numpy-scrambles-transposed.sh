#!/usr/bin/env bash
# Guess:    safetensors.numpy.save_file of a transposed or Fortran-ordered array copies it to row-major order, or raises
#           as safetensors.torch does ("You are trying to save a non contiguous tensor").
# Happens:  it writes the memory as it lies under the shape as it is seen. The file is valid, the shape is right and
#           the elements are in other places. Nothing warns; the docstring asks for contiguous arrays, and a Fortran
#           array is contiguous.
# Versions: safetensors 0.8.0, numpy 2.4.6
# Source:   safetensors/numpy.py (_flatten: data_ptr=tensor.ctypes.data, no check of the strides)
# Met by:   converters that transpose weights (TF, Flax or Conv1D kernels to Linear) and write with numpy.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" safetensors==0.8.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

path = sys.argv[1] + "/w.safetensors"
kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
save_file({"t": kernel.T, "f": np.asfortranarray(kernel)}, path)
loaded = load_file(path)
print("safetensors", safetensors.__version__, "numpy", np.__version__)
print("guess: kernel.T", kernel.T.tolist())
print("seen:  kernel.T", loaded["t"].tolist())
print("guess: asfortranarray(kernel)", kernel.tolist())
print("seen:  asfortranarray(kernel)", loaded["f"].tolist())
memory = kernel.ravel().tolist()
as_stated = loaded["t"].shape == (3, 2) and loaded["t"].ravel().tolist() == memory
as_stated &= loaded["f"].ravel().tolist() == kernel.T.ravel().tolist()
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py" "$dir"
