#!/usr/bin/env bash
# Guess:    a StatefulDataLoader resumed in the middle of an epoch goes on as the uninterrupted run does, in this epoch
#           and in the next; a generator of one's own (generator=...) makes that only surer.
# Happens:  the resumed epoch is right and the next epoch is shuffled otherwise than in the uninterrupted run, when a
#           generator is given and num_workers=0. Without a generator, or with workers, the next epoch agrees.
# Versions: torchdata 0.11.0, torch 2.13.0
# Source:   torchdata/stateful_dataloader/sampler.py (_StatefulRandomSamplerIterator.load_state_dict sets the generator
#           back to where the permutation was drawn) and torch/utils/data/dataloader.py (_BaseDataLoaderIter draws its base
#           seed from the same generator, which is not drawn again)
# Met by:   who compares a resumed run with an uninterrupted one and passed a seeded generator to be deterministic.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 torchdata==0.11.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torchdata
from torchdata.stateful_dataloader import StatefulDataLoader


def loader(has_generator: bool, num_workers: int, seed: int) -> StatefulDataLoader:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed) if has_generator else None
    return StatefulDataLoader(range(10), batch_size=2, shuffle=True, generator=generator, num_workers=num_workers)


print("torchdata", torchdata.__version__, "torch", torch.__version__)
print("guess: the rest of this epoch and all of the next are the same after resuming")
seen = []
if __name__ == "__main__":
    for has_generator, num_workers in ((False, 0), (True, 1), (True, 0)):
        straight = loader(has_generator, num_workers, seed=1)
        batches = iter(straight)
        next(batches)
        state = straight.state_dict()
        resumed = loader(has_generator, num_workers, seed=1)
        resumed.load_state_dict(state)
        same = []
        for epoch in (batches, straight):
            same.append(torch.equal(torch.cat(list(epoch)), torch.cat(list(resumed))))
        seen.append(same)
        own = "own generator" if has_generator else "no generator "
        print(f"seen:  {own}, num_workers={num_workers}: rest the same {same[0]}, next epoch the same {same[1]}")
    as_stated = seen == [[True, True], [True, True], [True, False]]
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py"
