"""`export --format torch` beside torch's own `dcp_to_torch_save`: wall time and peak memory.

    python benchmarks/export.py export [--gb 1] [--rounds 5] [--dir DIR]

Makes two checkpoints of the same tensors with torch's own classes, one over 8 files and one over
1,024 (a chunk of every tensor in each, cut along the first dim), and one over 1,024 files cut along
the last; then writes each to one file, in turn, each time in a fresh process:

    torch    `torch.distributed.checkpoint.format_utils.dcp_to_torch_save`, then fsync
    export   `inspector.export`, from opening the checkpoint to the renamed file: every CRC32
             compared, the result read again and compared with the source, fsync
    safetensors   the same into one safetensors file

`s` is the work inside the process, `process_s` the process from start to end, with Python's start
and imports (torch's among them). The sources are in the page cache. `--dir /dev/shm` leaves the
disk out of it, which both wait for otherwise. Writes results/export.json.
"""

from __future__ import annotations

import json
import os
import statistics
from functools import partial
from pathlib import Path

from measuring import arguments, dispatch, in_turn, machine, run_code, workspace, write

MAKE = """
import os, pickle, sys, torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata)
folder, ranks, gb, dim = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
os.makedirs(folder)
shape = [8192, 4096]
num = max(round(gb * 1e9 / (2 * 8192 * 4096)), 1)
torch.manual_seed(0)
full = torch.randn(shape).to(torch.bfloat16)
described, stored = {}, {}
size = shape[dim] // ranks
for rank in range(ranks):
    name = f"__{rank}_0.distcp"
    with open(os.path.join(folder, name), "wb") as file:
        for number in range(num):
            fqn = f"model.layers.{number}.weight"
            piece = full.narrow(dim, rank * size, size).clone(memory_format=torch.contiguous_format)
            piece[0, 0] = number
            begin = file.tell()
            torch.save(piece, file)
            offsets = [0, 0]
            offsets[dim] = rank * size
            index = MetadataIndex(fqn, torch.Size(offsets), rank)
            stored[index] = _StorageInfo(name, begin, file.tell() - begin)
            if fqn not in described:
                properties = TensorProperties(dtype=torch.bfloat16)
                described[fqn] = TensorStorageMetadata(properties, torch.Size(shape), [])
            described[fqn].chunks.append(ChunkStorageMetadata(torch.Size(offsets), piece.shape))
metadata = Metadata(described, {name: (name,) for name in described}, stored)
with open(os.path.join(folder, ".metadata"), "wb") as file:
    pickle.dump(metadata, file)
print("{}")
"""

TORCH = """
import json, os, sys, time
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
begin = time.perf_counter()
dcp_to_torch_save(sys.argv[1], sys.argv[2])
with open(sys.argv[2], "rb") as file:
    os.fsync(file.fileno())
print(json.dumps({"s": time.perf_counter() - begin, "bytes": os.path.getsize(sys.argv[2])}))
os.unlink(sys.argv[2])
"""

EXPORT = """
import json, os, sys, time
from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.export.run import export
from inspector.export.selection import ExportRequest, select
begin = time.perf_counter()
storage = folder_of(sys.argv[1])
checkpoint = read_checkpoint(storage)
selection = select(checkpoint, storage, ExportRequest(sys.argv[3]))
report = export(checkpoint, storage, selection, sys.argv[2])
assert report.verdict == "written" and not report.num_unchecked, report
print(json.dumps({"s": time.perf_counter() - begin, "bytes": os.path.getsize(sys.argv[2])}))
os.unlink(sys.argv[2])
"""


def measured(code: str, told: list[str]) -> dict[str, float]:
    """What code in a fresh process printed last, the process's time and its peak memory."""
    ran = run_code(code, told)
    return {**ran.answer, "wall_s": ran.wall_s, "peak_bytes": ran.peak_bytes}


def measure(checkpoint: Path, output: Path, rounds: int) -> dict[str, object]:
    """All three, in turn, `rounds` times after one that warms the page cache."""
    told = [str(checkpoint), str(output)]
    jobs = {
        "torch": (TORCH, told),
        "export": (EXPORT, [*told, "torch"]),
        "safetensors": (EXPORT, [*told, "safetensors"]),
    }
    runs = in_turn({name: partial(measured, *job) for name, job in jobs.items()}, rounds)
    found: dict[str, dict[str, float]] = {}
    for name, outcomes in runs.items():
        found[name] = {
            "median_s": round(statistics.median(o["s"] for o in outcomes), 3),
            "least_s": round(min(o["s"] for o in outcomes), 3),
            "median_process_s": round(statistics.median(o["wall_s"] for o in outcomes), 3),
            "peak_mb": round(max(o["peak_bytes"] for o in outcomes) / 1e6, 1),
        }
    for value in found.values():
        value["ratio"] = round(value["median_s"] / found["torch"]["median_s"], 3)
        value["process_ratio"] = round(
            value["median_process_s"] / found["torch"]["median_process_s"], 3
        )
    return {**found, "bytes": int(runs["torch"][0]["bytes"])}


def export(told: list[str]) -> None:
    """Exporting to one file, beside torch."""
    options = arguments(export.__doc__ or "", "export", rounds=5, gb=1.0).parse_args(told)
    results: dict[str, object] = {}
    with workspace("export", options.dir, need_bytes=3.2e9 * options.gb) as root:
        for name, ranks, dim in (("8", 8, 0), ("1024", 1024, 0), ("1024_columns", 1024, 1)):
            checkpoint = root / f"ck-{name}"
            run_code(MAKE, [str(checkpoint), str(ranks), str(options.gb), str(dim)])
            results[name] = measure(checkpoint, root / "out", options.rounds)
            for path in checkpoint.iterdir():
                path.unlink()
            os.rmdir(checkpoint)
    parts = [value for value in results.values() if isinstance(value, dict)]
    document = {
        "what": f"one file of {options.gb:g} GB from 8 and 1,024 files, beside dcp_to_torch_save",
        "rounds": options.rounds,
        **results,
        "target": {"ratio": 0.6, "peak_mb": 300},
        "holds": {
            "ratio": all(part["export"]["ratio"] <= 0.6 for part in parts),
            "peak": all(part["export"]["peak_mb"] <= 300 for part in parts),
        },
        "machine": machine("isal"),
    }
    write(options.out, document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    dispatch(__doc__ or "", {"export": export})
