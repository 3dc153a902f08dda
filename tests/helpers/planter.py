"""Many faults planted in one real job, and what of them has to be told: nothing more, nothing less.

Each fault (`planted_kinds`) has an entry of its own. Whatever they do, each rank holds what it is
about to compare against what plain `dcp.load` makes of the intact checkpoint (`TRUTH`), element by
element, and writes down what is wrong there (`planted-RANK.jsonl`). No code of the comparison takes
part in that.

    python -m tests.helpers.planter SPEC    # what torchrun runs; `FAULTS` lies beside the events
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan

from inspector.checkpoint import open_checkpoint
from inspector.verify.ranks.bits import Local
from inspector.verify.ranks.worker import main
from inspector.verify.seams import Seams
from inspector.verify.spec import JobSpec
from tests.helpers.planted_kinds import KINDS, Bytes, Fault, box_of

__all__ = ["FAULTS", "TRUTH", "Planter", "plant_stored", "truth_of"]

FAULTS, TRUTH = "faults.json", "truth.pt"


def plant_stored(folder: Path, faults: list[Fault]) -> dict[str, tuple[int, ...] | None]:
    """Plant those of the files in a copy of a checkpoint; of each the index that it struck."""
    chosen = [fault for fault in faults if KINDS[fault.kind].when == "stored"]
    return {fault.fqn: KINDS[fault.kind].act(folder, fault) for fault in chosen}


def truth_of(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, as plain `dcp.load` loads it."""
    metadata = dcp.FileSystemReader(path).read_metadata()
    state = {
        fqn: torch.empty(entry.size, dtype=entry.properties.dtype)
        for fqn, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=dcp.FileSystemReader(path), no_dist=True)
    return state


