"""Faults planted on purpose in a rank's seams, so that tests see the comparison find them.

Each takes a rank or an object with `rank` and more:

    {"misplace": {"rank": 1, "fqn": F, "index": [5, 0]}}  after loading, the element at this global
                                                          index changes places with the next one
    {"skip_region": {"rank": 1, "fqn": F}}                the load plan leaves out the second half
                                                          of the first region it would write
    {"diverge_replica": {"rank": 2, "fqn": F}}            one bit of the loaded shard flips after
                                                          it was compared
    {"drop_chunk_on_save": {"fqn": F}}                    the save plan loses one chunk
    {"hang": {"rank": 1, "phase": "compare"}}             sleeps for ever (as do the next ones, in
                                                          phase `load` unless told)
    {"slow": {"rank": 1, "seconds": 9}}                   reads for so long before it goes on
    {"die": {"rank": 1, "signal": 9}}                     kills itself
    {"raise": {"rank": 1}}                                raises RuntimeError
    {"oom": {"rank": 1}}                                  asks for more memory than there is
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan

from inspector.verify.ranks.bits import Local
from inspector.verify.seams import Seams

__all__ = ["PlantedFaults"]


class PlantedFaults(Seams):
    """The faults of one job, as one rank sees them."""

    def __init__(self, faults: dict[str, Any], rank: int) -> None:
        self._rank = rank
        self._faults = {
            name: value if isinstance(value, dict) else {"rank": value}
            for name, value in faults.items()
        }

    def _mine(self, name: str) -> dict[str, Any] | None:
        fault = self._faults.get(name)
        return fault if fault is not None and fault.get("rank", self._rank) == self._rank else None

    def enter(self, phase: str) -> None:
        """A phase begins on this rank."""
        for name, act in _ACTS.items():
            fault = self._mine(name)
            if fault is not None and fault.get("phase", "load") == phase:
                act(fault)

    def load_plan(self, phase: str) -> Callable[[LoadPlan], LoadPlan] | None:
        """The edit of the local load plan, or None."""
        fault = self._mine("skip_region") if phase == "load" else None
        return None if fault is None else lambda plan: _skip(plan, fault["fqn"])

    def save_plan(self) -> Callable[[Any, Metadata], Any] | None:
        """The edit of the global save plan, or None."""
        fault = self._faults.get("drop_chunk_on_save")
        return None if fault is None else lambda plans, md: _drop(plans, md, fault["fqn"])

    def loaded(self, phase: str, fqn: str, local: Local) -> None:
        """A shard was loaded and is about to be compared."""
        fault = self._mine("misplace") if phase == "compare" else None
        if fault is not None and fault["fqn"] == fqn and local.num_elements > 1:
            inside = [i - o for i, o in zip(fault["index"], local.offsets, strict=True)]
            first = int(np.ravel_multi_index(inside, local.sizes))
            rows = local.data.reshape(-1, local.itemsize)
            second = (first + 1) % len(rows)
            rows[[first, second]] = rows[[second, first]]

    def compared(self, phase: str, fqn: str, local: Local) -> None:
        """A shard was compared; its replicas come next."""
        fault = self._mine("diverge_replica")
        if fault is not None and fault["fqn"] == fqn and len(local.data):
            local.data[-1] ^= 1


def _hang(_: dict[str, Any]) -> None:
    while True:
        time.sleep(60)


def _read_on(fault: dict[str, Any]) -> None:
    until = time.monotonic() + fault["seconds"]
    with open("/dev/zero", "rb", buffering=0) as file:
        while time.monotonic() < until:
            file.read(64 << 20)
            time.sleep(0.2)


def _die(fault: dict[str, Any]) -> None:
    os.kill(os.getpid(), fault.get("signal", 9))
    time.sleep(60)


def _raise(fault: dict[str, Any]) -> None:
    raise RuntimeError(fault.get("message", "raised on purpose"))


def _exhaust(_: dict[str, Any]) -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


_ACTS = {"hang": _hang, "slow": _read_on, "die": _die, "raise": _raise, "oom": _exhaust}


def _skip(plan: LoadPlan, fqn: str) -> LoadPlan:
    items = []
    is_done = False
    for item in plan.items:
        if item.dest_index.fqn != fqn or is_done:
            items.append(item)
            continue
        is_done = True
        if len(item.lengths) and item.lengths[0] > 1:
            lengths = torch.Size((item.lengths[0] // 2, *item.lengths[1:]))
            items.append(dataclasses.replace(item, lengths=lengths))
    return dataclasses.replace(plan, items=items)


def _drop(plans: list[Any], metadata: Metadata, fqn: str) -> tuple[list[Any], Metadata]:
    entry: Any = metadata.state_dict_metadata.get(fqn)
    if entry is None or len(entry.chunks) < 2:
        return plans, metadata
    lost = entry.chunks.pop()
    kept = [
        dataclasses.replace(
            plan,
            items=[
                item
                for item in plan.items
                if item.index.fqn != fqn or item.index.offset != lost.offsets
            ],
        )
        for plan in plans
    ]
    return kept, metadata
