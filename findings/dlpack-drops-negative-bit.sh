#!/usr/bin/env bash
# Guess:    np.from_dlpack of a tensor gives its numbers, or raises, as it does of a conjugated tensor.
# Happens:  of x.conj().imag it gives x.imag, all signs turned round. torch keeps such a tensor as a view of x with its
#           "negative" bit set; the exchange passes the memory and not the bit. np.asarray raises of it, and so does
#           from_dlpack of x.conj() itself. torch.from_dlpack and torch.utils.dlpack have the signs wrong as well.
# Versions: torch 2.13.0, numpy 2.4.6
# Source:   torch/_tensor.py (Tensor.__dlpack__ refuses tensors that require a gradient and conjugated ones, not negative ones)
# Met by:   spectra and complex weights (FFT layers, state-space models) handed to numpy, jax, cupy or tensorflow without a copy.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import numpy as np
import torch
from torch.utils import dlpack

x = torch.tensor([1 + 2j, 3 - 4j])
imaginary = x.conj().imag


def try_(convert, tensor: torch.Tensor) -> object:
    try:
        return convert(tensor).tolist()
    except (BufferError, RuntimeError) as error:
        return type(error).__name__


conversions = {
    "np.from_dlpack": np.from_dlpack,
    "torch.from_dlpack": torch.from_dlpack,
    "torch.utils.dlpack": lambda tensor: dlpack.from_dlpack(dlpack.to_dlpack(tensor)),
    "np.asarray": np.asarray,
    "np.from_dlpack of a clone": lambda tensor: np.from_dlpack(tensor.clone()),
    "np.from_dlpack of resolve_neg()": lambda tensor: np.from_dlpack(tensor.resolve_neg()),
}
seen = {name: try_(convert, imaginary) for name, convert in conversions.items()}
conjugated = try_(np.from_dlpack, x.conj())
print("torch", torch.__version__, "numpy", np.__version__)
print("guess:", imaginary.tolist(), "everywhere, or an error")
for name, found in seen.items():
    print(f"seen:  {name:32} {found}")
print("       np.from_dlpack of x.conj():     ", conjugated)
wrong = [name for name, found in seen.items() if found == x.imag.tolist()]
as_stated = {"np.from_dlpack", "torch.from_dlpack", "torch.utils.dlpack"} <= set(wrong)
as_stated &= seen["np.asarray"] == "RuntimeError" and conjugated == "BufferError"
as_stated &= seen["np.from_dlpack of resolve_neg()"] == imaginary.tolist()
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
