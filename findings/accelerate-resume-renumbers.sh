#!/usr/bin/env bash
# Guess:    with automatic_checkpoint_naming, a run that resumes with load_state() goes on numbering where it left off, and
#           the next load_state() takes the newest checkpoint.
# Happens:  the counter is not part of the state: the resumed run saves checkpoint_0, 1, ... again. load_state() takes the
#           highest number, which is the OLD run's, so a second resume throws away all that was trained since; and
#           total_limit deletes the lowest numbers, which are the newest saves. When the count reaches the old number,
#           save_state() raises, after total_limit deleted what it was to replace.
# Versions: accelerate 1.15.0, torch 2.13.0
# Source:   accelerate/accelerator.py (Accelerator.save_state, Accelerator.load_state)
# Met by:   every job that is preempted twice and trusts load_state() without a folder.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import logging
import os
import sys

import accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

logging.disable(logging.WARNING)
folder = sys.argv[1] + "/run"


def start() -> tuple[Accelerator, torch.nn.Module]:
    config = ProjectConfiguration(project_dir=folder, automatic_checkpoint_naming=True, total_limit=2)
    accelerator = Accelerator(cpu=True, project_config=config)
    return accelerator, accelerator.prepare(torch.nn.Linear(1, 1))


def train(accelerator: Accelerator, model: torch.nn.Module, values: range) -> str:
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        accelerator.save_state()
    return ", ".join(sorted(os.listdir(f"{folder}/checkpoints")))


def resume() -> tuple[Accelerator, torch.nn.Module, float]:
    accelerator, model = start()
    accelerator.load_state()
    return accelerator, model, model.weight.item()


first = train(*start(), range(1, 6))
accelerator, model, at_first_resume = resume()
second = train(accelerator, model, range(6, 9))
at_second_resume = resume()[2]
print("accelerate", accelerate.__version__, "torch", torch.__version__)
print("guess: saves 1 to 5, resume at 5, saves 6 to 8, resume at 8")
print(f"seen:  saves 1 to 5 leave {first}; resume at {at_first_resume:g}")
print(f"       saves 6 to 8 leave {second}; resume at {at_second_resume:g}")
as_stated = (first, second) == ("checkpoint_3, checkpoint_4", "checkpoint_2, checkpoint_4")
as_stated &= at_first_resume == at_second_resume == 5
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py" "$dir"
