"""Which entries a job takes, what it leaves out and why, and in which waves they are loaded.

The rule this module keeps: every rank computes the same from the same checkpoint and spec, and
whatever is not verified has a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.text import format_bytes, printable
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import Planner
from inspector.layout.rows import RowBlock
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.target.stages import StageKeys, StageRequest, stage_keys
from inspector.layout.writer.written_by import infer
from inspector.verify.spec import JobSpec

__all__ = [
    "LeftOut",
    "Reads",
    "Selection",
    "Wave",
    "loading",
    "local_bytes",
    "make_waves",
    "placed",
    "reloading",
    "select",
    "staged",
]

#: The rest is for what is saved, compared and sent: small, but not nothing.
_FILL = 0.9
_WAVE_ENTRIES = 8192
_WAVE_CHUNKS = 100_000
#: Blocks of rows in all: a shape that is only claimed makes no job without an end.
_MAX_BLOCKS = 65_536
_QUANTIZED = ("qint8", "quint8", "qint32", "quint4x2", "quint2x4")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Entries that are not verified, all for one reason.

    `is_asked`: the user left them out (`--filter`, `--stage`, `--sample`).
    """

    why: str
    fqns: tuple[str, ...]
    is_asked: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What is verified: tensor indices and bytes entry indices, in state dict order.

    With `--stage` these are verified stage after stage (`parts`); what several stages load goes
    with the first of them.
    """

    tensors: tuple[int, ...]
    entries: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()
    stages: tuple[StageKeys, ...] = ()

    @property
    def parts(self) -> Iterator[tuple[set[int], set[int]]]:
        """Tensors and bytes entries that are loaded together: of each stage in turn, or all."""
        tensors, entries = set(self.tensors), set(self.entries)
        for stage in self.stages:
            part = tensors.intersection(stage.tensors), entries.intersection(stage.entries)
            tensors -= part[0]
            entries -= part[1]
            yield part
        if not self.stages:
            yield tensors, entries


@dataclass(slots=True)
class Wave:
    """What is loaded at one time.

    `num_bytes` is what it costs a rank, `payload_bytes` the largest payload, read beside it. `rows`
    is there where it is a part of its only tensor.
    """

    tensors: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    num_bytes: int = 0
    payload_bytes: int = 0
    rows: RowBlock | None = None

    @property
    def is_first(self) -> bool:
        """Whether none of its entries was in a wave before."""
        return self.rows is None or not self.rows.number

    def tensors_of(self, checkpoint: Checkpoint) -> list[Tensor]:
        """What is loaded of its tensors: all, or some rows of the one."""
        found = [checkpoint.columns.tensor(i) for i in self.tensors]
        return found if self.rows is None else [self.rows.of(t) for t in found]

    def stored_bytes(self, checkpoint: Checkpoint) -> int:
        """Bytes of what is loaded in it, each once."""
        entries = (checkpoint.bytes_entries[i].byte_length for i in self.entries)
        if self.rows is not None:
            return sum(t.num_bytes for t in self.tensors_of(checkpoint))
        sizes = checkpoint.columns.num_bytes
        return sum(max(n, 0) for n in entries) + sum(sizes[i] for i in self.tensors)


def placed(checkpoint: Checkpoint, spec: JobSpec) -> list[tuple[Mesh, TargetPlacements | None]]:
    """The meshes of a job, and how tensors lie on each; None for `Shard(0)` on a plain one.

    Raises:
        UsageError: `--placements` names an axis that no mesh has, or every rank wrote metadata of
            its own and a mesh is not plain.
    """
    meshes = [Mesh.parse(spec.mesh), *map(Mesh.parse, spec.then)]
    if all(mesh.is_plain for mesh in meshes):
        return [(mesh, None) for mesh in meshes]
    if checkpoint.per_rank_metadata:
        raise UsageError(
            "every rank wrote metadata of its own: such a checkpoint is verified under fsdp:S or "
            "hsdp:RxS alone",
            "take the mesh it was saved under",
        )
    lines = spec.placement_lines
    written_by = infer(checkpoint)
    return [
        (mesh, None if mesh.is_plain else TargetPlacements(mesh, written_by, lines, meshes))
        for mesh in meshes
    ]


def staged(checkpoint: Checkpoint, spec: JobSpec) -> tuple[StageKeys, ...]:
    """The entries of the pipeline stages that are asked for; none if all are.

    Raises:
        UsageError: Nothing tells which entries a stage holds.
    """
    if not spec.stage:
        return ()
    lines = spec.stage_lines
    written_by = None if lines else infer(checkpoint)
    return stage_keys(checkpoint, StageRequest.parse(spec.stage), lines, written_by)


def select(
    checkpoint: Checkpoint,
    spec: JobSpec,
    refuses: Callable[[Tensor | BytesEntry], str] = lambda _: "",
) -> Selection:
    """The entries that a spec's filter and sample take, less those that cannot be loaded.

    Args:
        checkpoint: The checkpoint.
        spec: The job.
        refuses: Why an entry cannot be verified by this Python and its torch, or nothing.
    """
    names, num_tensors = checkpoint.fqns, checkpoint.num_tensors
    order = checkpoint.order.tolist()
    wanted = set(matching(names, spec.filter)) if spec.filter else set(range(len(names)))
    filtered = [i for i in order if i not in wanted]
    left = [i for i in order if i in wanted]
    stages = staged(checkpoint, spec)
    others: list[int] = []
    if stages:
        loaded = {i for s in stages for i in (*s.tensors, *(num_tensors + e for e in s.entries))}
        left, others = [i for i in left if i in loaded], [i for i in left if i not in loaded]
    taken = left
    if spec.sample < 1:
        # Evenly over the state dict: sum of floors takes ceil(n * sample) of n, the first always.
        taken = [i for k, i in enumerate(left) if _is_sampled(k, spec.sample)]
    sampled = set(taken)
    asked = [
        (f"left out by --filter {printable(spec.filter, 60)}", filtered),
        (f"left out by --stage {spec.stage}: of other stages{_by(stages)}", others),
        (f"left out by --sample {spec.sample:.3g}", [i for i in left if i not in sampled]),
    ]
    reasons: dict[str, list[str]] = {}
    tensors, entries = [], []
    rules = [rule for _, rule in placed(checkpoint, spec) if rule is not None]
    for i in taken:
        if i >= num_tensors:
            entry = checkpoint.bytes_entries[i - num_tensors]
            path = checkpoint.files[entry.file].path if entry.file >= 0 else ""
            why = _ESCAPES if is_escape(path) else refuses(entry)
        else:
            tensor = checkpoint.columns.tensor(i)
            why = _unverifiable(checkpoint, tensor) or refuses(tensor) or _torn(tensor, rules)
        if why:
            reasons.setdefault(why, []).append(names[i])
        elif i >= num_tensors:
            entries.append(i - num_tensors)
        else:
            tensors.append(i)
    for bad in checkpoint.malformed:
        fault = "of a kind that is not known" if bad.is_later else "malformed"
        what = f"its metadata is {fault}: {printable(bad.what, 200)}"
        reasons.setdefault(what, []).append(bad.fqn)
    on_request = [LeftOut(why, tuple(names[i] for i in it), True) for why, it in asked if it]
    left_out = [LeftOut(why, tuple(fqns)) for why, fqns in reasons.items()]
    return Selection(tuple(tensors), tuple(entries), (*on_request, *left_out), stages)


def _by(stages: Sequence[StageKeys]) -> str:
    told = {"placements": ", as [stages] says", "checkpoint": ", by what the files show (no proof)"}
    return told[stages[0].told_by] if stages else ""


_ESCAPES = "its file lies outside the checkpoint folder, and is not opened"


def _is_sampled(k: int, sample: float) -> bool:
    return math.ceil((k + 1) * sample) > math.ceil(k * sample)


def _torn(tensor: Tensor, rules: Sequence[TargetPlacements]) -> str:
    """Where torch's placements and what `fully_shard` makes of them are two things."""
    for rule in rules:
        lies, _ = rule.of(tensor.fqn, tensor.shape, tensor.index)
        for dim in lies.cut_dims:
            if lies.is_torn(dim, tensor.shape[dim]):
                return (
                    f"dim {dim} does not divide over {lies.axes_words(dim)}: FSDP over tensor "
                    "parallelism holds there what its placements do not say"
                )
    return ""