def _whole(tensor: torch.Tensor) -> Bytes:
    """Its bytes, with a last dim for those of an element."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.reshape(*tensor.shape, tensor.element_size())


class Planter(Seams):
    """The faults of one job, as one rank plants them and keeps account of them."""

    def __init__(self, spec: JobSpec, rank: int) -> None:
        folder = Path(spec.events_dir).resolve().parent
        faults = [Fault(**told) for told in json.loads((folder / FAULTS).read_text())]
        self._rank, self._scratch = rank, Path(spec.scratch_dir)
        self._of: dict[str, dict[str, Fault]] = {}
        for fault in faults:
            self._of.setdefault(KINDS[fault.kind].when, {})[fault.fqn] = fault
        silent = {
            f for fault in faults if KINDS[fault.kind].is_silent for f in (fault.fqn, fault.other)
        }
        self._truth = {
            fqn: _whole(value)
            for fqn, value in torch.load(folder / TRUTH, weights_only=True).items()
            if fqn not in silent
        }
        self._done: set[tuple[str, str]] = set()
        self._held: dict[str, Local] = {}
        self._hop = -1
        self._file = (folder / f"planted-{rank}.jsonl").open("w")

    # --- the seams

    def enter(self, phase: str) -> None:
        """A phase begins on this rank."""
        if phase == "load":
            self._held, self._hop = {}, -1
        elif phase == "save":
            self._hop += 1
            for fqn, fault in self._now("saving"):
                is_mine = fault.rank == self._rank or fault.kind == "a bit before it is saved"
                if fqn in self._held and is_mine:
                    self._strike(fault, self._held[fqn])
        elif phase == "reload" and "saved" in self._of:
            # Whoever reads it reads what was changed.
            if self._rank == 0:
                self._strike_saved()
            dist.barrier()

    def load_plan(self, phase: str) -> Callable[[LoadPlan], LoadPlan]:
        """The edit of the local load plan."""
        return lambda plan: self._edit("plan" if phase == "load" else "replan", plan)

    def save_plan(self) -> Callable[[Any, Metadata], Any]:
        """The edit of the global save plan."""

        def edit(plans: Any, metadata: Metadata) -> Any:
            for fqn, fault in self._now("save plan"):
                if fqn in metadata.state_dict_metadata and self._is_new(fault):
                    plans, metadata = KINDS[fault.kind].act(plans, metadata, fault)
                    self._tell(planted=fault.kind, fqn=fqn)
            return plans, metadata

        return edit

    def loaded(self, phase: str, fqn: str, local: Local) -> None:
        """A shard was loaded and is about to be compared."""
        fault = self._of.get("loaded" if phase == "compare" else "reloaded", {}).get(fqn)
        if fault is not None and fault.rank == self._rank and local.num_elements:
            self._strike(fault, local)
        if fqn not in self._truth:
            return
        right = box_of(self._truth[fqn], local.offsets, local.sizes)
        wrong = (right != local.data).reshape(-1, local.itemsize).any(axis=1)
        where = np.flatnonzero(wrong)
        told: dict[str, Any] = {"num": len(where), "first": None}
        if len(where):
            told["first"] = _index(local, int(where[0]))
        self._tell(phase=phase, hop=max(self._hop, -1), fqn=fqn, **told)

    def compared(self, phase: str, fqn: str, local: Local) -> None:
        """A shard was compared; its replicas come next."""
        if phase != "compare":
            return
        fault = self._of.get("compared", {}).get(fqn)
        if fault is not None and fault.rank == self._rank and local.num_elements:
            self._strike(fault, local)
        self._held[fqn] = local

    # --- planting

    def _now(self, when: str) -> Iterator[tuple[str, Fault]]:
        yield from self._of.get(when, {}).items()

    def _is_new(self, fault: Fault) -> bool:
        key = fault.kind, fault.fqn
        is_new = key not in self._done
        self._done.add(key)
        return is_new

    def _strike(self, fault: Fault, local: Local) -> None:
        """Plant a fault in what this rank holds, once."""
        if not local.num_elements or not self._is_new(fault):
            return
        if fault.kind == "a bit before it is saved":
            # One element of the tensor, wherever it is held.
            shape = self._truth[fault.fqn].shape[:-1]
            index = np.unravel_index(int(fault.at * int(np.prod(shape))), shape)
            inside = [int(i) - o for i, o in zip(index, local.offsets, strict=True)]
            if not all(0 <= i < n for i, n in zip(inside, local.sizes, strict=True)):
                return
            number = int(np.ravel_multi_index(inside, local.sizes)) if inside else 0
            fault = dataclasses.replace(fault, at=(number + 0.5) / local.num_elements)
        before = local.data.copy()
        KINDS[fault.kind].act(local, fault, self._truth[fault.fqn])
        changed = (before != local.data).reshape(-1, local.itemsize).any(axis=1)
        where = np.flatnonzero(changed)
        index = _index(local, int(where[0])) if len(where) else None
        self._tell(planted=fault.kind, fqn=fault.fqn, index=index, num=len(where))

    def _strike_saved(self) -> None:
        (folder,) = [file.parent for file in self._scratch.rglob(".metadata")]
        names = open_checkpoint(str(folder)).columns.fqns
        for fqn, fault in self._now("saved"):
            if fqn in names and self._is_new(fault):
                index = KINDS[fault.kind].act(folder, fault)
                self._tell(planted=fault.kind, fqn=fqn, index=index)

    def _edit(self, when: str, plan: LoadPlan) -> LoadPlan:
        items: dict[str, list[Any]] = {}
        for item in plan.items:
            items.setdefault(item.dest_index.fqn, []).append(item)
        for fqn, fault in self._now(when):
            if fqn in items and fault.rank == self._rank:
                items[fqn] = KINDS[fault.kind].act(items[fqn], fault)
                self._tell(planted=fault.kind, fqn=fqn)
        return dataclasses.replace(plan, items=[item for some in items.values() for item in some])

    def _tell(self, **fields: Any) -> None:
        self._file.write(json.dumps({"rank": self._rank, **fields}) + "\n")
        self._file.flush()


def _index(local: Local, number: int) -> list[int]:
    inside = np.unravel_index(number, local.sizes) if local.sizes else ()
    return [int(i) + o for i, o in zip(inside, local.offsets, strict=True)]


if __name__ == "__main__":
    spec = JobSpec.read(sys.argv[1])
    main(Planter(spec, int(os.environ["RANK"])))
