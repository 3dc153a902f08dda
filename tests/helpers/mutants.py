"""Product code changed on purpose in the ranks: what a job must not let pass.

Most change a line or two of the product as they stand in its files (`_changed`); the code of the
functions concerned is compiled anew and put in their place. The names of entries that a mutant
makes the job forget are left out of what the front end expects, too, as the same mistake would be
made there.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from inspector.verify.spec import JobSpec

__all__ = ["MUTANTS", "Mutant"]

_HOP = ("fsdp:2",)


def _changed(module: str, old: str, new: str, *sample: str, **fields: Any) -> Mutant:
    """Lines of a module are changed, which stand there once, in every function that has them."""

    def plant(spec: JobSpec) -> None:
        owner = importlib.import_module(f"inspector.verify.{module}")
        assert owner.__file__ is not None
        source = Path(owner.__file__).read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{module} has {source.count(old)} times: {old}"
        before = compile(source, owner.__file__, "exec", dont_inherit=True)
        after = compile(source.replace(old, new), owner.__file__, "exec", dont_inherit=True)
        assert _renew(vars(owner), before, after), f"nothing was changed by {new}"

    return Mutant(plant, *sample, **fields)


def _renew(names: Any, before: CodeType, after: CodeType) -> int:
    """Give functions, also those of classes, new code; how many got other code than they had."""
    count = 0
    old = {c.co_name: c for c in before.co_consts if isinstance(c, CodeType)}
    for code in after.co_consts:
        if not isinstance(code, CodeType) or old.get(code.co_name) == code:
            continue
        held = names.get(code.co_name)
        if isinstance(held, type):
            count += _renew(vars(held), old[code.co_name], code)
            continue
        for kind, inner in ((property, "fget"), (cached_property, "func")):
            held = getattr(held, inner) if isinstance(held, kind) else held
        held = getattr(held, "__func__", held)
        if isinstance(held, FunctionType):
            held.__code__ = code
            count += 1
    return count


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        plant: Makes it, in a rank.
        sample: What is verified: with a change that blinds a check nothing need be wrong with it.
        then: The second meshes; the first is hsdp:2x1.
        via: As in `JobSpec`.
        forgets: The job forgets the last tensor of the last wave.
    """

    plant: Callable[[JobSpec], None]
    sample: str = "fsdp2_adamw_4"
    then: tuple[str, ...] = field(default=_HOP)
    via: str = "dtensor"
    forgets: bool = False


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


def reload_from_memory(spec: JobSpec) -> None:
    """What is loaded again is what lies in memory still, the canary among it."""
    from inspector.verify.ranks.roundtrip import _Wave
    from inspector.verify.ranks.witness.canary import SavedCanary

    targets_of, load = _Wave._targets, _Wave._load
    kept: list[Any] = []

    def make(self: Any, grid: Any, names: Any = None) -> Any:
        kept.append(targets_of(self, grid, names) if names is None else kept[-1])
        return kept[-1]

    def bring(self: Any, targets: Any, path: str, *, is_original: bool) -> Any:
        return load(self, targets, path, is_original=True) if is_original else {}

    _Wave._targets, _Wave._load = make, bring  # type: ignore[method-assign]
    add = SavedCanary.add

    def once(self: SavedCanary, targets: Any) -> None:
        if self.tensor.fqn not in targets.state:
            add(self, targets)

    SavedCanary.add = once  # type: ignore[method-assign]


def places_swapped(spec: JobSpec) -> None:
    _edit_columns(_swap_places)


def names_exchanged(spec: JobSpec) -> None:
    _edit_columns(_exchange_names)


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


#: What only shows where something is wrong with the checkpoint.
_FLIPPED, _MISSING = "broken/bit_flip", "broken/file_missing"