def _unverifiable(checkpoint: Checkpoint, tensor: Tensor) -> str:
    if tensor.layout != "strided":
        return f"DCP loads no {printable(tensor.layout, 40)} tensors"
    if tensor.dtype in _QUANTIZED:
        return f"no DTensor can be made of quantised elements ({tensor.dtype})"
    if itemsize(tensor.dtype) is None:
        return f"its element type {printable(tensor.dtype, 40)} is not known"
    files = np.unique(tensor.file[tensor.file >= 0]).tolist()
    return _ESCAPES if any(is_escape(checkpoint.files[f].path) for f in files) else ""


def local_bytes(shape: tuple[int, ...], dtype: str, mesh: Mesh) -> int:
    """Bytes of the largest local shard of `Shard(0)` on a mesh; all of a 0-d tensor."""
    size = itemsize(dtype) or 0
    if not shape:
        return size
    return -(-shape[0] // mesh.num_shards) * math.prod(shape[1:]) * size


def make_waves(
    checkpoint: Checkpoint, selection: Selection, spec: JobSpec
) -> tuple[list[Wave], list[LeftOut]]:
    """Groups of entries that each fit in the memory of a rank, in the order of the state dict.

    A wave costs a rank its local shards under the most costly of the job's meshes, and the
    largest payload, which torch reads whole however little of it a rank needs. FSDP1 gathers
    tensors whole to cut them, so there they cost far more. A tensor that does not fit even alone
    comes in blocks of rows, each a wave of its own.

    Returns:
        The waves, and the entries that do not fit whatever is done.
    """
    meshes = placed(checkpoint, spec)
    budget = int(spec.memory_bytes * _FILL)
    waves: list[Wave] = []
    too_large: dict[str, list[str]] = {}
    wave = Wave()
    chunks = num_blocks = 0
    for kind, index in _merged(checkpoint, selection):
        if kind == "stage":
            # What is loaded and saved at one time is of one stage.
            if wave.tensors or wave.entries:
                waves.append(wave)
                wave, chunks = Wave(), 0
            continue
        if kind == "tensor":
            tensor = checkpoint.columns.tensor(index)
            cost = _cost_of(tensor, tensor.shape, meshes, spec.via)
            largest, num = int(tensor.byte_length.max(initial=0)), tensor.num_chunks
            name = tensor.fqn
        else:
            entry = checkpoint.bytes_entries[index]
            # The loaded bytes, and ours beside them.
            cost, largest, num, name = entry.byte_length, entry.byte_length, 1, entry.fqn
        if cost + largest > budget:
            rows = _rows_at_once(tensor, meshes, spec.via, budget) if kind == "tensor" else 0
            count = -(-tensor.shape[0] // rows) if rows else 0
            if not count or num_blocks + count > _MAX_BLOCKS:
                what = "its largest payload" if largest >= budget else "a row of it"
                what = f"a block of rows, one of {_MAX_BLOCKS:,} at most," if count else what
                what = what if kind == "tensor" else "it"
                too_large.setdefault(what, []).append(name)
                continue
            num_blocks += count
            if wave.tensors or wave.entries:
                waves.append(wave)
                wave, chunks = Wave(), 0
            for number in range(count):
                first, last = number * rows, min((number + 1) * rows, tensor.shape[0])
                part = (last - first, *tensor.shape[1:])
                cost = _cost_of(tensor, part, meshes, spec.via)
                block = RowBlock(first, last, number, count)
                waves.append(Wave([index], [], cost, largest, block))
            continue
        count = len(wave.tensors) + len(wave.entries)
        is_full = wave.num_bytes + cost + max(wave.payload_bytes, largest) > budget
        if count and (is_full or count >= _WAVE_ENTRIES or chunks + num > _WAVE_CHUNKS):
            waves.append(wave)
            wave, chunks = Wave(), 0
        (wave.tensors if kind == "tensor" else wave.entries).append(index)
        wave.num_bytes += cost
        wave.payload_bytes = max(wave.payload_bytes, largest)
        chunks += num
    if wave.tensors or wave.entries:
        waves.append(wave)
    allowed = f"more memory on a rank than the {format_bytes(spec.memory_bytes)} allowed"
    return waves, [LeftOut(f"{what} needs {allowed}", tuple(f)) for what, f in too_large.items()]


_Meshes = Sequence[tuple[Mesh, TargetPlacements | None]]


def _rows_at_once(tensor: Tensor, meshes: _Meshes, via: str, budget: int) -> int:
    """How many rows of a tensor fit; 0 if a single one does not.

    Also 0 where two axes cut its rows: blocks of them would lie otherwise than the whole does.
    """
    for _, rule in meshes:
        if rule is not None:
            lies, _ = rule.of(tensor.fqn, tensor.shape, tensor.index)
            if len(lies.axes_of(0)) > 1:
                return 0
    room = budget - int(tensor.byte_length.max(initial=0))

    def fits(rows: int) -> bool:
        return _cost_of(tensor, (rows, *tensor.shape[1:]), meshes, via) <= room

    low, high = 0, tensor.shape[0] if tensor.shape else 0
    while low < high:
        rows = (low + high + 1) // 2
        low, high = (rows, high) if fits(rows) else (low, rows - 1)
    return low


def _cost_of(tensor: Tensor, shape: tuple[int, ...], meshes: _Meshes, via: str) -> int:
    """What a tensor, or rows of it of this shape, costs a rank, whichever mesh it is on."""
    size = itemsize(tensor.dtype) or 0
    local = 0
    for mesh, rule in meshes:
        if rule is None:
            local = max(local, local_bytes(shape, tensor.dtype, mesh))
        else:
            lies, _ = rule.of(tensor.fqn, shape, tensor.index)
            local = max(local, lies.largest(shape) * size)
    return _cost(local, math.prod(shape) * size, via)


def _cost(local: int, whole: int, via: str) -> int:
    """What a tensor costs a rank by each way, as measured with torch 2.13 on the CPU."""
    if via == "fsdp1":
        # Its flat parameter, the state dict, and every tensor gathered whole on the way in.
        return 2 * local + 3 * whole
    return local + local * 2 // 5 if via == "fsdp2" else local


def _merged(checkpoint: Checkpoint, selection: Selection) -> Iterator[tuple[str, int]]:
    """The selected entries, tensors and bytes mixed as in the state dict; before each stage it."""
    for number, (tensors, entries) in enumerate(selection.parts):
        yield "stage", number
        for i in checkpoint.order.tolist():
            if i in tensors:
                yield "tensor", i
            elif i - checkpoint.num_tensors in entries:
                yield "bytes", i - checkpoint.num_tensors


@dataclass(frozen=True, slots=True)
class Reads:
    """What all ranks of a mesh read together to load.

    Attributes:
        mesh: The mesh.
        needed_bytes: Sum of the ranks' shards.
        read_bytes: What torch's reader fetches for them: of every payload that a rank needs a
            part of, all.
    """

    mesh: str
    needed_bytes: int
    read_bytes: int


def loading(
    checkpoint: Checkpoint,
    tensors: Sequence[int],
    mesh: Mesh,
    rules: TargetPlacements | None = None,
) -> Reads:
    """The load of some tensors under a mesh, each cut by `Shard(0)` (a 0-d one: replicated).

    On a mesh that is not plain they lie as `rules` says.

    The job takes the metadata of every rank, where there is such, as one.
    """
    plan = Planner(replace(checkpoint, per_rank_metadata=False), tensors, ()).plan(mesh, rules)
    return Reads(str(mesh), plan.bytes_needed, plan.bytes_read)


def reloading(num_bytes: int, saved_under: Mesh, mesh: Mesh) -> Reads:
    """The load of what was saved under another mesh: evenly cut over S, read by T ranks.

    A rank's shard then overlaps with so many payloads that in all S + T - gcd(S, T) pairs of a
    shard and a payload share elements.
    """
    # Of axes by name all but replicas are taken to cut: it is a forecast.
    old, new = (m.world_size // m.num_replicas for m in (saved_under, mesh))
    pairs = old + new - math.gcd(old, new)
    needed = num_bytes * mesh.num_replicas
    return Reads(str(mesh), needed, needed * pairs // old)
