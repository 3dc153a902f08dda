#!/usr/bin/env bash
# Guess:    dequantize_4bit(quantize_4bit(w)) is off by as much for rows of 32, 48 or 96 numbers as for rows of 64: the blocks
#           of 64 run through the flattened tensor, whatever its shape.
# Happens:  on a CPU with AVX-512 it is off by 1.8 to 5 times as much where the row is no multiple of the block (or the block,
#           at 128, is longer than the row). The numbers are stored right (code table times absmax by hand is as good as
#           ever), but read back with the scale of another block. Of a shape with an odd row it is right again: that goes
#           another way. Without AVX-512 all are right. No error or warning.
# Versions: bitsandbytes 0.50.2, torch 2.13.0
# Source:   bitsandbytes/backends/cpu/ops.py (dequantize_4bit gives the kernel rows, m and n) and csrc/cpu_ops.cpp
#           (dequantizeBlockwise4bitCpu, its AVX-512 branch)
# Met by:   evaluating NF4 or FP4 models on a server's CPU: heads of 32, low-rank adapters of rank 16 or 32, convolutions.
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

torch.manual_seed(0)
has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
ratios = {}
for shape in ((64, 64), (64, 128), (64, 32), (64, 48), (32, 96), (16, 65)):
    w = torch.randn(shape)
    packed, state = functional.quantize_4bit(w, blocksize=64, quant_type="nf4")
    nibbles = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()[: w.numel()].long()
    by_hand = state.code[nibbles] * state.absmax.repeat_interleave(64)[: w.numel()]
    error = (functional.dequantize_4bit(packed, state) - w).abs().mean()
    ratios[shape] = round(float(error / (by_hand.view(shape) - w).abs().mean()), 1)
print("bitsandbytes", version("bitsandbytes"), "torch", torch.__version__, "with AVX-512" if has_avx512 else "without AVX-512")
print("guess: dequantised, all are as near as by hand: 1.0 times the error")
print("seen:  times the error by hand, of rows of a shape:", ratios)
mixed = [shape for shape, ratio in ratios.items() if ratio > 1.2]
as_stated = mixed == ([(64, 32), (64, 48), (32, 96)] if has_avx512 else [])
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
