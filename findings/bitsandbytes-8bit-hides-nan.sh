#!/usr/bin/env bash
# Guess:    a NaN comes through 8-bit blockwise quantisation as NaN, alone or in its whole block, as it does with the 4-bit
#           types of the same library.
# Happens:  on the CPU it comes back as -0.993 times the largest number of the block, in float32, bfloat16 and float16; the
#           rest of the block is right, and nothing tells that there was a NaN. Of an infinity the whole block becomes
#           infinite with the signs mixed: the infinite number itself turns negative, the small negative ones positive. No
#           error or warning.
# Versions: bitsandbytes 0.50.2, torch 2.13.0
# Source:   csrc/cpu_ops.cpp (quantize_cpu: the maximum by comparing, which passes over NaN, and a binary search that ends at
#           code 0 for it)
# Met by:   8-bit optimizer states and compressed gradients: looking for NaN in them finds none.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
python3 -m pip install -q --no-compile --no-deps --target "$dir/lib" bitsandbytes==0.50.2 packaging==26.4
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from bitsandbytes import functional


def blockwise(values: torch.Tensor) -> torch.Tensor:
    return functional.dequantize_blockwise(*functional.quantize_blockwise(values))


def four_bit(values: torch.Tensor) -> torch.Tensor:
    return functional.dequantize_4bit(*functional.quantize_4bit(values, quant_type="nf4")).flatten()


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 1) for value in values.tolist()]


with_nan = torch.tensor([1.0, 0.5, -0.5, float("nan")])
with_infinity = torch.tensor([1.0, 0.5, -0.5, float("inf")])
of_nan = {str(dtype): rounded(blockwise(with_nan.to(dtype))) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
of_infinity = blockwise(with_infinity).tolist()
nans_of_4_bit = int(four_bit(with_nan.repeat(16)).isnan().sum())
print("bitsandbytes", version("bitsandbytes"), "torch", torch.__version__)
print("guess: of", with_nan.tolist(), "the last or all are NaN")
for dtype, values in of_nan.items():
    print(f"seen:  {dtype:14} {values}")
print("       of", with_infinity.tolist(), of_infinity, "; NaNs of a 4-bit block of 64 with NaNs:", nans_of_4_bit)
infinity = float("inf")
as_stated = all(values == [1, 0.5, -0.5, -1] for values in of_nan.values())
as_stated &= of_infinity == [infinity, infinity, infinity, -infinity] and nans_of_4_bit > 0
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
