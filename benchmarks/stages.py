"""Opening a million chunks: where its time goes, and whether that depends on how it is written.

    python benchmarks/stages.py stages [--rounds 5] [--shape 1000x1024]... [--dir DIR]
    python benchmarks/stages.py forms  [--rounds 5] [--torch-rounds 1] [--shape 250x1024]

`stages`: CPU time (user and system) of each stage of `hsdp-inspect show` until its summary, without
the cache. The child that reads the metadata runs as the program starts it, with a clock around each
of its parts (what one part spends in another is the other's); so does what the front end does.
Beside them, on the same file in the page cache, the physical limit: reading it once, in blocks of
4 MiB into the same memory, and hashing it with SHA-256. Medians. Writes results/stages.json.

`forms`: metadata of the same tensors, as other writers have it or as other state dicts make it:
CPU and wall time of our first opening until the summary, without a cache, and of a process that
calls torch's `read_metadata()`; ratios of their medians.

    usual    what torch writes for tensors cut along dim 0
    tensors  places in the order of the tensors, not of the ranks
    copies   no string is shared: each place has its own copies of the name and the path
    grid     the tensors with two dims are cut along both
    bytes    an optimizer's state: for each tensor nine entries that are no tensors, of rank 0
    between  an entry that is no tensor behind every 16th place

Writes results/forms.json.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from measuring import (
    ROOT,
    Ran,
    arguments,
    dispatch,
    environ,
    in_turn,
    machine,
    run,
    run_code,
    spread,
    workspace,
    write,
)
from open import SHAPES, TORCH, compile_torch, made

#: Parts of the child, by stage: module under `inspector.checkpoint`, name of what is called.
STAGES: dict[str, list[tuple[str, str]]] = {
    "reading the file": [("pickle.frames", "Opcodes.read_into")],
    "looking for records": [("pickle.splice", "objects")],
    "chunks": [("pickle.records", "ChunkForm.read")],
    "stored places": [("pickle.records", "StoredForm.read")],
    "tensors and paths": [("pickle.entries", "TensorForm.read"), ("pickle.splice", "read_paths")],
    "strings of records": [("pickle.walk", "OpcodeWalk._note_strings")],
    "opcodes between records": [("pickle.walk", "OpcodeWalk.go")],
    "windows and columns": [("pickle.splice", "_Splicing.read")],
    "the rest of the pickle, through the gate": [("pickle.splice", "_Splicing.result")],
    "joining places to chunks": [("pickle.bulk", "_Bulk.add"), ("pickle.bulk", "_Bulk.columns")],
    "header": [("pickle.bulk", "_Bulk.header")],
    "sending": [("child.wire", "encode")],
}

CHILD = """
import sys, time
package, packages, path, stages = sys.argv[1:]
sys.path[:0] = [package]
sys.path.append(packages)
import gc, importlib, io, json, os
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import inspector.checkpoint.child.program
import inspector.checkpoint.pickle.bulk
clock = time.process_time
spent, stack = {}, []
def timed(stage, call):
    def wrapped(*args, **kwargs):
        begin = clock()
        stack.append(0.0)
        try:
            return call(*args, **kwargs)
        finally:
            took = clock() - begin
            spent[stage] = spent.get(stage, 0.0) + took - stack.pop()
            if stack:
                stack[-1] += took
    return wrapped
for stage, parts in json.loads(stages).items():
    for module, name in parts:
        owner = importlib.import_module("inspector.checkpoint." + module)
        *within, last = name.split(".")
        for part in within:
            owner = getattr(owner, part)
        setattr(owner, last, timed(stage, getattr(owner, last)))
gc.disable()
spent["start and imports"] = clock()
fd = os.open(path, os.O_RDONLY)
found = inspector.checkpoint.pickle.bulk.read_bulk(fd, os.fstat(fd).st_size, lambda _: None)
with open(os.devnull, "wb") as out:
    for piece in inspector.checkpoint.child.wire.encode(*found):
        out.write(piece)
spent["in all"] = clock()
print(json.dumps(spent))
sys.stdout.flush()
os._exit(0)
"""

FRONT = """
import json, os, resource, sys, time
from inspector.cli import group  # What any command imports.
from inspector.checkpoint import open_checkpoint
imported = time.process_time()
checkpoint = open_checkpoint(sys.argv[1])
opened = time.process_time()
child = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"imports": imported, "columns": opened - imported, "chunks": checkpoint.columns
                  and len(checkpoint.columns.file), "child": child.ru_utime + child.ru_stime}))
