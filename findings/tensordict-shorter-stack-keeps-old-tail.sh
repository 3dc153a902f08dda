#!/usr/bin/env bash
# Guess:    a stack of 3 tensordicts memory-mapped into the folder of an earlier stack of 5 replaces it: the folder holds 3
#           then, as a plain tensordict with fewer keys does.
# Happens:  it comes back with 5 elements, the last two those of the earlier save, without an error. Each element has a
#           folder named by its number; saving removes none, the length is stored nowhere, and loading counts the folders.
# Versions: tensordict 0.15.3, torch 2.13.0, numpy 2.4.6
# Source:   tensordict/_lazy.py (LazyStackedTensorDict._load_memmap: `while (prefix / str(i)).exists()`)
# Met by:   replay buffers and lists of episodes of unequal lengths that are saved again and again to one place.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 tensordict==0.15.3 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from tensordict import TensorDict, lazy_stack


def episodes(count: int, reward: float) -> TensorDict:
    """Return `count` episodes of 1, 2, 3, ... steps."""
    return lazy_stack([TensorDict({"reward": torch.full((n + 1,), reward)}) for n in range(count)])


def lengths_and_values(loaded) -> list[list[float]]:
    return [episode["reward"].tolist() for episode in loaded.unbind(0)]


print("tensordict", version("tensordict"))
folder = sys.argv[1] + "/episodes"
episodes(5, 1.0).memmap(folder)
episodes(3, 2.0).memmap(folder)
seen = lengths_and_values(TensorDict.load_memmap(folder))
guess = [[2.0], [2.0] * 2, [2.0] * 3]
print("guess:", guess)
print("seen: ", seen)

# A plain tensordict is replaced: the keys that it no longer has are not read.
plain = sys.argv[1] + "/plain"
TensorDict({"a": torch.ones(2), "b": torch.ones(2)}).memmap(plain)
TensorDict({"a": torch.zeros(2)}).memmap(plain)
keys = list(TensorDict.load_memmap(plain).keys())
print("keys of a plain tensordict saved over one with a and b:", keys)

as_stated = seen == [*guess, [1.0] * 4, [1.0] * 5] and keys == ["a"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
