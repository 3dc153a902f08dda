"""`diff --values` and `seal` beside the same done with torch: wall time and peak memory.

    python benchmarks/diff.py [--gb 2] [--rounds 3] [--dir DIR]

Makes four checkpoints of the same shapes with torch's own `dcp.save`, in a temporary folder:

    a        fsdp:4, every tensor cut along its first dim
    b        the same values, fsdp:8
    columns  the same values, cut along the second dim over 4 ranks
    other    fsdp:8, every element a little different

and compares a with each of the others, in turn, each in a fresh process:

    ours     `hsdp-inspect diff A B --values --json`, as it is typed
    torch    `dcp.load` of both into whole tensors, then `torch.equal`; where that is false, how
             many elements differ, where the first is, the largest absolute and relative difference

and for a alone:

    seal     `hsdp-inspect seal A --output FILE --force`
    hashlib  `dcp.load` into whole tensors, then `hashlib.sha256` of each
    sha256sum  every data file hashed in one thread: what a digest of the files would cost

Files are in the page cache. Times are of whole processes, with Python's start and imports. Peak
memory is that of the process and of its child together. Writes results/diff.json.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from deep_check import save
from measuring import Ran, arguments, in_turn, machine, run_code, seconds, workspace, write

MAKE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.device_mesh import init_device_mesh
rank, world, folder, store, gb, dim, noise = sys.argv[1:]
rank, world, gb, dim = int(rank), int(world), float(gb), int(dim)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
state, left, number = {}, int(gb * 1e9) // 4, 0
width = 2048
while left > 0:
    for name, times in (("attn.wqkv", 3), ("attn.wo", 1), ("mlp.w1", 4), ("norm", 0)):
        rows = max(min(times * width, left // width), 8) // 8 * 8
        number += 1
        # The same numbers on every rank; a shard of them is kept.
        torch.manual_seed(number)
        block = torch.randn(8, width)
        whole = (torch.arange(rows // 8).add(1).rsqrt()[:, None, None] * block).reshape(rows, width)
        local = whole.chunk(world, dim)[rank].clone()
        if noise == "noise":
            local *= 1 + 1e-4
        tensor = DTensor.from_local(local, mesh, [Shard(dim)], run_check=False)
        state[f"layers.{number}.{name}.weight"] = tensor
        left -= rows * width
        if left <= 0:
            break
    state[f"optim.{number}.lr"] = 1e-4
dcp.save(state, checkpoint_id=folder)
dist.barrier()
dist.destroy_process_group()
"""

OURS = """
import sys
from inspector.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert done.code in (0, 1), done.code
"""

TORCH = """
import sys, hashlib, json, torch, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
import warnings
warnings.simplefilter("ignore")
def load(folder):
    state = {}
    for fqn, found in dcp.FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        is_tensor = isinstance(found, TensorStorageMetadata)
        state[fqn] = torch.empty(found.size, dtype=found.properties.dtype) if is_tensor else None
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state
job, *folders = sys.argv[1:]
states = [load(folder) for folder in folders]
if job == "compare":
    a, b = states
    result = {}
    for fqn, x in a.items():
        y = b[fqn]
        if not isinstance(x, torch.Tensor):
            result[fqn] = x == y
        elif torch.equal(x, y):
            result[fqn] = True
        else:
            differs = x != y
            gap = (x.double() - y.double()).abs()
            scale = torch.maximum(x.double().abs(), y.double().abs())
            first = differs.reshape(-1).to(torch.uint8).argmax()
            result[fqn] = [int(differs.sum()), int(first), float(gap.max()),
                           float((gap / scale.clamp_min(1e-300)).max())]
    json.dumps(result)
else:
    for fqn, x in states[0].items():
        if isinstance(x, torch.Tensor):
            hashlib.sha256(x.numpy().data).hexdigest()
"""

SHA256SUM = """
import sys, hashlib
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        digest = hashlib.sha256()
        while data := f.read(1 << 20):
            digest.update(data)
"""


def make(folder: Path, gb: float, world: int, dim: int = 0, noise: str = "") -> Path:
    """A checkpoint of about this size, saved by `world` processes."""
    save(MAKE, folder, world, str(gb), str(dim), noise)
    return folder


def measured(jobs: dict[str, tuple[str, list[str]]], rounds: int) -> dict[str, dict[str, float]]:
    """All jobs, in turn, `rounds` times after one that only warms the page cache."""
    runs: dict[str, list[Ran]] = in_turn(
        {name: partial(run_code, *job) for name, job in jobs.items()}, rounds
    )
    return {
        name: {
            **seconds(ran.wall_s for ran in outcomes),
            "peak_mb": round(max(ran.peak_bytes for ran in outcomes) / 1e6, 1),
        }
        for name, outcomes in runs.items()
    }


def beside(result: dict[str, dict[str, float]], ours: str, rival: str) -> dict[str, float]:
    """Ours to the rival's."""
    a, b = result[ours], result[rival]
    return {
        "time": round(a["median_s"] / b["median_s"], 3),
        "time_least": round(a["least_s"] / b["most_s"], 3),
        "time_most": round(a["most_s"] / b["least_s"], 3),
        "peak_memory": round(a["peak_mb"] / b["peak_mb"], 4),
    }


def main() -> None:
    options = arguments(__doc__, "diff", rounds=3, gb=2.0).parse_args()
    with workspace("diff", options.dir, need_bytes=3e9 * options.gb) as root:
        result = compare_all(root, options.gb, options.rounds)
    write(options.out, result)
    print(json.dumps(result, indent=1))


def compare_all(root: Path, gb: float, rounds: int) -> dict[str, object]:
    """Every comparison, and the seal; two checkpoints lie there at a time."""
    a = make(root / "a", gb, 4)
    files = sorted(str(p) for p in a.glob("*.distcp"))
    num_bytes = sum(os.path.getsize(path) for path in files)
    cases = {
        "b": ("fsdp:4 beside fsdp:8, equal", 8, 0, ""),
        "columns": ("fsdp:4 beside the second dim cut in 4, equal", 4, 1, ""),
        "other": ("fsdp:4 beside fsdp:8, every element different", 8, 0, "noise"),
    }
    diffs = {}
    for name, (what, world, dim, noise) in cases.items():
        other = make(root / name, gb, world, dim, noise)
        result = measured(
            {
                "ours": (OURS, ["diff", str(a), str(other), "--values", "--json"]),
                "torch": (TORCH, ["compare", str(a), str(other)]),
            },
            rounds,
        )
        diffs[name] = {"what": what, **result, "ratio": beside(result, "ours", "torch")}
        shutil.rmtree(other)
    seals = measured(
        {
            "seal": (OURS, ["seal", str(a), "--output", str(root / "a.json"), "--force"]),
            "hashlib": (TORCH, ["hash", str(a)]),
            "sha256sum": (SHA256SUM, files),
        },
        rounds,
    )
    return {
        "what": "diff --values and seal, as they are typed, beside torch on whole tensors",
        "bytes_a_side": num_bytes,
        "files_of_a": len(files),
        "rounds": rounds,
        "diff": diffs,
        "seal": {
            **seals,
            "gb_per_s": round(num_bytes / 1e9 / seals["seal"]["median_s"], 3),
            "ratio": beside(seals, "seal", "hashlib"),
            "ratio_to_sha256sum": beside(seals, "seal", "sha256sum"),
        },
        "machine": machine("isal"),
    }


if __name__ == "__main__":
    main()
