"""What torchrun runs: one rank, which writes every sample of its world size.

    torchrun --standalone --nproc-per-node N -m maker.worker TRUTH_FILE NAME [NAME ...]

The samples go to the working directory, under relative paths: a checkpoint's metadata keeps the
path that it was written to, and no sample should carry a path of the machine that made it.
TRUTH_FILE is written last, so that its presence, and not the exit code, says that all went well:
gloo's teardown can abort after the work is done.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import sys
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from maker.cases import CASES, Case
from maker.truth import boxes, describe
from maker.writers import SEED


def main(truth_file: Path, names: list[str]) -> NoReturn:
    """Writes the named samples, then leaves without running gloo's destructors."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=3))
    try:
        truths: dict[str, Any] = {}
        for name in names:
            truths |= write(CASES[name])
        if dist.get_rank() == 0:
            truth_file.write_text(json.dumps(truths))
        dist.barrier()
    except BaseException:
        # CheckpointException is no Exception, and a rank that raises must not wait for the others.
        traceback.print_exc()
        _leave(1)
    _leave(0)


def write(case: Case) -> dict[str, dict[str, Any]]:
    """Writes one sample; returns what is true of each checkpoint in it, by path."""
    torch.manual_seed(SEED)
    truths = {}
    for saved in case.write(case.name):
        truths[saved.path] = {
            "path": saved.path,
            "sample": case.name,
            "torch": torch.__version__,
            "metadata": list(saved.metadata),
            "format": saved.format,
            "framework": saved.framework or case.framework,
            "written_with": [f"{package} {version(package)}" for package in case.needs],
            **case.origin.as_json(),
            **describe(saved.state, saved.reference),
        }
        if saved.has_boxes:
            truths[saved.path]["boxes"] = boxes(saved.state, saved.ranks)
        if saved.ranks is not None:
            truths[saved.path]["world_size"] = len(saved.ranks)
        if not saved.has_bytes:
            truths[saved.path]["bytes"] = None
    dist.barrier()
    if dist.get_rank() == 0:
        print(f"  {case.name}", file=sys.stderr, flush=True)
    return truths


def _leave(code: int) -> NoReturn:
    # Megatron-Core starts a process for its queue, which would outlive us.
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
