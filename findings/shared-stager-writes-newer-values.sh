#!/usr/bin/env bash
# Guess:    a stager given to dcp.async_save copies the state dict, so a checkpoint holds the values of its own call; its
#           docstring says that the copy is safe from updates made after the call, and that one stager serves many saves.
# Happens:  DefaultStager keeps one CPU copy of each storage and fills the same one again at the next call. While the first
#           checkpoint is still being written, the second call puts its values in there: the first checkpoint ends up with
#           the second's values, or with some tensors of each. No error; without async_stager each call has its own copy.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/_state_dict_stager.py (StateDictStager._stage_untyped_storage: "Reuse cached storage
#           but update with new data") and staging.py (DefaultStager, AsyncStager.stage)
# Met by:   who keeps a stager for speed and saves again before a slow upload is done. Wait for the first future before the
#           next async_save.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
import threading

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions


class SlowWriter(dcp.FileSystemWriter):
    """Starts to write the first checkpoint when the second has been staged."""

    second_is_staged = threading.Event()

    def write_data(self, plan, planner):
        if self.path.name == "first":
            self.second_is_staged.wait(60)
        return super().write_data(plan, planner)


def saved(path: str, stager: DefaultStager | None) -> dict[str, list[float]]:
    """What the two checkpoints hold of a weight that was 1 at the first call and 2 at the second."""
    SlowWriter.second_is_staged.clear()
    weight = torch.full((2,), 1.0)
    first = dcp.async_save({"w": weight}, storage_writer=SlowWriter(f"{path}/first"), async_stager=stager)
    weight.fill_(2)
    second = dcp.async_save({"w": weight}, storage_writer=SlowWriter(f"{path}/second"), async_stager=stager)
    SlowWriter.second_is_staged.set()
    first.result(), second.result()
    found = {}
    for name in ("first", "second"):
        state = {"w": torch.zeros(2)}
        dcp.load(state, checkpoint_id=f"{path}/{name}")
        found[name] = state["w"].tolist()
    return found


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
options = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
)
own = saved(sys.argv[1] + "/own", None)
shared = saved(sys.argv[1] + "/shared", DefaultStager(options))
dist.destroy_process_group()
print("torch", torch.__version__)
print("guess: the first checkpoint holds [1.0, 1.0], the second [2.0, 2.0]")
print("seen:  without a stager      ", own)
print("       one stager for the two", shared)
as_stated = own == {"first": [1, 1], "second": [2, 2]} and shared == {"first": [2, 2], "second": [2, 2]}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
