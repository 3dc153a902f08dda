"""What torchrun runs where a byte is to change in a shard on its device, after `dcp.load` wrote it.

`faults.json` lies beside the events folder: {"flip_loaded": {"rank": 0, "fqn": F}}, besides those
of `planted_faults`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from inspector.verify.ranks import roundtrip
from inspector.verify.ranks.targets import bytes_view
from inspector.verify.ranks.worker import main
from inspector.verify.spec import JobSpec
from tests.helpers.planted_worker import FILE, faults_of


def flip_loaded(fault: dict[str, Any]) -> None:
    """Let `dcp.load` change the last byte of one entry, where that lies."""
    load = roundtrip.dcp.load

    def load_and_flip(state: dict[str, Any], *args: Any, **options: Any) -> None:
        load(state, *args, **options)
        value = state.get(fault["fqn"])
        if isinstance(value, DTensor) and value.to_local().numel():
            bytes_view(value.to_local())[-1:].bitwise_xor_(1)

    roundtrip.dcp.load = load_and_flip


if __name__ == "__main__":
    spec, rank = JobSpec.read(sys.argv[1]), int(os.environ["RANK"])
    planted = json.loads((Path(spec.events_dir).resolve().parent / FILE).read_text())
    mine = planted.get("flip_loaded")
    if mine is not None and mine["rank"] == rank:
        flip_loaded(mine)
    main(faults_of(spec, rank))