sys.stdout.flush()
os._exit(0)
"""

LIMIT = """
import hashlib, json, sys, time
def cpu(call):
    begin, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - begin, time.perf_counter() - wall
block = bytearray(4 << 20)
def read():
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.readinto(block):
            pass
data = open(sys.argv[1], "rb").read()
found = {"read": cpu(read), "hash": cpu(lambda: hashlib.sha256(data).digest())}
print(json.dumps({name: {"cpu": c, "wall": w} for name, (c, w) in found.items()}))
"""


def stages(told: list[str]) -> None:
    """Where the time of opening goes, beside the physical limit."""
    parser = arguments(stages.__doc__, "stages", rounds=5)
    parser.add_argument("--shape", action="append", help=f"default: {', '.join(SHAPES)}")
    options = parser.parse_args(told)
    shapes: dict[str, Any] = {}
    kept = contextlib.nullcontext(Path(options.dir or "."))
    with kept if options.dir else workspace("stages", need_bytes=1e9) as root:
        for shape in options.shape or SHAPES:
            shapes[shape] = _stages(made(root, shape), options.rounds)
            print(json.dumps({shape: shapes[shape]}, indent=1), flush=True)
    result = {
        "what": "CPU seconds of each stage of opening, without the cache, beside reading and "
        "hashing the same file",
        "rounds": options.rounds,
        "shapes": shapes,
        "machine": machine(),
    }
    write(options.out, result)


def _stages(folder: Path, rounds: int) -> dict[str, Any]:
    path = str(folder / ".metadata")
    env = environ(HSDP_INSPECT_NO_CACHE="1")
    packages = str(Path(distribution("numpy").locate_file("")))
    child = [sys.executable, "-I", "-S", "-c", CHILD, str(ROOT), packages, path, json.dumps(STAGES)]
    show = [sys.executable, "-m", "inspector", "show", str(folder)]
    runs: dict[str, list[Any]] = in_turn(
        {
            "command": lambda: run(show, env, until="files", to_end=False),
            "child": lambda: run(child, env).answer,
            "front": lambda: run_code(FRONT, [str(folder)], env).answer,
            "limit": lambda: run_code(LIMIT, [path], env).answer,
        },
        rounds,
    )
    names = list(runs["child"][0])
    names.remove("in all")
    by_stage = {
        name: spread((each.get(name, 0.0) for each in runs["child"]), 4)
        for name in ["start and imports", *(n for n in STAGES if n in names)]
    }
    whole: list[Ran] = runs["command"]
    return {
        "metadata_bytes": Path(path).stat().st_size,
        "command": {
            "cpu_s": spread(one.cpu_s for one in whole),
            "wall_s": spread(one.answer_s for one in whole),
        },
        "child": {**by_stage, "in all": spread((each["in all"] for each in runs["child"]), 4)},
        "front": {
            name: spread((each[name] for each in runs["front"]), 4)
            for name in ("imports", "columns")
        },
        "limit": {
            name: {
                of: spread((each[name][of] for each in runs["limit"]), 4) for of in ("cpu", "wall")
            }
            for name in ("read", "hash")
        },
    }


# forms

FORM = """
import gc, os, pickle, sys
from dataclasses import replace
from pathlib import Path
gc.disable()
from tests.helpers.make_metadata import make, tensors_of
import torch
from torch.distributed.checkpoint import metadata as dcp
shape, folder, forms = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]

def copied(text):
    return text.encode().decode()

def tensors(metadata):
    places = sorted(metadata.storage_data.items(), key=lambda item: item[0].fqn)
    metadata.storage_data = dict(places)

def copies(metadata):
    for info in metadata.storage_data.values():
        info.relative_path = copied(info.relative_path)

def grid(metadata):
    moved = {}
    for fqn, entry in metadata.state_dict_metadata.items():
        if len(entry.size) != 2:
            continue
        for number, chunk in enumerate(entry.chunks):
            wide = len(entry.chunks) // 32
            box = -(-entry.size[0] // 32), entry.size[1] // wide
            at = tuple(size * place for size, place in zip(box, divmod(number, wide)))
            last = tuple(min(a + b, whole) - a for a, b, whole in zip(at, box, entry.size))
            moved[fqn, chunk.offsets] = torch.Size(at)
            chunk.offsets, chunk.sizes = torch.Size(at), torch.Size(last)
    metadata.storage_data = {
        replace(index, offset=moved.get((index.fqn, index.offset), index.offset)): info
        for index, info in metadata.storage_data.items()
    }

KINDS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable",
         "differentiable")

