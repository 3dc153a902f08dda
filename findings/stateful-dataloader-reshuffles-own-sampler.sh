#!/usr/bin/env bash
# Guess:    a StatefulDataLoader given sampler=RandomSampler(data) resumes as with shuffle=True: with what is left of the
#           epoch.
# Happens:  torch's own samplers keep no state, and the loader does not say so: on resume it draws a NEW permutation and
#           skips as many of that. Some samples are seen twice in the epoch and as many never. A seed set at the start of
#           both runs does not help after the first epoch. The same for BatchSampler, SubsetRandomSampler
#           and WeightedRandomSampler.
# Versions: torchdata 0.11.0, torch 2.13.0
# Source:   torchdata/stateful_dataloader/stateful_dataloader.py (only shuffle=True takes torchdata's own RandomSampler;
#           batches of other samplers are skipped by itertools.islice)
# Met by:   who weights or subsets data with torch's samplers and trusts the loader's state.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 torchdata==0.11.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torchdata
from torch.utils.data import RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

data = range(10)


def start(has_sampler: bool) -> StatefulDataLoader:
    torch.manual_seed(0)  # both runs begin alike
    order = {"sampler": RandomSampler(data)} if has_sampler else {"shuffle": True}
    return StatefulDataLoader(data, batch_size=1, **order)


print("torchdata", torchdata.__version__, "torch", torch.__version__)
print("guess: the second epoch, interrupted after 5 of 10 and resumed, holds each sample once")
never = {}
for has_sampler in (False, True):
    loader = start(has_sampler)
    list(loader)  # the first epoch
    batches = iter(loader)
    before = [int(next(batches)) for _ in range(5)]
    state = loader.state_dict()
    resumed = start(has_sampler)
    resumed.load_state_dict(state)
    after = [int(batch) for batch in resumed]
    never[has_sampler] = sorted(set(data) - set(before) - set(after))
    twice = sorted(set(before) & set(after))
    name = "sampler=RandomSampler(data)" if has_sampler else "shuffle=True"
    print(f"seen:  {name:27} {before} then {after}: twice {twice}, never {never[has_sampler]}")
as_stated = never[False] == [] and never[True] != []
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py"
