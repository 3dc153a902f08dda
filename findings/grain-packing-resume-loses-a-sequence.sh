#!/usr/bin/env bash
# Guess:    a grain pipeline that packs by ConcatThenSplitIterDataset goes on after a restart with what the uninterrupted run
#           would give: its iterators can be checkpointed, and grain brings the handler for it.
# Happens:  whenever the last pack ended with a sequence's end, the resumed run leaves out the next sequence, packs all that
#           follow otherwise and fills the last pack up. "Nothing is left over" is the tuple (-1, -1) in the state; grain's own
#           CheckpointHandler writes JSON, where it becomes a list, and the two are compared as unequal: the next sequence is
#           taken for a remainder of which the slice from -1 to -1 is left. No error. A state that never was JSON is right.
# Versions: grain 0.2.18, numpy 2.4.6
# Source:   grain/_src/python/dataset/transformations/packing_concat_then_split.py (_EMPTY_SLICE, has_remainder);
#           grain/_src/python/checkpoint/handler.py (CheckpointHandler.save and restore)
# Met by:   language model training that packs documents into rows; the first step of a run of such packs is met in any case.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" grain==0.2.18 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import pathlib
import sys
from importlib.metadata import version

import grain
import numpy as np
from grain.checkpoint import CheckpointHandler


def document(number: int) -> dict[str, np.ndarray]:
    """Return a document of 1 to 4 tokens, all of them its number."""
    return {"text": np.full(number % 4 + 1, number)}


def packs() -> grain.DatasetIterator:
    documents = grain.MapDataset.range(12).map(document).to_iter_dataset()
    return iter(grain.experimental.ConcatThenSplitIterDataset(documents, length_struct={"text": 5}))


def rows(iterator) -> list[list[int]]:
    return [pack["text"].tolist() for pack in iterator]


print("grain", version("grain"))
whole = rows(packs())
print("uninterrupted:", *whole)
right, wrong = [], []
for done in range(len(whole)):
    first = packs()
    for _ in range(done):
        next(first)
    folder = pathlib.Path(sys.argv[1], str(done))
    folder.mkdir()
    CheckpointHandler().save(folder, first)
    rest = rows(CheckpointHandler().restore(folder, packs()))
    state = packs()
    state.set_state(first.get_state())
    assert rows(state) == whole[done:], "the state in memory is right"
    (right if rest == whole[done:] else wrong).append(done)
    if done == 3:
        print(f"resumed after {done} packs, guess:", *whole[done:])
        print(f"resumed after {done} packs, seen: ", *rest)
        after_three = rest
print("resumed right after", right, "packs and wrong after", wrong)
as_stated = right == [2, 4] and wrong == [0, 1, 3, 5]
as_stated = as_stated and after_three == [[7, 7, 7, 7, 8], [9, 9, 10, 10, 10], [11, 11, 11, 11, 0]]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
