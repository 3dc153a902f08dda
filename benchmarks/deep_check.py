"""`check --deep` beside a plain read of the same files: wall time and peak memory.

    python benchmarks/deep_check.py [--gb 2] [--rounds 7] [--dir DIR]

Makes a checkpoint with torch's own `dcp.save` of four processes in a temporary folder, then runs,
in turn and each in a fresh process:

    read   every data file once, in 8 MiB blocks: `while f.read(8 << 20)`
    deep   `open_checkpoint` and `check_payloads`: what `check --deep` adds to `check`
    values the same with `values=True`
    command `hsdp-inspect check --deep`, as it is typed: every check, and its answer as JSON

`warm`: the files are in the page cache, the hardest case for a check, as nothing waits for the
disk. `cold`: they are evicted before each run (posix_fadvise). `median_s` is the work inside the
process, `median_process_s` the process from start to end, with Python's start and imports. Peak
memory is that of the process and of its child together. Writes results/deep_check.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from measuring import arguments, environ, evict, in_turn, machine, run_code, workspace, write

MAKE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.device_mesh import init_device_mesh
rank, world, folder, store, gb = sys.argv[1:]
rank, world, gb = int(rank), int(world), float(gb)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
torch.manual_seed(rank)
state, left, layer = {}, int(gb * 1e9) // 4, 0
width = 2048
while left > 0:
    for name, times in (("attn.wqkv", 3), ("attn.wo", 1), ("mlp.w1", 4), ("norm", 0)):
        rows = max(min(times * width, left // width), 1)
        local = torch.randn(-(-rows // world), width)
        tensor = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
        state[f"layers.{layer}.{name}.weight"] = tensor
        left -= rows * width
        if left <= 0:
            break
    state[f"optim.{layer}.lr"] = 1e-4
    layer += 1
dcp.save(state, checkpoint_id=folder)
dist.barrier()
dist.destroy_process_group()
"""

READ = """
import sys, time, json
begin = time.perf_counter()
total = 0
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        while data := f.read(8 << 20):
            total += len(data)
print(json.dumps({"s": time.perf_counter() - begin, "bytes": total}))
"""

DEEP = """
import sys, time, json
from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.checks.payload.payloads import check_payloads
begin = time.perf_counter()
checkpoint = open_checkpoint(sys.argv[1])
report = check_payloads(checkpoint, folder_of(sys.argv[1]), values=sys.argv[2] == "values")
elapsed = time.perf_counter() - begin
assert not report.findings and not report.checked.not_checked, report
print(json.dumps({"s": elapsed, "bytes": report.checked.payload_bytes,
                  "payloads": report.checked.payloads}))
"""

# The command itself, as it is typed: with its start, every other check, and its answer.
COMMAND = """
import sys, time, json
begin = time.perf_counter()
from inspector.__main__ import main
try:
    main(["check", "--deep", sys.argv[1], "--json"])
except SystemExit as done:
    assert not done.code, done.code
print(json.dumps({"s": time.perf_counter() - begin}))
"""


def measured(code: str, told: list[str]) -> dict[str, float]:
    """What code in a fresh process printed last, the process's time and its peak memory."""
    ran = run_code(code, told)
    return {**ran.answer, "wall_s": ran.wall_s, "peak_bytes": ran.peak_bytes}


def make(folder: Path, gb: float, world: int) -> None:
    """A checkpoint of about this size, saved by `world` processes."""
    save(MAKE, folder, world, str(gb))


def save(code: str, folder: Path, world: int, *told: str) -> None:
    """Have `world` processes save a checkpoint.

    Each is told its rank, how many they are, the folder, a file to meet at, and the rest.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        place = [str(world), str(folder), f"{scratch}/store", *told]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(rank), *place], env=environ(OMP_NUM_THREADS="1")
            )
            for rank in range(world)
        ]
        codes = [rank.wait() for rank in ranks]
    if any(codes) or not (folder / ".metadata").exists():
        raise SystemExit("the checkpoint was not written")


def main() -> None:
    options = arguments(__doc__, "deep_check", rounds=7, gb=2.0).parse_args()
    with workspace("deep", options.dir, need_bytes=3e9 * options.gb) as root:
        checkpoint = root / "step-1"
        make(checkpoint, options.gb, 4)
        result = measure(checkpoint, options.rounds)
    write(options.out, result)
    print(json.dumps(result, indent=1))


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians, and ratios of them to the plain read's."""
    found = {}
    for name, outcomes in runs.items():
        found[name] = {
            "median_s": round(statistics.median(o["s"] for o in outcomes), 4),
            "least_s": round(min(o["s"] for o in outcomes), 4),
            "median_process_s": round(statistics.median(o["wall_s"] for o in outcomes), 4),
            "peak_mb": round(max(o["peak_bytes"] for o in outcomes) / 1e6, 1),
        }
    for value in found.values():
        for key, ratio in (("median_s", "ratio_to_read"), ("median_process_s", "process_ratio")):
            value[ratio] = round(value[key] / found["read"][key], 3)
    return found


def measure(checkpoint: Path, rounds: int) -> dict[str, object]:
    """All four, in turn, `rounds` times after one that only warms the page cache."""
    files = sorted(str(p) for p in checkpoint.glob("*.distcp"))
    jobs = {
        "read": (READ, files),
        "deep": (DEEP, [str(checkpoint), "deep"]),
        "values": (DEEP, [str(checkpoint), "values"]),
        "command": (COMMAND, [str(checkpoint)]),
    }

    def cold_run(code: str, told: list[str]) -> dict[str, float]:
        evict(files)
        return measured(code, told)

    warm = in_turn({name: partial(measured, *job) for name, job in jobs.items()}, rounds)
    cold = in_turn(
        {name: partial(cold_run, *job) for name, job in jobs.items()},
        max(rounds // 2, 1),
        warm_up=False,
    )
    results = {"warm": summary(warm), "cold": summary(cold)}
    return {
        "what": "check --deep beside one plain read of the same files in 8 MiB blocks",
        "bytes": int(warm["read"][0]["bytes"]),
        "payloads": int(warm["deep"][0]["payloads"]),
        "files": len(files),
        "rounds": rounds,
        **results,
        "target": {"ratio": 1.25, "peak_mb": 300},
        "holds": {
            "ratio_warm": results["warm"]["deep"]["ratio_to_read"] <= 1.25,
            "ratio_cold": results["cold"]["deep"]["ratio_to_read"] <= 1.25,
            "ratio_cold_whole_process": results["cold"]["deep"]["process_ratio"] <= 1.25,
            "peak": results["warm"]["deep"]["peak_mb"] < 300,
        },
        "machine": machine("isal"),
    }


if __name__ == "__main__":
    main()
