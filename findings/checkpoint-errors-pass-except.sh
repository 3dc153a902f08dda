#!/usr/bin/env bash
# Guess:    `try: dcp.load(...) except Exception: start_fresh()` catches every failure of dcp.load.
# Happens:  CheckpointException is a BaseException, as KeyboardInterrupt is. A missing checkpoint, a missing key, a failed
#           save: all of them pass `except Exception`, and end the job that was to fall back or to try again.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/api.py (class CheckpointException(BaseException))
# Met by:   trainers that resume if they can, and retry a save on a storage that fails now and then.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp

folder = sys.argv[1]
dcp.save({"w": torch.ones(1)}, checkpoint_id=f"{folder}/good")


def caught(action) -> str:
    try:
        try:
            action()
        except Exception as error:
            return f"caught {type(error).__name__}"
    except BaseException as error:
        return f"passed by: {type(error).__name__}"
    return "no error"


seen = {
    "load of no checkpoint": caught(lambda: dcp.load({"w": torch.ones(1)}, checkpoint_id=f"{folder}/none")),
    "load of a missing key": caught(lambda: dcp.load({"v": torch.ones(1)}, checkpoint_id=f"{folder}/good")),
    "save of a lambda": caught(lambda: dcp.save({"f": lambda: 0}, checkpoint_id=f"{folder}/bad")),
}
print("torch", torch.__version__)
print("guess: caught by `except Exception`, three times")
for what, how in seen.items():
    print(f"seen:  {what}: {how}")
as_stated = all(how == "passed by: CheckpointException" for how in seen.values())
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