def bytes_(metadata):
    first = next(iter(metadata.storage_data.values()))
    places = {}
    for fqn in list(metadata.state_dict_metadata):
        for number, kind in enumerate(KINDS):
            name = f"optimizer.param_groups.{fqn}.{kind}"
            metadata.state_dict_metadata[name] = dcp.BytesStorageMetadata()
            places[dcp.MetadataIndex(copied(name))] = type(first)(first.relative_path, number, 1)
            metadata.planner_data[copied(name)] = ("optimizer", "param_groups", fqn, kind)
    metadata.storage_data = {**places, **metadata.storage_data}

def between(metadata):
    first = next(iter(metadata.storage_data.values()))
    mixed = []
    for number, place in enumerate(metadata.storage_data.items()):
        mixed.append(place)
        if number % 16 == 0:
            name = f"extra.{number}"
            metadata.state_dict_metadata[name] = dcp.BytesStorageMetadata()
            info = type(first)(place[1].relative_path, number, 1)
            mixed.append((dcp.MetadataIndex(copied(name)), info))
    metadata.storage_data = dict(mixed)

known = {"usual": None, "tensors": tensors, "copies": copies, "grid": grid, "bytes": bytes_,
         "between": between}
wanted, world = tensors_of(shape)
made = make(folder / "usual", wanted, world)
text = (folder / "usual" / ".metadata").read_bytes()
files = {path.name: path.stat().st_size for path in (folder / "usual").glob("*.distcp")}
for form in forms:
    if form == "usual":
        continue
    metadata = pickle.loads(text)
    known[form](metadata)
    (folder / form).mkdir()
    with open(folder / form / ".metadata", "wb") as file:
        pickle.dump(metadata, file)
    for name, size in files.items():
        with open(folder / form / name, "wb") as file:
            file.truncate(size)
os._exit(0)
"""

FORMS = {
    "usual": "as torch writes them",
    "tensors": "places in the order of the tensors",
    "copies": "no string shared",
    "grid": "cut along two dims",
    "bytes": "nine bytes entries for each tensor",
    "between": "a bytes entry behind every 16th place",
}


def forms(told: list[str]) -> None:
    """Opening metadata of other forms, beside torch."""
    parser = arguments(forms.__doc__, "forms", rounds=5)
    parser.add_argument("--shape", default="250x1024")
    parser.add_argument("--torch-rounds", type=int, default=1, help="of those, torch runs in")
    options = parser.parse_args(told)
    compile_torch()
    found: dict[str, Any] = {}
    env = environ(HSDP_INSPECT_NO_CACHE="1")
    with workspace("forms", options.dir, need_bytes=1e9) as root:
        command = [sys.executable, "-c", FORM, options.shape, str(root), *FORMS]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT, env=env)
        for name, what in FORMS.items():
            ours = [sys.executable, "-m", "inspector", "show", str(root / name)]
            theirs = [sys.executable, "-c", TORCH, str(root / name)]
            runs = in_turn(
                {
                    "ours": partial(run, ours, env, until="files", to_end=False),
                    "torch": partial(run, theirs, env, until="files"),
                },
                options.rounds,
                warm_up="ours",
                fewer={"torch": options.torch_rounds},
            )
            row: dict[str, Any] = {
                "what": what,
                "metadata_bytes": (root / name / ".metadata").stat().st_size,
            }
            for who, outcomes in runs.items():
                row[who] = {
                    "cpu_s": spread(one.cpu_s for one in outcomes),
                    "wall_s": spread(one.answer_s for one in outcomes),
                    "peak_mb": spread((one.peak_bytes / 1e6 for one in outcomes), 1),
                }
            row["torch"]["wall_s"] = spread(one.wall_s for one in runs["torch"])
            found[name] = row
            print(json.dumps({name: row}), flush=True)
            shutil.rmtree(root / name)
    count, world = map(int, options.shape.split("x"))
    result = {
        "what": "first opening until the summary, no cache, of other forms, beside torch",
        "chunks": count * world,
        "rounds": options.rounds,
        "torch_rounds": options.torch_rounds,
        "target": {"to_usual": 1.1},
        "forms": found,
        "machine": machine(),
    }
    write(options.out, result)


SUBJECTS = {"stages": stages, "forms": forms}

if __name__ == "__main__":
    dispatch(__doc__, SUBJECTS)
