#!/usr/bin/env bash
# Guess:    a state taken from a grain iterator can be set as often as one likes: a run that goes back to its last good step
#           twice reads the same data twice.
# Happens:  InterleaveIterDataset keeps a list of the dict that set_state was given and writes into it while it reads on. The
#           second set_state of that dict is to another place: shards are read twice and others left out, without an error.
#           A copy of the state (copy.deepcopy, JSON) is right every time.
# Versions: grain 0.2.18, numpy 2.4.6
# Source:   grain/_src/python/dataset/transformations/interleave.py (InterleaveDatasetIterator.set_state:
#           `self._iterators_in_use_indices = state["iterators_in_use_indices"]`; get_state copies it)
# Met by:   loops that keep the state of the last good step in memory and go back to it when the loss jumps.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" grain==0.2.18 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import copy
import sys
from importlib.metadata import version

import grain


def shards() -> grain.DatasetIterator:
    """Return an iterator over three shards (0.., 100.., 200..), two at a time."""
    sizes = (3, 6, 4)
    parts = [grain.MapDataset.range(100 * n, 100 * n + size) for n, size in enumerate(sizes)]
    return iter(grain.experimental.InterleaveIterDataset(parts, cycle_length=2))


def read_again(times: int, how) -> list[list[int]]:
    """Go back to the state after three elements several times, and return what is read each time."""
    iterator = shards()
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    read = []
    for _ in range(times):
        iterator.set_state(how(state))
        read.append([int(element) for element in iterator])
    return read


print("grain", version("grain"))
rest = [int(element) for element in shards()][3:]
copied = read_again(3, copy.deepcopy)
seen = read_again(3, lambda state: state)
for number in range(3):
    print(f"return {number + 1}, guess:", rest)
    print(f"return {number + 1}, seen: ", seen[number])
spoiled = [101, 202, 102, 203, 103, 104, 200, 105, 201, 202, 203]
as_stated = copied == [rest] * 3 and seen == [rest, spoiled, spoiled]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
