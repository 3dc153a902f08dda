#!/usr/bin/env bash
# Guess:    safe_open(...).get_slice(name)[a:b] reads those rows: what comes back is as large as the rows, and
#           torch.save of it writes the rows. (The format is sold for loading slices, one per rank.)
# Happens:  the slice is a view of a storage as large as the whole tensor. torch.save of 2 of 100,000 rows writes
#           all of them, and a copy to another process sends them.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   safetensors' bindings/python/src/lib.rs (PySafeSlice.__getitem__: for torch the whole tensor is made, then
#           indexed)
# Met by:   who cuts a tensor-parallel rank's rows out of a large file and saves or sends the result.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import os
import sys

import safetensors
import torch
from safetensors.torch import safe_open, save_file

folder = sys.argv[1]
save_file({"emb": torch.zeros(100_000, 8)}, f"{folder}/w.safetensors")
with safe_open(f"{folder}/w.safetensors", "pt") as file:
    rows = file.get_slice("emb")[10:12]
torch.save(rows, f"{folder}/view.pt")
torch.save(rows.clone(), f"{folder}/copy.pt")
size = {name: os.path.getsize(f"{folder}/{name}.pt") for name in ("view", "copy")}
print("torch", torch.__version__, "safetensors", safetensors.__version__)
print(f"guess: {rows.nbytes} bytes of storage, a .pt file of about 2 kB")
print(f"seen:  {rows.untyped_storage().nbytes():,} bytes of storage, a .pt file of {size['view']:,} bytes"
      f" ({size['copy']:,} after clone())")
as_stated = rows.untyped_storage().nbytes() == 3_200_000 and size["view"] > 3_200_000 > 10_000 > size["copy"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
