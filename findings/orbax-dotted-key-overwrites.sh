#!/usr/bin/env bash
# Guess:    {"a.b": x, "a": {"b": y}} is two arrays to Orbax, or saving it raises (as DCP does: "duplicated flatten key").
# Happens:  both are stored under the name "a.b". Saving says nothing; restoring gives the full tree back with one and the
#           same array in both places, and which of the two it is changes from run to run.
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2
# Source:   orbax/checkpoint/_src/tree/utils.py (param_name_from_keypath: ".".join of the keys)
# Met by:   ports from torch that keep dotted names ("layers.0") beside nested modules.
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
path = sys.argv[1] + "/ckpt"
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, {"a.b": jnp.ones(2), "a": {"b": jnp.full(2, 2.0)}})
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(path)
flat, nested = restored["a.b"].tolist(), restored["a"]["b"].tolist()
print("orbax-checkpoint", version("orbax-checkpoint"), "jax", jax.__version__)
print("guess: a.b [1.0, 1.0] and a/b [2.0, 2.0], or an error")
print(f"seen:  a.b {flat} and a/b {nested}; no error")
as_stated = flat == nested
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
