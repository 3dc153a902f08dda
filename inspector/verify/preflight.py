"""What a job will do, and whether it can: everything that is known before torchrun starts.

The same value is the confirm screen's, the command line's and `--print-command`'s. Imports no
torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.outside import lies_inside, refuse_inside
from inspector.checkpoint.storage.base import address_of, is_url
from inspector.checkpoint.text import HIDDEN, format_bytes, plural, printable
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.target.file import PlacementLine, StageLine
from inspector.layout.target.stages import StageRequest
from inspector.verify import machine
from inspector.verify.events import LONG_NAME
from inspector.verify.job.run_folder import scratch_dir
from inspector.verify.machine import Interpreter, examine
from inspector.verify.result import ExpectedEntries
from inspector.verify.selection import (
    Reads,
    Wave,
    loading,
    make_waves,
    placed,
    reloading,
    select,
    staged,
)
from inspector.verify.spec import DEVICES, JobSpec, default_then

__all__ = ["NO_SECOND_MESH", "RANK_BASE_BYTES", "Preflight", "prepare", "too_many_ranks"]

#: As `then`: load and compare only, write nothing.
NO_SECOND_MESH = ("none",)

#: Memory of a rank before it holds a tensor: Python and torch, on the CPU.
RANK_BASE_BYTES = 250 << 20
_LEAST_BYTES = 64 << 20
#: The first torch whose reader of safetensors is public, and takes sharded files.
_HF_TORCH = (2, 8)
_MAX_TIMEOUT_S = 30 * 86400.0
#: Of the memory that is free, so much is the ranks' to hold tensors in.
_SHARE = 0.5
#: Payload headers and the scratch's own metadata.
_SCRATCH_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class Preflight:
    """A job, resolved, and what it takes.

    Attributes:
        spec: The job; device, backend, memory, second mesh and interpreter are decided.
        interpreter: What runs the ranks.
        expected: The entries it will verify, and those it leaves out.
        num_bytes: Their bytes, each tensor once.
        num_waves: In how many parts they are loaded, one after the other.
        rank_bytes: What the largest part takes of a rank's memory: its shards, and a payload.
        reads: What loading reads, for each mesh in turn; comparing reads as much as is needed
            once more, mostly from the page cache.
        scratch_parent: Where the scratch folder will be made.
        scratch_bytes: What the saved copy takes there; 0 if nothing is saved.
        scratch_free: What is free there, or None.
        memory_free: What is free on this machine.
        notes: What the user should know, in sentences.
        problems: Why it cannot run here; pairs of the reason and a hint.
    """

    spec: JobSpec
    interpreter: Interpreter
    expected: ExpectedEntries
    num_bytes: int
    num_waves: int
    rank_bytes: int
    reads: tuple[Reads, ...]
    scratch_parent: str
    scratch_bytes: int
    scratch_free: int | None
    memory_free: int
    notes: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]

    @property
    def read_bytes(self) -> int:
        """All that torch will read."""
        return sum(reads.read_bytes for reads in self.reads)

    def check(self) -> None:
        """Raise the first problem, if there is one.

        Raises:
            UsageError: The job cannot run here.
        """
        for message, hint in self.problems:
            raise UsageError(message, hint)


def prepare(
    checkpoint: Checkpoint,
    mesh: str,
    *,
    then: Sequence[str] = (),
    via: str = "dtensor",
    device: str = "auto",
    memory_bytes: int | None = None,
    filter_text: str = "",
    sample: float = 1.0,
    scratch: str = "",
    python: str = "",
    imports: Sequence[str] = (),
    unpickle: bool = False,
    timeout_s: float = 600.0,
    backend: str = "",
    placements: Sequence[PlacementLine] = (),
    stage: str = "",
    stages: Sequence[StageLine] = (),
    is_elsewhere: bool = False,
) -> Preflight:
    """Resolve a job for this machine.

    Args:
        checkpoint: The checkpoint, read.
        mesh: `fsdp:S`, `hsdp:RxS`, or axes by name.
        then: Second meshes; empty for the default one, `NO_SECOND_MESH` for none.
        via: As in `JobSpec`.
        device: `auto`, `cpu` or `cuda`.
        memory_bytes: What a rank may hold (default: a share of what is free).
        filter_text: As in `JobSpec.filter`.
        sample: As in `JobSpec`.
        scratch: Folder for the scratch folder (default: where there is room).
        python: Interpreter of the ranks (default: this one).
        imports: As in `JobSpec`.
        unpickle: As in `JobSpec`.
        timeout_s: As in `JobSpec`.
        backend: `gloo` or `nccl` (default: nccl with a GPU for each rank).
        placements: What `--placements` says.
        stage: As in `JobSpec`.
        stages: What its `[stages]` say.
        is_elsewhere: It will run on other machines, whatever GPUs there are here.

    Raises:
        UsageError: Arguments that cannot be meant, an interpreter that cannot run it, or a
            checkpoint that torch cannot load from where it lies.
    """
    parsed = Mesh.parse(mesh)
    if device not in DEVICES:
        raise UsageError(f"--device {printable(device)}: it is one of {', '.join(DEVICES)}")
    if not 0 < timeout_s <= _MAX_TIMEOUT_S:  # NaN is neither.
        raise UsageError(
            f"--timeout {timeout_s:g}: it is more than 0 seconds and at most 30 days",
            "without progress for so long, a job counts as stuck",
        )
    if tuple(then) == NO_SECOND_MESH:
        second: tuple[str, ...] = ()
    else:
        second = tuple(then) or (str(default_then(parsed)),)
    path = checkpoint.path
    if is_url(path) and (HIDDEN in path or address_of(path) != path):
        raise UsageError(
            "a job records what it ran, so an address with a password or a signature in it is not "
            "handed to it",
            "give the credentials as the storage's own tools take them, not in the address",
        )
    spec = JobSpec(
        path=path if is_url(path) else os.path.abspath(path),
        mesh=str(parsed),
        then=tuple(str(Mesh.parse(text)) for text in second),
        via=via,
        filter=filter_text,
        sample=sample,
        timeout_s=timeout_s,
        imports=tuple(imports),
        unpickle=unpickle,
        placements=tuple((line.pattern, str(line)) for line in placements),
        stage=stage and str(StageRequest.parse(stage)),
        stages=tuple((line.pattern, str(line)) for line in stages) if stage else (),
    )
    refuse_inside("--scratch", scratch, [spec.path])
    interpreter = examine(python, spec.path)
    if checkpoint.format == "safetensors":
        _check_safetensors(checkpoint, interpreter)
    if backend == "nccl" and device == "cpu":
        raise UsageError("--backend nccl needs GPUs", "--device cuda takes them")
    here = "cpu" if is_elsewhere else device
    device, backend, gpus, notes = _resolve_device(here, spec, interpreter, backend)
    free = machine.free_memory()
    memory = memory_bytes or _memory_share(free, gpus, spec.world_size)
    spec = dataclasses.replace(
        spec,
        device=device,
        backend=backend,
        memory_bytes=memory,
        python=interpreter.path,
        gpus=tuple(gpu.uuid for gpu in gpus) if all(gpu.uuid for gpu in gpus) else (),
    )
    expected, tensors, waves = _expect(checkpoint, spec)
    waves_bytes = [wave.stored_bytes(checkpoint) for wave in waves]
    num_bytes = sum(waves_bytes)
    meshes = [parsed, *map(Mesh.parse, spec.then)]
    (_, rules), *_ = placed(checkpoint, spec)
    if rules is not None:
        for pattern in rules.unmatched(checkpoint.columns.fqns):
            raise UsageError(
                f"--placements: {printable(pattern, 80)} matches no tensor",
                "names are those that `show` lists; * stands for any characters",
            )
    reads = [loading(checkpoint, tensors, parsed, rules)]
    reads += [reloading(num_bytes, a, b) for a, b in itertools.pairwise(meshes)]
    parent = scratch or machine.roomiest(*_scratch_places(spec.path))
    # A wave at a time, but while it is loaded under one mesh it is saved for the next.
    copies = min(len(spec.then), 2)
    needed = int(max(waves_bytes, default=0) * _SCRATCH_MARGIN) * copies + (1 << 20) * bool(copies)
    room = machine.free_disk(parent)
    problems = list(_problems(spec, expected, free, parent, needed, room))
    notes += [part.words for part in staged(checkpoint, spec)]
    notes += _beside(checkpoint)
    if cut := sum(wave.rows is not None and wave.is_first for wave in waves):
        count = sum(wave.rows is not None for wave in waves)
        notes.append(
            f"{plural(cut, 'tensor')} larger than the memory of a rank: verified in {count:,} "
            "blocks of rows, for each of which torch reads the payloads it meets whole"
        )
    if checkpoint.unsafe_globals:
        named = ", ".join(printable(name, 60) for name in checkpoint.unsafe_globals[:3])
        notes.append(
            f"the metadata names code to be run ({named}): torch is not let near it, so the result "
            "will not be EXACT; the payloads are loaded from our own reading and compared"
        )
    for why, fqns in expected.left_out:
        partly = "" if why in expected.asked else ", so the result will be partial"
        notes.append(f"{plural(len(fqns), 'entry', 'entries')} not verified{partly}: {why}")
    return Preflight(
        spec=spec,
        interpreter=interpreter,
        expected=expected,
        num_bytes=num_bytes,
        num_waves=len(waves),
        rank_bytes=max((wave.num_bytes + wave.payload_bytes for wave in waves), default=0),
        reads=tuple(reads),
        scratch_parent=parent,
        scratch_bytes=needed,
        scratch_free=room,
        memory_free=free,
        notes=tuple(notes),
        problems=tuple(problems),
    )


def _check_safetensors(checkpoint: Checkpoint, interpreter: Interpreter) -> None:
    """Raise if `HuggingFaceStorageReader` cannot run there, or not on these files.

    Raises:
        UsageError: It cannot; check and plan still can.
    """
    hint = "hsdp-inspect check --deep reads all of it, and plan says who would read what"
    if is_url(checkpoint.path):
        raise UsageError(
            f"{printable(checkpoint.path)}: it is safetensors behind an address, and "
            "HuggingFaceStorageReader opens local files alone",
            hint,
        )
    python = printable(interpreter.path, 200)
    if not interpreter.has_safetensors:
        raise UsageError(
            f"{python} has no safetensors, by which torch reads these files",
            "pip install safetensors there, or --python takes another environment",
        )
    version = re.match(r"(\d+)\.(\d+)", interpreter.torch)
    if version is not None and (int(version[1]), int(version[2])) < _HF_TORCH:
        raise UsageError(
            f"{python} has torch {printable(interpreter.torch, 40)}; HuggingFaceStorageReader, "
            f"which loads safetensors, came with torch {_HF_TORCH[0]}.{_HF_TORCH[1]}",
            hint,
        )


def _beside(checkpoint: Checkpoint) -> list[str]:
    """Files of the folder that are no part of a safetensors checkpoint, but that torch reads."""
    stored = checkpoint.stored
    if stored is None:
        return []
    others = [file.path for file in checkpoint.files if file.path not in stored.paths]
    if not others:
        return []
    what = f"{plural(len(others), 'safetensors file')} ({printable(others[0], 80)} is one)"
    return [f"HuggingFaceStorageReader also reads {what} of the folder, no part of the checkpoint"]


def _scratch_places(path: str) -> list[str]:
    """Where scratch folders may go by default: not into the checkpoint."""
    place = str(scratch_dir())
    return [] if not is_url(path) and lies_inside(place, path) else [place]


def _resolve_device(
    device: str, spec: JobSpec, interpreter: Interpreter, backend: str
) -> tuple[str, str, list[machine.Gpu], list[str]]:
    """Device, backend, the GPUs that are used, and what to say of it.

    Raises:
        UsageError: What was asked for cannot be had here.
    """
    if device == "cpu":
        return "cpu", "gloo", [], []
    found, size = machine.gpus(), spec.world_size
    why = ""
    if found and not interpreter.has_cuda:
        why = f"the torch of {printable(interpreter.path, 200)} was built without CUDA"
    elif not found:
        why = machine.why_no_gpu()
    if why or not found:
        absent = why or "there is no NVIDIA GPU here"
        if device == "cuda" or backend == "nccl":
            asked = "--device cuda" if device == "cuda" else "--backend nccl"
            raise UsageError(f"{asked}: {absent}", "--device cpu runs the ranks on the CPU")
        return "cpu", "gloo", [], [f"{why}: the ranks run on the CPU"] if why else []
    used = _roomiest_gpus(found, size)
    if len(used) >= size:
        return "cuda", backend or "nccl", used, _notes_on(used)
    shared = f"{plural(size, 'rank')} share {plural(len(used), 'GPU')}"
    if backend == "nccl":
        raise UsageError(
            f"--backend nccl: {shared}, and nccl needs a GPU for each rank",
            "leave it out: gloo is enough for loading and saving",
        )
    if spec.via == "fsdp1":
        raise UsageError(
            f"--via fsdp1: {shared}, where FSDP1 does not work",
            "--via fsdp2 or dtensor, or --device cpu",
        )
    return "cuda", "gloo", used, [f"{shared}, over gloo: nccl needs a GPU for each rank"]


def _roomiest_gpus(found: list[machine.Gpu], num_ranks: int) -> list[machine.Gpu]:
    """The GPUs to use, in CUDA's order: of as many as there are ranks those with the most room.

    Where ranks have to share, one that somebody else has filled is left out if that gives each
    rank more: the ranks go through the same waves, and the least room is everybody's.
    """
    free = [gpu.free_bytes for gpu in found]
    if any(n is None or not gpu.uuid for n, gpu in zip(free, found, strict=True)):
        return found[:num_ranks]  # Which is which cannot be told.
    order = sorted(range(len(found)), key=lambda i: -(free[i] or 0))
    counts = range(1, len(found) + 1) if len(found) < num_ranks else [num_ranks]

    def room(count: int) -> tuple[int, int]:
        return (free[order[count - 1]] or 0) // -(-num_ranks // count), count

    return [found[i] for i in sorted(order[: max(counts, key=room)])]


def _notes_on(used: list[machine.Gpu]) -> list[str]:
    """Whether one GPU bounds what every rank may hold."""
    known = sorted(gpu.free_bytes for gpu in used if gpu.free_bytes is not None)
    if not known or known[0] * 2 >= known[len(known) // 2]:
        return []
    rest = format_bytes(known[len(known) // 2])
    return [
        f"a GPU has {format_bytes(known[0])} free, others {rest}: it bounds what every rank holds"
    ]


def _memory_share(free: int, gpus: list[machine.Gpu], world_size: int) -> int:
    share = int((free - world_size * RANK_BASE_BYTES) * _SHARE) // world_size
    known = [gpu.free_bytes for gpu in gpus if gpu.free_bytes is not None]
    if known:
        ranks_per_gpu = -(-world_size // len(gpus))
        share = min(share, int(min(known) * _SHARE) // ranks_per_gpu)
    return max(share, _LEAST_BYTES)


def _expect(checkpoint: Checkpoint, spec: JobSpec) -> tuple[ExpectedEntries, list[int], list[Wave]]:
    """The entries of the job, the tensors among them, and the waves they come in."""
    selection = select(checkpoint, spec)
    waves, too_large = make_waves(checkpoint, selection, spec)
    tensors = [i for wave in waves if wave.is_first for i in wave.tensors]
    entries = [checkpoint.bytes_entries[i] for wave in waves for i in wave.entries]
    # A bytes entry of per-rank metadata is there once for each rank.
    names = dict.fromkeys(
        [*(checkpoint.columns.fqns[i] for i in tensors), *(entry.fqn for entry in entries)]
    )
    groups = [*selection.left_out, *too_large]
    left_out = tuple((item.why, item.fqns) for item in groups)
    asked = frozenset(item.why for item in groups if item.is_asked)
    long_names = {i: fqn for i, fqn in enumerate(checkpoint.fqns) if len(fqn) > LONG_NAME}
    return ExpectedEntries(tuple(names), left_out, asked, long_names), tensors, waves


def _problems(
    spec: JobSpec, expected: ExpectedEntries, free: int, scratch: str, needed: int, room: int | None
) -> list[tuple[str, str]]:
    found = []
    if not expected.names:
        why = "no name matches the filter" if spec.filter else "there is nothing in it to verify"
        found.append((why, "hsdp-inspect show lists what is in it"))
    if why := too_many_ranks(spec.world_size, free):
        found.append((why, "take a smaller mesh, or run it on several nodes: --print-command"))
    if needed and room is not None and needed > room:
        why = (
            f"the saved copy needs {format_bytes(needed)} of scratch space; "
            f"{printable(scratch, 200)} has {format_bytes(room)} free"
        )
        found.append((why, "--scratch DIR takes another disk, --then none saves nothing"))
    elif needed and not _is_writable(scratch):
        why = f"{printable(scratch, 200)} cannot be written to"
        found.append((why, "--scratch DIR takes another place"))
    return found


def too_many_ranks(world_size: int, free: int | None = None) -> str:
    """Why so many ranks cannot run on this machine, or nothing."""
    free = machine.free_memory() if free is None else free
    base = world_size * RANK_BASE_BYTES
    if base <= free:
        return ""
    return (
        f"{plural(world_size, 'rank')} need about {format_bytes(base)} of memory before "
        f"they load anything; {format_bytes(free)} is free"
    )


def _is_writable(folder: str) -> bool:
    path = os.path.abspath(folder)
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
