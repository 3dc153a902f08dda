"""Product code changed on purpose in the ranks: what a job must not let pass.

Each changes a line's worth of what the ranks run, and nothing that checks them. The names of
entries it makes the job forget are left out of what the front end expects, too, as the same
mistake would be made there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from inspector.verify.spec import JobSpec

__all__ = ["FORGOTTEN", "MUTANTS"]

#: The entry that some of them forget; it lies in `fsdp2_hsdp_2x2_adamw` and its like.
FORGOTTEN = "the last tensor of the state dict"


def planner_shifted(spec: JobSpec) -> None:
    import torch

    from inspector.verify.ranks.torch_dcp import LoadPlanner

    stock = LoadPlanner.create_local_plan

    def shifted(self: Any) -> Any:
        plan = stock(self)
        items = []
        for item in plan.items:
            if len(item.lengths) and item.lengths[0] > 1:
                lengths = torch.Size((item.lengths[0] - 1, *item.lengths[1:]))
                offsets = torch.Size((item.storage_offsets[0] + 1, *item.storage_offsets[1:]))
                item = dataclasses.replace(item, lengths=lengths, storage_offsets=offsets)
            items.append(item)
        return dataclasses.replace(plan, items=items)

    LoadPlanner.create_local_plan = shifted  # type: ignore[method-assign]


def compare_always_equal(spec: JobSpec) -> None:
    from inspector.verify.ranks import compare

    compare._same = lambda a, b: True


def differences_not_counted(spec: JobSpec) -> None:
    from inspector.verify.ranks.compare import Region

    Region._count = lambda self, stored, mine, at: None  # type: ignore[method-assign]


def every_verdict_exact(spec: JobSpec) -> None:
    from inspector.verify.ranks.compare import RegionTally

    RegionTally.verdict = property(lambda self: "EXACT")  # type: ignore[assignment,method-assign]


def crc_never_compared(spec: JobSpec) -> None:
    from inspector.verify.ranks.stored import StoredReader

    stock = StoredReader._check

    def blind(self: Any, *args: Any) -> None:
        before = len(self.corrupt), self.num_corrupt
        stock(self, *args)
        del self.corrupt[before[0] :]
        self.num_corrupt = before[1]

    StoredReader._check = blind  # type: ignore[method-assign]


def crc_not_asked_for(spec: JobSpec) -> None:
    from inspector.verify.ranks.comparison import WaveComparison

    stock = WaveComparison.run
    WaveComparison.run = lambda self, *, check_crc: stock(self, check_crc=False)  # type: ignore[method-assign]


def half_the_payloads_unchecked(spec: JobSpec) -> None:
    from inspector.verify.ranks import tasks

    stock = tasks._checkers

    def half(*args: Any) -> Any:
        ranks = stock(*args)
        ranks[::2] = -1
        return ranks

    tasks._checkers = half


def digests_constant(spec: JobSpec) -> None:
    from inspector.verify.ranks import group

    group.digest = lambda data: bytes(16)


def digests_of_lengths(spec: JobSpec) -> None:
    from inspector.verify.ranks import group

    group.digest = lambda data: len(data).to_bytes(16, "little")


def replicas_not_compared(spec: JobSpec) -> None:
    from inspector.verify.ranks import roundtrip

    roundtrip.disagreeing = lambda *args: set()


def reload_of_the_original(spec: JobSpec) -> None:
    from inspector.verify.ranks import roundtrip

    stock = roundtrip.make_reader
    roundtrip.make_reader = lambda path, metadata: stock(spec.path, metadata)


def reload_keeps_what_was_there(spec: JobSpec) -> None:
    """What is loaded again is taken from the rank's own shards, where the meshes allow it."""
    from inspector.verify.ranks.roundtrip import _Wave

    targets_of, load = _Wave._targets, _Wave._load
    kept: dict[str, Any] = {}

    def make(self: Any, grid: Any, names: Any = None) -> Any:
        made = targets_of(self, grid, names)
        for fqn, value in kept.items():
            if fqn in made.state:
                made.state[fqn] = value
        return made

    def bring(self: Any, targets: Any, path: str, *, is_original: bool) -> Any:
        if is_original:
            failures = load(self, targets, path, is_original=True)
            kept.update(targets.state)
            return failures
        return {}

    _Wave._targets, _Wave._load = make, bring  # type: ignore[method-assign]