MUTANTS: dict[str, Mutant] = {
    # What is loaded.
    "planner shifted": Mutant(planner_shifted),
    "mesh transposed": _changed(
        "ranks.targets",
        "init_device_mesh(device.type, of.sizes,",
        "init_device_mesh(device.type, of.sizes[::-1],",
    ),
    "what could not be read is not told": _changed(
        "ranks.torch_dcp",
        "planner.failures.setdefault(item.dest_index.fqn, error)",
        "planner.done.add(id(item))",
        _MISSING,
    ),
    "no FSDP where FSDP was asked for": _changed(
        "ranks.targets",
        "if why_not_parameter(tensor, self.grid, self._way):",
        "if True:",
        via="fsdp2",
    ),
    # What is compared.
    "compare always equal": _changed(
        "ranks.bits", "return _memcmp(a.ctypes.data, b.ctypes.data, len(a)) == 0", "return True"
    ),
    "first byte alone compared": _changed(
        "ranks.bits", "b.ctypes.data, len(a)) == 0", "b.ctypes.data, 1) == 0"
    ),
    "last byte never compared": _changed(
        "ranks.bits", "b.ctypes.data, len(a)) == 0", "b.ctypes.data, len(a) - 1) == 0"
    ),
    "first piece alone counted": _changed(
        "ranks.bits", "for begin in range(0, len(block), _PIECE_BYTES):", "for begin in (0,):"
    ),
    "compared with itself": _changed(
        "ranks.bits", "mine = self._data[self._at : self._at + len(block)]\n", "mine = block\n"
    ),
    "bytes entries always equal": _changed(
        "ranks.stored", "if bytes(block[: len(part)]) != part:", "if False:"
    ),
    "differences not counted": _changed("ranks.bits", "if not len(where):", "if True:"),
    "every verdict EXACT": _changed(
        "ranks.bits", "found = {verdict for verdict, _ in self.problems}", "return 'EXACT'"
    ),
    "EXACT told of all": _changed(
        "ranks.wave", "verdict=tally.verdict,", "verdict='EXACT',", _MISSING
    ),
    "half the tasks left out": _changed(
        "ranks.wave", "tasks.sort()", "tasks.sort(); tasks = tasks[::2]"
    ),
    # What is checked.
    "CRC never compared": _changed(
        "ranks.stored", "elif crc != expected or crc != record.crc32:", "elif False:"
    ),
    "CRC not asked for": _changed(
        "ranks.wave",
        "tasks += self._tasks(tensor, check_crc)",
        "tasks += self._tasks(tensor, False)",
    ),
    "CRC of the pickle alone": _changed(
        "ranks.stored", "for record in payload.records:", "for record in payload.records[:1]:"
    ),
    "CRC of bytes entries not asked for": _changed(
        "ranks.wave",
        "checks = check_crc and is_checker(fqn, number, world, rank)",
        "checks = False",
    ),
    "half the payloads unchecked": _changed(
        "ranks.tasks",
        "return np.where(is_empty, world, rank)",
        "return np.where(number % 2, -1, rank)",
    ),
    "corrupt payloads not told": _changed(
        "ranks.wave", "for found in corrupt:", "for found in ():", _FLIPPED
    ),
    # Replicas.
    "digests constant": _changed(
        "ranks.group", "if len(data) <= _SMALL:", "if True:\n        return bytes(16)"
    ),
    "digests of lengths": _changed(
        "ranks.group",
        "if len(data) <= _SMALL:",
        "if True:\n        return len(data).to_bytes(16, 'little')",
    ),
    "digests of large data constant": _changed(
        "ranks.group", "crc = crc32(block.data, crc)", "continue"
    ),
    "shards' replicas not compared": _changed(
        "ranks.group", "torn |= _compare(cut, digests(cut), group)", "pass"
    ),
    "digests compared with themselves": _changed(
        "ranks.group", "differs = (rows != rows[0])", "differs = (rows != rows)"
    ),
    "replicas not compared": _changed(
        "ranks.roundtrip",
        "torn = disagreeing(watched, comparison.locals, raw, self._variants)",
        "torn: set[str] = set()",
    ),
    # The second mesh.
    "reload of the original": _changed(
        "ranks.roundtrip",
        "reader = reader or make_reader(path, metadata, job.storage)",
        "reader = make_reader(job.checkpoint.path, metadata, job.storage)",
    ),
    "reload keeps what was there": _changed(
        "ranks.roundtrip",
        "failures = self._load(targets, str(folder), is_original=False)",
        "failures = {}",
    ),
    "what was saved is not loaded": Mutant(reload_from_memory, then=("hsdp:2x1",)),
    "reload under the first mesh": _changed(
        "ranks.roundtrip",
        "targets = self._targets(grid, names)",
        "targets = self._targets(job.grids[0], names)",
    ),
    "recheck left out": _changed(
        "ranks.roundtrip",
        'bad = self._compare(\n                "recheck"',
        'bad = set() and self._compare(\n                "recheck"',
    ),
    "second mesh left out": _changed(
        "ranks.roundtrip", "enumerate(job.grids[1:])", "enumerate(job.grids[1:1])"
    ),
    # What is verified at all.
    "selection forgets": _changed(
        "selection",
        "return Selection(tuple(tensors), tuple(entries),",
        "return Selection(tuple(tensors[:-1]), tuple(entries),",
        forgets=True,
    ),
    "waves forget": _changed(
        "selection",
        "return waves, [LeftOut(f",
        "waves[-1].tensors.pop()\n    return waves, [LeftOut(f",
        forgets=True,
    ),
    "bytes entries forgotten": _changed(
        "ranks.roundtrip", "for index in wave.entries:", "for index in wave.entries[1:]:"
    ),
    "places swapped": Mutant(places_swapped),
    "names exchanged": Mutant(names_exchanged),
}
