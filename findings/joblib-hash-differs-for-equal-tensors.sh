#!/usr/bin/env bash
# Guess:    joblib.hash of two equal torch tensors is equal, as of equal numpy arrays, so a function under joblib.Memory that
#           was called with a tensor is not run again for an equal one, nor in the next run of the program.
# Happens:  the hash of a tensor is another for each copy of it, so every call is a miss: the function runs again, and its
#           result is stored once more. joblib hashes the pickle, and torch names a storage in it by its address. Parameters,
#           modules and lists of tensors are the same. Tensors turned into numpy arrays are found.
# Versions: joblib 1.6.0, torch 2.13.0, numpy 2.4.6
# Source:   joblib/hashing.py (NumpyHasher knows numpy's arrays; the rest is pickled); torch/storage.py
#           (TypedStorage.__reduce__ and UntypedStorage.__reduce__: torch.save) with torch/serialization.py (_legacy_save)
# Met by:   caches of embeddings, features or metrics made of tensors: they grow and never serve.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 joblib==1.6.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import joblib
import torch

first, second = torch.ones(3), torch.ones(3)
PAIRS = {
    "tensors": (first, second),
    "parameters": (torch.nn.Parameter(first), torch.nn.Parameter(second)),
    "lists": ([first], [second]),
    "numpy arrays": (first.numpy(), second.numpy()),
}
memory = joblib.Memory(sys.argv[1] + "/cache", verbose=0)
calls = []


@memory.cache(ignore=["kind"])
def total(values, kind: str) -> float:
    calls.append(kind)
    return float(values.sum())


print("joblib", version("joblib"), "torch", version("torch"))
equal = {name: joblib.hash(a) == joblib.hash(b) for name, (a, b) in PAIRS.items()}
for name, same in equal.items():
    print(f"hashes of equal {name} are equal: guess: True  seen: {same}")
held = [torch.arange(6.0) for _ in range(3)]
for tensor in held:
    total(tensor, "tensor")
    total(tensor.numpy(), "array")
runs = {kind: calls.count(kind) for kind in ("tensor", "array")}
print("three calls with equal values run the function: guess: 1 and 1 times  seen:", runs)
same_object = joblib.hash(first) == joblib.hash(first)
as_stated = list(equal.values()) == [False, False, False, True] and same_object and runs == {"tensor": 3, "array": 1}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