def recheck_left_out(spec: JobSpec) -> None:
    from inspector.verify.ranks.roundtrip import _Wave

    stock = _Wave._compare

    def once(self: Any, phase: str, *args: Any, **fields: Any) -> Any:
        return stock(self, phase, *args, **fields) if phase == "compare" else set()

    _Wave._compare = once  # type: ignore[method-assign]


def selection_forgets(spec: JobSpec) -> None:
    from inspector.verify import selection

    stock = selection.select

    def short(*args: Any) -> Any:
        found = stock(*args)
        return dataclasses.replace(found, tensors=found.tensors[:-1])

    selection.select = short


def waves_forget(spec: JobSpec) -> None:
    from inspector.verify import selection

    stock = selection.make_waves

    def short(*args: Any) -> Any:
        waves, too_large = stock(*args)
        waves[-1].tensors.pop()
        return waves, too_large

    selection.make_waves = short


def places_swapped(spec: JobSpec) -> None:
    _edit_columns(_swap_places)


def names_exchanged(spec: JobSpec) -> None:
    _edit_columns(_exchange_names)


def corrupt_payloads_not_told(spec: JobSpec) -> None:
    from inspector.verify.ranks.comparison import WaveComparison

    WaveComparison.attribute = lambda self, corrupt, mine: None  # type: ignore[method-assign]


def _edit_columns(edit: Callable[[Any], Any]) -> None:
    """What rank 0 reads has columns that are not those of the file."""
    import inspector.checkpoint as package

    stock = package.open_checkpoint

    def edited(path: str, **options: Any) -> Any:
        checkpoint = stock(path, **options)
        return dataclasses.replace(checkpoint, columns=edit(checkpoint.columns))

    package.open_checkpoint = edited


def _twins(columns: Any) -> tuple[int, int]:
    """Two tensors that are alike but for what they hold."""
    seen: dict[Any, int] = {}
    for i in range(columns.num_tensors):
        tensor = columns.tensor(i)
        alike = tensor.shape, tensor.dtype, tensor.offsets.tobytes(), tensor.byte_length.tobytes()
        if tensor.num_elements and alike in seen:
            return seen[alike], i
        seen.setdefault(alike, i)
    raise AssertionError("no two tensors are alike")


def _swap_places(columns: Any) -> Any:
    a, b = _twins(columns)
    start, count = columns.chunk_start, columns.tensor(a).num_chunks
    edited = {}
    for name in ("file", "byte_offset"):
        values = np.array(getattr(columns, name))
        first, second = slice(start[a], start[a] + count), slice(start[b], start[b] + count)
        values[first], values[second] = values[second].copy(), values[first].copy()
        edited[name] = values
    return dataclasses.replace(columns, **edited)


def _exchange_names(columns: Any) -> Any:
    a, b = _twins(columns)
    fqns = list(columns.fqns)
    fqns[a], fqns[b] = fqns[b], fqns[a]
    return dataclasses.replace(columns, fqns=fqns)


MUTANTS: dict[str, Callable[[JobSpec], None]] = {
    mutant.__name__: mutant
    for mutant in (
        planner_shifted,
        compare_always_equal,
        differences_not_counted,
        every_verdict_exact,
        crc_never_compared,
        crc_not_asked_for,
        half_the_payloads_unchecked,
        digests_constant,
        digests_of_lengths,
        replicas_not_compared,
        reload_of_the_original,
        reload_keeps_what_was_there,
        recheck_left_out,
        selection_forgets,
        waves_forget,
        places_swapped,
        names_exchanged,
        corrupt_payloads_not_told,
    )
}
