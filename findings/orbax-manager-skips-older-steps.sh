#!/usr/bin/env bash
# Guess:    CheckpointManager.save(7, ...) in a folder that holds step 10 saves step 7, or raises.
# Happens:  it returns False and saves nothing, as for every step that is not above the newest one. A run that was rolled
#           back to step 5 trains on unsaved until it passes step 10, and latest_step() is the abandoned 10 until then.
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2
# Source:   orbax/checkpoint/checkpoint_manager.py (CheckpointManager.should_save)
# Met by:   who restores an earlier step after a loss spike and does not look at what save() returns.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
export PYTHONPATH="$dir/lib" JAX_PLATFORMS=cpu
cat > "$dir/run.py" <<'PY'
import logging
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

logging.disable(logging.WARNING)
saved = {}
with ocp.CheckpointManager(sys.argv[1] + "/run") as manager:
    for step in (5, 10, 7, 11):
        saved[step] = manager.save(step, args=ocp.args.StandardSave({"x": jnp.full(2, float(step))}))
        manager.wait_until_finished()
    steps = list(manager.all_steps())
print("orbax-checkpoint", version("orbax-checkpoint"), "jax", jax.__version__)
print("guess: steps 5, 7, 10 and 11 are there")
print(f"seen:  {steps}; save returned {saved}")
as_stated = sorted(steps) == [5, 10, 11] and saved == {5: True, 10: True, 7: False, 11: True}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
