#!/usr/bin/env bash
# Guess:    safe_open(...).get_slice(name)[...] takes the same slices whatever the framework, as Python does: the last
#           rows by [-2:], and a stop past the end is the end.
# Happens:  with framework="pt" it does. With framework="np" the very same calls raise: OverflowError for a negative
#           bound, SafetensorError for a stop past the end; [-1] alone works. Code that cuts shards of ceil(n / ranks)
#           rows passes under torch and fails on the last rank under numpy.
# Versions: safetensors 0.8.0, torch 2.13.0, numpy 2.4.6
# Source:   safetensors' bindings/python/src/lib.rs (PySafeSlice.__getitem__: torch indexes a tensor, numpy goes
#           through slice_to_indexer, whose bounds are unsigned)
# Met by:   tools that read slices without torch.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import save_file

path = sys.argv[1] + "/w.safetensors"
save_file({"w": np.arange(5.0)}, path)
print("safetensors", safetensors.__version__, "numpy", np.__version__)
print("guess: the same rows from both frameworks")
seen = {}
for text, index in {"[-1]": -1, "[-2:]": slice(-2, None), "[:-1]": slice(None, -1), "[3:6]": slice(3, 6)}.items():
    for framework in ("pt", "np"):
        with safe_open(path, framework) as file:
            try:
                seen[text, framework] = str(file.get_slice("w")[index].tolist())
            except Exception as error:
                seen[text, framework] = type(error).__name__
    print(f"seen:  {text:6} pt {seen[text, 'pt']:21} np {seen[text, 'np']}")
as_stated = seen["[-1]", "np"] == seen["[-1]", "pt"] == "4.0" and seen["[3:6]", "np"] == "SafetensorError"
as_stated &= seen["[-2:]", "np"] == seen["[:-1]", "np"] == "OverflowError"
as_stated &= [seen[t, "pt"] for t in ("[-2:]", "[:-1]", "[3:6]")] == ["[3.0, 4.0]", "[0.0, 1.0, 2.0, 3.0]", "[3.0, 4.0]"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
